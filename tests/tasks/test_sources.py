"""Detection and measurement of stars on a direct image."""

import galsim
import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.star_field import matched, moffat, star_field

from promptdia.tasks.errors import NoUsablePixels, TaskError
from promptdia.tasks.kernels.clean_pixels import clean_pixels
from promptdia.tasks.kernels.moments import COLUMNS, measure_moments
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.sources import DEFECTS, DetectSources, SourceConfig, densest, unusable

DETECT = DetectSources(SourceConfig())


@pytest.mark.parametrize("fwhm", [1.5, 3.5, 8.0])
def test_isolated_stars_are_found_where_they_are(fwhm: float) -> None:
    field = star_field(
        seed=2, shape=(512, 512), n_stars=40, fwhm=fwhm, faint_mag=19.5, min_distance=5 * fwhm
    )
    sources = DETECT.run(field.exposure, None)
    source, star = matched(field, sources)
    rows = sources[source]
    good = (field.flux[star] > 8000) & ~rows["flag_edge"] & ~rows["flag_saturated"]
    assert good.sum() >= 10
    for axis, truth in (("x", field.x), ("y", field.y)):
        limit = 5 * rows[f"{axis}Err"] + 0.02
        assert (np.abs(rows[axis] - truth[star]) < limit)[good].all()
    wanted = field.flux > 8000
    assert np.isin(np.flatnonzero(wanted), star).mean() > 0.9


def test_the_seeing_is_that_of_the_stars() -> None:
    field = star_field(seed=3, shape=(512, 512), n_stars=60, fwhm=3.5)
    drawn = moffat(3.5).drawImage(nx=41, ny=41, scale=1.0)
    sigma = drawn.FindAdaptiveMom().moments_sigma
    assert_allclose(DETECT.seeing(field.exposure), 2.3548 * sigma, rtol=0.02)


def test_centroid_errors_describe_the_scatter() -> None:
    field = star_field(seed=4, n_stars=250, fwhm=3.0, min_distance=25.0)
    sources = DETECT.run(field.exposure, 3.4)
    source, star = matched(field, sources)
    pull = (sources["x"][source] - field.x[star]) / sources["xErr"][source]
    assert abs(np.median(pull)) < 0.2
    assert 0.8 < 1.4826 * np.median(np.abs(pull)) < 1.3


@pytest.mark.parametrize("ellipticity", [0.0, 0.4])
def test_moments_agree_with_galsim(ellipticity: float) -> None:
    profile = moffat(4.0, ellipticity, ellipticity / 2)
    image = galsim.ImageF(61, 61, xmin=0, ymin=0)
    profile.withFlux(1000).drawImage(image, scale=1.0, center=galsim.PositionD(30.3, 29.6))
    expected = galsim.hsm.FindAdaptiveMom(image)
    out = np.empty((1, COLUMNS))
    pixels = np.ascontiguousarray(image.array)
    measure_moments(pixels, pixels, pixels < -1, np.array([30.0]), np.array([30.0]), 1.7, 15.0, out)
    assert_allclose(out[0, :2], [30.3, 29.6], atol=0.01)
    xx, yy, xy = out[0, 4:7]
    assert_allclose((xx * yy - xy**2) ** 0.25, expected.moments_sigma, rtol=5e-3)
    shape = np.array([xx - yy, 2 * xy]) / (xx + yy)
    assert_allclose(shape, [expected.observed_e1, expected.observed_e2], atol=5e-3)


