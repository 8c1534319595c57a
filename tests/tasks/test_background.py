"""The sky under simulated stars and galaxies, beside photutils and sep."""

import numpy as np
import pytest
import sep
from numpy.testing import assert_allclose
from photutils.background import Background2D
from support.data import data_dir
from support.frames import draw_stars, make_exposure

from promptdia.tasks.background import (
    BackgroundConfig,
    SubtractBackground,
    filled,
    spline_matrix,
    truncated_mean,
)
from promptdia.tasks.errors import NoUsablePixels
from promptdia.tasks.kernels.background import block_means, box_levels, square_sums
from promptdia.tasks.model.mask import MaskPlane

SUBTRACT = SubtractBackground(BackgroundConfig())


def sloped_sky(ny: int, nx: int) -> np.ndarray:
    y, x = np.mgrid[:ny, :nx]
    return 1000.0 * (1 + 0.05 * x / nx - 0.03 * (y / ny) ** 2)


def galaxy(ny: int, nx: int, x0: float, y0: float, radius: float, flux: float) -> np.ndarray:
    """An exponential disc of that scale length."""
    y, x = np.mgrid[:ny, :nx]
    return flux / (2 * np.pi * radius**2) * np.exp(-np.hypot(x - x0, y - y0) / radius)


def field(n_stars: int, fwhm: float, seed: int, faintest: float = 300.0, n: int = 512):
    """Image, sky and light of a star field on a sloped sky; noise per pixel about 33."""
    rng = np.random.default_rng(seed)
    sky = sloped_sky(n, n)
    x, y = rng.uniform(0, n, (2, n_stars))
    light = draw_stars((n, n), x, y, faintest * rng.uniform(1e-4, 1, n_stars) ** -0.9, fwhm)
    image = rng.poisson(sky + light) + rng.normal(0, 8, (n, n))
    return image.astype(np.float32), sky, light


def test_an_empty_sky_is_followed_to_a_hundredth_of_its_noise() -> None:
    image, sky, _ = field(0, 4.0, 1)
    result, background = SUBTRACT.run(make_exposure(image, 1064.0))
    off = (background - sky) / np.sqrt(1064.0)
    assert abs(off.mean()) < 0.01
    assert off.std() < 0.03
    assert np.abs(off).max() < 0.15
    assert_allclose(result.image, image - background, atol=1e-3)
    assert_allclose(result.notes["SKYLEVEL"], np.median(sky), rtol=0.01)
    assert_allclose(result.notes["SKYSIGMA"], np.sqrt(1064.0), rtol=0.05)


def test_stars_and_galaxies_are_left_in_the_image() -> None:
    image, sky, _ = field(120, 4.0, 2)
    disc = galaxy(512, 512, 200, 300, 12.0, 3e5) + galaxy(512, 512, 380, 90, 6.0, 5e4)
    image = image + np.random.default_rng(3).poisson(disc).astype(np.float32)
    _, background = SUBTRACT.run(make_exposure(image, image + 64.0))
    eaten = (background - sky)[np.hypot(*(np.indices((512, 512)) - [[[300]], [[200]]])) < 50]
    assert eaten.sum() / 3e5 < 0.01
    off = (background - sky) / np.sqrt(1064.0)
    theirs = (sep.Background(image, bw=128, bh=128).back() - sky) / np.sqrt(1064.0)
    assert abs(off.mean()) < 0.02
    # over ten such fields the largest errors are alike in the mean, 0.10 of the noise
    assert np.abs(off).max() < 1.3 * np.abs(theirs).max()


def test_noise_above_the_sky_is_left_out_no_more_than_noise_below() -> None:
    off = []
    for seed in range(60, 68):
        image, sky, _ = field(0, 4.0, seed)
        _, background = SUBTRACT.run(make_exposure(image, 1064.0))
        off.append(np.mean(background - sky) / np.sqrt(1064.0))
    # leaving out what lies above only makes it -0.004, known here to 0.001
    assert abs(np.mean(off)) < 0.0025


