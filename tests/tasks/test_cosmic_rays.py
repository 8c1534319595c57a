"""Cosmic rays on simulated stars and tracks, beside an independent finder and a slow twin."""

from dataclasses import replace
from typing import NamedTuple

import astroscrappy
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import binary_dilation, maximum_filter
from support.data import data_dir
from support.frames import READ_NOISE, draw_stars, draw_tracks, make_exposure

from promptdia.tasks.cosmic_rays import (
    CosmicRayConfig,
    FindCosmicRays,
    TooManyCosmicRays,
    box_sky,
    rules,
)
from promptdia.tasks.kernels.cosmic_rays import bump_value, find_candidates, sharp_value
from promptdia.tasks.kernels.fill import fill_gaps
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane, has

FIND = FindCosmicRays(CosmicRayConfig())
FULL_WELL = 90_000.0


class Scene(NamedTuple):
    exposure: Exposure
    tracks: np.ndarray
    noise: np.ndarray
    stars: tuple[np.ndarray, np.ndarray]


def scene(fwhm: float, seed: int, n: int = 512, n_stars: int = 300, n_tracks: int = 25) -> Scene:
    """Stars up to far beyond saturation and tracks on a sky of 800 electrons."""
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(0, n - 1, (2, n_stars))
    light = draw_stars((n, n), x, y, 10 ** rng.uniform(2.5, 6.5, n_stars), fwhm)
    tracks = draw_tracks((n, n), n_tracks, rng)
    counted = rng.poisson(light + tracks + 800.0) + rng.normal(0, READ_NOISE, (n, n))
    saturated = binary_dilation(counted > FULL_WELL, np.ones((3, 3)))
    exposure = make_exposure(np.minimum(counted, FULL_WELL), np.maximum(counted + 64.0, 16.0))
    mask = np.where(saturated, MaskPlane.SAT.value, 0).astype(np.int32)
    return Scene(exposure.replace(mask=mask), tracks, np.sqrt(light + 864.0), (x, y))


def recall_and_purity(found: np.ndarray, s: Scene) -> tuple[float, float]:
    """Of the pixels with 5 sigma of a track, those found; of those found, on a track."""
    usable = ~has(s.exposure.mask, MaskPlane.SAT)
    usable[[0, -1]] = usable[:, [0, -1]] = False
    wanted = (s.tracks > 5 * s.noise) & usable
    return (found & wanted).sum() / wanted.sum(), (found & (s.tracks > s.noise)).sum() / found.sum()


@pytest.mark.parametrize("fwhm", [1.8, 2.5, 4.0, 8.0])
def test_tracks_are_found_and_stars_are_spared(fwhm: float) -> None:
    scenes = [scene(fwhm, seed) for seed in (1, 2, 3)]
    # as wide as the pixels make it, which is what a measurement of the seeing says
    seen = np.hypot(fwhm, 2.355 / np.sqrt(12.0))
    found = [FIND.find(s.exposure, seen)[0] for s in scenes]
    recall, purity = np.mean([recall_and_purity(f, s) for f, s in zip(found, scenes)], axis=0)
    assert recall > (0.95 if fwhm < 5.0 else 0.94)
    assert purity > 0.95
    lost = 0
    for f, s in zip(found, scenes):
        away = f & ~binary_dilation(s.tracks > 2 * s.noise, np.ones((3, 3)))
        x, y = np.rint(s.stars).astype(int)
        lost += int(maximum_filter(away, 5)[y, x].sum())
    assert lost <= 1


def test_it_does_as_well_as_astroscrappy() -> None:
    s = scene(3.0, 5, n=256, n_stars=80, n_tracks=10)
    theirs, _ = astroscrappy.detect_cosmics(
        s.exposure.image, inmask=has(s.exposure.mask, MaskPlane.SAT), gain=1.0,
        readnoise=READ_NOISE, satlevel=FULL_WELL, psffwhm=3.0,
    )  # fmt: skip
    ours, _ = FIND.find(s.exposure, 3.0)
    our_recall, our_purity = recall_and_purity(ours, s)
    their_recall, their_purity = recall_and_purity(theirs, s)
    assert our_recall > their_recall - 0.05
    assert our_purity > their_purity - 0.02


