"""Why a batch may not be written: it contradicts itself, comes late, or others were faster."""

import numpy as np

from promptdia.apdb.errors import ApdbError, TransientError
from promptdia.apdb.pixels import sky_pixel
from promptdia.apdb.rows import Rows
from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE, DIA_OBJECT, DIA_SOURCE
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


_PLACE = ("visit", "midpointMjdTai", "ra", "dec")
PLACE_OF_SOURCE = TableSchema("DiaSource", tuple(DIA_SOURCE[name] for name in _PLACE))
PLACE_OF_FORCED = TableSchema("DiaForcedSource", tuple(DIA_FORCED_SOURCE[name] for name in _PLACE))
"""Where and when something was measured."""

LINK_ARCSEC = 10.0
"""No source or forced source lies farther from its object, so that a region's are found by
their own places."""


def refuse_nonsense(batch: Batch) -> None:
    """ApdbError when the batch contradicts itself."""
    for name, rows, key in (
        ("source", batch.sources, "diaSourceId"),
        ("object", batch.objects, "diaObjectId"),
        ("forced source", batch.forced, "diaForcedSourceId"),
        ("rejected detection", batch.rejected, "diaSourceId"),
    ):
        _refuse_duplicates(name, rows[key])
    founded = np.isin(batch.forced["diaObjectId"], batch.sources["diaSourceId"])
    for name, rows in (("source", batch.sources), ("forced source", batch.forced[~founded])):
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
    _refuse_far(batch)
    for what, given in (("alerts", batch.payloads), ("counts left out", batch.left_out)):
        if len(given) not in (0, len(batch.sources)):
            raise ApdbError(
                f"{len(given)} {what} for {len(batch.sources)} sources: one each is needed"
            )


def refuse_later_visits(batch: Batch, rows: Rows) -> None:
    """ApdbError when rows (visit, time, place) from after the batch lie in its region."""
    later = rows[rows["midpointMjdTai"] > batch.mjd_tai]
    inside = later[batch.region.contains(later["ra"], later["dec"])]
    if inside.size:
        last = inside[np.argmax(inside["midpointMjdTai"])]
        raise ApdbError(
            f"visit {batch.visit} detector {batch.detector} (MJD {batch.mjd_tai:.5f}) comes late: "
            f"visit {last['visit']} (MJD {last['midpointMjdTai']:.5f}) is already stored on its "
            "sky; pass --out-of-order to add it all the same"
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


def _refuse_far(batch: Batch) -> None:
    """What lies far from its object would be missed when its region is read."""
    sky_pixel(batch.objects["ra"], batch.objects["dec"])  # what is no place is said as such
    for name, key, rows in (
        ("source", "diaSourceId", batch.sources),
        ("forced source", "diaForcedSourceId", batch.forced),
    ):
        rows = rows[np.isin(rows["diaObjectId"], batch.objects["diaObjectId"])]
        order = np.argsort(batch.objects["diaObjectId"])
        place = np.searchsorted(batch.objects["diaObjectId"], rows["diaObjectId"], sorter=order)
        owners = batch.objects[order[place]]
        far = ~_within(rows, owners, LINK_ARCSEC)
        if far.any():
            at = int(np.argmax(far))
            raise ApdbError(
                f"{name} {rows[key][at]} lies more than {LINK_ARCSEC:g} arcsec "
                f"from its object {owners['diaObjectId'][at]}: use a smaller association radius"
            )


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
    return np.asarray(_within(objects[:, None], sources, CONFLICT_ARCSEC).any(axis=1))


def _within(some: Rows, others: Rows, arcsec: float) -> Rows:
    """Whether positions lie at most so far from each other; positions that are not finite do."""
    a, d, b, e = (np.deg2rad(rows[name]) for rows in (some, others) for name in ("ra", "dec"))
    # haversine: exact for small angles
    h = np.sin((e - d) / 2) ** 2 + np.cos(d) * np.cos(e) * np.sin((b - a) / 2) ** 2
    return np.asarray(~(h > np.sin(np.deg2rad(arcsec / 3600) / 2) ** 2))
