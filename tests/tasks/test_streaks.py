"""Streaks: found when faint, not invented, masked where they are."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from support.dia_scene import DiaScene

from promptdia.tasks.detect import DetectConfig, DetectDiaSources
from promptdia.tasks.model.arrays import Floats, Image
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.streaks import StreakConfig, find_streaks, radon

N = 1024
CONFIG = StreakConfig()


def noise(seed: int, shape: tuple[int, int] = (N, N)) -> Image:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def line(angle_deg: float, offset: float, shape: tuple[int, int] = (N, N)) -> Floats:
    """Distance of each pixel from a line through the middle shifted by ``offset``, pixels."""
    y, x = np.mgrid[: shape[0], : shape[1]]
    a = np.deg2rad(angle_deg)
    return (x - shape[1] / 2) * np.sin(a) - (y - shape[0] / 2) * np.cos(a) - offset


def search(image: Image, config: StreakConfig = CONFIG) -> list:
    return find_streaks(image, np.ones_like(image), np.ones(image.shape, bool), config)


def test_the_transform_sums_along_lines() -> None:
    image = np.zeros((16, 20))
    rows = np.arange(16)
    image[rows, 3 + np.rint(5 * rows / 15).astype(int)] = 1.0
    sums = radon(image)
    assert sums.shape == (16, 36)
    # the recursion rounds steps its own way, never by more than a pixel
    best = np.unravel_index(sums.argmax(), sums.shape)
    assert best == (5, 16 + 3)
    assert sums.max() >= 12
    random = np.random.default_rng(1).random((16, 20))
    assert np.allclose(radon(random)[0, 16:], random.sum(axis=0))
    assert np.allclose(radon(random).sum(axis=1)[0], random.sum())


@pytest.mark.parametrize("angle", [2.0, 37.0, 93.0, 128.0])
def test_half_a_sigma_per_pixel_is_found_and_covered(angle: float) -> None:
    distance = line(angle, 100.0)
    image = noise(int(angle)) + (0.5 * np.exp(-0.5 * (distance / 2) ** 2)).astype(np.float32)
    (streak,) = search(image)
    mask = streak.mask(image.shape)
    assert streak.snr > 8
    assert mask[np.abs(distance) < 3].mean() > 0.97
    assert not mask[np.abs(distance) > 25].any()


def test_a_streak_of_the_template_is_negative() -> None:
    image = noise(3) - (2 * np.exp(-0.5 * (line(60.0, 0.0) / 2) ** 2)).astype(np.float32)
    (streak,) = search(image)
    assert streak.snr < 0


def test_two_streaks_are_two() -> None:
    bright = 6 * np.exp(-0.5 * (line(20.0, -150.0) / 2) ** 2)
    faint = 0.7 * np.exp(-0.5 * (line(110.0, 80.0) / 2) ** 2)
    streaks = search(noise(4) + (bright + faint).astype(np.float32))
    assert len(streaks) == 2
    assert streaks[0].snr > streaks[1].snr


def test_a_wide_streak_gets_a_wide_mask() -> None:
    thin, wide = (
        search(noise(5) + (2 * np.exp(-0.5 * (line(70.0, 0.0) / s) ** 2)).astype(np.float32))[0]
        for s in (1.5, 8.0)
    )
    assert wide.half_width_px > 2 * thin.half_width_px
    assert wide.half_width_px >= 16


def test_none_is_invented_on_twenty_empty_fields() -> None:
    assert sum(len(search(noise(seed))) for seed in range(100, 120)) == 0


def test_none_is_invented_where_the_sky_is_uneven_and_a_real_one_is_still_found() -> None:
    light = np.exp(-0.5 * (line(40.0, 60.0) / 2) ** 2)
    for seed in (200, 201, 202):
        sky = ndimage.gaussian_filter(noise(seed + 1000), 24.0, mode="wrap")
        image = noise(seed) + 0.2 * sky / sky.std()
        assert search(image) == []
        assert len(search(image + (1.5 * light).astype(np.float32))) == 1


def test_bright_residuals_in_a_crowd_are_no_streak() -> None:
    random = np.random.default_rng(6)
    image = noise(7)
    for x, y in random.integers(10, N - 10, (300, 2)):
        image[y - 3 : y + 4, x - 3 : x + 4] += random.choice([-1, 1]) * random.uniform(5, 50)
    assert search(image) == []


def test_odd_shapes_and_masked_halves_do_not_matter() -> None:
    shape = (700, 1030)
    distance = line(30.0, 0.0, shape)
    image = noise(8, shape) + (1.5 * np.exp(-0.5 * (distance / 2) ** 2)).astype(np.float32)
    good = np.ones(shape, bool)
    good[:, :300] = False
    image[:, :300] = np.nan
    (streak,) = find_streaks(image, np.ones_like(image), good, CONFIG)
    assert streak.mask(shape)[(np.abs(distance) < 2) & good].mean() > 0.9
    assert find_streaks(image, np.ones_like(image), np.zeros(shape, bool), CONFIG) == []
    assert search(noise(9, (20, 30))) == []


def test_detection_sets_the_plane() -> None:
    scene = DiaScene(shape=(512, 512), seed=10)
    distance = line(25.0, 0.0, scene.shape)
    scene.science += (20 * np.exp(-0.5 * (distance / 2) ** 2)).astype(np.float32)
    found = DetectDiaSources(DetectConfig()).run(*scene.exposures())
    on = has(found.difference.mask, MaskPlane.STREAK)
    assert found.difference.notes["detect.nStreaks"] == 1
    assert on[np.abs(distance) < 2].mean() > 0.97
    off = DetectDiaSources(replace(DetectConfig(), streaks=None)).run(*scene.exposures())
    assert not has(off.difference.mask, MaskPlane.STREAK).any()


@pytest.mark.parametrize("along_x", [True, False])
def test_the_row_of_a_saturated_star_is_a_spike_and_no_streak(along_x: bool) -> None:
    scene = DiaScene(shape=(512, 512), seed=11)
    trail = np.zeros(scene.shape, np.float32)
    trail[199:203, 210:] = 8.0
    scene.science += trail if along_x else trail.T
    star = (200, 201) if along_x else (201, 200)
    scene.mark(*star, 9, MaskPlane.SAT)
    mask = DetectDiaSources(DetectConfig()).run(*scene.exposures()).difference.mask
    on = (200, 400) if along_x else (400, 200)
    assert mask[on] & MaskPlane.SPIKE.value
    assert not has(mask, MaskPlane.STREAK).any()