def test_the_moments_kernel_agrees_with_plain_sums() -> None:
    """One step of the centroid from the definition, at the fixed point the kernel reports."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:31, :31]
    image = np.exp(-0.5 * ((x - 15.2) ** 2 + (y - 14.7) ** 2) / 4) + rng.normal(0, 0.01, x.shape)
    pixels = image.astype(np.float32)
    out = np.empty((1, COLUMNS))
    variance = np.full_like(pixels, 1e-4)
    measure_moments(
        pixels, variance, pixels < -9, np.array([15.0]), np.array([15.0]), 2.0, 9.0, out
    )
    cx, cy = out[0, :2]
    w = np.exp(-0.5 * ((x - cx) ** 2 + (y - cy) ** 2) / 4.0)
    w *= (np.abs(x - int(cx) - 0.5) <= 8.5) & (np.abs(y - int(cy) - 0.5) <= 8.5)
    assert_allclose((w * pixels * (x - cx)).sum() / (w * pixels).sum(), 0.0, atol=1e-4)
    error = 2 * np.sqrt((w**2 * variance * (x - cx) ** 2).sum()) / (w * pixels).sum()
    assert_allclose(out[0, 2], error, rtol=1e-3)


def test_clean_pixels_agrees_with_numpy() -> None:
    rng = np.random.default_rng(6)
    image = rng.normal(size=(20, 30)).astype(np.float32)
    variance = rng.uniform(0.5, 2, (20, 30)).astype(np.float32)
    mask = rng.choice([0, 1, 4, 5, 8, 12, 256, 2], size=(20, 30)).astype(np.int32)
    image[3, 3], variance[4, 4], variance[5, 5], variance[6, 6] = np.nan, np.inf, 0.0, np.nan
    out = [np.empty_like(image) for _ in range(3)]
    bad = np.empty(image.shape, bool)
    bits = (DEFECTS.value, MaskPlane.INTRP.value, MaskPlane.NO_DATA.value)
    clean_pixels(image, mask, variance, *bits, *out, bad)
    assert np.array_equal(bad, unusable(image, mask, variance))
    assert_allclose(out[0], np.where(bad, 0, image))
    assert_allclose(out[2], np.sqrt(np.where(bad, 1, variance)), rtol=1e-6)


def test_defects_saturation_edges_and_blends_are_flagged() -> None:
    field = star_field(seed=7, shape=(300, 300), n_stars=1, fwhm=3.0, bright_mag=17, faint_mag=18)
    image, mask = field.exposure.image.copy(), field.exposure.mask.copy()
    places = {"flag_bad": (60, 60), "flag_saturated": (120, 60), "flag_edge": (240, 1)}
    places |= {"flag_blended": (60, 240), "": (240, 240)}
    stamp = 30000 * moffat(3.0).drawImage(nx=41, ny=41, scale=1.0).array
    canvas = np.zeros((340, 340), np.float32)
    for x, y in [*places.values(), (67, 240)]:
        canvas[y : y + 41, x : x + 41] += stamp
    image += canvas[20:-20, 20:-20]
    mask[60, 61] |= MaskPlane.CR.value | MaskPlane.INTRP.value
    mask[60, 120] |= MaskPlane.SAT.value
    exposure = field.exposure.replace(image=image, mask=mask)
    sources = DETECT.run(exposure, 3.4)
    for flag, (x, y) in places.items():
        row = np.argmin(np.hypot(sources["x"] - x, sources["y"] - y))
        for name in ("flag_bad", "flag_saturated", "flag_edge", "flag_blended"):
            assert sources[name][row] == (name == flag), (name, x, y)


def test_masked_and_nan_pixels_make_no_sources() -> None:
    field = star_field(seed=8, shape=(200, 200), n_stars=3, fwhm=3.0, bright_mag=16, faint_mag=16.1)
    image, mask = field.exposure.image.copy(), field.exposure.mask.copy()
    image[100:110, 100:110], image[50, 50] = 1e6, np.nan
    mask[100:110, 100:110] |= MaskPlane.NO_DATA.value
    mask[50, 50] |= MaskPlane.NO_DATA.value
    sources = DETECT.run(field.exposure.replace(image=image, mask=mask), 3.4)
    assert not ((np.abs(sources["x"] - 104.5) < 8) & (np.abs(sources["y"] - 104.5) < 8)).any()
    assert np.isfinite(sources["apFlux"]).all()


def test_an_empty_image_has_one_clear_message() -> None:
    field = star_field(seed=9, shape=(128, 128), n_stars=1)
    blank = field.exposure.replace(image=np.zeros((128, 128), np.float32))
    with pytest.raises(TaskError, match="no source above 2 sigma"):
        DETECT.run(blank, 3.0)
    masked = blank.replace(mask=np.full((128, 128), MaskPlane.NO_DATA.value, np.int32))
    with pytest.raises(NoUsablePixels, match="masked or without variance"):
        DETECT.run(masked, 3.0)
    high = blank.replace(image=np.full((128, 128), 1e4, np.float32))
    with pytest.raises(TaskError, match="background or variance must be wrong"):
        DETECT.run(high, 3.0)


def test_densest_finds_the_mode_among_outliers() -> None:
    rng = np.random.default_rng(10)
    values = np.concatenate([rng.normal(3.0, 0.05, 50), rng.uniform(1, 20, 60)])
    assert_allclose(densest(values, 0.05), 3.0, rtol=0.03)
