"""The simulated CCD behaves like one: noise, gain, bleed, overscan, cosmic rays."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from promptdia.pipeline.sim import SURVEYS, SimulatedSurvey
from promptdia.pipeline.sim.camera import bleed, read_out
from promptdia.pipeline.sim.cosmic import add_cosmic_rays
from promptdia.tasks.isr import IsrConfig, RemoveSignature
from promptdia.tasks.model.arrays import Image
from promptdia.tasks.model.calibrations import Calibrations
from promptdia.tasks.model.exposure import RawFrame
from promptdia.tasks.model.wcs import nominal_wcs


@pytest.fixture(scope="module")
def survey() -> SimulatedSurvey:
    return SimulatedSurvey(SURVEYS["tiny"], 3)


def assembled(frame: RawFrame) -> Image:
    """Electrons on the detector, each row's overscan subtracted."""
    image = np.zeros(frame.detector.shape, np.float32)
    for a in frame.detector.amplifiers:
        assert a.overscan is not None
        level = frame.pixels[a.overscan.slices].mean()
        data = frame.pixels[a.data.slices][:: -1 if a.flip_y else 1, :: -1 if a.flip_x else 1]
        image[a.target.slices] = (data - level) * a.gain
    return image


def test_bled_charge_is_conserved_and_below_full_well(rng: np.random.Generator) -> None:
    electrons = rng.uniform(0, 100, (200, 30)).astype(np.float32)
    electrons[90:95, 10:12] += 5000.0
    well = np.full(electrons.shape, 1000.0, np.float32)
    spilt = bleed(electrons, well)
    assert_allclose(spilt.sum(axis=0), electrons.sum(axis=0), rtol=1e-5)
    assert spilt.max() <= 1000.0
    full = spilt[:, 10] > 999.0
    assert abs(np.flatnonzero(full).mean() - 92.0) < 2.0
    assert np.array_equal(spilt[:, :10], electrons[:, :10])


def test_charge_runs_out_of_a_full_column() -> None:
    electrons = np.full((10, 3), 500.0, np.float32)
    electrons[4, 1] = 1e6
    spilt = bleed(electrons, np.full(electrons.shape, 1000.0, np.float32))
    assert_allclose(spilt[:, 1], 1000.0)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(5)


def test_two_flats_give_the_gain_of_every_amplifier(survey: SimulatedSurvey) -> None:
    for number, detector in survey.instrument.detectors.items():
        a, b = [c.frame for c in survey.calibration_frames(number) if c.kind == "flat"][:2]
        for amplifier in detector.amplifiers:
            assert amplifier.overscan is not None
            one, two = (
                f.pixels[amplifier.data.slices] - f.pixels[amplifier.overscan.slices].mean()
                for f in (a, b)
            )
            two = two * (np.median(one) / np.median(two))
            spread = 1.4826 * np.median(np.abs(one - two - np.median(one - two)))
            assert_allclose(np.median(one) / (spread**2 / 2), amplifier.gain, rtol=0.03)


def test_noise_is_what_poisson_and_read_out_promise(survey: SimulatedSurvey) -> None:
    visit = survey.science_visits[0]
    for number, detector in survey.instrument.detectors.items():
        frame, sensor, raw = (
            survey.frame(visit, number),
            survey.sensor(number),
            survey.raw(visit, number),
        )
        expected = survey.light(frame) * sensor.response
        expected += sensor.dark_current * raw.visit.exposure_s
        residual = assembled(raw) - expected
        for amplifier, structure in zip(detector.amplifiers, sensor.bias):
            residual[amplifier.target.slices] -= structure * amplifier.gain
        pull = residual / np.sqrt(expected + detector.read_noise**2)
        pull = pull[expected < 0.5 * sensor.full_well]
        # the slow wander of the bias, one ADU, is all that is left
        assert abs(np.median(pull)) < 0.03
        assert_allclose(1.4826 * np.median(np.abs(pull)), 1.0, atol=0.02)


