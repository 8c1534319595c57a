"""The compiled fitter against scipy, and footprints against scipy's labels."""

import numpy as np
from numpy.testing import assert_allclose
from scipy import ndimage
from scipy.optimize import least_squares
from support.dia_scene import DiaScene, moffat_psf

from promptdia.tasks.detect import UNUSABLE, usable
from promptdia.tasks.footprints import find_footprints
from promptdia.tasks.kernels.detect import bin_snr
from promptdia.tasks.kernels.footprints import claim_pixels, cut_squares
from promptdia.tasks.kernels.source_fit import TAPS, add_psf, invert
from promptdia.tasks.local_sky import LocalSky
from promptdia.tasks.model.arrays import Floats
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.psf_photometry import shift_stamps
from promptdia.tasks.star_fit import Planes
from promptdia.tasks.trail import fit_points, fit_trails


def star(stamp: Floats, x: float, y: float, shape: tuple[int, int]) -> Floats:
    size = stamp.shape[0]
    design = np.zeros((3, *shape))
    add_psf(stamp, x, y, 1.0, 0.0, np.empty((2, size, size + 2 * TAPS)), design, 0)
    return design


def test_a_placed_star_is_the_shifted_stamp_and_knows_its_slopes() -> None:
    stamp = moffat_psf(3.4, 21).nodes[0, 0]
    light, by_x, by_y = star(stamp, 16.3, 13.6, (33, 31))
    whole = np.zeros_like(light)
    whole[4:25, 6:27] = shift_stamps(stamp[None], np.array([0.3]), np.array([-0.4]))[0]
    assert_allclose(light[4:25, 6:27], whole[4:25, 6:27], atol=1e-12)
    step = 1e-3
    for slope, dx, dy in ((by_x, step, 0.0), (by_y, 0.0, step)):
        ahead = star(stamp, 16.3 + dx, 13.6 + dy, (33, 31))[0]
        behind = star(stamp, 16.3 - dx, 13.6 - dy, (33, 31))[0]
        assert_allclose(slope, (ahead - behind) / (2 * step), atol=1e-7)


def test_a_star_half_outside_the_window_is_cut_not_wrapped() -> None:
    stamp = moffat_psf(3.4, 21).nodes[0, 0]
    wide = star(stamp, 22.2, 24.7, (50, 50))[0]
    cut = star(stamp, 2.2, 4.7, (15, 12))[0]
    assert_allclose(cut, wide[20:35, 20:32], atol=1e-14)


def test_inversion_agrees_with_numpy_and_refuses_singular_matrices() -> None:
    random = np.random.default_rng(1)
    root = random.standard_normal((6, 6))
    matrix = root @ root.T
    own = matrix.copy()
    assert invert(own)
    assert_allclose(own, np.linalg.inv(matrix), rtol=1e-8, atol=1e-10)
    assert not invert(np.zeros((3, 3)))


def planes(scene: DiaScene) -> Planes:
    difference = scene.exposures()[0]
    return Planes(difference.image, difference.variance, difference.mask)


