"""Pairs of sky positions that lie within a radius."""

import numpy as np

from promptdia.tasks.kernels.close_pairs import sweep_pairs
from promptdia.tasks.model.arrays import Floats, Ints
from promptdia.tasks.model.wcs import unit_vectors


def close_pairs(
    ra1: Floats, dec1: Floats, ra2: Floats, dec2: Floats, radius_arcsec: float
) -> tuple[Ints, Ints, Floats]:
    """Indices of all pairs within the radius, and their chord on the unit sphere.

    Positions in degrees, poles and RA 0 included. The straight line through the sphere
    grows with the angle and is exact when small.
    """
    v1, v2 = unit_vectors(ra1, dec1), unit_vectors(ra2, dec2)
    if not (v1.size and v2.size):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    chord = 2 * np.sin(np.deg2rad(radius_arcsec / 3600) / 2)
    axis = int(np.argmax(np.ptp(v2, axis=0)))  # along which the second are spread the most
    order1, order2 = np.argsort(v1[:, axis]), np.argsort(v2[:, axis])
    i, j = sweep_pairs(v1, v2, order1, order2, axis, chord)
    return i, j, np.sqrt(((v1[i] - v2[j]) ** 2).sum(axis=1))
