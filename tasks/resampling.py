"""Interpolation by a windowed sinc, and what it does to the noise of pixels."""

from functools import lru_cache

import numpy as np

from promptdia.tasks.model.arrays import Floats, Image

ORDER = 4
TAPS = 2 * ORDER
KAISER_BETA = 6.0
"""Of the window: on stars of FWHM 3 to 5 px it errs half as much as Lanczos of this order."""
PHASES = 1024
"""Steps of the sub-pixel offset in the table: positions are good to 1/2048 pixel."""
RESAMPLED = "resampled"
"""Note of an exposure: how often its noise was smoothed by an interpolation at even offsets."""


@lru_cache(maxsize=1)
def sinc_table() -> Image:
    """(PHASES + 1, TAPS) weights of unit sum; tap k is pixel floor(x) - ORDER + 1 + k."""
    offset = np.arange(PHASES + 1)[:, None] / PHASES
    distance = offset - np.arange(-ORDER + 1, ORDER + 1)
    window = np.i0(KAISER_BETA * np.sqrt(np.maximum(1.0 - (distance / ORDER) ** 2, 0.0)))
    weights = np.where(np.abs(distance) < ORDER, np.sinc(distance) * window, 0.0)
    table: Image = (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)
    return table


def noise_power(frequency: Floats) -> Floats:
    """Power that white noise keeps in one dimension, mean over all sub-pixel offsets.

    ``frequency`` in cycles per pixel; 1 at zero.
    """
    taps = np.arange(-ORDER + 1, ORDER + 1)
    waves = np.exp(-2j * np.pi * np.multiply.outer(np.asarray(frequency, float), taps))
    power: Floats = np.mean(np.abs(waves @ sinc_table()[::8].astype(float).T) ** 2, axis=-1)
    return power


def noise_power_2d(side: int, resampled: float) -> Floats:
    """(side, side // 2 + 1) noise power on the grid of ``rfft2``, 1 at zero frequency."""
    rows, columns = (
        noise_power(np.asarray(f, float)) ** resampled
        for f in (np.fft.fftfreq(side), np.fft.rfftfreq(side))
    )
    power: Floats = np.multiply.outer(rows, columns)
    return power


def kept_variance(resampled: Floats | float) -> Floats:
    """Variance of a pixel over that of the white noise it was made from."""
    power = noise_power(np.asarray(np.fft.fftfreq(256), float))
    kept: Floats = np.mean(power[:, None] ** np.atleast_1d(resampled), axis=0) ** 2
    return kept


def times_resampled(kept: float) -> float:
    """The inverse of ``kept_variance`` for one interpolation at its actual offsets.

    0 for a shift by whole pixels, 1 when the offsets are spread evenly.
    """
    trial = np.linspace(0.0, 4.0, 401)
    return float(np.interp(-kept, -kept_variance(trial), trial))
