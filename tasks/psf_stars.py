"""Which sources are stars good enough to model the PSF, and their pixels."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.psf import polynomial_terms
from promptdia.tasks.robust import MAD_TO_SIGMA
from promptdia.tasks.sources import densest, unusable

CELLS = 5
"""The brightest stars are taken in each of CELLS x CELLS parts of the detector."""


@dataclass(frozen=True, slots=True, eq=False)
class StarStamps:
    """Pixels around n stars, each cut at whole pixels."""

    index: Ints
    """(n,) row in the source table."""
    data: Floats
    """(n, size, size)."""
    sky_variance: Floats
    """(n,) of a pixel beside the star."""
    light_variance: Floats
    """(n,) variance that a unit of light adds: 1 in electrons, 0 if the plane holds sky only."""
    good: Bools
    """(n, size, size) False where a pixel must not be used."""
    x: Floats
    """(n,) pixel of the stamp's centre."""
    y: Floats

    def __len__(self) -> int:
        return int(self.index.size)

    def take(self, rows: Ints | Bools) -> "StarStamps":
        """Some of the stars."""
        return StarStamps(*(getattr(self, name)[rows] for name in self.__slots__))

    def without(self, pixels: Bools) -> "StarStamps":
        """The same with more pixels excluded."""
        return replace(self, good=self.good & ~pixels)


def select_stars(
    sources: Catalog, shape: tuple[int, int], min_snr: float, limit: int, wanted_isolated: int
) -> Ints:
    """Rows of ``sources`` on the stellar locus, brightest first in each part of the field.

    Unsaturated, undisturbed, of S/N above ``min_snr`` in the aperture, and alike in size
    and shape after a smooth trend over the field. Blended ones join only when fewer than
    ``wanted_isolated`` stand alone.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        snr = sources["apFlux"] / sources["apFluxErr"]
        usable = (snr >= min_snr) & (sources["fwhm"] > 0)
    for flag in ("flag_saturated", "flag_edge", "flag_bad"):
        usable &= ~sources[flag]
    isolated = np.flatnonzero(usable & ~sources["flag_blended"])
    chosen = _on_locus(sources, isolated, shape)
    if chosen.size < wanted_isolated:
        chosen = _on_locus(sources, np.flatnonzero(usable), shape)
    return _brightest_per_cell(sources, snr, chosen, shape, limit)


def cut_stamps(exposure: Exposure, sources: Catalog, rows: Ints, size: int) -> StarStamps:
    """The stamps of some sources; pixels off the image or masked are not good."""
    ny, nx = exposure.shape
    cx = np.rint(sources["x"][rows]).astype(int)
    cy = np.rint(sources["y"][rows]).astype(int)
    r = np.arange(size) - size // 2
    py, px = np.broadcast_arrays(cy[:, None, None] + r[:, None], cx[:, None, None] + r)
    inside = (px >= 0) & (px < nx) & (py >= 0) & (py < ny)
    py, px = np.clip(py, 0, ny - 1), np.clip(px, 0, nx - 1)
    image, mask, variance = (p[py, px] for p in (exposure.image, exposure.mask, exposure.variance))
    good = inside & ~unusable(image, mask, variance) & ~has(mask, MaskPlane.SAT | MaskPlane.CR)
    data = np.where(good, image, 0.0).astype(float)
    noise = np.where(good, variance, np.nan).astype(float)
    rim = np.ones((size, size), bool)
    rim[2:-2, 2:-2] = False
    sky = _nanmedian(noise[:, rim], fallback=noise.reshape(rows.size, -1))
    light = _light_variance(data, noise - sky[:, None, None], good)
    return StarStamps(np.asarray(rows), data, sky, light, good, cx.astype(float), cy.astype(float))


def neighbours(stamps: StarStamps, sources: Catalog, size: int) -> tuple[Ints, Floats, Floats]:
    """(star, x, y) of every other source inside a stamp; the position from its centre."""
    star, other = near_pairs(stamps, sources, size / 2 + 2.0)
    return star, sources["x"][other] - stamps.x[star], sources["y"][other] - stamps.y[star]


def near_pairs(stamps: StarStamps, sources: Catalog, reach: float) -> tuple[Ints, Ints]:
    """(star, row) of every other source within ``reach`` of a stamp's centre along both axes."""
    tree = cKDTree(np.stack([sources["x"], sources["y"]], axis=1))
    centres = np.stack([stamps.x, stamps.y], axis=1)
    found = tree.query_ball_point(centres, reach, p=np.inf, return_sorted=True)
    star = np.repeat(np.arange(len(stamps)), [len(f) for f in found])
    other = np.fromiter((m for f in found for m in f), np.int64, star.size)
    keep = other != stamps.index[star]
    return star[keep], other[keep]


