"""Match two lists of stars whose positions differ by shift, rotation and scale."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree
from scipy.stats import poisson

from promptdia.tasks.kernels.star_pairs import pair_votes
from promptdia.tasks.model.arrays import Floats, Ints
from promptdia.tasks.wcs_fit import PixelMap, n_terms, solve_map

MAX_VOTES = 200_000
"""Room for pair hypotheses; those of the brightest stars come first."""
HYPOTHESES = 40
"""How many of the fullest cells of the search space are tried."""
EFFORTS = (60, 120, 240)
"""Stars taken from each list for pairs, more in each attempt."""
SIMILARITY_BELOW = 6
"""Fewer stars than this are fitted by a similarity, more by an affine map or a quadratic."""
BEND_PX = 10.0
"""Size expected of a quadratic distortion that the first guess lacks."""
PROMISING = 1e-3
"""Chance of its coincidences from which a hypothesis is looked into. Those with most votes have
more than the average: at 0.1 more than half of the wrong ones would pass."""
ENOUGH = 0.3
"""The search goes on until this part of the shorter list is matched."""
CONFIRMING = 400
"""Stars taken from each list to confirm a hypothesis."""


@dataclass(frozen=True, slots=True)
class Search:
    """How far the two lists may be apart."""

    max_shift_px: float
    max_rotation_deg: float
    max_scale_error: float
    radius_px: float
    """How far matched stars may lie apart after the best affine or quadratic map."""
    false_alarm: float
    """Accepted chance that the stars agree by accident."""


class Match(NamedTuple):
    """Pairs (a, b) of rows, and the chance that they agree by accident."""

    a: Ints
    b: Ints
    log10_false_alarm: float


def match_patterns(a: Floats, b: Floats, shape: tuple[int, int], search: Search) -> Match:
    """The best match of positions ``a`` (n, 2) to ``b`` (m, 2) on an image of ``shape``.

    Both lists are in pixels, best candidates (the brightest) first; ``a`` may reach
    beyond the image. Two stars of each list define a similarity; the similarities that
    agree are tried in the order of their number, and the one that brings most stars
    together against chance is returned, significant or not.
    """
    best = no_match()
    share = _area_ratio(a, shape)
    lists = a[: int(CONFIRMING * share)], b[:CONFIRMING]
    enough = ENOUGH * min(len(lists[0]) / share, len(lists[1]))
    for effort in EFFORTS:
        first, second = a[: int(effort * share)], b[:effort]
        best = max(best, _attempt(first, second, *lists, shape, search, enough), key=_quality)
        if _certain(best, search, enough) or (effort >= len(b) and effort * share >= len(a)):
            break
    return best


def no_match() -> Match:
    """The match of nothing with nothing."""
    none = np.zeros(0, np.int64)
    return Match(none, none, 0.0)


def nearest_pairs(a: Floats, tree_b: cKDTree, radius: float) -> tuple[Ints, Ints]:
    """Rows of ``a`` and of the tree's points, one to one, nearest first, within ``radius``."""
    distance, to_b = tree_b.query(a, distance_upper_bound=radius)
    near = np.flatnonzero(np.isfinite(distance))
    by_distance = near[np.argsort(distance[near], kind="stable")]
    rows_b, first = np.unique(to_b[by_distance], return_index=True)
    return by_distance[first].astype(np.int64), rows_b.astype(np.int64)


def false_alarm(
    n_matched: int,
    order: int,
    a: Floats,
    b: Floats,
    shape: tuple[int, int],
    radius: float,
    search: Search,
) -> float:
    """log10 of the chance that unrelated lists match as well somewhere in the search space.

    Poisson chance of ``n_matched`` coincidences within ``radius``, times the number of
    distinguishable similarities in the search space. Each pair of coefficients that a map
    of ``order`` has more than a similarity can bring one more star into place, and these
    are not counted as matched. ``a`` is on the image's pixels.
    """
    ny, nx = shape
    inside = ((a > -0.5) & (a < [nx - 0.5, ny - 0.5])).all(axis=1).sum()
    expected = inside * len(b) * np.pi * radius**2 / (nx * ny)
    reach = 0.5 * np.hypot(nx, ny)
    trials = max(1.0, (search.max_shift_px / radius) ** 2)
    trials *= max(1.0, 2 * np.deg2rad(search.max_rotation_deg) * reach / radius)
    trials *= max(1.0, 2 * search.max_scale_error * reach / radius)
    counted = n_matched - (n_terms(order) - 2)
    if counted < 1:
        return 0.0
    chance = poisson.logsf(counted - 1, expected) / np.log(10)
    return float(min(0.0, max(chance, -300.0) + np.log10(trials)))


def _quality(match: Match) -> tuple[float, int]:
    return -match.log10_false_alarm, match.a.size