def test_rays_are_marked_counted_and_filled_with_the_sky() -> None:
    rng = np.random.default_rng(3)
    sky = rng.normal(500.0, 20.0, (100, 120))
    image = sky.copy()
    for i in range(15):
        image[40 + i // 2, 30 + i] += 3000.0
    image[80, 90] += 2000.0
    exposure = make_exposure(image, 400.0)
    before = exposure.image.copy()
    result = FIND.run(exposure, 3.0)
    rays = has(result.mask, MaskPlane.CR)
    hit = image - sky > 0
    assert rays[hit].all()
    assert rays.sum() <= hit.sum() + 3  # neighbours that noise lifts join
    assert (has(result.mask, MaskPlane.INTRP) == rays).all()
    assert_allclose(result.image[rays], 500.0, atol=80.0)
    assert (result.image[~rays] == before[~rays]).all()
    assert (exposure.image == before).all()
    assert (result.notes["NCOSMIC"], result.notes["NPIXCR"]) == (2, rays.sum())


def test_a_faint_spike_is_dropped_for_want_of_light() -> None:
    image = np.random.default_rng(4).normal(10.0, 2.0, (64, 64))
    image[20, 20] = 90.0
    image[40, 40] = 400.0
    found, n = FIND.find(make_exposure(image, 4.0), 3.0)
    assert n == 1
    assert found[40, 40]
    assert not found[20, 20]


def test_edges_of_saturation_and_of_missing_data_are_no_rays() -> None:
    image = np.random.default_rng(5).normal(500.0, 20.0, (64, 64))
    image[10:30, 20:22] = FULL_WELL
    image[40:50, 40:50] = np.nan
    mask = np.zeros((64, 64), np.int32)
    mask[10:30, 20:22] = MaskPlane.SAT.value
    mask[40:50, 40:50] = MaskPlane.NO_DATA.value
    found, n = FIND.find(make_exposure(image, 400.0).replace(mask=mask), 3.0)
    assert n == 0
    assert not found.any()


def test_a_frame_whose_stars_would_all_be_rays_is_refused() -> None:
    rng = np.random.default_rng(6)
    x, y = rng.uniform(0, 255, (2, 800))
    light = draw_stars((256, 256), x, y, np.full(800, 3e4), 1.2)
    exposure = make_exposure(rng.poisson(light + 100.0).astype(float), light + 100.0)
    with pytest.raises(TooManyCosmicRays, match=r"sharper than the FWHM of 6\.00 px"):
        FIND.run(exposure, 6.0)
    with pytest.raises(ValueError, match="must be positive"):
        FIND.find(exposure, 0.0)


def test_candidates_are_those_of_plain_numpy() -> None:
    rng = np.random.default_rng(7)
    image = rng.normal(0, 1, (40, 50)).astype(np.float32) ** 3
    variance = rng.uniform(0.5, 2, (40, 50)).astype(np.float32)
    flags = np.zeros(image.shape, np.uint8)
    find_candidates(image, variance, 2.0, 0, 17, flags)
    find_candidates(image, variance, 2.0, 17, 40, flags)
    i = image.astype(float)
    means = [
        (i[1:-1, :-2] + i[1:-1, 2:]) / 2,
        (i[:-2, 1:-1] + i[2:, 1:-1]) / 2,
        (i[:-2, :-2] + i[2:, 2:]) / 2,
        (i[:-2, 2:] + i[2:, :-2]) / 2,
    ]
    wanted = np.zeros(image.shape, bool)
    wanted[1:-1, 1:-1] = i[1:-1, 1:-1] - np.min(means, axis=0) > 2.0 * np.sqrt(variance[1:-1, 1:-1])
    assert wanted.sum() > 20
    assert (flags.astype(bool) == wanted).all()


def one_star(fwhm: float, x: float, y: float) -> np.ndarray:
    """(11, 11) with a star of 1e5 on a level of 100."""
    star = draw_stars((11, 11), np.array([x]), np.array([y]), np.array([1e5]), fwhm, 20.0)
    return (star + 100.0).astype(np.float32)


@pytest.mark.parametrize("fwhm", [1.8, 3.0, 6.0])
def test_no_pixel_of_a_star_is_sharp_or_a_bump_and_a_spike_on_it_is(fwhm: float) -> None:
    seed, neighbour, bump, _, edge = rules(CosmicRayConfig(), np.hypot(fwhm, 0.68))
    for x, y in ((5.0, 5.0), (5.4, 4.7), (3.2, 5.5)):
        image = one_star(fwhm, x, y)
        variance = image + np.float32(50.0)
        for py in range(3, 8):
            for px in range(3, 8):
                for rule in (seed, neighbour, edge):
                    assert np.isnan(sharp_value(image, variance, py, px, 100.0, rule))
                # narrower ones are no parabola after the pixels have averaged them
                assert fwhm < 2.5 or np.isnan(bump_value(image, variance, py, px, 100.0, bump))
    image = one_star(fwhm, 5.0, 5.0)
    before = image[5, 5]
    image[5, 5] *= 4.0
    assert_allclose(
        sharp_value(image, variance, 5, 5, 100.0, seed), (image[4, 4] + image[6, 6]) / 2, rtol=1e-4
    )
    # the star is a Gaussian spread over pixels, so near a parabola in the logarithm
    found = bump_value(image, variance, 5, 5, 100.0, bump)
    assert_allclose(found, before, rtol=0.05 if fwhm > 2.5 else 0.15)


def test_the_geometric_mean_sees_a_track_on_a_slope_that_the_arithmetic_does_not() -> None:
    variance = np.full((11, 11), 100.0, np.float32)
    image = one_star(3.0, 5.0, 5.0)
    image[:, 8] += 1500.0
    seed, *_ = rules(CosmicRayConfig(), 3.0)
    assert not np.isnan(sharp_value(image, variance, 5, 8, 100.0, seed))
    arithmetic = seed._replace(floor=np.inf)
    assert np.isnan(sharp_value(image, variance, 5, 8, 100.0, arithmetic))


def test_faint_single_pixels_are_noise() -> None:
    image = np.random.default_rng(9).normal(0.0, 60.0, (64, 64))
    image[30, 30] = 7.0 * 60.0
    loose = FindCosmicRays(replace(CosmicRayConfig(), min_snr=0.0))
    assert loose.find(make_exposure(image, 3600.0), 3.0)[0][30, 30]
    assert not FIND.find(make_exposure(image, 3600.0), 3.0)[0][30, 30]


def test_the_sky_of_a_box_is_its_lower_quartile() -> None:
    image = np.random.default_rng(8).normal(500.0, 20.0, (130, 70)).astype(np.float32)
    sky = box_sky(image)
    assert sky.shape == (3, 2)
    sample = np.sort(image[0:64:4, 0:64:4].ravel())
    assert sky[0, 0] == sample[64]


def test_gaps_are_filled_across_their_narrow_side() -> None:
    y, x = np.mgrid[:30, :40]
    truth = (3.0 * x + 2.0 * y).astype(np.float32)
    gap = np.zeros(truth.shape, bool)
    gap[5:25, 10:12] = True  # a column pair
    gap[15, 20:35] = True  # a row
    gap[0:2, 0:2] = True  # a corner
    image, variance = np.where(gap, -1e9, truth).astype(np.float32), np.ones_like(truth)
    ys, xs = np.nonzero(gap)
    filled = fill_gaps(image, variance, gap, ys, xs, 64)
    assert filled.all()
    inside = gap.copy()
    inside[0:2, 0:2] = False
    assert_allclose(image[inside], truth[inside], rtol=1e-5)
    assert np.abs(image[:2, :2] - truth[:2, :2]).max() < 15
    everything = np.ones_like(gap)
    assert not fill_gaps(image, variance, everything, ys, xs, 64).any()


def test_real_tracks_are_found_and_real_stars_stay() -> None:
    """One raw frame of a CCD, gain 2.07, with a streak that its provenance names."""
    from astropy.io import fits

    folder = data_dir("lux2713_n1")
    light = fits.getdata(folder / "light_015.fits.fz").astype(float)
    dark = np.median([fits.getdata(folder / f"dark_{i:03}.fits.fz") for i in (41, 42, 43)], axis=0)
    image = 2.07 * (light - dark)
    exposure = make_exposure(image, np.maximum(image + 2.07 * 31 + 169.0, 169.0))
    saturated = binary_dilation(light > 55_000, np.ones((3, 3)))
    exposure = exposure.replace(mask=np.where(saturated, MaskPlane.SAT.value, 0).astype(np.int32))
    found, n = FIND.find(exposure, 2.9)
    assert found[446:457, 457:468].sum() >= 5
    assert 10 < n < 200