def clip_mad(values: Floats, floor: float, n_sigma: float) -> Bools:
    """Which values lie within ``n_sigma`` robust deviations (at least ``floor``) of zero."""
    sigma = max(MAD_TO_SIGMA * float(np.median(np.abs(values))), floor)
    kept: Bools = np.abs(values) <= n_sigma * sigma
    return kept


def _on_locus(sources: Catalog, rows: Ints, shape: tuple[int, int]) -> Ints:
    if rows.size == 0:
        return rows
    size = np.log(sources["fwhm"][rows])
    near = np.abs(size - np.log(densest(sources["fwhm"][rows].astype(float), 0.04))) < 0.2
    rows = rows[near]
    total = sources["ixx"][rows] + sources["iyy"][rows]
    features = (
        np.log(sources["fwhm"][rows]),
        (sources["ixx"][rows] - sources["iyy"][rows]) / total,
        2.0 * sources["ixy"][rows] / total,
    )
    keep = np.ones(rows.size, bool)
    for _ in range(3):
        fresh = np.ones(rows.size, bool)
        for feature in features:
            residual = _detrended(feature.astype(float), sources, rows, keep, shape)
            floor = 0.01 if feature is features[0] else 0.015
            sigma = MAD_TO_SIGMA * float(np.median(np.abs(residual[keep])))
            fresh &= np.abs(residual) <= 3.0 * max(sigma, floor)
        if fresh.sum() < 3 or np.array_equal(fresh, keep):
            break
        keep = fresh
    return rows[keep]


def _detrended(
    values: Floats, sources: Catalog, rows: Ints, keep: Bools, shape: tuple[int, int]
) -> Floats:
    """Values less a polynomial of the position fitted to the kept ones."""
    order = 2 if keep.sum() >= 60 else 1 if keep.sum() >= 15 else 0
    if order == 0:
        return values - np.median(values[keep])
    u = 2.0 * sources["x"][rows] / shape[1] - 1.0
    v = 2.0 * sources["y"][rows] / shape[0] - 1.0
    terms = polynomial_terms(u, v, order)
    start = np.abs(values - np.median(values[keep]))
    core = keep & (start <= 3.0 * MAD_TO_SIGMA * np.median(start[keep]) + 0.02)
    fit = np.linalg.lstsq(terms[core], values[core], rcond=None)[0]
    residual: Floats = values - terms @ fit
    return residual


def _brightest_per_cell(
    sources: Catalog, snr: Floats, rows: Ints, shape: tuple[int, int], limit: int
) -> Ints:
    cell_x = np.clip(sources["x"][rows] / shape[1] * CELLS, 0, CELLS - 1).astype(int)
    cell_y = np.clip(sources["y"][rows] / shape[0] * CELLS, 0, CELLS - 1).astype(int)
    cell = cell_y * CELLS + cell_x
    order = np.lexsort((-snr[rows], cell))
    starts = np.searchsorted(cell[order], np.arange(CELLS * CELLS))
    rank = np.empty(rows.size, int)
    rank[order] = np.arange(rows.size) - starts[cell[order]]
    return rows[np.lexsort((-snr[rows], rank))[:limit]]


def _light_variance(data: Floats, excess: Floats, good: Bools) -> Floats:
    """(n,) the same for all stars: noise above the sky's over light, median of the stars."""
    light = data.sum(axis=(1, 2))
    noise = np.where(good, excess, 0.0).sum(axis=(1, 2))
    ratio = noise[light > 0] / light[light > 0]
    slope = max(float(np.median(ratio)), 0.0) if ratio.size else 0.0
    return np.full(len(data), slope)


def _nanmedian(values: Floats, fallback: Floats) -> Floats:
    """Median along the second axis over what is finite; of ``fallback`` where nothing is."""
    empty: Bools = np.asarray(~np.isfinite(values).any(axis=1))
    values = np.where(empty[:, None], 1.0, values)
    median = np.nanmedian(values, axis=1)
    for row in np.flatnonzero(empty):
        finite = fallback[row][np.isfinite(fallback[row])]
        median[row] = np.median(finite) if finite.size else 1.0
    return median