def test_photutils_with_the_sources_masked_for_it_agrees() -> None:
    image, _, light = field(80, 3.0, 4, n=256)
    _, background = SUBTRACT.run(make_exposure(image, 1064.0))
    theirs = Background2D(image, 64, mask=light > 2.0, filter_size=1).background
    # photutils holds the sky constant beyond the outermost centres
    off = ((background - theirs) / np.sqrt(1064.0))[32:-32, 32:-32]
    assert abs(np.median(off)) < 0.07
    assert off.std() < 0.15


def test_the_wings_of_a_bright_star_are_not_eaten() -> None:
    image, sky, _ = field(0, 4.0, 5)
    star = draw_stars((512, 512), np.array([250.0]), np.array([260.0]), np.array([3e6]), 4.0, 2.5)
    image = image + star.astype(np.float32)
    _, background = SUBTRACT.run(make_exposure(image, image + 64.0))
    ring = np.abs(np.hypot(*(np.indices((512, 512)) - [[[260]], [[250]]])) - 25) < 5
    assert (background - sky)[ring].mean() < 0.05 * star[ring].mean()


def test_in_a_crowded_field_the_sky_lies_below_that_of_sep() -> None:
    image, sky, light = field(6000, 6.0, 6, faintest=500.0)
    assert np.mean(light > 17.0) > 0.7  # half a sigma
    _, background = SUBTRACT.run(make_exposure(image, image + 64.0))
    theirs = sep.Background(image, bw=128, bh=128).back()
    error, their_error = np.median(background - sky), np.median(theirs - sky)
    assert -10.0 < error < 0.85 * their_error
    assert error < 35.0


