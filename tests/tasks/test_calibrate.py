"""One detector from electrons to nJy, against the truth."""

import galsim
import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.star_field import ZERO_POINT, StarField, matched, moffat, star_field

from promptdia.tasks.calibrate import (
    CalibrateConfig,
    Calibrated,
    CalibrateImage,
    CalibrationFailed,
    reference_catalog,
)
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.photo_calib import mag_to_njy
from promptdia.tasks.model.wcs import separation_arcsec, tan_wcs

SHAPE = (800, 800)
CALIBRATE = CalibrateImage()


def profile(u: float, v: float) -> galsim.GSObject:
    return moffat(3.5 * (1 + 0.03 * u), 0.05 + 0.02 * v, 0.02 * u)


@pytest.fixture(scope="module")
def field() -> StarField:
    """Stars, a sloping sky, and a pointing 25 arcsec, 0.4 degrees and 2 per cent off."""
    turn = np.deg2rad(0.4)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    cd = np.diag([-0.204, 0.204]) / 3600 @ rotation
    truth = tan_wcs(150.006, 2.004, 399.5, 399.5, cd, SHAPE)
    made = star_field(
        seed=11, shape=SHAPE, n_stars=200, wcs=truth, profile=profile, min_distance=18.0
    )
    slope = 400 * (1 + 0.05 * np.linspace(-1, 1, SHAPE[1]))
    image = (made.exposure.image + slope).astype(np.float32)
    return StarField(
        made.exposure.replace(image=image), made.x, made.y, made.flux, made.references, made.wcs
    )


@pytest.fixture(scope="module")
def calibrated(field: StarField) -> Calibrated:
    return CALIBRATE.run(field.exposure, field.references)


def test_fluxes_are_in_njy(field: StarField, calibrated: Calibrated) -> None:
    sources = calibrated.sources
    source, star = matched(field, sources)
    rows = sources[source]
    bright = (rows["psfFlux"] > 100 * rows["psfFluxErr"]) & ~rows["flag_saturated"]
    truth = mag_to_njy(ZERO_POINT - 2.5 * np.log10(field.flux[star]))
    ratio = (rows["psfFlux"] / truth)[bright]
    assert bright.sum() > 20
    assert abs(np.median(ratio) - 1) < 0.004
    assert 1.4826 * np.median(np.abs(ratio - np.median(ratio))) < 0.012
    # total light, of which the PSF's stamp holds 99.4 %
    assert_allclose(calibrated.summary["zeroPoint"], ZERO_POINT, atol=0.005)
    assert abs(calibrated.summary["apCorr"] - 1.003) < calibrated.summary["apCorrErr"] < 0.006


def test_positions_are_right_on_the_sky(field: StarField, calibrated: Calibrated) -> None:
    sources = calibrated.sources
    source, star = matched(field, sources)
    rows = sources[source]
    bright = rows["psfFlux"] > 100 * rows["psfFluxErr"]
    ra, dec = field.wcs.pixel_to_sky(field.x[star], field.y[star])
    apart = separation_arcsec(rows["ra"], rows["dec"], ra, dec)[bright]
    assert np.sqrt(np.mean(apart**2) / 2) < 0.01
    assert (field.references["id"][star] == rows["ref_id"])[bright].all()


def test_variance_describes_the_sky(calibrated: Calibrated) -> None:
    science = calibrated.science
    sky = np.abs(science.image) < 3 * np.sqrt(science.variance)
    sky &= science.mask == 0
    pull = (science.image / np.sqrt(science.variance))[sky]
    assert abs(np.median(pull)) < 0.05
    assert 0.93 < 1.4826 * np.median(np.abs(pull)) < 1.05
    assert science.photo_calib is not None
    scale = science.photo_calib.njy_per_count
    assert_allclose(np.median(calibrated.background) / scale, 400.0, rtol=0.01)


