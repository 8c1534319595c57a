"""What Lanczos interpolation does to pixels and to their noise."""

from functools import lru_cache

import numpy as np

from promptdia.tasks.model.arrays import Floats, Image

ORDER = 4
TAPS = 2 * ORDER
PHASES = 1024
"""Steps of the sub-pixel offset in the table: positions are good to 1/2048 pixel."""
RESAMPLED = "resampled"
"""Note of an exposure: how often its noise was smoothed by an interpolation at even offsets."""


@lru_cache(maxsize=1)
def lanczos_table() -> Image:
    """(PHASES + 1, TAPS) weights of unit sum; tap k is pixel floor(x) - ORDER + 1 + k."""
    offset = np.arange(PHASES + 1)[:, None] / PHASES
    distance = offset - np.arange(-ORDER + 1, ORDER + 1)
    weights = np.where(
        np.abs(distance) < ORDER, np.sinc(distance) * np.sinc(distance / ORDER), 0.0
    )
    return (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32)


def noise_power(frequency: Floats) -> Floats:
    """Power that white noise keeps in one dimension, mean over all sub-pixel offsets.

    ``frequency`` in cycles per pixel; 1 at zero.
    """
    taps = np.arange(-ORDER + 1, ORDER + 1)
    waves = np.exp(-2j * np.pi * np.multiply.outer(np.asarray(frequency, float), taps))
    return np.mean(np.abs(waves @ lanczos_table()[::8].astype(float).T) ** 2, axis=-1)


def noise_power_2d(side: int, resampled: float) -> Floats:
    """(side, side // 2 + 1) noise power on the grid of ``rfft2``, 1 at zero frequency."""
    rows = noise_power(np.fft.fftfreq(side)) ** resampled
    return np.multiply.outer(rows, noise_power(np.fft.rfftfreq(side)) ** resampled)


def kept_variance(resampled: Floats | float) -> Floats:
    """Variance of a pixel over that of the white noise it was made from."""
    power = noise_power(np.fft.fftfreq(256))
    kept: Floats = np.mean(power[:, None] ** np.atleast_1d(resampled), axis=0) ** 2
    return kept


def times_resampled(kept: float) -> float:
    """The inverse of ``kept_variance`` for one interpolation at its actual offsets.

    0 for a shift by whole pixels, 1 when the offsets are spread evenly.
    """
    trial = np.linspace(0.0, 4.0, 401)
    return float(np.interp(-kept, -kept_variance(trial), trial))
