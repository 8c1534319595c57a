"""One-to-one pairs of greatest total likelihood: the global optimum, not the greedy one."""

import numpy as np
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from promptdia.tasks.errors import TaskError
from promptdia.tasks.model.arrays import Catalog, Floats, Ints
from promptdia.tasks.model.wcs import unit_vectors
from promptdia.tasks.near import close_pairs

_LEAST = 1e-9
"""Weight of a pair within the radius that speaks against itself: any pair beats none."""


def match_most_likely(
    left: Catalog,
    right: Catalog,
    radius_arcsec: float,
    error_floor_arcsec: float,
    max_sigma: float = np.inf,
) -> tuple[Ints, Ints]:
    """Indices of one-to-one pairs within the radius of which the total weight is greatest.

    Pairs more than ``max_sigma`` of their errors, floor included, apart are none.

    Rows have ra, dec and, where known, raErr, decErr (degrees, ra times cos dec) and
    ra_dec_Cov. The first field of each is an id: the result does not depend on the order
    of the rows. The weight is that of ``pair_weights``. Positions in degrees, poles and
    RA 0 included. TaskError when the error floor is not positive.
    """
    if not error_floor_arcsec > 0:
        raise TaskError(f"error_floor_arcsec is {error_floor_arcsec:g}, must be positive")
    id1, id2 = (rows[(rows.dtype.names or ())[0]] for rows in (left, right))
    i, j, _ = close_pairs(left["ra"], left["dec"], right["ra"], right["dec"], radius_arcsec)
    order = np.lexsort((id2[j], id1[i]))
    i, j = i[order], j[order]
    weight, chi2 = pair_weights(left[i], right[j], radius_arcsec, error_floor_arcsec)
    near = chi2 <= max_sigma**2
    i, j, weight = i[near], j[near], weight[near]
    chosen = _best(_numbered(id1[i]), _numbered(id2[j]), weight)
    return i[chosen], j[chosen]


def pair_weights(
    left: Catalog, right: Catalog, radius_arcsec: float, error_floor_arcsec: float
) -> tuple[Floats, Floats]:
    """(n,) logarithm of how much likelier each pair is one object than two, positive; and chi2.

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
    return weight, chi2


def _numbered(ids: Ints) -> Ints:
    """(n,) place of each id among all of them."""
    numbers: Ints = np.unique(ids, return_inverse=True)[1]
    return numbers


def _best(i: Ints, j: Ints, weight: Floats) -> Ints:
    """Which pairs make the matching of greatest total weight."""
    n = i.size
    alone = (np.bincount(i, minlength=n)[i] == 1) & (np.bincount(j, minlength=n)[j] == 1)
    chosen, rest = [np.flatnonzero(alone)], np.flatnonzero(~alone)
    if rest.size:
        graph = coo_matrix((np.ones(rest.size), (i[rest], n + j[rest])), shape=(2 * n, 2 * n))
        group = connected_components(graph, directed=False)[1][i[rest]]
        order = np.argsort(group, kind="stable")
        borders = np.flatnonzero(np.diff(group[order])) + 1
        chosen += [_best_of(pairs, i, j, weight) for pairs in np.split(rest[order], borders)]
    return np.sort(np.concatenate(chosen))


def _best_of(pairs: Ints, i: Ints, j: Ints, weight: Floats) -> Ints:
    """The best matching of one connected group."""
    row, column = _numbered(i[pairs]), _numbered(j[pairs])
    shape = int(row.max()) + 1, int(column.max()) + 1
    table, number = np.zeros(shape), np.full(shape, -1)
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
