"""How well a difference behaves on empty sky: its noise and its correlation."""

import numpy as np

from promptdia.tasks.model.arrays import Bools, Floats, Image
from promptdia.tasks.model.psf import Psf

SAMPLED_ROWS = 150
"""At most, for the noise of pixels."""
POSITIONS = 60
"""Matched-filter noise is sampled on a grid of this many positions along each axis,"""
CORE_HALF_PX = 8
"""with stamps of at most this half width."""


def robust_sigma(values: Floats | Image) -> float:
    """Standard deviation of a Gaussian with the same quartiles; nan when empty."""
    if values.size == 0:
        return float("nan")
    low, high = np.percentile(values, [25, 75])
    return float((high - low) / 1.34898)


def pixel_noise(image: Image, variance: Image, good: Bools) -> tuple[float, float]:
    """Robust scatter of image / sigma on good pixels, and its correlation with a neighbour.

    The correlation is the mean over both axes for pixels within 3 sigma.
    """
    rows = np.arange(0, image.shape[0] - 1, 1 + image.shape[0] // SAMPLED_ROWS)
    pairs = []
    for shift in (0, 1):
        z = np.where(good[rows + shift], image[rows + shift], np.nan) / np.sqrt(
            np.where(good[rows + shift], variance[rows + shift], 1)
        )
        pairs.append(z)
    z, below = pairs
    sigma = robust_sigma(z[np.isfinite(z)])
    return sigma, 0.5 * (_correlation(z[:, :-1], z[:, 1:], sigma) + _correlation(z, below, sigma))


def matched_noise(image: Image, variance: Image, good: Bools, psf: Psf) -> float:
    """Robust scatter of matched-filter S/N at grid positions with only good pixels around.

    nan where there is no such position.
    """
    half = min(psf.size // 2, CORE_HALF_PX)
    cut = psf.size // 2 - half
    ny, nx = image.shape
    if min(ny, nx) <= 2 * half + 1:
        return float("nan")
    xs = np.unique(np.linspace(half, nx - 1 - half, POSITIONS).astype(int))
    ratios = []
    for y in np.unique(np.linspace(half, ny - 1 - half, POSITIONS).astype(int)):
        stamps = psf.stamps(xs.astype(float), np.full(xs.size, float(y)))
        stamps = stamps[:, cut : psf.size - cut, cut : psf.size - cut]
        rows = np.arange(y - half, y + half + 1)[None, :, None]
        columns = (xs[:, None] + np.arange(-half, half + 1))[:, None, :]
        core = stamps > 0.05 * stamps.max(axis=(1, 2), keepdims=True)
        clear = (good[rows, columns] | ~core).all(axis=(1, 2))
        signal = (image[rows, columns] * stamps).sum(axis=(1, 2))
        noise = np.sqrt((variance[rows, columns] * stamps**2).sum(axis=(1, 2)))
        ratios.append((signal / noise)[clear])
    values = np.concatenate(ratios)
    return robust_sigma(values[np.isfinite(values)])


def _correlation(a: Floats, b: Floats, sigma: float) -> float:
    small = (np.abs(a) < 3 * sigma) & (np.abs(b) < 3 * sigma)
    if not small.any():
        return float("nan")
    first, second = a[small], b[small]
    return float(np.mean(first * second) / np.sqrt(np.mean(first**2) * np.mean(second**2)))
