import numpy as np
import pytest
from numpy.testing import assert_allclose

from promptdia.tasks.kernels.difference import block_medians
from promptdia.tasks.model.psf import gaussian_stamp
from promptdia.tasks.residual_sky import residual_sky

EVERY = slice(None)


def noise(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def starry(shape: tuple[int, int], snr: float, sign: int) -> tuple[np.ndarray, np.ndarray]:
    """Stars of FWHM 5 px and their (y, x), 90 px apart."""
    stamp = gaussian_stamp(2.1, 25)
    image = np.zeros(shape, np.float32)
    places = np.array([(y, x) for y in range(40, 560, 90) for x in range(50, 560, 90)])
    for y, x in places:
        image[y - 12 : y + 13, x - 12 : x + 13] += sign * snr * stamp / np.sqrt((stamp**2).sum())
    return image, places


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


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("snr", [15, 60])
def test_sources_keep_their_light_in_small_blocks(snr, sign):
    sky, good = noise((600, 600)), np.ones((600, 600), bool)
    stars, places = starry(sky.shape, snr, sign)
    stolen = (residual_sky(sky + stars, good, 32).on_rows(EVERY)
              - residual_sky(sky, good, 32).on_rows(EVERY))  # fmt: skip
    weight = gaussian_stamp(2.1, 25)
    weight /= (weight**2).sum()
    lost = [(stolen[y - 12 : y + 13, x - 12 : x + 13] * weight).sum() for y, x in places]
    flux = sign * snr / np.sqrt((gaussian_stamp(2.1, 25) ** 2).sum())
    # 0.018 and 0.008 with all pixels in the medians
    assert abs(np.mean(lost) / flux) < 0.005


def test_an_uneven_sky_is_not_taken_for_sources():
    y, x = np.indices((600, 600))
    sky = (np.sin(x / 25) * np.sin(y / 25)).astype(np.float32)
    image = sky + noise(sky.shape)
    found = residual_sky(image, np.ones(sky.shape, bool), 32).on_rows(EVERY)
    inside = (slice(20, -20),) * 2
    # blocks of 32 px cannot follow more: 0.35 without looking for sources, 0.58 if noise were some
    assert np.std((found - sky)[inside]) < 0.45 * np.std(sky[inside])


def test_a_hot_pixel_and_a_hole_leave_the_sky_where_it_is():
    image, good = noise((200, 200)), np.ones((200, 200), bool)
    plain = residual_sky(image, good, 32).on_rows(EVERY)
    image[100, 100] = 1e6
    image[20:30, 40:50], good[20:30, 40:50] = np.nan, False
    found = residual_sky(image, good, 32).on_rows(EVERY)
    assert np.isfinite(found).all()
    assert_allclose(found, plain, atol=0.15)