def test_counts_are_whole_and_within_the_converter(survey: SimulatedSurvey) -> None:
    detector, sensor = survey.instrument.detector(1), survey.sensor(1)
    electrons = np.full(detector.shape, 1e6, np.float32)
    electrons[:10] = 0.0
    pixels = read_out(sensor, electrons, np.random.default_rng(1))
    assert pixels.dtype == np.float32
    assert np.array_equal(pixels, np.rint(pixels))
    assert pixels.min() >= 0
    assert pixels.max() == 65535.0
    second = detector.amplifiers[1]
    assert second.flip_x
    assert second.overscan is not None
    assert_allclose(np.median(pixels[second.overscan.slices]), sensor.bias_level[1], atol=8.0)


def test_saturated_stars_reach_the_saturation_of_the_instrument(survey: SimulatedSurvey) -> None:
    raw = survey.raw(survey.science_visits[0], 0)
    saturation = raw.detector.amplifiers[0].saturation
    assert 20 < (raw.pixels >= saturation).sum() < 5000


def test_bias_dark_and_flat_show_their_own_flaws(survey: SimulatedSurvey) -> None:
    frames = list(survey.calibration_frames(0))
    plan = survey.survey
    kinds = [c.kind for c in frames]
    assert kinds == ["bias"] * plan.n_bias + ["dark"] * plan.n_dark + ["flat"] * plan.n_flat
    assert {c.band for c in frames if c.kind == "flat"} == {"r"}
    assert {c.band for c in frames if c.kind != "flat"} == {""}
    dark = np.median([assembled(c.frame) for c in frames if c.kind == "dark"], axis=0)
    sensor = survey.sensor(0)
    hot = sensor.dark_current > 5.0
    assert_allclose(
        np.median(dark[hot] / (sensor.dark_current[hot] * plan.dark_exposure_s)), 1.0, atol=0.1
    )
    flat = np.median([assembled(c.frame) for c in frames if c.kind == "flat"], axis=0)
    ratio = flat / sensor.response
    sound = (sensor.response > 0.8) & ~hot
    assert np.std(ratio[sound]) / np.median(ratio[sound]) < 0.006


def test_cosmic_rays_grow_with_the_exposure_and_only_add(rng: np.random.Generator) -> None:
    empty = np.zeros((1000, 1000), np.float32)
    short = add_cosmic_rays(empty, 30.0, 0.25, np.random.default_rng(1))
    long = add_cosmic_rays(empty, 3000.0, 0.25, np.random.default_rng(2))
    assert empty.max() == 0.0
    assert short.min() >= 0.0
    assert 20 < long.sum() / short.sum() < 500
    per_track = long.sum() / (0.25 * 3000.0)
    assert 5_000 < per_track < 50_000


def test_crosstalk_and_bent_response_of_a_simulated_frame_are_removed(
    survey: SimulatedSurvey,
) -> None:
    """The same charge through straight and through bent, talking electronics."""
    straight = survey.instrument.detector(1)
    bent = replace(
        straight,
        crosstalk=((0.0, 6e-4), (4e-4, 0.0)),
        amplifiers=tuple(replace(a, linearity=(1e-6, 2e-12)) for a in straight.amplifiers),
    )
    electrons = np.full(straight.shape, 400.0, np.float32)
    electrons[100:120, 40:60] = 80_000.0
    isr = RemoveSignature(IsrConfig())
    images = []
    for detector in (straight, bent):
        sensor = replace(survey.sensor(1), detector=detector)
        pixels = read_out(sensor, electrons, np.random.default_rng(3))
        visit = survey.visits[0]
        raw = RawFrame(pixels, visit, detector, nominal_wcs(visit, detector))
        images.append(isr.run(raw, Calibrations()).image)
    star, ghost = np.s_[100:120, 40:60], np.s_[100:120, 512 - 60 : 512 - 40]
    assert_allclose(images[1][star], images[0][star], rtol=1e-3)
    # 80,000 electrons would leave 32 in the other amplifier; its noise is 7
    assert abs((images[1][ghost] - images[0][ghost]).mean()) < 0.5
    assert np.abs(images[1] - images[0])[electrons < 500].max() < 4.0
