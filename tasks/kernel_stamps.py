"""Which stars fix the matching kernel, and the pixels around them."""

from dataclasses import dataclass

import numpy as np

from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Image, Ints, Mask
from promptdia.tasks.model.mask import MaskPlane, has

CELLS = 16
SMALLEST_CELL_PX = 32
UNFIT = (
    MaskPlane.BAD
    | MaskPlane.SAT
    | MaskPlane.CR
    | MaskPlane.NO_DATA
    | MaskPlane.STREAK
    | MaskPlane.EDGE
)
"""Pixels that do not take part in the fit."""


@dataclass(frozen=True, slots=True, eq=False)
class Stamps:
    """Squares around stars in the image to be convolved and in the one to be matched."""

    x: Floats
    y: Floats
    """(n,) pixel of the middle."""
    input: Floats
    """(n, m + 2 h, m + 2 h), h the kernel's half width."""
    target: Floats
    """(n, m, m)."""
    variance: Floats
    """(n, m, m) of the target, nan where not usable."""
    input_variance: Floats
    """(n, m, m) of the inner part of the input, nan where not usable."""
    usable: Bools
    """(n, m, m)."""

    @property
    def count(self) -> int:
        """Number of stars."""
        return int(self.x.size)


def choose_stars(
    sources: Catalog, shape: tuple[int, int], border: int, per_cell: int, min_snr: float
) -> Ints:
    """Rows of the best sources in each cell of a 16 x 16 grid, best first.

    Usable are those without saturation, defect or cut edge, away from the border, brighter
    than ``min_snr``; point sources go before extended and blended ones, then by flux.
    """
    ny, nx = shape
    x, y = sources["x"], sources["y"]
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = sources["psfFlux"] / sources["psfFluxErr"]
        extended = ~(sources["extendedness"] < 0.5)
    usable = (snr >= min_snr) & np.isfinite(sources["psfFlux"])
    usable &= ~(sources["flag_saturated"] | sources["flag_edge"] | sources["flag_bad"])
    usable &= (x >= border) & (x <= nx - 1 - border) & (y >= border) & (y <= ny - 1 - border)
    rows = np.flatnonzero(usable)
    worse = extended[rows].astype(int) + sources["flag_blended"][rows]
    rows = rows[np.lexsort((-sources["psfFlux"][rows], worse))]
    side = max(SMALLEST_CELL_PX, -(-max(shape) // CELLS))
    cell = (y[rows] // side).astype(int) * (nx // side + 1) + (x[rows] // side).astype(int)
    by_cell = np.argsort(cell, kind="stable")
    rank = np.empty(rows.size, int)
    sorted_cells = cell[by_cell]
    first = np.searchsorted(sorted_cells, sorted_cells)
    rank[by_cell] = np.arange(rows.size) - first
    return rows[rank < per_cell]


def cut_stamps(
    x: Floats,
    y: Floats,
    size: int,
    half_width: int,
    convolved: tuple[Image, Image, Mask],
    target: tuple[Image, Image, Mask],
    max_lost: float,
) -> Stamps:
    """Stamps of (image, variance, mask) of both images; the images must be finite.

    Pixels bad in the target, or within a pixel of one that is bad in the convolved image, are
    not used; stars that lose their middle or more than ``max_lost`` of the pixels are left out.
    """
    cx, cy = np.rint(x).astype(int), np.rint(y).astype(int)
    inner, outer = size // 2, size // 2 + half_width
    bad = has(_cut(target[2], cx, cy, inner), UNFIT) | ~np.isfinite(
        _cut(target[1], cx, cy, inner) + _cut(convolved[1], cx, cy, inner)
    )
    near = has(_cut(convolved[2], cx, cy, inner + 1), UNFIT)
    for dy in range(3):
        for dx in range(3):
            bad |= near[:, dy : dy + size, dx : dx + size]
    core = slice(inner - 1, inner + 2)
    keep = (bad.mean(axis=(1, 2)) <= max_lost) & ~bad[:, core, core].any(axis=(1, 2))
    cx, cy, bad = cx[keep], cy[keep], bad[keep]
    noise, input_noise = (
        np.where(bad, np.nan, _cut(image[1], cx, cy, inner)).astype(float)
        for image in (target, convolved)
    )
    return Stamps(
        cx.astype(float),
        cy.astype(float),
        _cut(convolved[0], cx, cy, outer).astype(float),
        _cut(target[0], cx, cy, inner).astype(float),
        noise,
        input_noise,
        ~bad,
    )


def _cut(image: np.ndarray, x: Ints, y: Ints, half: int) -> np.ndarray:
    """(n, 2 half + 1, 2 half + 1) copies; every square must lie inside."""
    r = np.arange(-half, half + 1)
    stamps: np.ndarray = image[(y[:, None] + r)[:, :, None], (x[:, None] + r)[:, None, :]]
    return stamps


def measure_shift(x: Floats, y: Floats, fixed: Image, moved: Image, fwhm: float) -> Floats:
    """(2,) median x and y by which stars in ``fixed`` lie beyond those in ``moved``, pixels.

    From Gaussian-weighted first moments on the catalogue's positions; for stars of the
    weight's own width these are half of the offset, which is allowed for.
    """
    if x.size == 0:
        return np.zeros(2)
    cx, cy = np.rint(x).astype(int), np.rint(y).astype(int)
    half = int(np.ceil(1.5 * fwhm))
    r = np.arange(-half, half + 1)
    sigma = fwhm / 2.355
    offset = []
    for image in (fixed, moved):
        stamps = _cut(image, cx, cy, half).astype(float)
        border = np.concatenate([stamps[:, 0], stamps[:, -1], stamps[:, :, 0], stamps[:, :, -1]], 1)
        stamps -= np.median(border, axis=1)[:, None, None]
        dx, dy = r[None, :] - (x - cx)[:, None], r[None, :] - (y - cy)[:, None]
        weight = np.exp(-0.5 * (dx[:, None, :] ** 2 + dy[:, :, None] ** 2) / sigma**2)
        total = (weight * stamps).sum(axis=(1, 2))
        first = [
            (weight * stamps * d).sum(axis=(1, 2)) / total for d in (dx[:, None, :], dy[:, :, None])
        ]
        offset.append(2.0 * np.stack(first))
    change = offset[0] - offset[1]
    good = np.isfinite(change).all(axis=0)
    return np.median(change[:, good], axis=1) if good.any() else np.zeros(2)
