"""Master bias, dark and flat by outlier-clipped means; defects; gain and read noise."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdia.tasks.errors import TaskError
from promptdia.tasks.isr import WrongCalibration, counting_variance
from promptdia.tasks.model.arrays import Bools, Floats, Image
from promptdia.tasks.model.calibrations import MasterFrame
from promptdia.tasks.model.exposure import RawFrame
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.visit import Amplifier
from promptdia.tasks.readout import (
    ALL_STEPS,
    Readout,
    ReadoutSteps,
    WrongShape,
    overscan_level,
    overscan_mode,
    read_out,
)

CLIP_SIGMA = 4.0
"""A value further from the median of its pixel is left out: cosmic rays, stars in twilight."""
ROWS = 128
"""Rows combined at a time, which bounds the memory."""


class UnusableCalibration(TaskError):
    """Calibration frames from which no master can be made."""


class Noise(NamedTuple):
    """What a pair of flats and a pair of biases tell about one amplifier."""

    gain: float
    """Electrons per ADU."""
    read_noise: float
    """Electrons."""


@dataclass(frozen=True, slots=True)
class DefectConfig:
    """When a pixel is too odd to be corrected."""

    hot_e_per_s: float = 5.0
    """Dark current above the median, electrons per second."""
    bias_offset_e: float = 1000.0
    """Bias level off the median, electrons."""
    flat_deviation: float = 0.2
    """Sensitivity off that of the surroundings, as a part of it."""
    significance: float = 5.0
    """The deviation must also be this many times its error."""
    column_fraction: float = 0.1
    """A column with this part of its pixels flagged is bad from the first to the last of them."""


def combine_bias(
    frames: Sequence[RawFrame],
    inputs: Mapping[str, str] | None = None,
    steps: ReadoutSteps = ALL_STEPS,
) -> MasterFrame:
    """The master bias in electrons. ``inputs``: name and checksum of each frame, for the record."""
    images, variances = [], []
    for frame in _checked(frames, "bias"):
        readout = read_out(frame, steps)
        images.append(_without_saturated(readout))
        variances.append(readout.read_variance)
    master = _master("bias", frames, images, variances, inputs)
    return replace(master, overscan=overscan_mode(frames[0].detector, steps.overscan))


def combine_dark(
    frames: Sequence[RawFrame],
    bias: MasterFrame | None,
    inputs: Mapping[str, str] | None = None,
    steps: ReadoutSteps = ALL_STEPS,
) -> MasterFrame:
    """The master dark in electrons per second.

    Its variance leaves out the error of ``bias``, which cancels where both are subtracted.
    """
    images, variances = [], []
    for i, frame in enumerate(_checked(frames, "dark")):
        seconds = frame.visit.exposure_s
        if seconds <= 0:
            raise UnusableCalibration(
                f"dark frame {_name(inputs, i)} has exposure time {seconds:g} s, must be positive"
            )
        readout = read_out(frame, steps)
        signal = _less(_without_saturated(readout), bias, 1.0)
        images.append(signal / np.float32(seconds))
        variances.append(counting_variance(signal, readout.read_variance) / np.float32(seconds**2))
    return _master("dark", frames, images, variances, inputs)


def combine_flat(
    frames: Sequence[RawFrame],
    bias: MasterFrame | None,
    dark: MasterFrame | None,
    band: str,
    inputs: Mapping[str, str] | None = None,
    steps: ReadoutSteps = ALL_STEPS,
) -> MasterFrame:
    """The master flat of mean 1; each frame is scaled to median 1 before they are combined."""
    images, variances = [], []
    for i, frame in enumerate(_checked(frames, "flat")):
        readout = read_out(frame, steps)
        counted = _less(_without_saturated(readout), bias, 1.0)
        signal = _less(counted, dark, frame.visit.exposure_s)
        level = float(np.nanmedian(signal))
        noise = float(np.sqrt(np.median(readout.read_variance)))
        if not level > noise:
            raise UnusableCalibration(
                f"flat frame {_name(inputs, i)} has median signal {level:.1f} electrons, "
                f"must be above the read noise {noise:.1f}"
            )
        images.append(signal / np.float32(level))
        variances.append(counting_variance(counted, readout.read_variance) / np.float32(level**2))
    master = _master("flat", frames, images, variances, inputs, band)
    mean = np.float32(np.mean(master.image, where=np.isfinite(master.variance), dtype=float))
    return MasterFrame(
        "flat", master.image / mean, master.variance / mean**2, master.detector, band, master.inputs
    )


def find_defects(
    bias: MasterFrame | None,
    dark: MasterFrame | None,
    flat: MasterFrame | None,
    config: DefectConfig | None = None,
) -> Bools:
    """(ny, nx) True on hot, dead and odd pixels and on bad columns; at least one master needed."""
    cfg = config or DefectConfig()
    masters = [m for m in (bias, dark, flat) if m is not None]
    if not masters:
        raise UnusableCalibration("defects need a master bias, dark or flat, none is given")
    defects = np.zeros(masters[0].image.shape, bool)
    for master in masters:
        if master.image.shape != defects.shape:
            raise WrongShape(
                f"master {master.kind} has shape {master.image.shape}, another {defects.shape}"
            )
        defects |= ~np.isfinite(master.variance)
    if bias is not None:
        defects |= np.abs(_excess(bias, cfg.significance)) > cfg.bias_offset_e
    if dark is not None:
        defects |= _excess(dark, cfg.significance) > cfg.hot_e_per_s
    if flat is not None:
        relative = flat.image / local_median(flat.image)
        error = np.sqrt(flat.variance) * cfg.significance
        defects |= np.abs(relative - 1.0) > np.maximum(cfg.flat_deviation, error)
    return with_bad_columns(defects, cfg.column_fraction)


def with_bad_columns(defects: Bools, fraction: float) -> Bools:
    """``defects`` with the gaps closed in columns where more than ``fraction`` is flagged."""
    result = defects.copy()
    for x in np.flatnonzero(defects.mean(axis=0) > fraction):
        rows = np.flatnonzero(defects[:, x])
        result[rows[0] : rows[-1] + 1, x] = True
    return result


def local_median(image: Image, box: int = 32) -> Image:
    """The median over boxes of about ``box`` pixels a side, as an image of the same shape."""
    ny, nx = image.shape
    ye = np.linspace(0, ny, max(1, ny // box) + 1).astype(int)
    xe = np.linspace(0, nx, max(1, nx // box) + 1).astype(int)
    mesh = np.array(
        [[np.median(image[a:b, c:d]) for c, d in pairwise(xe)] for a, b in pairwise(ye)]
    )
    rows = np.repeat(mesh, np.diff(ye), axis=0)
    result: Image = np.repeat(rows, np.diff(xe), axis=1).astype(np.float32)
    return result


def gain_and_read_noise(
    flat_pair: tuple[RawFrame, RawFrame], bias_pair: tuple[RawFrame, RawFrame]
) -> list[Noise]:
    """Gain and read noise of each amplifier by the photon-transfer relation.

    The noise of the difference of two equal frames holds no fixed pattern:
    gain = 2 S / (var(f1 - f2) - var(b1 - b2)) with S the mean signal of one flat in ADU.
    Raises UnusableCalibration when the flats show no photon noise.
    """
    f1, f2 = flat_pair
    b1, b2 = bias_pair
    result = []
    for amplifier in f1.detector.amplifiers:
        flats = [_adu(f, amplifier) for f in (f1, f2)]
        biases = [_adu(b, amplifier) for b in (b1, b2)]
        pedestal = 0.5 * float(np.nanmean(biases[0]) + np.nanmean(biases[1]))
        s1, s2 = (float(np.nanmean(f)) - pedestal for f in flats)
        bias_variance = _robust_variance(biases[0] - biases[1])
        # the second flat is brought to the level of the first
        scale = s1 / s2 if s2 > 0 else np.nan
        difference = (flats[0] - pedestal) - scale * (flats[1] - pedestal)
        read = 0.5 * bias_variance
        photon = _robust_variance(difference) - read * (1.0 + scale**2)
        if not photon > 0:
            raise UnusableCalibration(
                f"flats with mean signals {s1:.0f} and {s2:.0f} ADU show no photon noise"
            )
        # var = s1/g + scale^2 s2/g
        gain = s1 * (1.0 + scale) / photon
        result.append(Noise(gain, gain * float(np.sqrt(read))))
    return result


def _name(inputs: Mapping[str, str] | None, i: int) -> str:
    """Of the file of frame i, else which frame it is."""
    return list(inputs)[i] if inputs else f"number {i + 1}"


def _master(
    kind: str,
    frames: Sequence[RawFrame],
    images: list[Image],
    variances: list[Image],
    inputs: Mapping[str, str] | None,
    band: str = "",
) -> MasterFrame:
    image, variance = clipped_mean(images, variances)
    return MasterFrame(kind, image, variance, frames[0].detector.id, band, dict(inputs or {}))


def clipped_mean(images: Sequence[Image], variances: Sequence[Image]) -> tuple[Image, Image]:
    """Mean over frames of equal shape and the variance of that mean.

    In each pixel a value more than 4 sigma from the lower median does not count; sigma is the
    median of the given variances times one common factor, taken from the scatter between
    consecutive frames, so that a wrong read noise does no harm. nan never counts; a pixel
    without any value gets 0 and an infinite variance.
    """
    factor = _noise_factor(images, variances)
    mean, error = np.empty_like(images[0]), np.empty_like(images[0])
    for y in range(0, images[0].shape[0], ROWS):
        rows = slice(y, y + ROWS)
        values = np.stack([i[rows] for i in images])
        noise = np.stack([v[rows] for v in variances]) * factor
        known = np.isfinite(values)
        values = np.where(known, values, np.float32(np.inf))
        # the lower median: of two values, the one without a cosmic ray
        rank = np.maximum((known.sum(axis=0) - 1) // 2, 0)[None]
        middle = np.take_along_axis(np.sort(values, axis=0), rank, axis=0)[0]
        sigma = np.sqrt(np.median(noise, axis=0))
        with np.errstate(invalid="ignore"):
            kept = known & (np.abs(values - middle) <= CLIP_SIGMA * sigma)
        n = kept.sum(axis=0)
        with np.errstate(invalid="ignore", divide="ignore"):
            mean[rows] = np.where(n > 0, np.sum(values, axis=0, where=kept) / n, 0.0)
            error[rows] = np.where(n > 0, np.sum(noise, axis=0, where=kept) / n**2, np.inf)
    return mean, error


def _noise_factor(images: Sequence[Image], variances: Sequence[Image]) -> np.float32:
    """Real variance over expected variance, from differences of consecutive frames."""
    factors = [
        _robust_variance(((a - b) / np.sqrt(va + vb))[::4, ::4])
        for (a, b), (va, vb) in zip(pairwise(images), pairwise(variances))
    ]
    factor = float(np.mean(factors)) if factors else 1.0
    return np.float32(factor if factor > 0 else 1.0)


def _excess(master: MasterFrame, significance: float) -> Image:
    """The image less its median where that is significant, else 0."""
    excess = master.image - np.float32(np.median(master.image))
    result: Image = np.where(np.abs(excess) > significance * np.sqrt(master.variance), excess, 0)
    return result


def _checked(frames: Sequence[RawFrame], kind: str) -> Sequence[RawFrame]:
    if not frames:
        raise UnusableCalibration(f"no {kind} frame is given, at least one is needed")
    for frame in frames[1:]:
        if frame.detector.id != frames[0].detector.id:
            raise WrongCalibration(
                f"{kind} frames are of detectors {frames[0].detector.id} "
                f"and {frame.detector.id}, must be of one"
            )
    return frames


def _without_saturated(readout: Readout) -> Image:
    result: Image = np.where(has(readout.mask, MaskPlane.SAT), np.float32(np.nan), readout.image)
    return result


def _less(image: Image, master: MasterFrame | None, factor: float) -> Image:
    if master is None:
        return image
    if master.image.shape != image.shape:
        raise WrongShape(
            f"master {master.kind} has shape {master.image.shape}, the frame {image.shape}"
        )
    result: Image = image - master.image * np.float32(factor)
    return result


def _adu(raw: RawFrame, amplifier: Amplifier) -> Floats:
    """Data of one amplifier less its overscan, nan where saturated."""
    pixels = raw.pixels[amplifier.data.slices].astype(float)
    pixels[pixels >= amplifier.saturation] = np.nan
    result: Floats = pixels - float(overscan_level(raw.pixels, amplifier, "amplifier")[0, 0])
    return result


def _robust_variance(values: NDArray[np.floating]) -> float:
    """Variance within 4 sigma of the median, sigma from iterated clipping; 0 without values."""
    v = values[np.isfinite(values)].astype(float)
    if v.size < 2:
        return 0.0
    distance = np.abs(v - np.median(v))
    # whole ADU make the 68 % of narrow noise coarse, so look at the 95 % as well
    sigma = max(np.percentile(distance, 68.3), 0.5 * np.percentile(distance, 95.4))
    for _ in range(3):
        sigma = float(v[distance <= CLIP_SIGMA * sigma].std())
    return float(sigma) ** 2
