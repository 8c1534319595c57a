"""From the raw array of a camera to electrons on the assembled detector.

Shared by instrument signature removal and the making of master calibrations.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from promptdia.tasks.errors import NoUsablePixels, TaskError
from promptdia.tasks.interpolate import coordinates
from promptdia.tasks.kernels.isr import read_rows
from promptdia.tasks.model.arrays import Bools, Floats, Image, Mask
from promptdia.tasks.model.exposure import RawFrame
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.visit import Amplifier, Detector
from promptdia.tasks.parallel import over_strips
from promptdia.tasks.robust import MAD_TO_SIGMA

OverscanMode = Literal["amplifier", "row", "none"]

CLIP_SIGMA = 3.0
"""Where the mean of an overscan stops counting a pixel."""
CLIP_SAMPLE = 8192
"""About so many pixels tell where that is."""


class WrongShape(TaskError):
    """An array does not fit the detector's description."""


@dataclass(frozen=True, slots=True, eq=False)
class Readout:
    """An assembled frame before any calibration frame was used."""

    image: Image
    """(ny, nx) electrons, bias structure, dark and sky included; nan under NO_DATA."""
    mask: Mask
    """SAT, SUSPECT and NO_DATA."""
    read_variance: Image
    """(ny, nx) square of the read noise, electrons."""
    overscan_adu: float
    """Mean level subtracted over the amplifiers that have an overscan, ADU; 0 for none."""


@dataclass(frozen=True, slots=True)
class ReadoutSteps:
    """What is corrected on the way from counts to electrons; the same for masters and frames."""

    overscan: OverscanMode = "amplifier"
    """One level per ``amplifier``, one per ``row``, or ``none``."""
    crosstalk: bool = True
    """Where the camera has coefficients."""
    linearity: bool = True
    """Where the camera has coefficients."""


ALL_STEPS = ReadoutSteps()


def read_out(
    raw: RawFrame, steps: ReadoutSteps = ALL_STEPS, suspect_fraction: float = 0.9
) -> Readout:
    """Saturation, overscan, crosstalk, linearity, gain and assembly with flips.

    A pixel is SAT from the amplifier's saturation in raw ADU on, together with its eight
    neighbours, and SUSPECT from ``suspect_fraction`` of it on. An amplifier without overscan
    keeps its level. Raises WrongShape or NoUsablePixels.
    """
    _require_signal(raw.pixels)
    detector = raw.detector
    shape, amplifiers = detector.shape, detector.amplifiers
    for amplifier in amplifiers:
        _require_boxes(raw.pixels.shape, shape, amplifier)
    crosstalk = np.array(detector.crosstalk if steps.crosstalk else (), float)
    _require_crosstalk(crosstalk, amplifiers)
    tallest = max(a.data.y1 - a.data.y0 for a in amplifiers)
    found = [overscan_level(raw.pixels, a, steps.overscan)[:, 0] for a in amplifiers]
    levels = np.zeros((len(amplifiers), tallest), np.float32)
    for level, rows, amplifier in zip(levels, found, amplifiers):
        level[: amplifier.data.y1 - amplifier.data.y0] = rows
    image = np.full(shape, np.nan, np.float32)
    mask = np.full(shape, MaskPlane.NO_DATA.value, np.int32)
    read_variance = np.ones(shape, np.float32)
    corners = np.array([(a.data.x0, a.data.y0) for a in amplifiers], np.int64)
    for number, amplifier in enumerate(amplifiers):
        read_variance[amplifier.target.slices] = amplifier.read_noise**2

        def work(first: int, end: int, number: int = number, of: Amplifier = amplifier) -> None:
            read_rows(
                raw.pixels,
                corners,
                levels,
                number,
                crosstalk[number] if crosstalk.size else np.empty(0),
                np.array(of.linearity if steps.linearity else (), float),
                of.gain,
                (of.saturation, suspect_fraction * of.saturation),
                (MaskPlane.SAT.value, MaskPlane.SUSPECT.value, MaskPlane.NO_DATA.value),
                (of.target.x0, of.target.x1, of.target.y0, of.target.y1),
                (of.flip_x, of.flip_y),
                first,
                end,
                image,
                mask,
            )

        over_strips(work, amplifier.data.y1 - amplifier.data.y0, 512)
    saturated, empty = has(mask, MaskPlane.SAT), has(mask, MaskPlane.NO_DATA)
    if empty.all():
        raise NoUsablePixels("raw frame", "no amplifier covers a pixel with data")
    if (saturated | empty).all():
        raise NoUsablePixels("raw frame", "every pixel is saturated")
    _grow_saturation(mask, saturated)
    return Readout(
        image, mask, read_variance, float(np.mean([rows.mean(dtype=float) for rows in found]))
    )


