"""Gauss-Hermite functions that a PSF-matching kernel is built from."""

from dataclasses import dataclass

import numpy as np
from scipy.special import eval_hermite

from promptdia.tasks.model.arrays import Floats, Ints

DEGREES = (4, 3, 2, 0)
"""Highest total degree of the polynomial on each Gaussian, narrowest first; the last one
is for the wings."""
NARROWEST_PX = 0.5
"""No Gaussian is narrower: the pixels could not hold it."""
WIDEST_HALF_WIDTH = 15


@dataclass(frozen=True, slots=True, eq=False)
class KernelBasis:
    """Images of which the first has unit sum, and the others sum to zero with unit norm.

    So the coefficient of the first alone is the kernel's sum (Alard 2000).
    """

    images: Floats
    """(n, size, size), size odd."""
    filters: Floats
    """(n_filters, size) one-dimensional factors."""
    row_filter: Ints
    column_filter: Ints
    """(n,) image = scale x outer(filters[row], filters[column]) - offset x first image."""
    scale: Floats
    offset: Floats

    @property
    def half_width(self) -> int:
        """Pixels from the middle to the edge."""
        return int(self.images.shape[-1] // 2)

    def convolve_stamps(self, stamps: Floats) -> Floats:
        """(n_stamps, n, m, m) convolutions of (n_stamps, m + size - 1, ...) stamps."""
        h, wide = self.half_width, stamps.shape[-1]
        m = wide - 2 * h
        shift = np.arange(m)[:, None] + h - np.arange(wide)[None, :]
        inside = np.abs(shift) <= h
        toeplitz = np.where(inside, self.filters[:, np.clip(shift + h, 0, 2 * h)], 0.0)
        # single precision is a thousand times finer than the pixels' noise
        toeplitz, stamps = toeplitz.astype(np.float32), np.asarray(stamps, np.float32)
        along_x = np.matmul(stamps[:, None], toeplitz.swapaxes(1, 2)[None])
        out = np.empty((stamps.shape[0], self.scale.size, m, m), np.float32)
        for i, (row, column) in enumerate(zip(self.row_filter, self.column_filter)):
            np.matmul(toeplitz[row], along_x[:, column], out=out[:, i])
        out *= self.scale[:, None, None].astype(np.float32)
        out[:, 1:] -= self.offset[1:, None, None].astype(np.float32) * out[:, :1]
        return out.astype(float)


def basis_half_width(width_px: float) -> int:
    """Pixels from the middle to the edge of a centred kernel of about this sigma."""
    return int(np.ceil(2.0 * _sigmas(width_px)[-1]))


def gauss_hermite_basis(width_px: float, shift: tuple[float, float] = (0.0, 0.0)) -> KernelBasis:
    """The basis for a kernel of about this sigma, centred at ``shift`` (x, y) pixels.

    Gaussians a factor of two apart, the second ``width_px`` wide; the half width follows
    the widest, up to 15 pixels, and the shift.
    """
    sigmas = _sigmas(width_px)
    half = basis_half_width(width_px) + int(np.ceil(np.abs(shift).max() - 0.5))
    r = np.arange(-half, half + 1)
    filters: list[Floats] = []
    pairs: list[tuple[int, int]] = []
    for sigma, degree in zip(sigmas, DEGREES):
        start = len(filters)
        for centre in shift:
            t = (r - centre) / sigma
            filters += [eval_hermite(d, t) * np.exp(-0.5 * t**2) for d in range(degree + 1)]
        pairs += [
            (start + degree + 1 + j, start + i)
            for j in range(degree + 1)
            for i in range(degree + 1 - j)
        ]
    factors = np.stack(filters)
    row, column = (np.array(v) for v in zip(*pairs))
    raw = factors[row][:, :, None] * factors[column][:, None, :]
    sums = raw.sum(axis=(1, 2))
    first = raw[0] / sums[0]
    free = raw - sums[:, None, None] * first
    norm = np.sqrt((free**2).sum(axis=(1, 2)))
    norm[0] = 1.0
    scale, offset = 1.0 / norm, sums / norm
    scale[0], offset[0] = 1.0 / sums[0], 0.0
    images = free / norm[:, None, None]
    images[0] = first
    return KernelBasis(images, factors, row, column, scale, offset)


def _sigmas(width_px: float) -> Floats:
    steps = 2.0 ** np.arange(len(DEGREES), dtype=float)
    sigmas = np.minimum(max(NARROWEST_PX, width_px / 2) * steps, WIDEST_HALF_WIDTH / 2)
    distinct: Floats = np.unique(sigmas)
    return distinct