def test_stars_are_not_extended_and_galaxies_are(field: StarField) -> None:
    image = galsim.Image(field.exposure.image.copy(), xmin=0, ymin=0)
    spots = [(200.0, 210.0), (600.0, 330.0), (420.0, 700.0)]
    for x, y in spots:
        galaxy = galsim.Convolve(galsim.Exponential(half_light_radius=4.0), moffat(3.5))
        galaxy.withFlux(60000).drawImage(
            image, add_to_image=True, scale=1.0, center=galsim.PositionD(x, y)
        )
    done = CALIBRATE.run(field.exposure.replace(image=image.array), field.references)
    sources = done.sources
    for x, y in spots:
        row = np.argmin(np.hypot(sources["x"] - x, sources["y"] - y))
        assert sources["extendedness"][row] > 0.9
    used = sources["calib_psf_used"]
    assert used.sum() > 20
    assert (sources["extendedness"][used] < 0.1).all()


def test_the_summary_has_the_agreed_names_and_true_values(
    field: StarField, calibrated: Calibrated
) -> None:
    summary = calibrated.summary
    names = [
        "psfSigma",
        "psfArea",
        "psfIxx",
        "psfIyy",
        "psfIxy",
        "ra",
        "dec",
        "pixelScale",
        "zenithDistance",
        "expTime",
        "zeroPoint",
        "skyBg",
        "skyNoise",
        "meanVar",
        "astromOffsetMean",
        "astromOffsetStd",
        "nPsfStar",
        "magLim",
        "psfStarDeltaE1Median",
        "psfStarDeltaE1Scatter",
        "psfStarDeltaE2Median",
        "psfStarDeltaE2Scatter",
        "psfStarDeltaSizeMedian",
        "psfStarDeltaSizeScatter",
        "psfStarScaledDeltaSizeScatter",
        "psfTraceRadiusDelta",
        "psfApFluxDelta",
        "maxDistToNearestPsf",
        "starEMedian",
        "starUnNormalizedEMedian",
        "starComa1Median",
        "starTrefoil2Median",
        "starKurtosisMedian",
        "starE42Median",
        "psfTE1e1",
        "psfTE3ex",
        "psfApCorrSigmaScaledDelta",
        "refCatSourceDensity",
        "raCorners0",
        "raCorners3",
        "decCorners0",
        "decCorners3",
    ]
    assert not [name for name in names if not np.isfinite(summary[name])]
    assert_allclose(summary["skyBg"], 400.0, rtol=0.01)
    assert_allclose(summary["skyNoise"], np.sqrt(425), rtol=0.03)
    assert_allclose(summary["pixelScale"], 0.204, rtol=1e-4)
    inside = 200 / np.prod([n * 0.204 / 3600 for n in SHAPE])
    assert_allclose(summary["refCatSourceDensity"], inside, rtol=0.02)
    assert_allclose([summary["ra"], summary["dec"]], [150.006, 2.004], atol=1e-5)
    # a source at the limiting magnitude has a signal-to-noise ratio of 5
    counts = 10 ** (0.4 * (summary["zeroPoint"] - summary["magLim"]))
    noise = np.sqrt(counts + (summary["skyBg"] + 25) * summary["psfArea"])
    assert_allclose(counts / noise, 5.0, rtol=1e-6)


def test_a_bootstrapped_catalogue_calibrates_another_frame() -> None:
    made = star_field(seed=11, shape=SHAPE, n_stars=200, profile=profile, min_distance=18.0)
    exposure = made.exposure.replace(image=made.exposure.image + np.float32(400))
    first = CALIBRATE.bootstrap(exposure, 27.0)
    catalogue = reference_catalog(first)
    assert first.summary["zeroPoint"] == pytest.approx(27.0)
    assert catalogue.size > 50
    image, variance, mask = (
        np.roll(plane, (-40, 60), axis=(0, 1))
        for plane in (exposure.image, exposure.variance, exposure.mask)
    )
    later = exposure.replace(image=image * 0.8, variance=variance * 0.64, mask=mask)
    second = CALIBRATE.run(later, catalogue)
    assert_allclose(second.summary["zeroPoint"], 27.0 - 2.5 * np.log10(1 / 0.8), atol=0.008)
    x, y = second.science.wcs.sky_to_pixel(catalogue["ra"], catalogue["dec"])
    x0, y0 = first.science.wcs.sky_to_pixel(catalogue["ra"], catalogue["dec"])
    inside = (x > 80) & (x < 740) & (y > 20) & (y < 720)
    assert inside.sum() > 50
    assert_allclose(x[inside] - x0[inside], 60.0, atol=0.02)
    assert_allclose(y[inside] - y0[inside], -40.0, atol=0.02)


