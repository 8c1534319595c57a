"""How far the stars of a frame are off their template: a measured floor of systematic errors."""

import numpy as np
from scipy.special import ndtri

from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints

SEARCHED, MAX_SAMPLE, MIN_BRIGHT = 1_000_000, 3_000, 50
"""Pixels looked at for stars, and most and fewest on stars that tell systematic errors."""
BRIGHT_SIGMA = 10.0
"""S/N of a pixel on a star."""
DOUBT_PERCENT = 84.0
MAX_TRUST = 0.5
"""Systematic errors rule where they shrink S/N to less than this."""


def bright_pixels(static: Image, variance: Image, good: Bools) -> tuple[Ints, Ints]:
    """(y, x) of good pixels on stars of the template: an even sample of at most MAX_SAMPLE."""
    stride = max(1, round((static.size / SEARCHED) ** 0.5))
    grid = (slice(None, None, stride),) * 2
    bright = good[grid] & (static[grid] > BRIGHT_SIGMA * np.sqrt(variance[grid]))
    flat = np.flatnonzero(bright)
    y, x = np.divmod(flat[:: 1 + flat.size // MAX_SAMPLE], bright.shape[1])
    return stride * y, stride * x


def doubt_scale(snr: Image, trusted: Floats) -> float:
    """How much larger the systematic errors are than those behind ``trusted``; at least 1.

    ``snr`` and ``trusted`` (n,) are S/N on stars and the factors that ``trust`` gave. Where
    systematic errors rule, S/N times the factor has unit scatter if they are right. It is
    taken from a high percentile, since the worst stars are what would be detected.
    """
    ruled = trusted < MAX_TRUST
    if np.count_nonzero(ruled) < MIN_BRIGHT:
        return 1.0
    high = np.percentile(np.abs(snr[ruled] * trusted[ruled]), DOUBT_PERCENT)
    return max(1.0, float(high / ndtri(0.5 + DOUBT_PERCENT / 200)))
