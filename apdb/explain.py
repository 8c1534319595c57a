"""The story of an identifier: where a source came from, or what stopped a detection."""

from typing import Any

import numpy as np
import sqlalchemy as sa

from promptdia.apdb import tables as t
from promptdia.apdb.errors import ApdbError
from promptdia.apdb.ids import SourceId, unpack
from promptdia.apdb.store import Explanation

Row = dict[str, Any]

_STATES = {
    "committed": "waits to be written to its file",
    "archived": "is in its file and waits to be sent",
    "sending": "is being sent",
    "sent": "was sent",
}


def explain(connection: sa.Connection, id: int) -> Explanation:
    """What the database knows of ``id`` as a source, an object and a rejected detection."""
    facts = {
        "source": _row(connection, t.SOURCES, t.SOURCES.c.diaSourceId == id),
        "rejected": _row(connection, t.LEDGER, t.LEDGER.c.id == id),
        "outbox": _row(connection, t.OUTBOX, t.OUTBOX.c.diaSourceId == id),
    }
    source, rejected = facts["source"], facts["rejected"]
    owner = source.get("diaObjectId", 0) if source else id
    facts["merged"] = _row(connection, t.MERGED, t.MERGED.c.diaObjectId == id)
    if facts["merged"] and not source:
        owner = facts["merged"]["mergedInto"]
    facts["object"] = _row(connection, t.OBJECTS, t.OBJECTS.c.diaObjectId == owner)
    made_by = _made_by(id)
    visit, detector = _visit_of(source or rejected, made_by)
    at = (t.VISITS.c.visit == visit) & (t.VISITS.c.detector == detector)
    facts["visit"] = _row(connection, t.VISITS, at)

    story = [_origin(id, source or rejected, made_by)]
    if source:
        story += _of_source(source, facts["object"], facts["outbox"])
    elif rejected:
        story.append(_of_rejected(rejected))
    else:
        story.append(_of_nothing(visit, detector, facts["visit"]))
    if facts["merged"]:
        story.append(f"Object {id} turned out to be object {facts['merged']['mergedInto']}.")
    if facts["object"]:
        story.append(_of_object(facts["object"]))
    return Explanation(id, tuple(story), {name: row for name, row in facts.items() if row})


def _row(connection: sa.Connection, table: sa.Table, where: sa.ColumnElement[bool]) -> Row | None:
    """The one row as a dictionary without its unknown columns."""
    row = connection.execute(sa.select(table).where(where)).mappings().first()
    return {str(k): v for k, v in row.items() if v is not None} if row else None


def _made_by(id: int) -> SourceId | None:
    try:
        return unpack(id)
    except ApdbError:
        return None


def _visit_of(row: Row | None, made_by: SourceId | None) -> tuple[int, int]:
    if row:
        return row["visit"], row["detector"]
    return (made_by.visit, made_by.detector) if made_by else (0, 0)


def _origin(id: int, row: Row | None, made_by: SourceId | None) -> str:
    if row:
        number = f"detection {made_by.counter} of " if made_by else "found on "
        return f"{id} is {number}visit {row['visit']}, detector {row['detector']}."
    if made_by:
        return f"{id} names visit {made_by.visit}, detector {made_by.detector}."
    return f"{id} names no visit."


def _of_source(source: Row, object: Row | None, outbox: Row | None) -> list[str]:
    seen = f"It was measured at ra {source['ra']:.6f}, dec {source['dec']:.6f}"
    numbers = [
        f"{name} {source[column]:.4g}{unit}"
        for name, column, unit in (
            ("S/N", "snr", ""),
            ("flux", "psfFlux", " nJy"),
            ("reliability", "reliability", ""),
        )
        if column in source
    ]
    story = [", ".join([seen, *numbers]) + "."]
    if "ssObjectId" in source:
        story.append(f"It was taken for Solar System object {source['ssObjectId']}.")
    elif source.get("diaObjectId") == source["diaSourceId"]:
        story.append("Nothing known was close, so it founded an object.")
    elif object:
        away = _separation_arcsec(source, object)
        story.append(
            f'It was associated with object {object["diaObjectId"]}, now {away:.2f}" away.'
        )
    if outbox:
        story.append(f"Its alert for topic {outbox['topic']!r} {_STATES[outbox['state']]}.")
        if outbox["nLeftOut"]:
            story.append(f"It lacks the oldest {outbox['nLeftOut']} points of its history to fit.")
    return story


def _of_rejected(rejected: Row) -> str:
    value, limit = rejected.get("rule_value"), rejected.get("rule_limit")
    numbers = f" ({value:.4g}, limit {limit:.4g})" if None not in (value, limit) else ""
    return f"It was not alerted: rule {rejected['rule']} stopped it{numbers}."


def _of_nothing(visit: int, detector: int, outcome: Row | None) -> str:
    if outcome is None:
        return "This database knows nothing of it or of its visit."
    reason = f": {outcome['reason']}" if outcome["reason"] else ""
    return (
        f"Visit {visit}, detector {detector} is {outcome['status']}{reason}; nothing has this id."
    )


def _of_object(object: Row) -> str:
    return (
        f"Object {object['diaObjectId']} has {object['nDiaSources']} sources, from MJD "
        f"{object.get('firstDiaSourceMjdTai', np.nan):.5f} to "
        f"{object.get('lastDiaSourceMjdTai', np.nan):.5f}."
    )


def _separation_arcsec(a: Row, b: Row) -> float:
    ra1, dec1, ra2, dec2 = np.deg2rad([a["ra"], a["dec"], b["ra"], b["dec"]])
    h = np.sin((dec2 - dec1) / 2) ** 2 + np.cos(dec1) * np.cos(dec2) * np.sin((ra2 - ra1) / 2) ** 2
    return float(np.rad2deg(2 * np.arcsin(np.sqrt(h))) * 3600)
