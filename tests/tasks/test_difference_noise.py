import numpy as np
from numpy.testing import assert_allclose

from promptdia.tasks.difference_noise import matched_noise, pixel_noise
from promptdia.tasks.model.psf import constant_psf, gaussian_stamp


def noise(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_white_noise_of_known_variance_measures_as_one():
    image, psf = 3 * noise((600, 600)), constant_psf(gaussian_stamp(1.5, 21))
    variance, good = np.full(image.shape, 9, np.float32), np.ones(image.shape, bool)
    sigma, correlation = pixel_noise(image, variance, good)
    assert_allclose(sigma, 1.0, atol=0.02)
    assert abs(correlation) < 0.01
    assert_allclose(matched_noise(image, variance, good, psf), 1.0, atol=0.06)
    smooth = (image + np.roll(image, 1, axis=1)) / np.float32(np.sqrt(2))
    assert_allclose(pixel_noise(smooth, variance, good)[1], 0.25, atol=0.02)
