"""One-to-one pairs of greatest total likelihood: the global optimum, not the greedy one."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree

from promptdia.tasks.errors import TaskError
from promptdia.tasks.model.arrays import Catalog, Floats, Ints
from promptdia.tasks.model.wcs import unit_vectors

_LEAST = 1e-9
"""Weight of a pair within the radius that speaks against itself: any pair beats none."""


def match_most_likely(
    left: Catalog, right: Catalog, radius_arcsec: float, error_floor_arcsec: float
) -> tuple[Ints, Ints]:
    """Indices of one-to-one pairs within the radius of which the total weight is greatest.

    Rows have ra, dec and, where known, raErr, decErr (degrees, ra times cos dec) and
    ra_dec_Cov. The first field of each is an id: the result does not depend on the order
    of the rows. The weight is that of ``pair_weights``. Positions in degrees, poles and
    RA 0 included. TaskError when the error floor is not positive.
    """
    if not error_floor_arcsec > 0:
        raise TaskError(f"error_floor_arcsec is {error_floor_arcsec:g}, must be positive")
    order1 = np.argsort(left[(left.dtype.names or ())[0]])
    order2 = np.argsort(right[(right.dtype.names or ())[0]])
    one, two = left[order1], right[order2]
    i, j = close_pairs(one, two, radius_arcsec)
    weight = pair_weights(one[i], two[j], radius_arcsec, error_floor_arcsec)
    chosen = _best(i, j, weight, one.size, two.size)
    return order1[i[chosen]], order2[j[chosen]]


def close_pairs(left: Catalog, right: Catalog, radius_arcsec: float) -> tuple[Ints, Ints]:
    """Indices of all pairs within the radius."""
    if not (left.size and right.size):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    v1, v2 = unit_vectors(left["ra"], left["dec"]), unit_vectors(right["ra"], right["dec"])
    # the straight line through the sphere grows with the angle, and is exact when small
    chord = 2 * np.sin(np.deg2rad(radius_arcsec / 3600) / 2)
    near = cKDTree(v1).sparse_distance_matrix(
        cKDTree(v2), chord * (1 + 1e-6), output_type="ndarray"
    )
    i, j = near["i"].astype(np.int64), near["j"].astype(np.int64)
    close = ((v1[i] - v2[j]) ** 2).sum(axis=1) <= chord**2
    return i[close], j[close]


def pair_weights(
    left: Catalog, right: Catalog, radius_arcsec: float, error_floor_arcsec: float
) -> Floats:
    """(n,) logarithm of how much likelier each pair is one object than two; positive.

    One object: the offset on the tangent plane is Gaussian with the sum of both
    covariances, each widened by the error floor. Two: a constant density, which a pair
    with no error but the floor has at the radius.
    """
    east, north = _offsets_arcsec(left, right)
    xx, yy, xy = (
        a + b
        for a, b in zip(
            _covariance(left, error_floor_arcsec), _covariance(right, error_floor_arcsec)
        )
    )
    determinant = xx * yy - xy**2
    chi2 = (yy * east**2 - 2 * xy * east * north + xx * north**2) / determinant
    floor2 = 2 * error_floor_arcsec**2
    two = -0.5 * radius_arcsec**2 / floor2 - np.log(floor2)
    weight: Floats = np.maximum(-0.5 * chi2 - 0.5 * np.log(determinant) - two, _LEAST)
    return weight


def _best(i: Ints, j: Ints, weight: Floats, n_left: int, n_right: int) -> Ints:
    """Which pairs make the matching of greatest total weight."""
    if not i.size:
        return np.zeros(0, np.int64)
    ends = n_left + n_right
    graph = coo_matrix((np.ones(i.size), (i, n_left + j)), shape=(ends, ends))
    group = connected_components(graph, directed=False)[1][i]
    order = np.argsort(group, kind="stable")
    borders = np.flatnonzero(np.diff(group[order])) + 1
    return np.sort(np.concatenate([_best_of(g, i, j, weight) for g in np.split(order, borders)]))


def _best_of(pairs: Ints, i: Ints, j: Ints, weight: Floats) -> Ints:
    """The best matching of one connected group."""
    if pairs.size == 1:
        return pairs
    rows, row = np.unique(i[pairs], return_inverse=True)
    columns, column = np.unique(j[pairs], return_inverse=True)
    table, number = np.zeros((rows.size, columns.size)), np.full((rows.size, columns.size), -1)
    table[row, column], number[row, column] = weight[pairs], pairs
    chosen: Ints = number[linear_sum_assignment(table, maximize=True)]
    return chosen[chosen >= 0]


def _offsets_arcsec(left: Catalog, right: Catalog) -> tuple[Floats, Floats]:
    """(n,) east and north from each left to its right position, on the tangent plane."""
    a, d = np.deg2rad(left["ra"]), np.deg2rad(left["dec"])
    away = unit_vectors(right["ra"], right["dec"])
    east = -np.sin(a) * away[:, 0] + np.cos(a) * away[:, 1]
    north = np.cos(d) * away[:, 2] - np.sin(d) * (np.cos(a) * away[:, 0] + np.sin(a) * away[:, 1])
    return np.rad2deg(east) * 3600, np.rad2deg(north) * 3600


def _covariance(rows: Catalog, floor_arcsec: float) -> tuple[Floats, Floats, Floats]:
    """(n,) east, north and mixed terms, arcsec**2; unknown errors count as none."""
    xx, yy = (np.nan_to_num(rows[name].astype(float)) ** 2 for name in ("raErr", "decErr"))
    xy = np.nan_to_num(rows["ra_dec_Cov"].astype(float))
    xy = np.where(xy**2 <= xx * yy, xy, 0.0)
    return (
        xx * 3600**2 + floor_arcsec**2,
        yy * 3600**2 + floor_arcsec**2,
        xy * 3600**2,
    )