def _certain(match: Match, search: Search, enough: float) -> bool:
    """Whether no better match need be looked for: no accident, nor right in one corner only."""
    significant = match.log10_false_alarm < np.log10(search.false_alarm) - 10
    return bool(significant and match.a.size >= enough)


def _area_ratio(a: Floats, shape: tuple[int, int]) -> float:
    """Area that list ``a`` covers over that of the image, at most 6."""
    if len(a) < 2:
        return 1.0
    extent = np.ptp(a, axis=0)
    return float(np.clip(extent.prod() / (shape[0] * shape[1]), 1.0, 6.0))


def _attempt(
    first: Floats,
    second: Floats,
    a: Floats,
    b: Floats,
    shape: tuple[int, int],
    search: Search,
    enough: float,
) -> Match:
    centre = np.array([shape[1] - 1, shape[0] - 1]) / 2.0
    best = no_match()
    tree_b = cKDTree(b)
    for matrix in _hypotheses(first - centre, second - centre, shape, search):
        moved = (a - centre) @ matrix[:, :2].T + matrix[:, 2] + centre
        if _promising(moved, tree_b, shape, search):
            best = max(best, *_grown_both(moved, a, tree_b, shape, search), key=_quality)
        if _certain(best, search, enough):
            break
    return _completed(best, a, tree_b, shape, search)


def _completed(
    best: Match, a: Floats, tree_b: cKDTree, shape: tuple[int, int], search: Search
) -> Match:
    """A match grown again from the similarity of its own pairs, as long as that helps.

    The hypothesis it came from may have been good in one part of the image only.
    """
    while best.a.size >= SIMILARITY_BELOW:
        moved = _similarity_fit(a[best.a], tree_b.data[best.b], a)
        again = max(_grown_both(moved, a, tree_b, shape, search), key=_quality)
        if _quality(again) <= _quality(best):
            break
        best = again
    return best


def _promising(moved: Floats, tree_b: cKDTree, shape: tuple[int, int], search: Search) -> bool:
    """Whether a hypothesis brings more stars together than nearly all unrelated ones would."""
    radius = _first_radius(tree_b, shape, search)
    together = nearest_pairs(moved, tree_b, radius)[0].size
    inside = ((moved > -0.5) & (moved < [shape[1] - 0.5, shape[0] - 0.5])).all(axis=1).sum()
    share = -np.expm1(-tree_b.n * np.pi * radius**2 / (shape[0] * shape[1]))
    return bool(together >= 3 and poisson.sf(together - 1, inside * share) < PROMISING)


def _first_radius(tree_b: cKDTree, shape: tuple[int, int], search: Search) -> float:
    """How far stars may be apart under a mere hypothesis; less in crowded fields."""
    crowded = float(np.sqrt(0.1 * shape[0] * shape[1] / (np.pi * tree_b.n)))
    return max(min(3.0 * search.radius_px, crowded), 0.5 * search.radius_px)


def _hypotheses(a: Floats, b: Floats, shape: tuple[int, int], search: Search) -> list[Floats]:
    """Similarities (2, 3) between centred lists, most votes first."""
    votes = _votes(a, b, shape, search)
    if len(votes) == 0:
        return []
    reach = 0.5 * float(np.hypot(*shape))
    turn = max(3.0 * search.radius_px / reach, 1e-3)
    step = np.array([turn, turn, 4.0 * search.radius_px, 4.0 * search.radius_px])
    # cells of twice the step at half-step offsets would split no cluster; two grids do
    grids = [np.floor(votes / step + offset).astype(np.int64) for offset in (0.0, 0.5)]
    found: list[tuple[int, Floats]] = []
    for cells in grids:
        low = cells.min(axis=0)
        width = cells.max(axis=0) - low + 1
        keys = np.ravel_multi_index(tuple((cells - low).T), tuple(width))
        order = np.argsort(keys, kind="stable")
        _, begin, count = np.unique(keys[order], return_index=True, return_counts=True)
        for cell in np.argsort(-count, kind="stable")[:HYPOTHESES]:
            members = votes[order[begin[cell] : begin[cell] + count[cell]]]
            found.append((int(count[cell]), np.median(members, axis=0)))
    found.sort(key=lambda item: -item[0])
    return [_similarity(*vote) for _, vote in found]


def _votes(a: Floats, b: Floats, shape: tuple[int, int], search: Search) -> Floats:
    min_length = 0.15 * float(np.hypot(*shape))
    max_log_scale = -float(np.log1p(-search.max_scale_error))
    max_rotation = np.deg2rad(search.max_rotation_deg) + 2.0 * search.radius_px / min_length
    one_way, both_ways = star_pairs(a, min_length), star_pairs(b, min_length)
    turned = both_ways.copy()
    turned[:, 1] += np.where(turned[:, 1] > 0, -np.pi, np.pi)
    both_ways, first = by_sector(np.concatenate([both_ways, turned]), max_rotation)
    votes = np.empty((MAX_VOTES, 4))
    bounds = max_log_scale, float(max_rotation), search.max_shift_px
    return votes[: pair_votes(one_way, both_ways, first, *bounds, votes)]


