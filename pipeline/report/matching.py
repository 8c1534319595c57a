"""Which measured position belongs to which true one."""

import numpy as np
from scipy.spatial import cKDTree

from promptdia.tasks.model.arrays import Floats, Ints
from promptdia.tasks.model.wcs import unit_vectors

ARCSEC = np.pi / 180.0 / 3600.0


def closest_first(
    ra: Floats, dec: Floats, true_ra: Floats, true_dec: Floats, radius_arcsec: float
) -> tuple[Ints, Ints]:
    """(k,) indices of measured and of true positions, paired one to one, nearest pairs first.

    Degrees in. No pair is farther apart than the radius; equal distances keep the order
    of the tables.
    """
    none = np.zeros(0, np.int64)
    if len(ra) == 0 or len(true_ra) == 0:
        return none, none
    here, there = unit_vectors(ra, dec), unit_vectors(true_ra, true_dec)
    chord = 2.0 * np.sin(0.5 * radius_arcsec * ARCSEC)
    near = cKDTree(there).query_ball_point(here, chord)
    pairs = [
        (float(np.sum((here[i] - there[j]) ** 2)), i, j)
        for i, found in enumerate(near)
        for j in found
    ]
    used_here: set[int] = set()
    used_there: set[int] = set()
    kept = []
    for _, i, j in sorted(pairs):
        if i not in used_here and j not in used_there:
            used_here.add(i)
            used_there.add(j)
            kept.append((i, j))
    if not kept:
        return none, none
    measured, true = np.array(kept, np.int64).T
    return measured, true


def offsets_arcsec(
    ra: Floats, dec: Floats, true_ra: Floats, true_dec: Floats
) -> tuple[Floats, Floats]:
    """(east, north) of the measured from the true position, arcsec, for small separations."""
    d_ra = (np.asarray(ra, float) - true_ra + 180.0) % 360.0 - 180.0
    east: Floats = d_ra * np.cos(np.deg2rad(true_dec)) * 3600.0
    north: Floats = (np.asarray(dec, float) - true_dec) * 3600.0
    return east, north


def beside_segment(east: Floats, north: Floats, length: float, angle_deg: float) -> Floats:
    """Distance from a straight trail centred on the origin; 0 on it.

    ``angle_deg`` is its position angle, north through east; the rest shares one unit.
    """
    angle = np.deg2rad(angle_deg)
    along = east * np.sin(angle) + north * np.cos(angle)
    across = east * np.cos(angle) - north * np.sin(angle)
    beyond = np.maximum(np.abs(along) - length / 2.0, 0.0)
    distance: Floats = np.hypot(beyond, across)
    return distance
