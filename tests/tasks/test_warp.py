import numpy as np
import pytest
from numpy.testing import assert_allclose
from reproject import reproject_interp
from support.pairs import Seeing, exposure_on, render

from promptdia.tasks.kernels.warp import CELL
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.psf import constant_psf, fwhm_px, gaussian_stamp
from promptdia.tasks.model.wcs import FitsWcs, tan_wcs
from promptdia.tasks.resampling import RESAMPLED, kept_variance, sinc_table, times_resampled
from promptdia.tasks.warp import input_grid, warp

SHAPE = (300, 320)
SCALE = 0.2 / 3600


def rotated(angle_deg: float, x: float = 160.0, y: float = 150.0, scale: float = SCALE) -> FitsWcs:
    a = np.deg2rad(angle_deg)
    cd = scale * np.array([[-np.cos(a), np.sin(a)], [np.sin(a), np.cos(a)]])
    return tan_wcs(150.0, 2.0, x, y, cd, SHAPE)


def with_sip(wcs: FitsWcs) -> FitsWcs:
    header = wcs.to_header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN-SIP", "DEC--TAN-SIP"
    header["A_ORDER"] = header["B_ORDER"] = 2
    header["A_2_0"], header["B_0_2"], header["B_1_1"] = 3e-6, -2e-6, 2e-6
    return FitsWcs.from_header(header)


def stars(wcs: FitsWcs, flux: float = 1e5, noise: float = 0.0) -> Exposure:
    rng = np.random.default_rng(7)
    x, y = rng.uniform(40, 260, (2, 12))
    image = render(SHAPE, x, y, np.full(12, flux), Seeing(3.5, 0.0, 0.0))
    image = image + noise * rng.normal(size=SHAPE)
    return exposure_on(SHAPE, wcs)(image, np.full(SHAPE, max(noise, 1.0) ** 2))