def test_point_and_line_fits_reach_the_optimum_of_scipy() -> None:
    scene = DiaScene(shape=(64, 64), seed=2)
    scene.add_trail(31.4, 32.2, 9.0, 5.0, scene.flux_of(80.0))
    here = planes(scene)
    stamp = moffat_psf(scene.fwhm, 21).nodes[0, 0]
    own = np.ones(1, int)
    start = np.array([[31.0, 32.0, 8.0, 6.0]])
    line = fit_trails(here, stamp[None], own, start, 5.0)
    point = fit_points(here, stamp[None], own, np.array([31.0]), np.array([32.0]), 5.0)
    noise = np.sqrt(here.variance[0, 0])

    def model(p: Floats, n: int) -> Floats:
        light = np.zeros(scene.shape)
        for t in (np.arange(n) + 0.5) / n - 0.5:
            a, b = (p[3], p[4]) if p.size == 5 else (0.0, 0.0)
            light += star(stamp, p[1] + t * a, p[2] + t * b, scene.shape)[0] / n
        return p[0] * light

    def misfit(p: Floats, window: tuple[slice, slice], n: int) -> Floats:
        return ((here.image - model(p, n)) / noise)[window].ravel()

    box = (slice(15, 50), slice(12, 51))
    best = least_squares(
        misfit, [2000.0, 31.0, 32.0, 8.0, 6.0], args=(box, 40), x_scale=[100, 1, 1, 1, 1]
    )
    own_fit = np.array([line.flux, line.x, line.y, line.a, line.b])[:, 0]
    error = np.sqrt(np.diag(line.covariance[0]))
    assert line.good[0]
    assert np.abs((own_fit - best.x) / error).max() < 0.1
    expected = np.sqrt(np.diag(np.linalg.inv(best.jac.T @ best.jac)))
    assert_allclose(error, expected, rtol=0.1)
    box = (slice(22, 43), slice(21, 42))
    best = least_squares(misfit, [2000.0, 31.0, 32.0], args=(box, 1), x_scale=[100, 1, 1])
    assert point.good[0]
    assert_allclose([point.flux[0], point.x[0], point.y[0]], best.x, rtol=2e-3)


def test_fits_leave_pixels_of_other_sources_alone() -> None:
    scene = DiaScene(shape=(64, 64), seed=3)
    scene.add_star(30.2, 30.6, scene.flux_of(50.0))
    scene.add_star(38.0, 30.0, scene.flux_of(200.0))
    here = planes(scene)
    stamp = moffat_psf(scene.fwhm, 21).nodes
    claims = np.zeros(scene.shape, np.int32)
    claims[:, 34:] = 2
    where = np.array([30.0]), np.array([31.0]), 4.0
    shared = fit_points(here, stamp[0], np.ones(1, int), *where)
    own = fit_points(here._replace(claims=claims), stamp[0], np.ones(1, int), *where)
    pull = np.array([own.x[0] - 30.2, own.y[0] - 30.6]) / np.sqrt(own.covariance[0, [1, 2], [1, 2]])
    assert np.abs(pull).max() < 5
    assert not shared.good[0] or abs(shared.x[0] - 30.2) > abs(own.x[0] - 30.2)


def test_binning_sums_clipped_pixels() -> None:
    random = np.random.default_rng(4)
    image = (5 * random.standard_normal((35, 41))).astype(np.float32)
    variance = random.uniform(1, 9, image.shape).astype(np.float32)
    good = random.random(image.shape) > 0.2
    total, count = np.zeros((4, 5)), np.zeros((4, 5))
    bin_snr(image, variance, good, 8, 2.0, total, count)
    clipped = np.where(good, np.clip(image / np.sqrt(variance), -2, 2), 0)
    blocks = (slice(32), slice(40))
    assert_allclose(total, clipped[blocks].reshape(4, 8, 5, 8).sum(axis=(1, 3)), rtol=1e-5)
    assert_allclose(count, good[blocks].reshape(4, 8, 5, 8).sum(axis=(1, 3)))


def test_footprints_are_the_connected_pixels_over_the_threshold() -> None:
    random = np.random.default_rng(5)
    snr = ndimage.gaussian_filter(random.standard_normal((120, 130)), 2.0)
    snr = (snr / snr.std() * 2.2).astype(np.float32)
    found = find_footprints(snr, 5.0, 0, 1e9)
    labels, n = ndimage.label(np.abs(snr) >= 5, np.ones((3, 3)))
    assert len(found.peaks) == n
    for k, (peak, box) in enumerate(zip(found.peaks, ndimage.find_objects(labels))):
        inside = labels == k + 1
        end = found.starts[k + 1] if k + 1 < n else found.pixels.size
        assert set(found.pixels[found.starts[k] : end]) == set(np.flatnonzero(inside))
        assert (peak["y0"], peak["y1"]) == (box[0].start, box[0].stop)
        assert (peak["x0"], peak["x1"]) == (box[1].start, box[1].stop)
        top = np.argmax(np.where(inside, np.abs(snr), 0))
        assert (peak["y"], peak["x"]) == np.unravel_index(top, snr.shape)


