"""The PSF model against the profile that was drawn."""

from collections.abc import Callable

import galsim
import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.star_field import StarField, moffat, star_field

from promptdia.tasks.errors import TooFewStars
from promptdia.tasks.model.psf import constant_psf, fwhm_px, gaussian_stamp
from promptdia.tasks.psf import FitPsf, PsfConfig, PsfFit
from promptdia.tasks.psf_model import placed
from promptdia.tasks.psf_quality import shape_numbers, stamp_moments
from promptdia.tasks.sources import DetectSources, SourceConfig


def fitted(field: StarField) -> tuple[PsfFit, float]:
    detect = DetectSources(SourceConfig())
    fwhm = detect.seeing(field.exposure)
    return FitPsf(PsfConfig()).run(field.exposure, detect.run(field.exposure, fwhm)), fwhm


def varying(fwhm: float, ellipticity: float) -> Callable[[float, float], galsim.GSObject]:
    def profile(u: float, v: float) -> galsim.GSObject:
        return moffat(fwhm * (1 + 0.05 * u), ellipticity + 0.02 * v, 0.03 * u)

    return profile


@pytest.mark.parametrize(
    ("fwhm", "ellipticity", "n_stars"),
    [(2.5, 0.1, 200), (3.5, 0.4, 200), (8.0, 0.1, 120)],
)
def test_size_shape_and_flux_follow_the_true_psf_over_the_field(
    fwhm: float, ellipticity: float, n_stars: int
) -> None:
    profile = varying(fwhm, ellipticity)
    field = star_field(
        seed=1, n_stars=n_stars, fwhm=fwhm, profile=profile, bright_mag=15.5, min_distance=4 * fwhm
    )
    fit, seeing = fitted(field)
    u, v = (a.ravel() for a in np.meshgrid([-0.8, 0.0, 0.8], [-0.8, 0.0, 0.8]))
    stamps = fit.psf.stamps((u + 1) / 2 * 1023, (v + 1) / 2 * 1023)
    size = fit.psf.size
    drawn = [profile(a, b).drawImage(nx=size, ny=size, scale=1.0).array for a, b in zip(u, v)]
    truth = np.stack(drawn).astype(float)
    e1, e2, width = shape_numbers(stamp_moments(stamps, seeing))
    true_e1, true_e2, true_width = shape_numbers(stamp_moments(truth, seeing))
    assert abs(np.mean(width / true_width - 1)) < 0.006
    assert_allclose(width / true_width, 1.0, atol=0.015)
    assert np.std(np.concatenate([e1 - true_e1, e2 - true_e2])) < 0.008
    flux = (truth * stamps).sum((1, 2)) / (stamps**2).sum((1, 2)) / truth.sum((1, 2))
    assert abs(flux.mean() - 1) < 0.008
    assert fit.psf.order >= 1


def test_an_undersampled_psf_still_gives_right_fluxes() -> None:
    field = star_field(
        seed=3, n_stars=200, fwhm=1.5, bright_mag=16.5, faint_mag=20.5, min_distance=14
    )
    fit, _ = fitted(field)
    truth = moffat(1.5).drawImage(nx=fit.psf.size, ny=fit.psf.size, scale=1.0).array
    stamp = fit.psf.stamps(np.array([511.5]), np.array([511.5]))[0]
    assert abs((truth * stamp).sum() / (stamp**2).sum() / truth.sum() - 1) < 0.02
    assert abs(fit.quality["heldOutFluxResidual"]) < 0.01


@pytest.mark.parametrize(("n_stars", "order"), [(9, 0), (25, 1), (120, 2)])
def test_the_order_grows_with_the_number_of_stars(n_stars: int, order: int) -> None:
    field = star_field(seed=4, n_stars=n_stars, bright_mag=16.5, faint_mag=18.5, min_distance=40)
    fit, _ = fitted(field)
    assert fit.psf.order == order
    assert fit.used.sum() <= n_stars
    assert fit.psf.size % 2 == 1
    stamps = fit.psf.stamps(np.array([0.0, 1000.0]), np.array([500.0, 0.0]))
    assert_allclose(stamps.sum((1, 2)), 1.0, rtol=1e-6)