def test_a_steep_dome_of_light_is_followed() -> None:
    """15 % of vignetting over the frame, as small telescopes without a flat have it."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:1024, :1024]
    sky = 9000.0 * np.exp(-(np.hypot(x - 540, y - 520) ** 2) / (2 * 900.0**2))
    image = (sky + np.sqrt(sky) * rng.normal(size=sky.shape)).astype(np.float32)
    _, background = SUBTRACT.run(make_exposure(image, image))
    off = (background - sky) / np.sqrt(sky)
    assert abs(np.median(off)) < 0.05
    assert off.std() < 0.12


def test_masked_and_missing_pixels_do_not_count() -> None:
    image, sky, _ = field(0, 4.0, 8)
    mask = np.zeros(image.shape, np.int32)
    image[100:240, 60:260] = 60_000.0
    mask[100:240, 60:260] = MaskPlane.SAT.value
    image[:, 400:420] = np.nan
    mask[:, 400:420] = MaskPlane.NO_DATA.value
    image[300:310] = 0.0
    mask[300:310] = MaskPlane.NO_DATA.value
    result, background = SUBTRACT.run(make_exposure(image, 1064.0).replace(mask=mask))
    assert np.abs((background - sky) / np.sqrt(1064.0)).max() < 0.5
    assert (result.image[:, 400:420] == 0).all()
    assert (result.image[300:310] == 0).all()


@pytest.mark.parametrize("shape", [(512, 512), (300, 517), (130, 50), (40, 33), (8, 9)])
def test_images_of_any_shape_have_a_sky(shape: tuple[int, int]) -> None:
    image = np.random.default_rng(9).normal(100.0, 5.0, shape).astype(np.float32)
    result, background = SUBTRACT.run(make_exposure(image, 25.0))
    assert background.shape == result.image.shape == shape
    assert abs(np.median(background) - 100.0) < 6.0 * 5.0 / np.sqrt(image.size) + 0.1


def test_a_constant_image_is_its_own_sky() -> None:
    result, background = SUBTRACT.run(make_exposure(np.full((64, 64), 7.0), 1.0))
    assert_allclose(background, 7.0, rtol=1e-5)
    assert_allclose(result.image, 0.0, atol=1e-4)


def test_an_image_without_usable_pixels_is_refused() -> None:
    exposure = make_exposure(np.ones((64, 64)), 1.0)
    with pytest.raises(NoUsablePixels, match="no box holds sky"):
        SUBTRACT.run(exposure.replace(mask=np.full((64, 64), MaskPlane.BAD.value, np.int32)))


def test_block_means_are_those_of_plain_numpy() -> None:
    rng = np.random.default_rng(10)
    image = rng.normal(size=(18, 22)).astype(np.float32)
    mask = rng.integers(0, 2, (18, 22)).astype(np.int32)
    image[0, 1] = np.nan
    means = np.empty((5, 6), np.float32)
    block_means(image, mask, 1, 4, 0, 2, means)
    block_means(image, mask, 1, 4, 2, 5, means)
    for j in range(5):
        for i in range(6):
            cell = np.s_[4 * j : 4 * j + 4, 4 * i : 4 * i + 4]
            good = (mask[cell] == 0) & np.isfinite(image[cell])
            if 2 * good.sum() < good.size:
                assert np.isnan(means[j, i])
            else:
                assert_allclose(means[j, i], image[cell][good].mean(), rtol=1e-5, atol=1e-6)


def test_box_levels_find_the_mode_below_contamination_and_leave_out_sources() -> None:
    rng = np.random.default_rng(11)
    means = rng.normal(10.0, 2.0, (64, 64)).astype(np.float32)
    means[:, :20] += rng.exponential(8.0, (64, 20)).astype(np.float32)
    sources = np.zeros((64, 64), bool)
    edges = np.array([0, 64])
    level, sigma, used = (np.zeros((1, 1)) for _ in range(3))
    box_levels(means, sources, edges, edges, 1.0, truncated_mean(-3, 1), level, sigma, used)
    assert abs(level[0, 0] - 10.0) < 0.5
    assert used[0, 0] == 1.0
    sources[:, :20] = True
    box_levels(means, sources, edges, edges, 3.0, 0.0, level, sigma, used)
    clean = means[:, 20:].astype(float)
    assert abs(level[0, 0] - clean.mean()) < 0.02
    assert_allclose(sigma[0, 0], 2.0, rtol=0.05)
    assert_allclose(used[0, 0], 44 / 64)


def test_square_sums_are_those_of_plain_numpy() -> None:
    values = np.random.default_rng(12).normal(size=(11, 7)).astype(np.float32)
    for side in (1, 3, 9):
        sums, half = np.empty_like(values), side // 2
        square_sums(values, side, sums)
        for y in range(11):
            for x in range(7):
                cell = values[max(0, y - half) : y + half + 1, max(0, x - half) : x + half + 1]
                assert_allclose(sums[y, x], cell.sum(), rtol=1e-4, atol=1e-5)


def test_a_sloped_mesh_keeps_its_slope_and_loses_its_outlier() -> None:
    y, x = np.mgrid[:6, :8]
    plane = 3.0 * x - 2.0 * y + 100.0
    rough = plane.copy()
    rough[3, 4] += 50.0
    unknown = np.zeros(plane.shape, bool)
    unknown[1, 2] = True
    rough[1, 2] = np.nan
    assert_allclose(filled(plane, np.zeros(plane.shape, bool)), plane)
    assert_allclose(filled(rough, unknown), plane, atol=1.0)


def test_the_surface_runs_through_the_mesh_and_on_in_a_straight_line() -> None:
    edges = np.array([0, 8, 16, 24, 32])
    line = spline_matrix(edges, np.arange(32.0)) @ np.array([3.5, 11.5, 19.5, 27.5], np.float32)
    assert_allclose(line, np.arange(32.0), atol=1e-4)


def test_the_real_crowded_field_keeps_its_sky_on_the_low_side() -> None:
    from astropy.io import fits

    folder = data_dir("saao_kb13475_early")
    image = 1.9 * fits.getdata(folder / "AKB13475I0001.fits.fz").astype(np.float32)
    result, background = SUBTRACT.run(make_exposure(image, image + 25.0))
    assert np.percentile(image, 10) < np.median(background) < np.percentile(image, 30)
    assert np.ptp(background) < 0.2 * np.median(background)
    assert result.image.min() > -0.25 * np.median(background)
