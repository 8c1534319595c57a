import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import convolve

from promptdia.tasks.convolve import Tiles, centred_rfft
from promptdia.tasks.kernel_basis import basis_half_width, gauss_hermite_basis


@pytest.mark.parametrize("shape", [(200, 310), (47, 50), (96, 96)])
def test_tiles_convolve_like_one_direct_convolution(shape):
    rng = np.random.default_rng(1)
    image = rng.normal(size=shape).astype(np.float32)
    kernel = rng.normal(size=(13, 13))
    tiles = Tiles.around(shape, 6)
    transfer = centred_rfft(kernel[None], tiles.side)
    done = tiles.convolve(image, lambda row: np.repeat(transfer, tiles.x.size, axis=0))
    assert_allclose(done, convolve(image, kernel, mode="nearest"), atol=2e-4)


def test_each_tile_has_its_own_filter():
    image = np.ones((128, 128), np.float32)
    tiles = Tiles.around(image.shape, 4)

    def transfer(row: int) -> np.ndarray:
        factors = np.arange(tiles.x.size) + 10.0 * row
        filters = np.zeros((tiles.x.size, 3, 3))
        filters[:, 1, 1] = factors
        return centred_rfft(filters, tiles.side)

    done = tiles.convolve(image, transfer)
    for row, y in enumerate(tiles.y):
        for column, x in enumerate(tiles.x):
            assert_allclose(done[int(y), int(x)], column + 10 * row, atol=1e-4)


def test_the_first_basis_image_carries_the_whole_sum():
    basis = gauss_hermite_basis(1.6)
    sums = basis.images.sum(axis=(1, 2))
    assert_allclose(sums[0], 1.0)
    assert_allclose(sums[1:], 0.0, atol=1e-12)
    assert_allclose((basis.images[1:] ** 2).sum(axis=(1, 2)), 1.0)
    assert basis.half_width == basis_half_width(1.6)
    independent = np.linalg.matrix_rank(basis.images.reshape(len(basis.images), -1), tol=1e-6)
    assert independent == len(basis.images)


def test_stamps_are_convolved_like_by_scipy():
    rng = np.random.default_rng(2)
    basis = gauss_hermite_basis(1.0, (0.3, -0.4))
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
