"""PSF fluxes at fixed positions, and shifted stamps."""

import galsim
import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.star_field import moffat

from promptdia.tasks.kernels.psf_phot import TAPS
from promptdia.tasks.model.psf import GridPsf, constant_psf, gaussian_stamp
from promptdia.tasks.psf_photometry import psf_flux, shift_stamps


def drawn(profile: galsim.GSObject, size: int, dx: float = 0.0, dy: float = 0.0) -> np.ndarray:
    image = profile.shift(dx, dy).drawImage(nx=size, ny=size, scale=1.0)
    return image.array.astype(float)


def lanczos_shift(stamp: np.ndarray, dx: float, dy: float) -> np.ndarray:
    """The kernel's twin: the separable sum over all pixels, one output pixel at a time."""

    def weights(d: float) -> np.ndarray:
        n = stamp.shape[0]
        t = np.arange(n)[:, None] - d - np.arange(n)[None, :]
        w = np.where(np.abs(t) < TAPS, np.sinc(t) * np.sinc(t / TAPS), 0.0)
        taps = np.arange(-3 * TAPS, 3 * TAPS + 1) - d
        taps = taps[np.abs(taps) < TAPS]
        return w / (np.sinc(taps) * np.sinc(taps / TAPS)).sum()

    return weights(dy) @ stamp @ weights(dx).T


@pytest.mark.parametrize(("dx", "dy"), [(0.3, -0.45), (-0.5, 0.5), (1.0, 0.0), (0.0, -1.0)])
def test_the_shift_kernel_agrees_with_its_numpy_twin(dx: float, dy: float) -> None:
    stamp = np.random.default_rng(1).normal(size=(15, 15))
    shifted = shift_stamps(stamp[None], np.array([dx]), np.array([dy]))[0]
    assert_allclose(shifted, lanczos_shift(stamp, dx, dy), atol=1e-10)


def test_a_shift_of_nothing_changes_nothing() -> None:
    stamps = np.random.default_rng(2).normal(size=(3, 11, 11))
    assert_allclose(shift_stamps(stamps, 0.0, 0.0), stamps, atol=1e-12)


@pytest.mark.parametrize("fwhm", [2.5, 4.0])
def test_a_shifted_star_looks_like_a_star_drawn_there(fwhm: float) -> None:
    centred, off = drawn(moffat(fwhm), 25), drawn(moffat(fwhm), 25, 0.4, -0.3)
    shifted = shift_stamps(centred[None], 0.4, -0.3)[0]
    assert np.abs(shifted - off)[3:-3, 3:-3].max() < 0.005 * centred.max()


def test_a_shift_beyond_a_pixel_is_refused() -> None:
    with pytest.raises(ValueError, match="at most one pixel"):
        shift_stamps(np.ones((1, 5, 5)), 1.5, 0.0)


def test_fluxes_agree_with_least_squares_in_numpy() -> None:
    rng = np.random.default_rng(3)
    image = rng.normal(size=(30, 30)).astype(np.float32)
    variance = rng.uniform(1, 3, (30, 30)).astype(np.float32)
    bad = rng.uniform(size=(30, 30)) < 0.1
    psf = constant_psf(gaussian_stamp(1.5, 11))
    for weighted in (False, True):
        got = psf_flux(
            image, variance, bad, psf, np.array([14.3]), np.array([12.6]), 4.0, weighted=weighted
        )
        model = np.zeros((30, 30))
        model[8:19, 9:20] = lanczos_shift(gaussian_stamp(1.5, 11), 0.3, -0.4)
        y, x = np.mgrid[:30, :30]
        use = ((x - 14.3) ** 2 + (y - 12.6) ** 2 <= 16) & ~bad
        p, d, v = model[use], image[use].astype(float), variance[use].astype(float)
        w = 1 / v if weighted else np.ones_like(v)
        flux = (w * p * d).sum() / (w * p * p).sum()
        assert_allclose(got.flux[0], flux, rtol=1e-6)
        error = np.sqrt((w**2 * p**2 * v).sum()) / (w * p * p).sum()
        assert_allclose(got.flux_err[0], error, rtol=1e-6)
        assert_allclose(got.chi2[0], ((d - flux * p) ** 2 / v).sum(), rtol=1e-6)
        assert got.n_data[0] == use.sum()


def test_pulls_of_injected_stars_have_unit_scatter() -> None:
    rng = np.random.default_rng(4)
    image = rng.normal(0, 10, (600, 600)).astype(np.float32)
    grid = np.arange(20, 580, 28)
    x, y = (v.ravel() + rng.uniform(-0.5, 0.5, grid.size**2) for v in np.meshgrid(grid, grid))
    for px, py in zip(x, y):
        ix, iy = round(px), round(py)
        image[iy - 12 : iy + 13, ix - 12 : ix + 13] += 1000 * drawn(
            moffat(3.0), 25, px - ix, py - iy
        )
    psf = constant_psf(drawn(moffat(3.0), 25))
    enclosed = drawn(moffat(3.0), 25).sum()
    got = psf_flux(image, np.full_like(image, 100), np.zeros(image.shape, bool), psf, x, y)
    pull = (got.flux - 1000 * enclosed) / got.flux_err
    assert abs(pull.mean()) < 0.15
    assert abs(pull.std() - 1) < 0.12
    assert_allclose(np.median(got.chi2 / got.n_data), 1.0, atol=0.05)


def test_a_psf_on_a_grid_is_bilinear_between_nodes_and_constant_beyond() -> None:
    nodes = np.random.default_rng(5).random((2, 3, 7, 7))
    psf = GridPsf(nodes, np.array([10.0, 20.0, 40.0]), np.array([5.0, 25.0]))
    x, y = np.array([12.5, 40.0, -3.0, 99.0]), np.array([10.0, 5.0, 90.0, 15.0])
    across = [
        nodes[:, 0] * 0.75 + nodes[:, 1] * 0.25, nodes[:, 2], nodes[:, 0], nodes[:, 2],
    ]  # fmt: skip
    weights = [0.25, 0.0, 1.0, 0.5]
    expected = [a[0] * (1 - w) + a[1] * w for a, w in zip(across, weights)]
    assert_allclose(psf.stamps(x, y), expected, rtol=1e-12)
    assert psf.stamps(np.zeros(0), np.zeros(0)).shape == (0, 7, 7)


def test_positions_without_pixels_give_nan() -> None:
    image = np.zeros((40, 40), np.float32)
    bad = np.zeros((40, 40), bool)
    bad[:20] = True
    psf = constant_psf(gaussian_stamp(1.5, 9))
    x, y = np.array([20.0, 20.0, -50.0, np.nan]), np.array([30.0, 8.0, 5.0, 5.0])
    got = psf_flux(image, np.ones_like(image), bad, psf, x, y)
    assert_allclose(got.flux[0], 0.0)
    assert np.isnan(got.flux[1:]).all()
    assert (got.n_data[1:] == 0).all()
    assert (got.n_data + got.n_bad == 81).all()


def test_no_positions_give_empty_arrays() -> None:
    image = np.zeros((9, 9), np.float32)
    psf = constant_psf(gaussian_stamp(1.0, 5))
    got = psf_flux(image, image + 1, image > 0, psf, np.zeros(0), np.zeros(0))
    assert got.flux.shape == got.n_bad.shape == (0,)


def test_planes_of_different_shape_are_refused() -> None:
    image = np.zeros((9, 9), np.float32)
    psf = constant_psf(gaussian_stamp(1.0, 5))
    with pytest.raises(ValueError, match="differ in shape"):
        psf_flux(image, image[:5], image > 0, psf, np.zeros(1), np.zeros(1))