def test_frames_cleaned_elsewhere_are_not_searched_for_cosmic_rays_and_say_so(
    field: StarField, calibrated: Calibrated
) -> None:
    off = CalibrateImage(CalibrateConfig(find_cosmic_rays=False))
    notes = off.bootstrap(field.exposure, ZERO_POINT).science.notes
    assert notes["CRSEARCH"] is False
    assert "NCOSMIC" not in notes
    assert calibrated.science.notes["CRSEARCH"] is True
    assert calibrated.science.notes["NCOSMIC"] == 0


def test_a_failure_names_the_step_and_keeps_what_was_done(field: StarField) -> None:
    far = field.references.copy()
    far["dec"] -= 5.0
    with pytest.raises(CalibrationFailed, match="astrometry: none of 200 reference") as failure:
        CALIBRATE.run(field.exposure, far)
    assert failure.value.reached.exposure.psf is not None
    assert failure.value.reached.summary["nPsfStar"] > 20
    assert np.isfinite(failure.value.reached.sources["psfFlux"]).sum() > 100
    no_band = field.references.copy()
    no_band["r_flux"] = np.nan
    with pytest.raises(CalibrationFailed, match=r"photometry: none of .* band r") as failure:
        CALIBRATE.run(field.exposure, no_band)
    assert failure.value.reached.summary["astromOffsetMean"] < 0.1


@pytest.mark.parametrize(("n_stars", "ellipticity"), [(12, 0.0), (100, 0.5)])
def test_few_stars_and_long_ones_are_calibrated(n_stars: int, ellipticity: float) -> None:
    made = star_field(
        seed=21,
        shape=(600, 600),
        n_stars=n_stars,
        bright_mag=16.5,
        faint_mag=19.0,
        profile=lambda u, v: moffat(3.5, ellipticity),
        min_distance=25.0,
    )
    exposure = made.exposure.replace(image=made.exposure.image + np.float32(400))
    done = CALIBRATE.run(exposure, made.references)
    source, star = matched(made, done.sources)
    ratio = done.sources["psfFlux"][source] / mag_to_njy(
        ZERO_POINT - 2.5 * np.log10(made.flux[star])
    )
    assert source.size >= 0.9 * n_stars
    assert abs(np.median(ratio) - 1) < 0.006
    assert done.summary["astromRms"] < 0.01
    assert_allclose(done.summary["starEMedian"], ellipticity, atol=0.06)


def test_too_few_stars_end_at_the_psf() -> None:
    made = star_field(
        seed=22, shape=(600, 600), n_stars=4, bright_mag=16.5, faint_mag=17.5, min_distance=60.0
    )
    exposure = made.exposure.replace(image=made.exposure.image + np.float32(400))
    with pytest.raises(CalibrationFailed, match=r"PSF: the star selection found \d usable stars"):
        CALIBRATE.run(exposure, made.references)


def test_frames_without_stars_or_pixels_say_so(field: StarField) -> None:
    rng = np.random.default_rng(12)
    noise = rng.normal(400, 20, SHAPE).astype(np.float32)
    with pytest.raises(CalibrationFailed, match=r"^(seeing|PSF): "):
        CALIBRATE.run(field.exposure.replace(image=noise), field.references)
    for value, plane in ((np.nan, MaskPlane.NO_DATA), (65000.0, MaskPlane.SAT)):
        dead = field.exposure.replace(
            image=np.full(SHAPE, value, np.float32),
            mask=np.full(SHAPE, plane.value, np.int32),
        )
        with pytest.raises(CalibrationFailed, match=r"^(background|seeing): "):
            CALIBRATE.run(dead, field.references)
