"""From a signal-to-noise map to detections: connected pixels and their peaks."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdia.apdb.schema.table import Column, TableSchema
from promptdia.tasks.kernels.footprints import connect, paint_disks, pixels_over
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Image, Ints

POSITIVE, NEGATIVE = 1, 2

PEAK = TableSchema(
    "Peak",
    (
        Column("x", "int", "pixel", "highest |S/N| of the footprint"),
        Column("y", "int", "pixel", "highest |S/N| of the footprint"),
        Column("snr", "double", "", "signed S/N there"),
        Column("x2", "int", "pixel", "highest |S/N| of the other sign, if any"),
        Column("y2", "int", "pixel", "highest |S/N| of the other sign, if any"),
        Column("snr2", "double", "", "signed S/N there, 0 if all have one sign"),
        Column("n_peaks", "int", "", "local extrema over the threshold, both signs"),
        Column("area", "int", "pixel", "pixels of the footprint"),
        Column("x0", "int", "pixel", "bounding box, first column"),
        Column("x1", "int", "pixel", "bounding box, one past the last column"),
        Column("y0", "int", "pixel", "bounding box, first row"),
        Column("y1", "int", "pixel", "bounding box, one past the last row"),
    ),
)
"""One row per detection."""

MIN_DIP = 4.0
"""Two peaks of one footprint are two sources if S/N between them is lower by this ..."""
MAX_SADDLE = 0.6
"""... and lower than this part of the fainter one."""
APART = 2.0
"""So many times the usual distance lies between sources of a footprint with both signs."""


class Footprints(NamedTuple):
    """Which pixels belong to which detection."""

    peaks: Catalog
    """(n,) rows of PEAK."""
    pixels: Ints
    """Flat indices of all footprint pixels, one detection after the other."""
    starts: Ints
    """(n,) where each detection begins in ``pixels``."""
    signs: NDArray[np.uint8]
    """POSITIVE and NEGATIVE bits of each of the pixels."""


class _Significant(NamedTuple):
    """The pixels over the threshold."""

    y: Ints
    x: Ints
    value: Floats
    """Signed S/N."""
    extremal: Bools
    """No neighbour is farther from zero on the same side."""


def significant_pixels(snr: Image, threshold: float) -> tuple[Ints, Ints]:
    """(y, x) of the pixels with |S/N| at or over the threshold."""
    y, x = np.divmod(pixels_over(snr, threshold), snr.shape[1])
    return y, x


def find_footprints(
    snr: Image, threshold: float, grow_px: int, min_distance_px: float
) -> Footprints:
    """Group significant pixels that touch, both signs together, after growing them.

    ``snr`` is (ny, nx), signed. Every significant pixel grows to a disk of radius
    ``grow_px``; disks that touch, also by a corner, are one detection, unless peaks at
    least ``min_distance_px`` apart stand clear of each other. Where both signs touch, peaks
    closer than APART such distances are a dipole or a ring, and stay together.
    """
    y, x = significant_pixels(snr, threshold)
    found = _Significant(y, x, snr[y, x].astype(float), _extremal(snr, y, x))
    grown = _grown(snr.shape, found, grow_px)
    pixels = np.flatnonzero(grown.view(np.bool_))
    labels = np.zeros(snr.shape, np.int32)
    labels.ravel()[pixels] = -1
    n = connect(pixels, snr.shape[1], labels)
    pixels = pixels[np.argsort(labels.ravel()[pixels], kind="stable")]
    owner = labels.ravel()[pixels].astype(np.int64) - 1
    own = labels[y, x].astype(np.int64) - 1
    n = _split(snr, found, own, pixels, owner, n, min_distance_px)
    order = np.argsort(owner, kind="stable")
    pixels, starts = pixels[order], np.searchsorted(owner[order], np.arange(n))
    peaks = _peaks(found, own, n)
    peaks["area"] = np.diff(np.append(starts, pixels.size))
    if n:
        for axis, values in (("y", pixels // snr.shape[1]), ("x", pixels % snr.shape[1])):
            peaks[f"{axis}0"] = np.minimum.reduceat(values, starts)
            peaks[f"{axis}1"] = np.maximum.reduceat(values, starts) + 1
    return Footprints(peaks, pixels, starts, grown.ravel()[pixels])


def _grown(shape: tuple[int, ...], found: _Significant, radius: int) -> NDArray[np.uint8]:
    grown = np.zeros(shape, np.uint8)
    bits = np.where(found.value > 0, POSITIVE, NEGATIVE).astype(np.uint8)
    paint_disks(found.y, found.x, bits, radius, grown)
    return grown


def _extremal(snr: Image, y: Ints, x: Ints) -> Bools:
    own = snr[y, x]
    sign = np.sign(own)
    top = np.ones(y.size, bool)
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            py, px = y + dy, x + dx
            inside = (py >= 0) & (py < snr.shape[0]) & (px >= 0) & (px < snr.shape[1])
            beside = snr[np.where(inside, py, y), np.where(inside, px, x)]
            top &= sign * beside <= np.abs(own)
    return top


def _split(
    snr: Image,
    found: _Significant,
    own: Ints,
    pixels: Ints,
    owner: Ints,
    n: int,
    min_distance_px: float,
) -> int:
    """Give well separated sources their own detections; returns how many there are.

    Changes ``own`` (detection of each significant pixel) and ``owner`` (of each footprint
    pixel, ascending before) in place: pixels go to the nearest of the sources.
    """
    n_peaks = np.bincount(own[found.extremal], minlength=n)
    one_sign = np.abs(np.bincount(own, np.sign(found.value), n)) == np.bincount(own, minlength=n)
    order = np.lexsort((-np.abs(found.value), own))
    first = np.searchsorted(own[order], np.arange(n + 1))
    wide = snr.shape[1]
    candidates = np.flatnonzero(n_peaks > 1)
    parts = [order[first[k] : first[k + 1]] for k in candidates]
    distances = min_distance_px * np.where(one_sign[candidates], 1.0, APART)
    ranges = np.searchsorted(owner, np.stack([candidates, candidates + 1]))
    for members, distance, begin, end in zip(parts, distances, *ranges):
        tops = members[found.extremal[members]]
        centres = _clear_peaks(snr, found, tops, distance)
        if len(centres) < 2:
            continue
        cy, cx = found.y[centres], found.x[centres]
        new = np.append(own[members[0]], n + np.arange(len(centres) - 1))
        n += len(centres) - 1
        py, px = np.divmod(pixels[begin:end], wide)
        owner[begin:end] = new[_nearest(py, px, cy, cx)]
        own[members] = new[_nearest(found.y[members], found.x[members], cy, cx)]
    return n


def _clear_peaks(snr: Image, found: _Significant, tops: Ints, min_distance_px: float) -> list[int]:
    """Those of the extrema, strongest first, that stand clear of all stronger ones kept."""
    kept = [int(tops[0])]
    for top in tops[1:]:
        clear = True
        for other in kept:
            dy, dx = found.y[other] - found.y[top], found.x[other] - found.x[top]
            steps = np.linspace(0.0, 1.0, int(np.hypot(dy, dx)) + 2)
            between = snr[
                np.rint(found.y[top] + steps * dy).astype(int),
                np.rint(found.x[top] + steps * dx).astype(int),
            ]
            height = abs(found.value[top])
            saddle = float((between * np.sign(found.value[top])).min())
            clear &= np.hypot(dy, dx) >= min_distance_px
            clear &= height - saddle >= MIN_DIP and saddle <= MAX_SADDLE * height
            if not clear:
                break
        if clear:
            kept.append(int(top))
    return kept


def _nearest(y: Ints, x: Ints, cy: Ints, cx: Ints) -> Ints:
    """Index of the centre nearest to each pixel."""
    result: Ints = np.argmin((y[:, None] - cy) ** 2 + (x[:, None] - cx) ** 2, axis=1)
    return result


def _peaks(found: _Significant, owner: Ints, n: int) -> Catalog:
    """PEAK rows from the significant pixels of each of the n detections."""
    rows = PEAK.empty(n)
    rows["snr2"] = 0.0
    if n == 0:
        return rows
    strongest = _first_of_each(owner, -np.abs(found.value))
    rows["y"], rows["x"] = found.y[strongest], found.x[strongest]
    rows["snr"] = found.value[strongest]
    other = np.flatnonzero(np.sign(found.value) != np.sign(rows["snr"])[owner])
    second = other[_first_of_each(owner[other], -np.abs(found.value[other]))]
    which = owner[second]
    rows["y2"][which], rows["x2"][which] = found.y[second], found.x[second]
    rows["snr2"][which] = found.value[second]
    rows["n_peaks"] = np.bincount(owner[found.extremal], minlength=n)
    return rows


def _first_of_each(owner: Ints, key: Floats) -> Ints:
    """Index of the smallest key of each owner that occurs, owners ascending."""
    order = np.lexsort((key, owner))
    _, first = np.unique(owner[order], return_index=True)
    chosen: Ints = order[first]
    return chosen
