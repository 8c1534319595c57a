"""Functions that a PSF-matching kernel is built from: Gauss-Hermite, or one per pixel."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import eval_hermite

from promptdia.tasks.model.arrays import Floats, Image, Ints

DEGREES = (4, 3, 2, 0)
"""Highest total degree of the polynomial on each Gaussian, narrowest first; the last one
is for the wings."""
NARROWEST_PX = 0.5
"""No Gaussian is narrower: the pixels could not hold it."""
WIDEST_HALF_WIDTH = 15
NEGLIGIBLE = 1e-15


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
    penalty: Floats
    """(n, n) quadratic form of the coefficients, that a prior keeps small; 0 for the first."""

    @property
    def half_width(self) -> int:
        """Pixels from the middle to the edge."""
        return int(self.images.shape[-1] // 2)

    def convolve_stamps(self, stamps: Floats) -> Image:
        """(n_stamps, n, m, m) convolutions of (n_stamps, m + size - 1, ...) stamps.

        In single precision, a thousand times finer than the pixels' noise.
        """
        h, (n, _, wide) = self.half_width, stamps.shape
        m = wide - 2 * h
        shift = np.arange(m)[:, None] + h - np.arange(wide)[None, :]
        inside = np.abs(shift) <= h
        toeplitz = np.where(inside, self.filters[:, np.clip(shift + h, 0, 2 * h)], 0.0)
        toeplitz, stamps = toeplitz.astype(np.float32), np.asarray(stamps, np.float32)
        out = np.empty((n, self.scale.size, m, m), np.float32)
        columns = np.unique(self.column_filter)
        along_x = stamps.reshape(-1, wide) @ toeplitz[columns].reshape(-1, wide).T
        along_x = along_x.reshape(n, wide, columns.size, m)
        for i, column in enumerate(columns):
            mine = np.flatnonzero(self.column_filter == column)
            along_y = toeplitz[self.row_filter[mine]].reshape(-1, wide)
            out[:, mine] = (along_y @ along_x[:, :, i]).reshape(n, mine.size, m, m)
        out *= self.scale[:, None, None].astype(np.float32)
        out[:, 1:] -= self.offset[1:, None, None].astype(np.float32) * out[:, :1]
        return out


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
    # products of far tails are too small for single precision, where they cost much time
    factors[np.abs(factors) < NEGLIGIBLE] = 0.0
    row, column = (np.array(v) for v in zip(*pairs))
    basis = _zero_sum(factors, row, column)
    return replace(basis, penalty=np.diag(np.arange(row.size) > 0).astype(float))


def delta_basis(half_width: int) -> KernelBasis:
    """One function per pixel, smooth as far as the stars leave room (Becker et al. 2012).

    The penalty is the sum of the squared second differences along both axes, zeros outside.
    """
    size = 2 * half_width + 1
    row, column = (v.ravel() for v in np.indices((size, size)))
    middle = row.size // 2
    order = np.r_[middle, np.arange(middle), np.arange(middle + 1, row.size)]
    basis = _zero_sum(np.eye(size), row[order], column[order])
    wide = np.pad(basis.images, ((0, 0), (1, 1), (1, 1)))
    bends = [np.diff(wide, 2, axis=axis).reshape(row.size, -1) for axis in (1, 2)]
    penalty = bends[0] @ bends[0].T + bends[1] @ bends[1].T
    penalty[0], penalty[:, 0] = 0.0, 0.0
    return replace(basis, penalty=penalty)


def _zero_sum(factors: Floats, row: Ints, column: Ints) -> KernelBasis:
    """The products of these factors, all but the first with its multiple taken off."""
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
    return KernelBasis(images, factors, row, column, scale, offset, np.zeros((row.size, row.size)))


def _sigmas(width_px: float) -> Floats:
    steps = 2.0 ** np.arange(len(DEGREES), dtype=float)
    sigmas = np.minimum(max(NARROWEST_PX, width_px / 2) * steps, WIDEST_HALF_WIDTH / 2)
    distinct: Floats = np.unique(sigmas)
    return distinct