def test_interpolated_coordinates_follow_the_exact_wcs():
    exposure = stars(with_sip(rotated(3.0)))
    target = rotated(-2.0, 158.3, 151.7)
    gx, gy = input_grid(exposure, target, SHAPE)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(20, 270, (2, 500))
    i, j = (x // CELL).astype(int), (y // CELL).astype(int)
    u, v = x / CELL - i, y / CELL - j
    exact = exposure.wcs.sky_to_pixel(*target.pixel_to_sky(x, y))
    for grid, truth in zip((gx, gy), exact):
        low = grid[j, i] * (1 - u) + grid[j, i + 1] * u
        high = grid[j + 1, i] * (1 - u) + grid[j + 1, i + 1] * u
        assert_allclose(low * (1 - v) + high * v, truth, atol=0.002)


def test_the_kernel_equals_a_plain_sum_over_the_taps():
    exposure = stars(rotated(0.0), noise=5.0)
    target = rotated(1.5, 158.3, 151.7)
    warped = warp(exposure, target, SHAPE)
    rng = np.random.default_rng(1)
    table = sinc_table().astype(float)
    for x, y in rng.integers(60, 240, (40, 2)):
        xs, ys = exposure.wcs.sky_to_pixel(*target.pixel_to_sky(float(x), float(y)))
        ix, iy = int(np.floor(xs)), int(np.floor(ys))
        wx = table[round((xs - ix) * (len(table) - 1))]
        wy = table[round((ys - iy) * (len(table) - 1))]
        taps = exposure.image[iy - 3 : iy + 5, ix - 3 : ix + 5]
        step = 0.003 * np.abs(np.diff(taps, axis=0)).max()  # half a phase step of position
        assert_allclose(warped.image[y, x], wy @ taps @ wx, atol=step + 1e-3)


def test_stars_agree_with_reproject_and_with_a_direct_rendering():
    exposure = stars(rotated(0.0))
    target = rotated(4.0, 158.3, 151.7)
    warped = warp(exposure, target, SHAPE)
    rng = np.random.default_rng(7)
    x, y = rng.uniform(40, 260, (2, 12))
    there = target.sky_to_pixel(*exposure.wcs.pixel_to_sky(x, y))
    truth = render(SHAPE, *there, np.full(12, 1e5), Seeing(3.5, 0.0, 0.0))
    inner = (slice(40, 260), slice(40, 280))
    assert np.abs(warped.image - truth)[inner].max() < 0.003 * truth.max()
    other, _ = reproject_interp(
        (exposure.image, exposure.wcs.wcs), target.wcs, shape_out=SHAPE, order="bicubic"
    )
    assert np.abs(warped.image - other)[inner].max() < 0.02 * truth.max()


@pytest.mark.parametrize("zoom", [0.8, 1.0, 1.25])
def test_fluxes_and_positions_are_kept_when_the_pixel_scale_changes(zoom):
    rng = np.random.default_rng(7)
    image = render(SHAPE, np.array([150.3]), np.array([140.6]), np.array([1e5]), Seeing(4.5, 0, 0))
    exposure = exposure_on(SHAPE, rotated(0.0))(image + 0 * rng.normal(), np.ones(SHAPE))
    target = rotated(10.0, 160, 150, SCALE * zoom)
    warped = warp(exposure, target, SHAPE)
    assert_allclose(warped.image.sum(), 1e5, rtol=1e-3)
    yy, xx = np.mgrid[: SHAPE[0], : SHAPE[1]]
    centre = (
        (warped.image * xx).sum() / warped.image.sum(),
        (warped.image * yy).sum() / warped.image.sum(),
    )
    truth = target.sky_to_pixel(*exposure.wcs.pixel_to_sky(150.3, 140.6))
    assert_allclose(centre, truth, atol=0.01)


def test_the_variance_is_that_of_a_pixel_after_one_and_two_warps():
    rng = np.random.default_rng(2)
    noise = exposure_on(SHAPE, rotated(0.0))(rng.normal(size=SHAPE) * 10, np.full(SHAPE, 100.0))
    once = warp(noise, rotated(5.0), SHAPE)
    twice = warp(once, rotated(-3.0), SHAPE)
    for warped, times in ((once, 1), (twice, 2)):
        good = warped.mask == 0
        scatter = (warped.image[good] / np.sqrt(warped.variance[good])).std()
        assert_allclose(scatter, 1.0, atol=0.03)
        assert_allclose(warped.notes[RESAMPLED], times, atol=0.1)


def test_the_noise_note_lets_the_white_level_be_recovered():
    rng = np.random.default_rng(2)
    noise = exposure_on(SHAPE, rotated(0.0))(rng.normal(size=SHAPE) * 10, np.full(SHAPE, 100.0))
    warped = warp(noise, rotated(5.0), SHAPE)
    white = np.median(warped.variance[warped.mask == 0])
    white /= kept_variance(float(warped.notes[RESAMPLED]))[0]
    assert_allclose(white, 100.0, rtol=0.01)
    # noise of sums over 6 x 6 pixels, which interpolation hardly touches
    blocks = warped.image[60:240, 60:240].reshape(30, 6, 30, 6).sum(axis=(1, 3))
    assert_allclose(blocks.std() / 6, 10.0, rtol=0.1)


def test_a_shift_by_whole_pixels_changes_nothing():
    exposure = stars(rotated(0.0), noise=10.0)
    warped = warp(exposure, rotated(0.0, 163.0, 148.0), SHAPE)
    assert_allclose(warped.image[50:200, 50:200], exposure.image[52:202, 47:197], atol=0.05)
    assert_allclose(warped.variance[50:200, 50:200], 100.0, rtol=2e-3)
    assert_allclose(warped.notes[RESAMPLED], 0.0, atol=0.02)
    assert times_resampled(1.0) == 0.0


def test_bad_pixels_are_left_out_flagged_and_do_not_ring():
    exposure = stars(rotated(0.0))
    clean = warp(exposure, rotated(2.0, 160.4, 150.3), SHAPE)
    image, mask = exposure.image.copy(), exposure.mask.copy()
    image[100, 100], mask[100, 100] = np.nan, MaskPlane.NO_DATA.value
    image[200, 120], mask[200, 120] = 1e9, MaskPlane.CR.value
    image[150, 60:70], mask[150, 60:70] = 5e4, MaskPlane.SAT.value
    warped = warp(exposure.replace(image=image, mask=mask), rotated(2.0, 160.4, 150.3), SHAPE)
    assert np.isfinite(warped.image).all()
    rest = warped.mask == 0
    far = np.ones(SHAPE, bool)
    far[130:170, 40:90] = False  # a saturated value stays and rings, as in the sky
    assert np.abs(warped.image - clean.image)[rest & far].max() < 0.03 * clean.image.max()
    for plane, least in ((MaskPlane.CR, 4), (MaskPlane.SAT, 10)):
        assert least <= (warped.mask & plane.value != 0).sum() <= 60
    lost = warped.mask & MaskPlane.NO_DATA.value != 0
    assert np.isinf(warped.variance[lost]).all()
    assert (warped.image[lost] == 0).all()


def test_sky_the_input_does_not_reach_has_no_data():
    exposure = stars(rotated(0.0))
    warped = warp(exposure, rotated(0.0, 360.0, 150.0), SHAPE)
    gone = warped.mask & MaskPlane.NO_DATA.value != 0
    assert gone[:, :199].all()
    assert not gone[:, 202:].any()
    elsewhere = tan_wcs(330.0, -50.0, 160, 150, np.diag([-SCALE, SCALE]), SHAPE)
    assert (warp(exposure, elsewhere, SHAPE).mask & MaskPlane.NO_DATA.value != 0).all()


def test_only_the_wanted_cells_are_filled():
    exposure = stars(rotated(0.0))
    wanted = np.zeros((10, 10), bool)
    wanted[3, 4] = True
    warped = warp(exposure, rotated(1.0), SHAPE, wanted)
    filled = warped.mask & MaskPlane.NO_DATA.value == 0
    assert filled[96:128, 128:160].all()
    assert filled.sum() == CELL**2


def test_the_psf_is_carried_through_the_map():
    exposure = stars(rotated(0.0)).replace(psf=constant_psf(gaussian_stamp(2.0, 25)))
    half = warp(exposure, rotated(30.0, 160, 150, SCALE * 0.5), (600, 640))
    assert half.psf is not None
    assert_allclose(fwhm_px(half.psf, 300.0, 300.0), 2 * 2.0 * 2.355, rtol=0.01)
    assert_allclose(half.psf.stamps(np.array([10.0]), np.array([10.0])).sum(), 1.0)
    round_stamp = half.psf.stamps(np.array([300.0]), np.array([300.0]))[0]
    assert_allclose(round_stamp, round_stamp.T, atol=1e-3 * round_stamp.max())