def by_sector(pairs: Floats, max_rotation: float) -> tuple[Floats, Ints]:
    """Pairs as ``pair_votes`` wants them, and the first row of each sector (and the end).

    Sectors of the angle are twice as wide as the rotation that is searched.
    """
    sectors = max(1, int(np.pi / max_rotation))
    sector = np.floor((pairs[:, 1] + np.pi) / (2.0 * np.pi) * sectors).astype(np.int64) % sectors
    order = np.lexsort((pairs[:, 0], sector))
    first = np.searchsorted(sector[order], np.arange(sectors + 1))
    return np.ascontiguousarray(pairs[order]), first.astype(np.int64)


def star_pairs(xy: Floats, min_length: float) -> Floats:
    """(n, 4) log length, angle and middle of all pairs of stars at least so far apart.

    Pairs of stars that come first in the list come first.
    """
    j, i = np.tril_indices(len(xy), -1)
    step, middle = xy[j] - xy[i], (xy[j] + xy[i]) / 2
    length = np.hypot(*step.T)
    angle = np.arctan2(step[:, 1], step[:, 0])
    with np.errstate(divide="ignore"):
        pairs = np.column_stack([np.log(length), angle, middle])
    return np.ascontiguousarray(pairs[length >= min_length])


def _grown_both(
    moved: Floats, a: Floats, tree_b: cKDTree, shape: tuple[int, int], search: Search
) -> tuple[Match, Match]:
    return (
        _grown(moved, a, tree_b, shape, search, 1),
        _grown(moved, a, tree_b, shape, search, 2),
    )


def _grown(
    moved: Floats,
    a: Floats,
    tree_b: cKDTree,
    shape: tuple[int, int],
    search: Search,
    order: int,
) -> Match:
    """Match ``a`` where a first map ``moved`` it, again under the map fitted to that, and so on.

    A few stars are fitted by a similarity, more by a polynomial of ``order``.
    """
    b = tree_b.data
    first_radius = _first_radius(tree_b, shape, search)
    for factor in (3.0, 2.0, 2.0, 2.0, 1.5, 1.0, 1.0):
        radius = min(factor * search.radius_px, first_radius)
        rows_a, rows_b = nearest_pairs(moved, tree_b, radius)
        if rows_a.size < 3:
            return no_match()
        here, there = a[rows_a], b[rows_b]
        if rows_a.size < SIMILARITY_BELOW:
            moved = _similarity_fit(here, there, a)
            continue
        scatter = np.full(rows_a.size, (search.radius_px / 4) ** 2)
        fitted = solve_map(here, there, scatter, order, shape, bend=BEND_PX)
        if not _plausible(fitted, search):
            return no_match()
        moved = fitted(a)
    rows_a, rows_b = nearest_pairs(moved, tree_b, radius)
    if rows_a.size < 3:
        return no_match()
    distance = np.hypot(*(moved[rows_a] - b[rows_b]).T)
    within = float(np.clip(4.0 * np.median(distance), 0.2, radius))
    kept = distance <= within
    chance = false_alarm(int(kept.sum()), order, moved, b, shape, within, search)
    return Match(rows_a[kept], rows_b[kept], chance)


def _plausible(fitted: PixelMap, search: Search) -> bool:
    """Whether the scale at the centre stays near the range searched, along every direction."""
    ny, nx = fitted.shape
    x, y = (nx - 1) / 2, (ny - 1) / 2
    ends = fitted(np.array([[x - 1, y], [x + 1, y], [x, y - 1], [x, y + 1]]))
    matrix = np.column_stack([(ends[1] - ends[0]) / 2, (ends[3] - ends[2]) / 2])
    scales = np.linalg.svd(matrix, compute_uv=False)
    room = 1.0 + 1.5 * search.max_scale_error
    return bool(scales[0] < room and scales[1] > 1 / room and np.linalg.det(matrix) > 0)


def _similarity(log_scale: float, turn: float, tx: float, ty: float) -> Floats:
    c, s = np.exp(log_scale) * np.cos(turn), np.exp(log_scale) * np.sin(turn)
    return np.array([[c, -s, tx], [s, c, ty]])


def _similarity_fit(here: Floats, there: Floats, a: Floats) -> Floats:
    """``a`` carried along by the shift, rotation and scale that best carry here to there."""
    unit = np.array([1, 1j])
    za, zb = here @ unit, there @ unit
    da = za - za.mean()
    factor = (np.conj(da) @ (zb - zb.mean())) / max((np.abs(da) ** 2).sum(), 1e-30)
    moved = factor * (a @ unit - za.mean()) + zb.mean()
    return np.column_stack([moved.real, moved.imag])
