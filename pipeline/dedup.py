"""Find objects that are one and make them one."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from promptdia.apdb.store import Apdb, History
from promptdia.pipeline.retry import with_retries
from promptdia.tasks.model.arrays import Catalog, Ints
from promptdia.tasks.model.wcs import separation_arcsec, unit_vectors
from promptdia.tasks.summarize import SummarizeObjects


class Merger(NamedTuple):
    """One object that became part of another."""

    gone: int
    kept: int
    """The older one."""
    separation_arcsec: float
    n_sources: int
    """Sources that moved."""


@dataclass(frozen=True, slots=True)
class Deduplication:
    """What was done."""

    mergers: tuple[Merger, ...]
    n_forced_dropped: int
    """Forced sources of visit-detectors that both objects had."""
    n_seen_apart: int
    """Pairs as close that stay two, because one visit-detector detected both."""


def merge_duplicates(
    store: Apdb, radius_arcsec: float, summarize: SummarizeObjects, now_mjd_tai: float
) -> Deduplication:
    """Merge objects within ``radius_arcsec`` of each other, until there are none.

    Closest first; the older object (first source, then id) keeps its id and gets the
    other's sources and forced sources, and its summary is computed anew. Two objects that
    were detected side by side on one visit-detector are two. Each round is one
    transaction; running it again changes nothing.
    """
    mergers: list[Merger] = []
    dropped = 0
    while True:
        found, lost, apart = with_retries(
            lambda: _merge_round(store, radius_arcsec, summarize, now_mjd_tai)
        )
        mergers += found
        dropped += lost
        if not found:
            return Deduplication(tuple(mergers), dropped, apart)


def _merge_round(
    store: Apdb, radius_arcsec: float, summarize: SummarizeObjects, now_mjd_tai: float
) -> tuple[list[Merger], int, int]:
    """Merge disjoint pairs; mergers, forced sources dropped, pairs that stay apart."""
    objects = store.objects()
    close = _close_pairs(objects, radius_arcsec)
    history = store.history(np.unique(objects["diaObjectId"][close]))
    pairs, n_apart = _choose(objects["diaObjectId"][close], history)
    if not pairs:
        return [], 0, n_apart
    mergers = [_merger(history, *pair) for pair in pairs]
    into = {m.gone: m.kept for m in mergers}
    concerned = np.isin(history.objects["diaObjectId"], [*into, *into.values()])
    seen = history.objects[concerned]
    dropped = store.merge(into, _merged(history, into, summarize), seen, now_mjd_tai)
    return mergers, dropped, n_apart


def _close_pairs(objects: Catalog, radius_arcsec: float) -> Ints:
    """(n, 2) indices of pairs within the radius, closest first, equal ones by their ids."""
    directions = unit_vectors(objects["ra"], objects["dec"])
    chord = 2 * np.sin(np.deg2rad(radius_arcsec / 3600) / 2)
    pairs = cKDTree(directions).query_pairs(chord, output_type="ndarray").astype(np.int64)
    ids = np.sort(objects["diaObjectId"][pairs], axis=1)
    apart = ((directions[pairs[:, 0]] - directions[pairs[:, 1]]) ** 2).sum(axis=1)
    order: Ints = pairs[np.lexsort((ids[:, 1], ids[:, 0], apart))]
    return order


def _choose(pairs: Ints, history: History) -> tuple[list[tuple[int, int]], int]:
    """Disjoint pairs of ids to merge, and how many pairs were seen side by side."""
    seen_in: dict[int, set[tuple[int, int]]] = {}
    for source in history.sources:
        places = seen_in.setdefault(int(source["diaObjectId"]), set())
        places.add((int(source["visit"]), int(source["detector"])))
    taken: set[int] = set()
    chosen, n_apart = [], 0
    for a, b in pairs.tolist():
        if seen_in.get(a, set()) & seen_in.get(b, set()):
            n_apart += 1
        elif not {a, b} & taken:
            chosen.append((a, b))
            taken |= {a, b}
    return chosen, n_apart


def _merger(history: History, a: int, b: int) -> Merger:
    rows = {int(row["diaObjectId"]): row for row in history.objects}
    kept, gone = sorted((a, b), key=lambda i: (float(rows[i]["firstDiaSourceMjdTai"]), i))
    place = [rows[i][name] for i in (a, b) for name in ("ra", "dec")]
    n_sources = int((history.sources["diaObjectId"] == gone).sum())
    return Merger(gone, kept, float(separation_arcsec(*place)), n_sources)


def _merged(history: History, into: dict[int, int], summarize: SummarizeObjects) -> Catalog:
    """The survivors with a summary of all that is theirs now."""
    kept: Catalog = history.objects[np.isin(history.objects["diaObjectId"], [*into.values()])]
    kept = kept.copy()
    kept["nDiaSources"] = 0
    for name in ("firstDiaSourceMjdTai", "lastDiaSourceMjdTai"):
        kept[name] = np.nan
    sources, forced = history.sources.copy(), history.forced.copy()
    for rows in (sources, forced):
        for gone, survivor in into.items():
            rows["diaObjectId"][rows["diaObjectId"] == gone] = survivor
    return summarize.run(kept, sources, _one_per_detector(forced, history.forced))


def _one_per_detector(forced: Catalog, before: Catalog) -> Catalog:
    """Without the forced sources that are dropped: the survivor's own stand first."""
    own = forced["diaObjectId"] == before["diaObjectId"]
    order = np.lexsort((~own, forced["detector"], forced["visit"], forced["diaObjectId"]))
    names = ["diaObjectId", "visit", "detector"]
    _, first = np.unique(forced[order][names], return_index=True)
    return forced[np.sort(order[first])]
