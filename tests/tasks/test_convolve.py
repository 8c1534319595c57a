import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import convolve

from promptdia.tasks.convolve import Tiles, VaryingFilter
from promptdia.tasks.kernel_basis import basis_half_width, delta_basis, gauss_hermite_basis
from promptdia.tasks.model.arrays import Floats


@pytest.mark.parametrize("shape", [(200, 310), (47, 50), (112, 112)])
def test_tiles_convolve_like_one_direct_convolution(shape):
    rng = np.random.default_rng(1)
    image = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(13, 13))
    filters = VaryingFilter(kernel[None], VaryingFilter.point().weights)
    done = Tiles.around(shape, 6).convolve(image, filters)
    assert_allclose(done, convolve(image, kernel, mode="nearest"), atol=2e-4)


def test_each_tile_has_the_filter_of_its_centre():
    rng = np.random.default_rng(3)
    image = rng.normal(size=(260, 240)).astype(np.float32)
    images = rng.normal(size=(2, 5, 5))

    def weights(x: Floats, y: Floats) -> Floats:
        return np.stack([1 + x / 240, y / 260 - 0.3], axis=1)

    filters = VaryingFilter(images, weights)
    tiles = Tiles.around(image.shape, 2)
    assert tiles.x.size >= 3
    assert tiles.y.size >= 3
    done = tiles.convolve(image, filters)
    for row, y in enumerate(tiles.y):
        for column, x in enumerate(tiles.x):
            w = weights(np.array([x]), np.array([y]))[0]
            expected = convolve(image, w[0] * images[0] + w[1] * images[1], mode="nearest")
            inside = tuple(slice(i * tiles.inner, (i + 1) * tiles.inner) for i in (row, column))
            assert_allclose(done[inside], expected[inside], atol=1e-4)


def test_a_point_filter_only_scales():
    image = np.random.default_rng(4).normal(size=(90, 130)).astype(np.float32)
    filters = VaryingFilter.point(lambda x, y: np.full(x.size, 3.0))
    assert_allclose(Tiles.around(image.shape, 4).convolve(image, filters), 3 * image, atol=1e-5)


def test_the_first_basis_image_carries_the_whole_sum():
    basis = gauss_hermite_basis(1.6)
    sums = basis.images.sum(axis=(1, 2))
    assert_allclose(sums[0], 1.0)
    assert_allclose(sums[1:], 0.0, atol=1e-12)
    assert_allclose((basis.images[1:] ** 2).sum(axis=(1, 2)), 1.0)
    assert basis.half_width == basis_half_width(1.6)
    independent = np.linalg.matrix_rank(basis.images.reshape(len(basis.images), -1), tol=1e-6)
    assert independent == len(basis.images)


def test_a_delta_basis_spans_every_kernel_and_its_penalty_prefers_smooth_ones():
    basis = delta_basis(3)
    assert_allclose(basis.images.sum(axis=(1, 2)), np.eye(49)[0], atol=1e-12)
    rng = np.random.default_rng(5)
    wanted = rng.normal(size=(7, 7))
    coefficients = np.linalg.solve(basis.images.reshape(49, -1).T, wanted.ravel())
    assert_allclose(coefficients[0], wanted.sum())
    coefficients[0] = 0.0  # the sum is free
    zero_sum = np.tensordot(coefficients, basis.images, axes=1)
    bends = [np.diff(np.pad(zero_sum, 1), 2, axis=axis) for axis in (0, 1)]
    expected = (bends[0] ** 2).sum() + (bends[1] ** 2).sum()
    assert_allclose(coefficients @ basis.penalty @ coefficients, expected)


@pytest.mark.parametrize("basis", [gauss_hermite_basis(1.0, (0.3, -0.4)), delta_basis(4)])
def test_stamps_are_convolved_like_by_scipy(basis):
    rng = np.random.default_rng(2)
    h = basis.half_width
    stamp = rng.normal(size=(1, 9 + 2 * h, 9 + 2 * h))
    done = basis.convolve_stamps(stamp)[0]
    for image, result in zip(basis.images, done):
        assert_allclose(result, convolve(stamp[0], image)[h:-h, h:-h], atol=2e-6)


def test_a_shifted_basis_moves_what_it_convolves_by_the_shift():
    basis = gauss_hermite_basis(1.5, (0.7, -0.4))
    r = np.arange(-basis.half_width, basis.half_width + 1)
    first = basis.images[0]
    assert_allclose([(first * r).sum(), (first * r[:, None]).sum()], (0.7, -0.4), atol=0.02)
