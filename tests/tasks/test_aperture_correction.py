"""PSF fluxes as total light."""

import functools
from dataclasses import replace

import galsim
import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.star_field import StarField, matched, moffat, star_field

from promptdia.tasks.aperture_correction import (
    ApertureCorrection,
    ApertureCorrectionConfig,
    CorrectAperture,
)
from promptdia.tasks.convolve import VaryingFilter
from promptdia.tasks.decorrelate import Noise, decorrelate
from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.psf import PolynomialPsf, constant_psf
from promptdia.tasks.psf_photometry import psf_flux
from promptdia.tasks.sources import DetectSources, SourceConfig
from promptdia.tasks.template import Placed, mean_psf
from promptdia.tasks.warp import warp_psf

FWHM = 3.5
SHAPE = (800, 800)


@functools.cache
def sky() -> tuple[StarField, Catalog]:
    """Stars of a Moffat with wide wings, and what is detected of them."""
    field = star_field(
        seed=21, shape=SHAPE, n_stars=160, bright_mag=13.6, faint_mag=19.0, min_distance=35.0
    )
    return field, DetectSources(SourceConfig()).run(field.exposure, FWHM)


def true_psf(size: int = 19) -> PolynomialPsf:
    """What was drawn, cut off and of unit sum, as the fit of a PSF has it."""
    stamp = moffat(FWHM).drawImage(nx=size, ny=size, scale=1.0).array.astype(float)
    limits = (0.0, SHAPE[1] - 1.0), (0.0, SHAPE[0] - 1.0)
    return PolynomialPsf(stamp[None] / stamp.sum(), 0, *limits)


def corrected(
    psf: PolynomialPsf,
    added: Floats | float = 0.0,
    trend: float = 0.0,
    n_stars: int | None = None,
) -> tuple[ApertureCorrection, Floats, Floats, Floats]:
    """The correction of fluxes that grow by ``trend`` to the right; x, y and flux over truth.

    ``added`` is more light in the pixels.
    """
    field, sources = sky()
    source, star = matched(field, sources)
    sources, truth = sources[source][:n_stars], field.flux[star][:n_stars]
    image = (field.exposure.image + added).astype(np.float32)
    exposure = field.exposure.replace(image=image)
    x, y = sources["x"], sources["y"]
    bad = np.zeros(SHAPE, bool)
    flux = psf_flux(exposure.image, exposure.variance, bad, psf, x, y, FWHM).flux
    sources["psfFlux"] = flux * (1.0 + trend * (2.0 * x / SHAPE[1] - 1.0))
    found = CorrectAperture(ApertureCorrectionConfig()).run(exposure, sources, psf, FWHM)
    bright = (truth > 1e5) & ~sources["flag_saturated"]
    ratio = sources["psfFlux"] / found.psf.light(x, y) / truth
    return found, x[bright], y[bright], ratio[bright]


@pytest.mark.parametrize("size", [15, 19, 27])
def test_fluxes_are_total_light_however_wide_the_stamps_are(size: int) -> None:
    found, _, _, ratio = corrected(true_psf(size))
    drawn = moffat(FWHM).drawImage(nx=size, ny=size, scale=1.0).array.sum()
    assert drawn < 0.998
    assert abs(np.median(ratio) - 1.0) < 0.002
    assert found.numbers["apCorrOrder"] == 0
    stamps = found.psf.stamps(np.array([10.0, 400.0]), np.array([700.0, 300.0]))
    assert_allclose(stamps.sum(axis=(1, 2)), drawn, atol=0.002)
    assert_allclose(stamps.sum(axis=(1, 2)), 1.0 / found.numbers["apCorr"], rtol=1e-6)


def test_a_sky_off_by_little_does_not_matter() -> None:
    clean, off = (corrected(true_psf(), offset)[0].numbers["apCorr"] for offset in (0.0, 1.0))
    assert abs(clean - off) < 0.0015


def test_companions_that_are_not_detected_do_not_count_as_the_stars_light() -> None:
    alone, beside = (corrected(true_psf(), light)[0].numbers for light in (0.0, companions(0.01)))
    assert beside["nApCorrStar"] == alone["nApCorrStar"]
    assert abs(beside["apCorr"] - alone["apCorr"]) < 0.003


def companions(share: float) -> Floats:
    """Pixels with a star of that part of its flux two FWHM beside every bright star."""
    field = sky()[0]
    light = galsim.ImageD(SHAPE[1], SHAPE[0], xmin=0, ymin=0, scale=1.0)
    for x, y, flux, angle in zip(field.x, field.y, field.flux, np.arange(field.x.size)):
        at = galsim.PositionD(x + 2.0 * FWHM * np.cos(angle), y + 2.0 * FWHM * np.sin(angle))
        companion = moffat(FWHM).withFlux(share * flux)
        stamp = companion.drawImage(nx=31, ny=31, scale=1.0, center=at)
        seen = stamp.bounds & light.bounds
        if flux > 1e5 and seen.isDefined():
            light[seen] += stamp[seen]
    pixels: Floats = light.array
    return pixels


def test_a_correction_that_varies_is_followed() -> None:
    found, x, _, ratio = corrected(true_psf(), trend=0.02)
    assert found.numbers["apCorrOrder"] >= 1
    u = 2.0 * x / SHAPE[1] - 1.0
    for side in (u < -0.3, np.abs(u) < 0.3, u > 0.3):
        assert abs(np.median(ratio[side]) - 1.0) < 0.004


def test_few_stars_change_nothing() -> None:
    found = corrected(true_psf(), n_stars=3)[0]
    assert found.numbers["nApCorrStar"] <= 3
    assert "apCorr" not in found.numbers
    assert_allclose(found.psf.light(np.array([5.0]), np.array([9.0])), 1.0)


def test_what_is_made_of_the_psf_keeps_its_light() -> None:
    psf = true_psf()
    psf = replace(psf, coefficients=0.97 * psf.coefficients)
    ones = np.ones(SHAPE, np.float32)
    noise, point = Noise(ones, 0.0), VaryingFilter.point()
    white = decorrelate(0.0 * ones, noise, noise, (point, point), psf)
    at = np.array([100.0, 600.0])
    assert_allclose(white.psf.stamps(at, at).sum(axis=(1, 2)), 0.97, rtol=1e-5)
    grid = np.meshgrid(np.arange(0.0, 801.0, 32.0), np.arange(0.0, 801.0, 32.0))
    warped = warp_psf(psf, grid[0], grid[1], SHAPE, SHAPE)
    assert warped is not None
    assert_allclose(warped.stamps(at, at).sum(axis=(1, 2)), 0.97, rtol=1e-5)
    first = sky()[0].exposure.replace(psf=psf)
    second = first.replace(psf=constant_psf(psf.coefficients[0]))
    mean = mean_psf([Placed(first), Placed(second)], np.array([2.0, 1.0]), SHAPE)
    assert mean is not None
    assert_allclose(mean.stamps(at, at).sum(axis=(1, 2)), 0.98, rtol=1e-5)
