"""From the raw array of a camera to electrons on the assembled detector.

Shared by instrument signature removal and the making of master calibrations.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from promptdia.tasks.errors import NoUsablePixels, TaskError
from promptdia.tasks.interpolate import coordinates
from promptdia.tasks.model.arrays import Bools, Floats, Image, Mask
from promptdia.tasks.model.exposure import RawFrame
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.visit import Amplifier, Box

OverscanMode = Literal["amplifier", "row", "none"]

CLIP_SIGMA = 3.0
"""Where the mean of an overscan stops counting a pixel."""


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


def read_out(
    raw: RawFrame, overscan: OverscanMode = "amplifier", suspect_fraction: float = 0.9
) -> Readout:
    """Saturation, overscan, gain and assembly with flips.

    A pixel is SAT from the amplifier's saturation in raw ADU on, together with its eight
    neighbours, and SUSPECT from ``suspect_fraction`` of it on. An amplifier without overscan
    keeps its level. Raises WrongShape or NoUsablePixels.
    """
    _require_signal(raw.pixels)
    shape = raw.detector.shape
    image = np.full(shape, np.nan, np.float32)
    mask = np.zeros(shape, np.int32)
    read_variance = np.ones(shape, np.float32)
    levels = []
    for amplifier in raw.detector.amplifiers:
        pixels = _region(raw.pixels, amplifier.data)
        if (amplifier.target.y1 > shape[0]) or (amplifier.target.x1 > shape[1]):
            raise WrongShape(f"{amplifier.target} reaches beyond the detector's shape {shape}")
        target = amplifier.target.slices
        if image[target].shape != pixels.shape:
            raise WrongShape(
                f"amplifier data {amplifier.data} and target {amplifier.target} differ in size"
            )
        level = overscan_level(raw.pixels, amplifier, overscan)
        levels.append(float(level.mean()))
        flip = tuple(
            slice(None, None, -1 if turned else 1)
            for turned in (amplifier.flip_y, amplifier.flip_x)
        )
        electrons = (pixels - level) * np.float32(amplifier.gain)
        image[target] = electrons[flip]
        _mark_saturation(mask[target][flip], pixels, amplifier.saturation, suspect_fraction)
        read_variance[target] = amplifier.read_noise**2
    empty = ~np.isfinite(image)
    mask[empty] |= MaskPlane.NO_DATA.value
    saturated = has(mask, MaskPlane.SAT)
    if empty.all():
        raise NoUsablePixels("raw frame", "no amplifier covers a pixel with data")
    if (saturated | empty).all():
        raise NoUsablePixels("raw frame", "every pixel is saturated")
    _grow_saturation(mask, saturated)
    return Readout(image, mask, read_variance, float(np.mean(levels)))


def overscan_level(pixels: Image, amplifier: Amplifier, mode: OverscanMode) -> NDArray[np.float32]:
    """The level under the amplifier's data in ADU: (1, 1), or (ny, 1) for mode ``row``.

    The mean of the overscan after clipping; 0 when the amplifier has no overscan or the mode
    is ``none``.
    """
    if amplifier.overscan is None or mode == "none":
        return np.zeros((1, 1), np.float32)
    box = amplifier.overscan
    values = _region(pixels, box)
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
    median = np.nanmedian(values, axis=1, keepdims=True)
    deviation = np.abs(values - median)
    # the 0.5 keeps whole ADU apart by rounding only
    sigma = 1.4826 * np.nanmedian(deviation, axis=1, keepdims=True) + 0.5
    mean = np.nanmean(np.where(deviation <= CLIP_SIGMA * sigma, values, np.nan), axis=1)
    result: Floats = np.where(empty, np.nan, mean)[:, None]
    return result


def _region(pixels: Image, box: Box) -> Image:
    ny, nx = pixels.shape
    if not (0 <= box.x0 < box.x1 <= nx and 0 <= box.y0 < box.y1 <= ny):
        raise WrongShape(f"raw frame of shape {pixels.shape} does not contain {box}")
    return pixels[box.slices]


def _mark_saturation(mask: Mask, pixels: Image, saturation: float, part: float) -> None:
    """Set SUSPECT and SAT in ``mask``, an amplifier's view into the detector's."""
    y, x = coordinates(pixels >= part * saturation)
    full = pixels[y, x] >= saturation
    mask[y, x] = MaskPlane.SUSPECT.value | np.where(full, MaskPlane.SAT.value, 0)


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