def test_footprints_grow_to_disks_and_are_numbered_by_their_first_pixel() -> None:
    snr = np.zeros((60, 70), np.float32)
    snr[0, 69], snr[20, 20], snr[20, 27], snr[18, 60], snr[59, 1] = 6, 7, -8, 9, 10
    found = find_footprints(snr, 5.0, 3, 1e9)
    y, x = np.mgrid[-3:4, -3:4]
    grown = ndimage.binary_dilation(np.abs(snr) >= 5, x**2 + y**2 <= 9)
    labels, n = ndimage.label(grown, np.ones((3, 3)))
    assert n == len(found.peaks) == 4
    assert_allclose(found.peaks["snr"], [6, 9, -8, 10])
    order = np.argsort(labels.ravel(), kind="stable")[np.count_nonzero(labels == 0) :]
    assert np.array_equal(found.pixels, order)
    # both signs grew into the third
    assert set(found.signs[found.starts[2] : found.starts[3]]) == {1, 2}


def test_claims_and_squares_leave_out_what_is_bad_foreign_or_off_the_image() -> None:
    random = np.random.default_rng(6)
    image = random.standard_normal((30, 40)).astype(np.float32)
    good = random.random(image.shape) > 0.1
    pixels = np.flatnonzero(random.random(image.shape) > 0.6)
    numbers = random.integers(1, 4, pixels.size)
    claims = np.zeros(image.shape, np.int32)
    claim_pixels(good, pixels, numbers, claims)
    twin = np.zeros(image.size, int)
    twin[pixels] = numbers
    assert np.array_equal(claims, np.where(good, twin.reshape(image.shape), -1))
    own, sign = np.array([1, 3]), np.array([1.0, -1.0])
    x0, y0 = np.array([-2, 33]), np.array([5, 24])
    stamps, blocked = np.empty((18, 9), np.float32), np.empty((18, 9), bool)
    cut_squares(image, claims, own, sign, x0, y0, stamps, blocked)
    wide, wide_claims = np.pad(image, 9), np.pad(claims, 9, constant_values=-1)
    for k in range(2):
        cut = slice(y0[k] + 9, y0[k] + 18), slice(x0[k] + 9, x0[k] + 18)
        free = (wide_claims[cut] == 0) | (wide_claims[cut] == own[k])
        assert np.array_equal(blocked[9 * k : 9 * k + 9], ~free)
        assert np.array_equal(stamps[9 * k : 9 * k + 9], np.where(free, sign[k] * wide[cut], 0))


def test_pixels_are_usable_when_all_three_planes_say_so() -> None:
    scene = DiaScene(shape=(20, 30), seed=5)
    scene.mark(5, 5, 2, MaskPlane.SAT)
    scene.mark(15, 5, 2, MaskPlane.NEAR_BRIGHT)
    difference = scene.exposures()[0]
    difference.image[9, 9] = np.nan
    difference.variance[10, 10:13] = 0.0, np.inf, np.nan
    expected = difference.usable(UNUSABLE) & np.isfinite(difference.image)
    expected &= difference.variance > 0
    assert np.array_equal(usable(difference), expected)
    assert (~expected).sum() == 13 + 4


def test_local_sky_turns_vectors_and_moments() -> None:
    # 0.2 arcsec pixels, x to the west, y to the north
    sky = LocalSky(np.array([[[-0.2, 0.0], [0.0, 0.2]]]) / 3600)
    assert_allclose(sky.lengths(np.array([3.0]), np.array([4.0])), [1.0])
    assert_allclose(sky.position_angles(np.array([1.0]), np.array([0.0])), [270.0])
    assert_allclose(sky.position_angles(np.array([-1.0]), np.array([1.0])), [45.0])
    xx, yy, xy = sky.moments(np.array([4.0]), np.array([9.0]), np.array([1.0]))
    assert_allclose([xx[0], yy[0], xy[0]], [0.16, 0.36, -0.04])
