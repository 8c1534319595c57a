"""Adaptive second moments of sources of either sign and of the PSF, and what they tell."""

from typing import NamedTuple

import numpy as np

from promptdia.tasks.kernels.footprints import cut_squares
from promptdia.tasks.kernels.moments import COLUMNS, measure_moments
from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints, Mask
from promptdia.tasks.model.psf import Psf

MAX_WIDTH = 4.0
"""Widest source, in PSF sigmas."""


class Moments(NamedTuple):
    """Elliptical Gaussians, one per source; pixels."""

    x: Floats
    """(n,) centre; the given position where the fit failed."""
    y: Floats
    xx: Floats
    """(n,) pixels squared."""
    yy: Floats
    xy: Floats
    good: Bools
    """(n,) False where the iteration did not end; the other values are not to be used."""

    def axes(self) -> tuple[Floats, Floats, Floats]:
        """Variance along the long and the short axis, and the long axis' angle from +x, rad."""
        mean, half = 0.5 * (self.xx + self.yy), 0.5 * (self.xx - self.yy)
        spread = np.hypot(half, self.xy)
        return mean + spread, mean - spread, 0.5 * np.arctan2(self.xy, half)


def adaptive_moments(
    image: Image, claims: Mask, own: Ints, x: Floats, y: Floats, sign: Floats, sigma: float
) -> Moments:
    """Moments of sources near (x, y), 0-based, whose light has the given sign, (n,).

    Pixels count that nobody claims or the source itself, whose number is ``own`` (n,).
    ``sigma`` is the PSF's, pixels: the first guess. Sources wider than MAX_WIDTH times
    that fail.
    """
    half = int(np.ceil(4.0 * MAX_WIDTH * sigma)) + 8
    size = 2 * half + 1
    columns, rows = (np.rint(v).astype(np.int64) for v in (x, y))
    stamps = np.empty((x.size * size, size), np.float32)
    blocked = np.empty(stamps.shape, bool)
    cut_squares(image, claims, own, np.sign(sign), columns - half, rows - half, stamps, blocked)
    found = _measured(stamps, blocked, x - columns, y - rows, sigma)
    return found._replace(x=found.x + columns, y=found.y + rows)


def psf_moments(psf: Psf, x: Floats, y: Floats, sigma: float) -> Moments:
    """Moments of the PSF at (x, y) by the same iteration; its centre is relative to (x, y)."""
    stamps = psf.stamps(x, y).reshape(-1, psf.size).astype(np.float32)
    zero = np.zeros(stamps.shape[0] // psf.size)
    return _measured(stamps, np.zeros(stamps.shape, bool), zero, zero, sigma)


def _measured(stamps: Image, blocked: Bools, dx: Floats, dy: Floats, sigma: float) -> Moments:
    """Moments of n stamps, one below the other, from (dx, dy) off their middle; x, y likewise."""
    size = stamps.shape[1]
    middles = np.arange(dx.size) * size + size // 2
    out = np.empty((dx.size, COLUMNS))
    ones = np.ones_like(stamps)
    measure_moments(
        stamps, ones, blocked, dx + size // 2, dy + middles, sigma, MAX_WIDTH * sigma, out
    )
    good = (out[:, 7] > 0) & (out[:, 4] > 0) & (out[:, 5] > 0)
    x = np.where(good, out[:, 0] - size // 2, dx)
    y = np.where(good, out[:, 1] - middles, dy)
    return Moments(x, y, out[:, 4], out[:, 5], out[:, 6], good)
