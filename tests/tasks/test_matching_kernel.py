import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import convolve
from support.pairs import Seeing, render

from promptdia.tasks.errors import TooFewStars
from promptdia.tasks.kernel_basis import gauss_hermite_basis
from promptdia.tasks.kernel_stamps import Stamps, choose_stars, cut_stamps, measure_shift
from promptdia.tasks.matching_kernel import (
    KernelConfig,
    KernelFitFailed,
    MatchingKernel,
    fit_matching_kernel,
)
from promptdia.tasks.model.catalogs import SOURCE
from promptdia.tasks.model.mask import MaskPlane

SHAPE = (400, 400)
SIZE = 19
BASIS = gauss_hermite_basis(1.0)


def truth_kernel() -> np.ndarray:
    """Positive, not symmetric, sum 0.9, exactly in the span of the basis."""
    coefficients = np.zeros(len(BASIS.images))
    coefficients[[0, 1, 3, 5, 16, 20]] = 0.9, 0.05, -0.08, 0.1, 0.06, -0.04
    return np.tensordot(coefficients, BASIS.images, axes=1)


def field(seed: int, n: int, noise: float, gradient: float = 0.0):
    rng = np.random.default_rng(seed)
    x, y = rng.uniform(30, 370, (2, n))
    flux = 10 ** rng.uniform(4.0, 5.3, n)
    sharp = render(SHAPE, x, y, flux, Seeing(3.2, 0.0, 0.0))
    u = np.linspace(-1, 1, SHAPE[1])
    wanted = convolve(sharp, truth_kernel()) * (1 + gradient * u) + 7.0 + 3.0 * u
    wanted = wanted + noise * rng.normal(size=SHAPE)
    variance = np.full(SHAPE, max(noise, 0.1) ** 2)
    return x, y, sharp, wanted, variance


def stamps_of(x, y, sharp, wanted, variance, mask=None) -> Stamps:
    clear = np.zeros(SHAPE, np.int32)
    return cut_stamps(
        x, y, SIZE, BASIS.half_width,
        (sharp, variance * 1e-6, clear), (wanted, variance, clear if mask is None else mask), 0.2,
    )  # fmt: skip


def fit(stamps: Stamps, **changes: object) -> MatchingKernel:
    return fit_matching_kernel(stamps, BASIS, SHAPE, KernelConfig(**changes))  # type: ignore[arg-type]


def sums_of(kernel: MatchingKernel) -> np.ndarray:
    return kernel.sum_rows(slice(None))


def test_a_kernel_in_the_span_of_the_basis_is_recovered():
    kernel = fit(stamps_of(*field(1, 80, 0.0)))
    assert_allclose(kernel.at(np.array([200.0]), np.array([200.0]))[0], truth_kernel(), atol=5e-3)
    assert_allclose(sums_of(kernel), 0.9, atol=1e-3)
    u = np.linspace(-1, 1, SHAPE[1])
    assert_allclose(kernel.background_rows(slice(200, 201))[0], 7 + 3 * u, atol=0.02)
    assert kernel.chi2 < 1.0


def test_the_flux_ratio_may_vary_over_the_detector():
    kernel = fit(stamps_of(*field(2, 120, 3.0, gradient=0.05)))
    at = np.array([20.0, 200.0, 380.0])
    expected = 0.9 * (1 + 0.05 * (2 * at / 399 - 1))
    assert_allclose(kernel.sum_at(at, np.full(3, 200.0)), expected, rtol=3e-3)
    assert_allclose(sums_of(kernel)[200, [20, 200, 380]], expected, rtol=3e-3)


def test_noise_leaves_the_kernels_sum_unbiased_and_chi2_at_one():
    sums, chi2 = [], []
    for seed in range(4):
        kernel = fit(stamps_of(*field(10 + seed, 70, 15.0)))
        sums.append(sums_of(kernel).mean())
        chi2.append(kernel.chi2)
    assert_allclose(np.mean(sums), 0.9, rtol=2e-3)
    assert_allclose(np.mean(chi2), 1.0, atol=0.08)


def test_noise_in_the_convolved_image_does_not_dilute_the_kernel():
    sums = []
    for seed in range(4):
        x, y, sharp, wanted, _ = field(30 + seed, 70, 3.0)
        rng = np.random.default_rng(seed)
        noisy = sharp + 15.0 * rng.normal(size=SHAPE)
        clear = np.zeros(SHAPE, np.int32)
        stamps = cut_stamps(
            x, y, SIZE, BASIS.half_width,
            (noisy, np.full(SHAPE, 225.0), clear), (wanted, np.full(SHAPE, 9.0), clear), 0.2,
        )  # fmt: skip
        sums.append(sums_of(fit(stamps)).mean())
    assert_allclose(np.mean(sums), 0.9, rtol=3e-3)