def overscan_mode(detector: Detector, asked: OverscanMode) -> OverscanMode:
    """What is subtracted: as asked, ``none`` where no amplifier has an overscan."""
    return asked if any(a.overscan is not None for a in detector.amplifiers) else "none"


def overscan_level(pixels: Image, amplifier: Amplifier, mode: OverscanMode) -> NDArray[np.float32]:
    """The level under the amplifier's data in ADU: (1, 1), or (ny, 1) for mode ``row``.

    The mean of the overscan after clipping; 0 when the amplifier has no overscan or the mode
    is ``none``.
    """
    if amplifier.overscan is None or mode == "none":
        return np.zeros((1, 1), np.float32)
    box = amplifier.overscan
    values = pixels[box.slices]
    if mode == "amplifier":
        return clipped_mean_rows(values.reshape(1, -1)).astype(np.float32)
    if (box.y0, box.y1) != (amplifier.data.y0, amplifier.data.y1):
        raise WrongShape(
            f"overscan {box} must span the rows of the data {amplifier.data} "
            "to be subtracted row by row"
        )
    return clipped_mean_rows(values).astype(np.float32)


def clipped_mean_rows(values: NDArray[np.float32]) -> Floats:
    """(n, 1) mean of each row of (n, m) values within 3 sigma of its median, sigma from the MAD.

    Values that are not finite do not count; a row without any gives nan.
    """
    values = np.where(np.isfinite(values), values, np.nan).astype(float)
    empty = np.isnan(values).all(axis=1)
    values[empty] = 0.0
    # where to clip need not be known so well as the mean
    sample = values[:, :: max(1, values.shape[1] // CLIP_SAMPLE)]
    median = np.nanmedian(sample, axis=1, keepdims=True)
    # the 0.5 keeps whole ADU apart by rounding only
    sigma = MAD_TO_SIGMA * np.nanmedian(np.abs(sample - median), axis=1, keepdims=True) + 0.5
    kept = np.abs(values - median) <= CLIP_SIGMA * sigma
    mean = np.nanmean(np.where(kept, values, np.nan), axis=1)
    result: Floats = np.where(empty, np.nan, mean)[:, None]
    return result


def _require_boxes(raw: tuple[int, ...], assembled: tuple[int, int], of: Amplifier) -> None:
    for box in (of.data, of.overscan):
        if box and not (0 <= box.x0 < box.x1 <= raw[1] and 0 <= box.y0 < box.y1 <= raw[0]):
            raise WrongShape(f"raw frame of shape {raw} does not contain {box}")
    if of.target.y1 > assembled[0] or of.target.x1 > assembled[1]:
        raise WrongShape(f"{of.target} reaches beyond the detector's shape {assembled}")
    if of.data.size != of.target.size:
        raise WrongShape(f"amplifier data {of.data} and target {of.target} differ in size")


def _require_crosstalk(crosstalk: Floats, amplifiers: tuple[Amplifier, ...]) -> None:
    if not crosstalk.size:
        return
    if crosstalk.shape != (len(amplifiers), len(amplifiers)):
        raise WrongShape(
            f"crosstalk has shape {crosstalk.shape}, {len(amplifiers)} amplifiers need "
            f"({len(amplifiers)}, {len(amplifiers)})"
        )
    if len({a.data.size for a in amplifiers}) > 1:
        raise WrongShape("crosstalk needs amplifiers whose data are equal in size")


def _grow_saturation(mask: Mask, saturated: Bools) -> None:
    ny, nx = mask.shape
    y, x = coordinates(saturated)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            mask[np.clip(y + dy, 0, ny - 1), np.clip(x + dx, 0, nx - 1)] |= MaskPlane.SAT.value


def _require_signal(pixels: Image) -> None:
    if pixels.ndim != 2:
        raise WrongShape(f"raw frame has shape {pixels.shape}, must be (ny, nx)")
    low, high = float(pixels.min()), float(pixels.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        finite = pixels[np.isfinite(pixels)]
        if finite.size == 0:
            raise NoUsablePixels("raw frame", "every value is nan or infinite")
        low, high = float(finite.min()), float(finite.max())
    if low == high:
        raise NoUsablePixels("raw frame", f"every value is {low:g} ADU")
