"""Why a batch may not be written: it contradicts itself, comes late, or others were faster."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from promptdia.apdb.errors import ApdbError, TransientError
from promptdia.apdb.rows import Rows
from promptdia.apdb.schema.lsst import DIA_OBJECT
from promptdia.apdb.schema.table import TableSchema
from promptdia.apdb.store import Batch

CONFLICT_ARCSEC = 2.0
"""A source this close to an object that someone else changed might belong to it now."""

_STATE = ("validityStartMjdTai", "nDiaSources", "lastDiaSourceMjdTai")
"""Columns that tell two states of an object apart."""

OBJECT_STATE = TableSchema(
    "DiaObject", tuple(DIA_OBJECT[name] for name in ("diaObjectId", "ra", "dec", *_STATE))
)
"""What is compared between the preload and the moment of writing."""


def refuse_nonsense(batch: Batch) -> None:
    """ApdbError when the batch contradicts itself."""
    for name, rows, key in (
        ("source", batch.sources, "diaSourceId"),
        ("object", batch.objects, "diaObjectId"),
        ("forced source", batch.forced, "diaForcedSourceId"),
        ("rejected detection", batch.rejected, "diaSourceId"),
    ):
        _refuse_duplicates(name, rows[key])
    for name, rows in (("source", batch.sources), ("forced source", batch.forced)):
        strange = (rows["visit"] != batch.visit) | (rows["detector"] != batch.detector)
        if strange.any():
            raise ApdbError(
                f"{name} {int(np.argmax(strange))} is of another visit or detector than "
                f"{batch.visit}, {batch.detector}"
            )
    nameless = batch.rejected["rule"] == ""
    if nameless.any():
        raise ApdbError(f"rejected detection {int(np.argmax(nameless))} names no rule")
    _refuse_unlinked(batch)
    if len(batch.payloads) not in (0, len(batch.sources)):
        raise ApdbError(
            f"{len(batch.payloads)} alerts for {len(batch.sources)} sources: one each is needed"
        )


def refuse_later_visits(batch: Batch, later: Sequence[Sequence[Any]]) -> None:
    """ApdbError when rows (visit, mjd, ra, dec) from after the batch lie in its region."""
    if not later:
        return
    visits, mjds, ra, dec = (np.array(column) for column in zip(*later))
    inside = batch.region.contains(ra, dec)
    if inside.any():
        last = int(np.argmax(np.where(inside, mjds, -np.inf)))
        raise ApdbError(
            f"visit {batch.visit} detector {batch.detector} (MJD {batch.mjd_tai:.5f}) comes late: "
            f"visit {visits[last]} (MJD {mjds[last]:.5f}) is already stored on its sky; "
            "pass --out-of-order to add it all the same"
        )


def refuse_changed_sky(batch: Batch, stored: Rows) -> None:
    """TransientError when objects the batch depends on changed since it was preloaded.

    ``stored`` are the region's objects as they are now, OBJECT_STATE rows.
    """
    seen = batch.history.objects
    gone = np.setdiff1d(seen["diaObjectId"], stored["diaObjectId"])
    changed = np.concatenate(
        [stored[~_same_state(stored, seen)], _states(seen[np.isin(seen["diaObjectId"], gone)])]
    )
    changed = changed[batch.region.contains(changed["ra"], changed["dec"])]
    if not changed.size:
        return
    hit = np.isin(changed["diaObjectId"], batch.objects["diaObjectId"])
    hit |= _near(changed, batch.sources)
    if hit.any():
        raise TransientError(
            f"object {changed['diaObjectId'][np.argmax(hit)]} was changed by another process "
            f"while visit {batch.visit} detector {batch.detector} was associated; "
            "preload and associate again"
        )


def refuse_changed_objects(seen: Rows, stored: Rows) -> None:
    """TransientError unless these objects are as they were seen."""
    changed = np.setxor1d(stored[_same_state(stored, seen)]["diaObjectId"], seen["diaObjectId"])
    if changed.size:
        raise TransientError(
            f"object {changed[0]} was changed by another process meanwhile; run the same again"
        )


def _refuse_duplicates(name: str, ids: Rows) -> None:
    values, counts = np.unique(ids, return_counts=True)
    if (counts > 1).any():
        raise ApdbError(f"{name} id {values[np.argmax(counts)]} occurs {counts.max()} times")


def _refuse_unlinked(batch: Batch) -> None:
    static, moving = batch.sources["diaObjectId"] != 0, batch.sources["ssObjectId"] != 0
    wrong = static == moving
    if wrong.any():
        source = batch.sources[np.argmax(wrong)]
        raise ApdbError(
            f"source {source['diaSourceId']} has diaObjectId {source['diaObjectId']} and "
            f"ssObjectId {source['ssObjectId']}: exactly one of them must be set"
        )
    written = batch.objects["diaObjectId"]
    known = np.union1d(written, batch.history.objects["diaObjectId"])
    for name, ids, among in (
        ("a source", batch.sources["diaObjectId"][static], written),
        ("a forced source", batch.forced["diaObjectId"], known),
    ):
        lost = ids[~np.isin(ids, among)]
        if lost.size:
            raise ApdbError(f"{name} belongs to object {lost[0]}, which is not in the batch")


def _states(objects: Rows) -> Rows:
    """The columns of OBJECT_STATE."""
    result = OBJECT_STATE.empty(objects.size)
    for name in result.dtype.names or ():
        result[name] = objects[name]
    return result


def _same_state(stored: Rows, seen: Rows) -> Rows:
    """(n,) which stored objects are still as they were seen."""
    if not seen.size:
        return np.zeros(stored.size, bool)
    order = np.argsort(seen["diaObjectId"])
    place = np.searchsorted(seen["diaObjectId"], stored["diaObjectId"], sorter=order)
    before = seen[order[np.minimum(place, seen.size - 1)]]
    same = before["diaObjectId"] == stored["diaObjectId"]
    for name in _STATE:
        both_unknown = (before[name] != before[name]) & (stored[name] != stored[name])
        same &= (before[name] == stored[name]) | both_unknown
    return np.asarray(same)


def _near(objects: Rows, sources: Rows) -> Rows:
    """(n,) which objects have a source within CONFLICT_ARCSEC."""
    a, d = (np.deg2rad(objects[name])[:, None] for name in ("ra", "dec"))
    b, e = (np.deg2rad(sources[name]) for name in ("ra", "dec"))
    # haversine: exact for small angles
    h = np.sin((e - d) / 2) ** 2 + np.cos(d) * np.cos(e) * np.sin((b - a) / 2) ** 2
    near = h <= np.sin(np.deg2rad(CONFLICT_ARCSEC / 3600) / 2) ** 2
    return np.asarray(near.any(axis=1))
