"""How often a frame from elsewhere was interpolated, read from the noise of its empty pixels."""

import numpy as np
from scipy import ndimage

from promptdia.tasks.model.arrays import Floats
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.resampling import noise_power, times_resampled

SMOOTH_PX, SOURCE_SIGMA, MARGIN_PX = 5, 3.0, 4
"""Pixels this near to a mean over so many pixels that is this significant are not empty."""
CLIP_SIGMA = 3.0
MIN_PAIRS = 5_000
"""Fewer pairs of empty pixels tell nothing."""
SIDE_PX = 1024
"""The middle of a frame, no larger than this, is looked at."""
TRIALS = np.linspace(0.0, 4.0, 201)


def measured_resampling(exposure: Exposure) -> float:
    """How many interpolations at evenly spread offsets smooth noise as much; 0 for white noise.

    Pixels smoothed by an interpolation are like their neighbours, and unlike the ones after.
    That contrast of the first two autocorrelations is taken along x and along y; sources too
    faint to be seen raise both alike. ``exposure`` has its background subtracted.
    """
    first = [max(0, (n - SIDE_PX) // 2) for n in exposure.shape]
    middle = tuple(slice(k, k + SIDE_PX) for k in first)
    image, variance = exposure.image[middle], exposure.variance[middle]
    good = (exposure.mask[middle] == 0) & np.isfinite(variance) & (variance > 0)
    noise = np.where(good, image, 0.0) / np.sqrt(np.where(good, variance, 1.0))
    mean = ndimage.uniform_filter(noise, SMOOTH_PX) * SMOOTH_PX
    near = ndimage.maximum_filter(np.abs(mean) > SOURCE_SIGMA, 2 * MARGIN_PX + 1)
    noise = np.where(good & ~near & (np.abs(noise) < CLIP_SIGMA), noise, np.nan)
    known = np.isfinite(noise)
    if np.count_nonzero(known) < MIN_PAIRS:
        return 0.0
    kept = [_kept(_contrast(plane)) for plane in (noise, noise.T)]
    return times_resampled(kept[0] * kept[1])


def _contrast(noise: Floats) -> float:
    """Correlation with the next pixel of a row less that with the one after."""
    total = np.nanmean(noise**2)
    first, second = (np.nanmean(noise[:, k:] * noise[:, :-k]) for k in (1, 2))
    return float((first - second) / total)


def _kept(contrast: float) -> float:
    """Variance that interpolations along one axis with this contrast have left."""
    side = 256
    power = noise_power(np.asarray(np.fft.rfftfreq(side), float))[:, None] ** TRIALS
    lags = np.fft.irfft(power, side, axis=0)
    return float(np.interp(contrast, (lags[1] - lags[2]) / lags[0], lags[0]))
