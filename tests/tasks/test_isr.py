"""Instrument signature removal on simulated raw frames whose truth is known."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.frames import (
    BIAS,
    GAIN,
    READ_NOISE,
    SATURATION,
    make_raw,
    make_visit,
    one_amplifier,
)

from promptdia.tasks.errors import NoUsablePixels
from promptdia.tasks.isr import IsrConfig, RemoveSignature, WrongCalibration
from promptdia.tasks.model.calibrations import Calibrations, MasterFrame
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.visit import Amplifier, Box, Detector
from promptdia.tasks.readout import WrongShape, read_out

ISR = RemoveSignature(IsrConfig())
NONE = Calibrations()


def master(kind: str, image: np.ndarray, detector: int = 0, band: str = "") -> MasterFrame:
    return MasterFrame(kind, image.astype(np.float32), np.zeros(image.shape, np.float32), detector,
                       band)  # fmt: skip


def sky_frame(detector: Detector, sky: float, seed: int, flat: float | np.ndarray = 1.0,
              dark: float = 0.0) -> np.ndarray:  # fmt: skip
    """Raw ADU of an empty sky (electrons) through a flat, with dark electrons on top."""
    rng = np.random.default_rng(seed)
    ny, nx = detector.shape
    counted = rng.poisson(sky * np.broadcast_to(flat, (ny, nx)) + dark)
    electrons = np.zeros((ny, nx + 32))
    electrons[:, :nx] = counted
    electrons += rng.normal(0, READ_NOISE, electrons.shape)
    return np.rint(BIAS + electrons / GAIN)


def test_the_overscan_level_comes_off_and_adu_become_electrons() -> None:
    detector = one_amplifier(64, 96, overscan=32)
    exposure = ISR.run(make_raw(sky_frame(detector, 300.0, 1), detector), NONE)
    assert exposure.shape == (64, 96)
    assert exposure.notes["ISROVSC"] == "amplifier"
    assert_allclose(exposure.notes["ISROLEV"], BIAS, atol=0.5)
    assert_allclose(exposure.image.mean(), 300.0, atol=1.5)


def test_a_level_that_drifts_by_row_is_followed_row_by_row() -> None:
    detector = one_amplifier(200, 64, overscan=32)
    pixels = sky_frame(detector, 300.0, 2) + 0.5 * np.arange(200)[:, None]
    rows = RemoveSignature(IsrConfig(overscan="row")).run(make_raw(pixels, detector), NONE)
    whole = ISR.run(make_raw(pixels, detector), NONE)
    assert abs(np.polyfit(np.arange(200), rows.image.mean(axis=1), 1)[0]) < 0.03
    assert_allclose(np.polyfit(np.arange(200), whole.image.mean(axis=1), 1)[0], 0.75, atol=0.03)


def test_amplifiers_are_put_in_place_unflipped_with_their_own_gains() -> None:
    left = Amplifier(Box(0, 8, 0, 6), Box(0, 8, 0, 6), Box(8, 12, 0, 6), 1.0, 5.0, 6e4)
    right = Amplifier(
        Box(16, 24, 0, 6), Box(8, 16, 0, 6), Box(12, 16, 0, 6), 2.0, 7.0, 6e4, True, True
    )
    detector = Detector(3, "two", 16, 6, 0.2, (left, right))
    truth = np.arange(96.0).reshape(6, 16)
    pixels = np.zeros((6, 24))
    pixels[:, :8] = 500 + truth[:, :8]
    pixels[:, 8:12] = 500
    pixels[:, 12:16] = 800
    pixels[:, 16:] = 800 + truth[::-1, :7:-1] / 2.0
    exposure = ISR.run(make_raw(pixels, detector), NONE)
    assert_allclose(exposure.image, truth)
    readout = read_out(make_raw(pixels, detector))
    assert set(np.unique(readout.read_variance[:, :8])) == {25.0}
    assert set(np.unique(readout.read_variance[:, 8:])) == {49.0}


@pytest.mark.parametrize("sky", [0.0, 40.0, 2000.0])
def test_the_variance_plane_tells_the_noise_of_empty_apertures(sky: float) -> None:
    detector = one_amplifier(512, 512, overscan=32)
    y, x = np.mgrid[:512, :512] / 512.0
    flat = (0.7 + 0.3 * x + 0.2 * y) / (0.7 + 0.3 * x + 0.2 * y).mean()
    dark = master("dark", np.full((512, 512), 0.8))
    visit = make_visit(exposure_s=30.0)
    pixels = sky_frame(detector, sky, 3, flat, dark=24.0)
    calib = Calibrations(dark=dark, flat=master("flat", flat))
    exposure = ISR.run(make_raw(pixels, detector, visit), calib)
    boxes = (exposure.image - sky).reshape(128, 4, 128, 4).sum(axis=(1, 3))
    errors = np.sqrt(exposure.variance.reshape(128, 4, 128, 4).sum(axis=(1, 3)))
    assert abs((boxes / errors).std() - 1.0) < 0.02
    assert abs((boxes / errors).mean()) < 0.1


def test_bias_dark_and_flat_are_taken_out() -> None:
    detector = one_amplifier(128, 128, overscan=32)
    rng = np.random.default_rng(4)
    bias = 20.0 * rng.normal(size=(128, 128))
    flat = 1.0 + 0.1 * rng.normal(size=(128, 128))
    pixels = sky_frame(detector, 5000.0, 5, flat, dark=300.0)
    pixels[:, :128] += bias / GAIN
    calib = Calibrations(
        master("bias", bias), master("dark", np.full((128, 128), 10.0)), master("flat", flat)
    )
    exposure = ISR.run(make_raw(pixels, detector), calib)
    assert_allclose(exposure.image.mean(), 5000.0, atol=3.0)
    assert_allclose(exposure.image.std(), np.sqrt(exposure.variance.mean()), rtol=0.05)
    assert [exposure.notes[k] for k in ("ISRBIAS", "ISRDARK", "ISRFLAT")] == [True] * 3


def test_a_step_that_is_switched_off_is_not_done_and_said_so() -> None:
    detector = one_amplifier(32, 32, overscan=32)
    pixels = sky_frame(detector, 500.0, 6)
    off = IsrConfig(overscan="none", bias=False, dark=False, flat=False, defects=False)
    calib = Calibrations(
        *(master(k, np.full((32, 32), 9.0)) for k in ("bias", "dark", "flat")),
        defects=np.ones((32, 32), bool),
    )
    exposure = RemoveSignature(off).run(make_raw(pixels, detector), calib)
    assert_allclose(exposure.image, pixels[:, :32] * GAIN, rtol=1e-6)
    done = [exposure.notes[k] for k in ("ISRBIAS", "ISRDARK", "ISRFLAT", "ISRDEFE")]
    assert done == [False] * 4
    assert exposure.notes["NPIXBAD"] == 0


def test_saturation_grows_by_a_pixel_and_is_bridged() -> None:
    detector = one_amplifier(32, 32)
    pixels = np.random.default_rng(7).normal(500, 1, (32, 32))
    pixels[10, 20] = SATURATION
    pixels[5, 5] = 0.95 * SATURATION
    exposure = ISR.run(make_raw(pixels, detector), NONE)
    saturated = has(exposure.mask, MaskPlane.SAT)
    assert saturated.sum() == 9
    assert saturated[9:12, 19:22].all()
    assert has(exposure.mask, MaskPlane.INTRP)[saturated].all()
    assert_allclose(exposure.image[saturated], 500 * GAIN, atol=6 * GAIN)
    suspect = has(exposure.mask, MaskPlane.SUSPECT)
    assert suspect[5, 5]
    assert exposure.image[5, 5] > 0.9 * SATURATION * GAIN


def test_a_bad_column_on_a_slope_is_filled_from_its_sides() -> None:
    detector = one_amplifier(20, 30)
    pixels = np.tile(np.arange(30.0), (20, 1))
    pixels[:, 12:14] = 9999.0
    defects = np.zeros((20, 30), bool)
    defects[:, 12:14] = True
    exposure = ISR.run(make_raw(pixels, detector), Calibrations(defects=defects))
    assert_allclose(exposure.image, GAIN * np.tile(np.arange(30.0), (20, 1)), rtol=1e-5)
    wanted = np.where(defects, (MaskPlane.BAD | MaskPlane.INTRP).value, 0)
    assert (exposure.mask == wanted).all()


def test_pixels_without_a_number_become_no_data_and_never_leak() -> None:
    detector = one_amplifier(20, 20)
    pixels = np.random.default_rng(8).normal(500, 3, (20, 20))
    pixels[3:5, 4:9] = np.nan
    pixels[10, 10] = np.inf
    exposure = ISR.run(make_raw(pixels, detector), NONE)
    lost = has(exposure.mask, MaskPlane.NO_DATA)
    assert lost.sum() == 11
    assert np.isfinite(exposure.image).all()
    assert (np.isinf(exposure.variance) == lost).all()


def test_zeros_and_nan_in_the_flat_are_bad_pixels() -> None:
    detector = one_amplifier(20, 20)
    pixels = np.random.default_rng(9).normal(500, 3, (20, 20))
    flat = np.ones((20, 20))
    flat[2, 3], flat[7, 8] = 0.0, np.nan
    exposure = ISR.run(make_raw(pixels, detector), Calibrations(flat=master("flat", flat)))
    bad = has(exposure.mask, MaskPlane.BAD)
    assert bad[2, 3]
    assert bad[7, 8]
    assert bad.sum() == 2
    assert np.isfinite(exposure.image).all()
    assert np.isfinite(exposure.variance).all()


@pytest.mark.parametrize(
    ("value", "reason"),
    [(np.nan, "nan"), (SATURATION, "every value is 60000"), (0.0, "every value is 0")],
)
def test_a_frame_with_one_value_everywhere_is_refused(value: float, reason: str) -> None:
    raw = make_raw(np.full((16, 16), value), one_amplifier(16, 16))
    with pytest.raises(NoUsablePixels, match=reason):
        ISR.run(raw, NONE)


def test_frames_without_one_good_pixel_are_refused() -> None:
    detector = one_amplifier(16, 16)
    saturated = SATURATION + np.random.default_rng(1).uniform(0, 99, (16, 16))
    with pytest.raises(NoUsablePixels, match="every pixel is saturated"):
        ISR.run(make_raw(saturated, detector), NONE)
    defects = Calibrations(defects=np.ones((16, 16), bool))
    with pytest.raises(NoUsablePixels, match="every pixel is bad"):
        ISR.run(make_raw(saturated / 99, detector), defects)


def test_frames_and_masters_that_do_not_fit_are_refused_by_name() -> None:
    detector = one_amplifier(16, 16)
    pixels = np.random.default_rng(1).normal(500, 9, (16, 16))
    raw = make_raw(pixels, detector)
    with pytest.raises(WrongShape, match=r"raw frame of shape \(16, 15\) does not contain"):
        ISR.run(make_raw(pixels[:, :15], detector), NONE)
    with pytest.raises(WrongShape, match=r"master bias has shape \(8, 16\)"):
        ISR.run(raw, Calibrations(bias=master("bias", pixels[:8])))
    with pytest.raises(WrongShape, match="defects"):
        ISR.run(raw, Calibrations(defects=np.zeros((8, 8), bool)))
    with pytest.raises(WrongCalibration, match="of detector 7, the frame of 0"):
        ISR.run(raw, Calibrations(dark=master("dark", pixels, detector=7)))
    with pytest.raises(WrongCalibration, match="in band g, the frame in r"):
        ISR.run(raw, Calibrations(flat=master("flat", pixels, band="g")))
    with pytest.raises(WrongCalibration, match="the bias given is a master dark"):
        ISR.run(raw, Calibrations(bias=master("dark", pixels)))


def test_masters_of_another_level_or_scale_are_refused_by_name() -> None:
    detector = one_amplifier(60, 40, overscan=32)
    raw = make_raw(sky_frame(detector, 100.0, 1), detector)
    bias = master("bias", np.zeros(detector.shape))
    for made, read in (("none", "amplifier"), ("row", "none")):
        isr = RemoveSignature(replace(IsrConfig(), overscan=read))
        given = Calibrations(bias=replace(bias, overscan=made))
        with pytest.raises(
            WrongCalibration, match=f"overscan {made}, the frame is read with {read}"
        ):
            isr.run(raw, given)
    with pytest.raises(WrongCalibration, match=r"flat has median 2e\+04, must be divided"):
        ISR.run(raw, Calibrations(flat=master("flat", np.full(detector.shape, 2e4))))
    short = replace(bias, variance=np.zeros((3, 60), np.float32))
    with pytest.raises(WrongShape, match="variance of the master bias has shape"):
        ISR.run(raw, Calibrations(bias=short))


def test_an_amplifier_whose_boxes_differ_in_size_is_refused() -> None:
    detector = one_amplifier(16, 16)
    amplifier = replace(detector.amplifiers[0], data=Box(0, 15, 0, 16))
    pixels = np.random.default_rng(1).normal(500, 9, (16, 16))
    with pytest.raises(WrongShape, match="differ in size"):
        ISR.run(make_raw(pixels, replace(detector, amplifiers=(amplifier,))), NONE)


def test_nothing_given_is_changed() -> None:
    detector = one_amplifier(16, 16, overscan=32)
    raw = make_raw(sky_frame(detector, 300.0, 10), detector)
    flat = master("flat", np.full((16, 16), 0.5))
    calib = Calibrations(flat=flat, defects=np.eye(16, dtype=bool))
    before = raw.pixels.copy(), flat.image.copy(), calib.defects.copy()
    ISR.run(raw, calib)
    for kept, now in zip(before, (raw.pixels, flat.image, calib.defects)):
        assert (kept == now).all()


def test_the_kernel_does_the_arithmetic_of_plain_numpy() -> None:
    rng = np.random.default_rng(11)
    detector = one_amplifier(24, 20)
    pixels = rng.uniform(-5, 3000, (24, 20)).astype(np.float32)
    planes = {k: rng.uniform(a, b, (2, 24, 20)).astype(np.float32)
              for k, a, b in (("bias", 0, 30), ("dark", 0, 2), ("flat", 0.5, 1.5))}  # fmt: skip
    masters = {k: MasterFrame(k, v[0], v[1], 0) for k, v in planes.items()}
    exposure = ISR.run(make_raw(pixels, detector, make_visit(10.0)), Calibrations(**masters))
    (b, vb), (d, vd), (f, vf) = (planes[k].astype(float) for k in ("bias", "dark", "flat"))
    counted = GAIN * pixels.astype(float) - b
    noise = np.maximum(READ_NOISE**2 + counted, READ_NOISE**2 / 4) + vb + 100.0 * vd
    flattened = (counted - 10.0 * d) / f
    assert_allclose(exposure.image, flattened, rtol=1e-4, atol=1e-3)
    assert_allclose(exposure.variance, (noise + flattened**2 * vf) / f**2, rtol=1e-4)


def bent(signal: np.ndarray, c2: float) -> np.ndarray:
    """ADU that stand for ``signal`` where v stands for v + c2 v^2."""
    return (np.sqrt(1.0 + 4.0 * c2 * signal) - 1.0) / (2.0 * c2)


def electronics(c2: float, crosstalk: tuple[tuple[float, float], ...]) -> Detector:
    """Two amplifiers with overscan, the second read from right to left."""
    scan = Box(64, 72, 0, 60), Box(136, 144, 0, 60)
    one = Amplifier(Box(0, 64, 0, 60), Box(0, 64, 0, 60), scan[0], 1.5, 6.0, 6e4, linearity=(c2,))
    two = Amplifier(Box(72, 136, 0, 60), Box(64, 128, 0, 60), scan[1], 1.8, 6.0, 6e4, True,
                    linearity=(c2,))  # fmt: skip
    return Detector(0, "two", 128, 60, 0.2, (one, two), crosstalk=crosstalk)


def test_crosstalk_and_a_bent_response_are_undone() -> None:
    """Without noise: what is left of ghost and bend is far below an electron and 1e-3."""
    c2, crosstalk = 1.2e-6, ((0.0, 4e-4), (7e-4, 0.0))
    detector = electronics(c2, crosstalk)
    truth = np.full((60, 128), 300.0)
    truth[20:25, 10:15] = 70_000.0
    truth[40:43, 100:110] = 60_000.0
    one, two = bent(truth[:, :64] / 1.5, c2), bent(truth[:, :63:-1] / 1.8, c2)
    pixels = np.full((60, 144), 1000.0)
    pixels[:, :64] += one + crosstalk[0][1] * two
    pixels[:, 72:136] += two + crosstalk[1][0] * one
    raw = make_raw(pixels, detector)
    exposure = ISR.run(raw, NONE)
    assert_allclose(exposure.image, truth, rtol=1e-4, atol=0.1)
    assert [exposure.notes[k] for k in ("ISRXTALK", "ISRLIN")] == [True, True]
    off = RemoveSignature(IsrConfig(crosstalk=False, linearity=False)).run(raw, NONE)
    assert [off.notes[k] for k in ("ISRXTALK", "ISRLIN")] == [False, False]
    ghost = np.s_[20:25, 128 - 15 : 128 - 10]
    assert_allclose(off.image[ghost], 300.0 + 7e-4 * 70_000 * 1.8 / 1.5, rtol=0.1)
    assert off.image[22, 12] < 0.96 * 70_000.0


def test_crosstalk_does_not_spread_missing_pixels() -> None:
    detector = electronics(0.0, ((0.0, 1e-3), (1e-3, 0.0)))
    pixels = np.random.default_rng(12).normal(1300.0, 5.0, (60, 144))
    pixels[30, 5] = np.nan
    exposure = ISR.run(make_raw(pixels, detector), NONE)
    assert has(exposure.mask, MaskPlane.NO_DATA).sum() == 1


def test_crosstalk_that_does_not_fit_the_amplifiers_is_refused() -> None:
    pixels = np.random.default_rng(1).normal(500, 9, (60, 144))
    with pytest.raises(WrongShape, match=r"crosstalk has shape \(1, 2\), 2 amplifiers need"):
        ISR.run(make_raw(pixels, electronics(0.0, ((0.0, 1e-3),))), NONE)
    detector = electronics(0.0, ((0.0, 0.0), (0.0, 0.0)))
    smaller = replace(detector.amplifiers[1], data=Box(72, 130, 0, 60), target=Box(64, 122, 0, 60))
    uneven = replace(detector, amplifiers=(detector.amplifiers[0], smaller))
    with pytest.raises(WrongShape, match="data are equal in size"):
        ISR.run(make_raw(pixels, uneven), NONE)
