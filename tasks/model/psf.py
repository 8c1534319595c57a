"""Point-spread functions as pixel stamps that vary over the detector."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from promptdia.tasks.kernels.psf_phot import blend_stamps
from promptdia.tasks.model.arrays import Floats

FWHM_PER_SIGMA = 2.0 * np.sqrt(2.0 * np.log(2.0))


class Psf(Protocol):
    """A star's light on the pixels, as a function of its position."""

    @property
    def size(self) -> int:
        """Side of a stamp, odd, pixels."""
        ...

    def stamps(self, x: Floats, y: Floats) -> Floats:
        """(n, size, size) images of a star of unit flux centred on the stamp's middle pixel.

        Their sum is the part of the light that lies within, as far as that was measured: near 1.
        """
        ...


@dataclass(frozen=True, slots=True, eq=False)
class PolynomialPsf:
    """Pixel basis whose coefficients are polynomials of the position."""

    coefficients: Floats
    """(n_terms, size, size), terms in the order of ``polynomial_terms``."""
    order: int
    x_range: tuple[float, float]
    y_range: tuple[float, float]
    """Pixel range that is scaled to [-1, 1]."""

    @property
    def size(self) -> int:
        return int(self.coefficients.shape[-1])

    def stamps(self, x: Floats, y: Floats) -> Floats:
        terms = polynomial_terms(scaled(x, self.x_range), scaled(y, self.y_range), self.order)
        images: Floats = np.tensordot(terms, self.coefficients, axes=(1, 0))
        return images

    def light(self, x: Floats, y: Floats) -> Floats:
        """(n,) sums of the stamps."""
        terms = polynomial_terms(scaled(x, self.x_range), scaled(y, self.y_range), self.order)
        sums: Floats = terms @ self.coefficients.sum(axis=(1, 2))
        return sums


@dataclass(frozen=True, slots=True, eq=False)
class GridPsf:
    """Stamps at the nodes of a grid, interpolated bilinearly between them."""

    nodes: Floats
    """(ny_nodes, nx_nodes, size, size)."""
    x: Floats
    """(nx_nodes,) pixel positions, ascending."""
    y: Floats

    @property
    def size(self) -> int:
        return int(self.nodes.shape[-1])

    def stamps(self, x: Floats, y: Floats) -> Floats:
        ix, wx = _bracket(self.x, np.atleast_1d(x))
        iy, wy = _bracket(self.y, np.atleast_1d(y))
        jx = np.minimum(ix + 1, self.x.size - 1)
        jy = np.minimum(iy + 1, self.y.size - 1)
        out = np.empty((iy.size, self.size, self.size))
        blend_stamps(np.ascontiguousarray(self.nodes, float), iy, ix, jy, jx, wy, wx, out)
        return out


def constant_psf(stamp: Floats) -> GridPsf:
    """The same stamp everywhere; normalised here."""
    nodes = np.asarray(stamp, float)[None, None] / np.sum(stamp)
    return GridPsf(nodes, np.zeros(1), np.zeros(1))


def gaussian_stamp(sigma: float, size: int) -> Floats:
    """Pixel-sampled circular Gaussian of unit sum, (size, size)."""
    r = np.arange(size) - size // 2
    one = np.exp(-0.5 * (r / sigma) ** 2)
    stamp = np.outer(one, one)
    unit: Floats = stamp / stamp.sum()
    return unit


def scaled(v: Floats, limits: tuple[float, float]) -> Floats:
    """Map [low, high] to [-1, 1]."""
    low, high = limits
    return (2.0 * np.atleast_1d(np.asarray(v, float)) - low - high) / (high - low)


def polynomial_terms(u: Floats, v: Floats, order: int) -> Floats:
    """(n, n_terms) products of Chebyshev polynomials T_i(u) T_j(v), i + j <= order, i fastest."""
    tu = np.polynomial.chebyshev.chebvander(u, order)
    tv = np.polynomial.chebyshev.chebvander(v, order)
    return np.stack(
        [tu[:, i] * tv[:, j] for j in range(order + 1) for i in range(order + 1 - j)], axis=1
    )


def polynomial_order(n_terms: int) -> int:
    """The order of which ``polynomial_terms`` has so many."""
    return int(np.sqrt(2.0 * n_terms) - 0.5)


def effective_area(stamps: Floats) -> Floats:
    """Noise-equivalent area (sum p)^2 / sum p^2 of each stamp, (n,) pixels."""
    result: Floats = stamps.sum(axis=(1, 2)) ** 2 / (stamps**2).sum(axis=(1, 2))
    return result


def fwhm_px(psf: Psf, x: float, y: float) -> float:
    """FWHM of the Gaussian with the same noise-equivalent area (4 pi sigma^2), pixels."""
    area = effective_area(psf.stamps(np.array([x]), np.array([y])))[0]
    return float(FWHM_PER_SIGMA * np.sqrt(area / (4.0 * np.pi)))


def _bracket(nodes: Floats, v: Floats) -> tuple[np.ndarray, Floats]:
    if nodes.size == 1:
        return np.zeros(v.shape, int), np.zeros(v.shape)
    i = np.clip(np.searchsorted(nodes, v) - 1, 0, nodes.size - 2)
    w = np.clip((v - nodes[i]) / (nodes[i + 1] - nodes[i]), 0.0, 1.0)
    return i, w
