import numpy as np
import pytest
from numpy.testing import assert_allclose

from promptdia.tasks.difference_noise import matched_noise, pixel_noise, residual_sky
from promptdia.tasks.kernels.difference import block_medians
from promptdia.tasks.model.psf import constant_psf, gaussian_stamp


def noise(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_medians_of_blocks_are_numpys():
    image = noise((256, 200))
    image[40:44] += 1e4
    good = np.random.default_rng(1).random(image.shape) < 0.7
    rows, columns = np.array([0, 100, 131, 256]), np.array([0, 90, 200])
    out = np.empty((3, 2), np.float32)
    block_medians(image, good, rows, columns, 0.0, 0, 3, out)
    for j in range(3):
        for i in range(2):
            box = slice(rows[j], rows[j + 1], 2), slice(columns[i], columns[i + 1])
            assert_allclose(out[j, i], np.median(image[box][good[box]]), atol=5e-3)


@pytest.mark.parametrize("values", [[3.0], [1.0, 5.0], [7.0] * 40, [0.0] * 9 + [1e30]])
def test_medians_of_few_or_equal_values_lie_in_the_middle(values):
    image = np.array([values, values], np.float32)
    out = np.empty((1, 1), np.float32)
    edges = np.array([0, 2]), np.array([0, len(values)])
    block_medians(image, np.ones(image.shape, bool), *edges, 0.0, 0, 1, out)
    assert np.sort(values)[(len(values) - 1) // 2] <= out[0, 0] <= np.sort(values)[len(values) // 2]


def test_a_slope_under_noise_and_masked_stars_is_found():
    y, x = np.indices((400, 300))
    sky = (0.02 * y - 0.01 * x).astype(np.float32)
    image, good = sky + noise(sky.shape), np.ones(sky.shape, bool)
    image[100:130, 200:230], good[100:130, 200:230] = 1e5, False
    found = residual_sky(image, good, 50)
    inside = slice(30, 370), slice(30, 270)
    assert_allclose(found.on_rows(slice(None))[inside], sky[inside], atol=0.2)
    assert_allclose(found.on_rows(slice(50, 60)), found.on_rows(slice(None))[50:60], atol=1e-5)


def test_without_good_pixels_the_sky_is_zero():
    found = residual_sky(noise((90, 90)), np.zeros((90, 90), bool), 30)
    assert (found.on_rows(slice(None)) == 0).all()


def test_white_noise_of_known_variance_measures_as_one():
    image, psf = 3 * noise((600, 600)), constant_psf(gaussian_stamp(1.5, 21))
    variance, good = np.full(image.shape, 9, np.float32), np.ones(image.shape, bool)
    sigma, correlation = pixel_noise(image, variance, good)
    assert_allclose(sigma, 1.0, atol=0.02)
    assert abs(correlation) < 0.01
    assert_allclose(matched_noise(image, variance, good, psf), 1.0, atol=0.06)
    smooth = (image + np.roll(image, 1, axis=1)) / np.float32(np.sqrt(2))
    assert_allclose(pixel_noise(smooth, variance, good)[1], 0.25, atol=0.02)