def test_stars_that_vary_are_left_out():
    x, y, sharp, wanted, variance = field(3, 60, 5.0)
    wanted = wanted + render(SHAPE, x[:5], y[:5], np.full(5, 5e4), Seeing(3.6, 0.0, 0.0))
    kernel = fit(stamps_of(x, y, sharp, wanted, variance))
    assert kernel.stars_used <= kernel.stars_tried - 4
    assert_allclose(sums_of(kernel).mean(), 0.9, rtol=5e-3)


def test_few_stars_make_a_kernel_that_does_not_vary():
    kernel = fit(stamps_of(*field(4, 12, 3.0)))
    assert (kernel.coefficients[:, 1:] == 0).all()
    assert (fit(stamps_of(*field(4, 40, 3.0))).coefficients[:, 1] != 0).any()


def test_two_stars_are_too_few():
    with pytest.raises(TooFewStars, match="found 2 usable stars, needs 3"):
        fit(stamps_of(*field(4, 2, 3.0)))


def test_images_that_do_not_match_fail_by_name():
    x, y, sharp, wanted, variance = field(5, 40, 3.0)
    rng = np.random.default_rng(0)
    other = render(SHAPE, *rng.uniform(30, 370, (2, 60)), np.full(60, 1e5), Seeing(3.6, 0, 0))
    with pytest.raises(KernelFitFailed, match=r"chi2 per pixel|kernel sum"):
        fit(stamps_of(x, y, sharp, other, variance))
    with pytest.raises(KernelFitFailed, match="kernel sum runs"):
        fit(stamps_of(x, y, sharp, -wanted, variance))


def test_masked_pixels_take_no_part():
    x, y, sharp, wanted, variance = field(6, 60, 3.0)
    mask = np.zeros(SHAPE, np.int32)
    columns = np.rint(x[:10]).astype(int) + 5
    mask[:, columns] = MaskPlane.BAD.value
    broken = wanted.copy()
    broken[:, columns] = 1e7
    kernel = fit(stamps_of(x, y, sharp, broken, variance, mask))
    assert_allclose(sums_of(kernel).mean(), 0.9, rtol=3e-3)
    saturated = np.zeros(SHAPE, np.int32)
    saturated[round(y[0]), round(x[0])] = MaskPlane.SAT.value
    assert stamps_of(x, y, sharp, wanted, variance, saturated).count == 59


def test_stars_are_spread_over_the_detector_and_chosen_by_quality():
    rng = np.random.default_rng(0)
    sources = SOURCE.empty(3000)
    sources["x"], sources["y"] = rng.uniform(0, 2000, (2, 3000))
    sources["psfFlux"] = 10 ** rng.uniform(2, 5, 3000)
    sources["psfFluxErr"] = 20.0
    sources["extendedness"] = rng.integers(0, 2, 3000)
    sources["flag_saturated"] = rng.random(3000) < 0.1
    rows = choose_stars(sources, (2000, 2000), 20, 2, 20.0)
    chosen = sources[rows]
    assert 400 < rows.size <= 512
    assert not chosen["flag_saturated"].any()
    assert (chosen["psfFlux"] >= 400).all()
    assert chosen["x"].min() >= 20
    assert chosen["extendedness"].mean() < 0.2
    cell = (chosen["x"] // 125).astype(int) + 16 * (chosen["y"] // 125).astype(int)
    assert np.bincount(cell).max() == 2
    assert choose_stars(SOURCE.empty(), (2000, 2000), 20, 2, 20.0).size == 0


def test_a_misregistration_is_measured():
    rng = np.random.default_rng(4)
    x, y = rng.uniform(30, 370, (2, 30))
    flux = 10 ** rng.uniform(4, 5, 30)
    fixed = render(SHAPE, x, y, flux, Seeing(4.0, 0, 0))
    moved = render(SHAPE, x - 0.4, y + 0.25, flux, Seeing(3.5, 0, 0))
    assert_allclose(measure_shift(x, y, fixed, moved, 3.75), (0.4, -0.25), atol=0.06)
    assert (measure_shift(x[:0], y[:0], fixed, moved, 3.75) == 0).all()
