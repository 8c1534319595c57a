"""Master calibrations from simulated frames with known bias, dark, flat, gain and defects."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.frames import BIAS, GAIN, READ_NOISE, draw_tracks, make_raw, make_visit, one_amplifier

from promptdia.tasks.calibs import (
    UnusableCalibration,
    clipped_mean,
    combine_bias,
    combine_dark,
    combine_flat,
    find_defects,
    gain_and_read_noise,
)
from promptdia.tasks.isr import WrongCalibration
from promptdia.tasks.model.calibrations import MasterFrame
from promptdia.tasks.model.exposure import RawFrame
from promptdia.tasks.model.visit import Amplifier, Box, Detector

SHAPE = (128, 160)
DETECTOR = one_amplifier(*SHAPE, overscan=32)


def frame(
    electrons: float | np.ndarray, seed: int, seconds: float = 0.0, rays: int = 0
) -> RawFrame:
    """A raw frame whose mean signal is ``electrons``, with photon and read noise and rays."""
    rng = np.random.default_rng(seed)
    signal = np.zeros((SHAPE[0], SHAPE[1] + 32))
    signal[:, : SHAPE[1]] = rng.poisson(np.broadcast_to(electrons, SHAPE))
    signal[:, : SHAPE[1]] += draw_tracks(SHAPE, rays, rng)
    signal += rng.normal(0, READ_NOISE, signal.shape)
    return make_raw(np.rint(BIAS + signal / GAIN), DETECTOR, make_visit(seconds, sequence=seed))


def test_a_master_dark_is_right_within_its_variance_despite_cosmic_rays() -> None:
    inputs = {"dark1.fits": "abc"}
    bias = combine_bias([frame(0.0, s) for s in range(9)])
    dark = combine_dark([frame(60.0, 10 + s, 120.0, rays=10) for s in range(5)], bias, inputs)
    # the bias' error is common to all darks and stays outside their variance
    pull = (dark.image - 0.5) / np.sqrt(dark.variance + bias.variance / 120.0**2)
    assert (dark.kind, dark.inputs) == ("dark", inputs)
    assert_allclose(dark.image.mean(), 0.5, atol=0.005)
    assert abs(pull.std() - 1.0) < 0.06
    assert np.abs(pull).max() < 7.0


def test_a_wrong_read_noise_does_not_spoil_the_variance() -> None:
    amplifier = replace(DETECTOR.amplifiers[0], read_noise=2.0)
    wrong = replace(DETECTOR, amplifiers=(amplifier,))
    bias = combine_bias([replace(frame(0.0, s), detector=wrong) for s in range(6)])
    assert_allclose(np.median(bias.variance), READ_NOISE**2 / 6, rtol=0.05)
    assert_allclose(bias.image.std(), READ_NOISE / np.sqrt(6), rtol=0.05)


def test_flats_of_different_levels_combine_to_mean_one() -> None:
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]] / 160.0
    truth = (1.0 - 0.2 * (x - 0.5) ** 2 - 0.1 * y) / (1.0 - 0.2 * (x - 0.5) ** 2 - 0.1 * y).mean()
    frames = [frame(level * truth, i, 5.0) for i, level in enumerate([2e4, 1.2e4, 3e4, 8e3])]
    flat = combine_flat(frames, None, None, "r")
    assert flat.band == "r"
    assert_allclose(flat.image.mean(), 1.0, atol=1e-5)
    assert abs(((flat.image - truth) / np.sqrt(flat.variance)).std() - 1.0) < 0.05


def test_a_value_that_is_always_missing_is_marked_unknown() -> None:
    images = [np.ones((4, 4), np.float32) * k for k in (0.9, 1.0, 1.1)]
    for image in images:
        image[1, 2] = np.nan
    images[0][3, 3] = np.nan
    mean, variance = clipped_mean(images, [np.full((4, 4), 0.01, np.float32)] * 3)
    assert np.isinf(variance[1, 2])
    assert_allclose(mean[3, 3], 1.05, rtol=1e-6)
    assert np.isfinite(mean).all()


def test_of_two_frames_the_cosmic_ray_is_left_out() -> None:
    rng = np.random.default_rng(0)
    images = [rng.normal(0, 1, (64, 64)).astype(np.float32) for _ in range(2)]
    images[1][20, 20] = 500.0
    mean, _ = clipped_mean(images, [np.ones((64, 64), np.float32)] * 2)
    assert abs(mean[20, 20]) < 4.0


def test_hot_dead_and_odd_pixels_and_columns_are_defects_and_nothing_else() -> None:
    rng = np.random.default_rng(1)
    variance = np.full(SHAPE, 1e-6, np.float32)
    dark = rng.normal(0.1, 1e-3, SHAPE).astype(np.float32)
    flat = (1.0 + 0.3 * np.linspace(-1, 1, SHAPE[1])[None] + rng.normal(0, 1e-3, SHAPE)).astype(
        "f4"
    )
    dark[5, 6] = 40.0
    flat[30, 31] = 0.01
    flat[33, 90] *= 0.7
    flat[10:100:4, 50] *= 0.5
    truth = np.zeros(SHAPE, bool)
    truth[5, 6] = truth[30, 31] = truth[33, 90] = True
    truth[10:99, 50] = True
    found = find_defects(
        None, MasterFrame("dark", dark, variance, 0), MasterFrame("flat", flat, variance, 0, "r")
    )
    assert (found == truth).all()


def test_gain_and_read_noise_of_two_amplifiers_come_out() -> None:
    rng = np.random.default_rng(2)
    amplifiers, gains, noises = [], (1.2, 2.5), (6.0, 11.0)
    for i, (gain, noise) in enumerate(zip(gains, noises)):
        box = Box(200 * i, 200 * (i + 1), 0, 300)
        amplifiers.append(Amplifier(box, box, None, 1.0, 1.0, 6e4))
        assert noise / gain > 1.0  # ADU; else the steps of whole ADU dominate
    detector = Detector(0, "two", 400, 300, 0.2, tuple(amplifiers))
    pattern = 1.0 + 0.02 * rng.normal(size=(300, 400))

    def raw(level: float) -> RawFrame:
        gain = np.repeat(gains, 200)[None]
        noise = np.repeat(noises, 200)[None]
        electrons = rng.poisson(level * pattern) + noise * rng.normal(size=(300, 400))
        return make_raw(np.rint(1000 + electrons / gain), detector)

    found = gain_and_read_noise((raw(3e4), raw(2.7e4)), (raw(0.0), raw(0.0)))
    assert_allclose([f.gain for f in found], gains, rtol=0.02)
    assert_allclose([f.read_noise for f in found], noises, rtol=0.03)


def test_useless_calibration_frames_are_refused_by_name() -> None:
    with pytest.raises(UnusableCalibration, match="no bias frame"):
        combine_bias([])
    with pytest.raises(UnusableCalibration, match="exposure time 0 s"):
        combine_dark([frame(1.0, 0, 0.0)], None)
    with pytest.raises(UnusableCalibration, match="must be above the read noise"):
        combine_flat([frame(0.0, 0, 1.0)], None, None, "r")
    with pytest.raises(UnusableCalibration, match="none is given"):
        find_defects(None, None, None)
    with pytest.raises(UnusableCalibration, match="no photon noise"):
        gain_and_read_noise((frame(0.0, 1), frame(0.0, 1)), (frame(0.0, 2), frame(0.0, 3)))
    other = replace(frame(0.0, 1), detector=replace(DETECTOR, id=9))
    with pytest.raises(WrongCalibration, match="of detectors 0 and 9"):
        combine_bias([frame(0.0, 0), other])