def test_galaxies_saturated_stars_and_cosmic_rays_are_not_fitted() -> None:
    field = star_field(seed=5, n_stars=80, bright_mag=16, faint_mag=18.5, min_distance=40)
    image = galsim.Image(field.exposure.image.copy(), xmin=0, ymin=0)
    rng = np.random.default_rng(6)
    spots = rng.uniform(30, 990, (60, 2))
    for x, y in spots[:40]:
        galaxy = galsim.Convolve(galsim.Exponential(half_light_radius=2.5), moffat(3.5))
        stamp = galaxy.withFlux(20000).drawImage(
            nx=64, ny=64, scale=1.0, center=galsim.PositionD(x, y)
        )
        overlap = stamp.bounds & image.bounds
        image[overlap] += stamp[overlap]
    for x, y in spots[40:].astype(int):
        image.array[y, x] += 8000
    exposure = field.exposure.replace(image=image.array)
    detect = DetectSources(SourceConfig())
    sources = detect.run(exposure, detect.seeing(exposure))
    fit = FitPsf(PsfConfig()).run(exposure, sources)
    used = sources[fit.used]
    to_star = np.hypot(used["x"][:, None] - field.x, used["y"][:, None] - field.y).min(axis=1)
    assert (to_star < 1.0).mean() > 0.95
    truth = constant_psf(moffat(3.5).drawImage(nx=25, ny=25, scale=1.0).array.astype(float))
    assert_allclose(fwhm_px(fit.psf, 511, 511), fwhm_px(truth, 0, 0), rtol=0.02)


def test_a_crowded_field_gives_a_usable_psf() -> None:
    field = star_field(seed=7, shape=(384, 384), n_stars=400, fwhm=4.0, bright_mag=16.0)
    fit, _ = fitted(field)
    truth = constant_psf(moffat(4.0).drawImage(nx=25, ny=25, scale=1.0).array.astype(float))
    assert_allclose(fwhm_px(fit.psf, 191, 191), fwhm_px(truth, 0, 0), rtol=0.06)


def test_too_few_stars_say_how_many() -> None:
    field = star_field(seed=8, n_stars=3, bright_mag=16, faint_mag=17, min_distance=50)
    with pytest.raises(TooFewStars, match="found 3 usable stars, needs 5"):
        fitted(field)


def test_a_placed_stamp_moves_by_whole_and_part_pixels() -> None:
    stamp = gaussian_stamp(1.5, 21)
    moved = placed(stamp[None], np.array([4.25]), np.array([-3.5]))[0]
    y, x = np.mgrid[:21, :21] - 10
    expected = np.exp(-0.5 * ((x - 4.25) ** 2 + (y + 3.5) ** 2) / 1.5**2)
    assert_allclose(moved, expected / (2 * np.pi * 1.5**2), atol=5e-4)
    assert not placed(stamp[None], np.array([40.0]), np.array([0.0])).any()


def test_the_unit_of_the_image_does_not_matter() -> None:
    field = star_field(seed=9, shape=(512, 512), n_stars=60, min_distance=20, bright_mag=15.5)
    detect = DetectSources(SourceConfig())
    results = []
    for scale in (1.0, 0.01):
        image, variance = field.exposure.image * scale, field.exposure.variance * scale**2
        exposure = field.exposure.replace(
            image=image.astype(np.float32), variance=variance.astype(np.float32)
        )
        results.append(FitPsf(PsfConfig()).run(exposure, detect.run(exposure, 4.0)))
    first, second = results
    assert np.array_equal(first.used, second.used)
    assert_allclose(first.psf.coefficients, second.psf.coefficients, atol=2e-5)
