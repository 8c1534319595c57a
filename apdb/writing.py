"""The rows that a visit-detector leaves in the database."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from promptdia.apdb import tables as t
from promptdia.apdb.backends import Backend
from promptdia.apdb.errors import ApdbError
from promptdia.apdb.pixels import Region, sky_pixel
from promptdia.apdb.queries import among
from promptdia.apdb.rows import Rows, stored, with_pixels
from promptdia.apdb.schema.lsst import (
    DIA_FORCED_SOURCE,
    DIA_OBJECT,
    DIA_SOURCE,
    SS_OBJECT,
    SS_SOURCE,
    VISIT_DETECTOR,
)
from promptdia.apdb.ss_objects import CIRCUMSTANCES, SEEN, summarize_ss_objects
from promptdia.apdb.store import Batch, Status

QUALITY = tuple(c.name for c in VISIT_DETECTOR.columns[13:])
"""Columns of VISIT_DETECTOR that say how good an image is."""
_MOVING = -2
"""The lock of those who saw Solar System objects, taken after those of the sky."""


def write_batch(backend: Backend, connection: sa.Connection, batch: Batch) -> None:
    """All rows of a batch, its outbox and its marker."""
    write, at = backend, (batch.visit, batch.detector)
    replace_objects(backend, connection, batch.objects)
    for schema, rows in ((DIA_SOURCE, batch.sources), (DIA_FORCED_SOURCE, batch.forced)):
        write.append(connection, stored(schema), with_pixels(schema, rows))
    write.append(connection, SS_SOURCE, batch.ss_sources)
    _renew_ss_objects(backend, connection, np.unique(batch.ss_sources["ssObjectId"]))
    write.insert(connection, t.LEDGER, _ledger_rows(batch))
    payloads: Sequence[bytes | None] = batch.payloads or [None] * len(batch.sources)
    left_out = batch.left_out or [0] * len(batch.sources)
    alerts = [
        (id, *at, position, batch.topic, "committed", payload, n)
        for position, (id, payload, n) in enumerate(
            zip(batch.sources["diaSourceId"].tolist(), payloads, left_out)
        )
    ]
    write.insert(connection, t.OUTBOX, alerts)
    new = np.isin(batch.objects["diaObjectId"], batch.sources["diaSourceId"]).sum()
    early = batch.forced[(batch.forced["visit"] != at[0]) | (batch.forced["detector"] != at[1])]
    _count_early(connection, early)
    counts = (len(batch.sources), int(new), len(batch.forced) - len(early), len(batch.rejected))
    row = marker(
        *at, "done", "", batch.mjd_tai, batch.now_mjd_tai, counts, batch.region, batch.quality
    )
    mark(connection, row)


def _renew_ss_objects(backend: Backend, connection: sa.Connection, ids: NDArray[np.int64]) -> None:
    """Sum up all sources of Solar System objects, which no cell of the sky holds."""
    if not ids.size:
        return
    backend.lock(connection, [_MOVING])
    these = f'WHERE "ssObjectId" IN ({", ".join(map(str, ids.tolist()))})'
    mine = f'WHERE "diaSourceId" IN (SELECT "diaSourceId" FROM "SSSource" {these})'
    seen = backend.read(connection, SEEN, f'{mine} AND "timeWithdrawnMjdTai" IS NULL')
    known = backend.read(connection, CIRCUMSTANCES, these)
    connection.exec_driver_sql(f'DELETE FROM "{SS_OBJECT.name}" {these}')
    backend.append(connection, SS_OBJECT, summarize_ss_objects(seen, known))


def replace_objects(backend: Backend, connection: sa.Connection, objects: Rows) -> None:
    """Write objects in the place of their earlier states."""
    old = among(objects["diaObjectId"])
    connection.exec_driver_sql(f'DELETE FROM "{DIA_OBJECT.name}" WHERE {old}')
    backend.append(connection, stored(DIA_OBJECT), with_pixels(DIA_OBJECT, objects))


def mark(connection: sa.Connection, row: Sequence[Any]) -> None:
    """Write what became of a visit-detector in the place of what was written before."""
    names = [column.name for column in t.VISITS.columns]
    new = ", ".join(f'"{name}" = excluded."{name}"' for name in names)
    statement = (
        f'INSERT INTO "{t.VISITS.name}" VALUES ({", ".join(f":{name}" for name in names)}) '
        f"ON CONFLICT (visit, detector) DO UPDATE SET {new}"
    )
    connection.execute(sa.text(statement), dict(zip(names, row)))


def _ledger_rows(batch: Batch) -> list[tuple[Any, ...]]:
    """A rejected detection may lack a position; it is kept all the same."""
    rows = batch.rejected
    placed = np.isfinite(rows["ra"]) & (np.abs(rows["dec"]) <= 90)
    pixels = np.zeros(rows.size, np.int64)
    pixels[placed] = sky_pixel(rows["ra"][placed], rows["dec"][placed])
    numbers = [
        [_null(v) for v in rows[name].tolist()]
        for name in ("ra", "dec", "rule_value", "rule_limit", "snr")
    ]
    ra, dec, value, limit, snr = numbers
    at = ([batch.visit] * rows.size, [batch.detector] * rows.size)
    pixel = [p if ok else None for p, ok in zip(pixels.tolist(), placed)]
    return list(
        zip(
            rows["diaSourceId"].tolist(), *at, ra, dec, pixel, rows["rule"].tolist(), value,
            limit, snr,
        )
    )  # fmt: skip


def marker(
    visit: int,
    detector: int,
    status: Status,
    reason: str,
    mjd_tai: float,
    now_mjd_tai: float,
    counts: tuple[int, ...] = (0, 0, 0, 0),
    region: Region | None = None,
    quality: Mapping[str, float] | None = None,
) -> tuple[Any, ...]:
    """A row of VISIT_DETECTOR."""
    place = (*region.centre_deg, region.radius_deg) if region else (None, None, None)
    known = [_null((quality or {}).get(name, np.nan)) for name in QUALITY]
    times = _null(mjd_tai), _null(now_mjd_tai)
    return visit, detector, status, reason, *times, *counts, *place, *known


def _count_early(connection: sa.Connection, forced: Rows) -> None:
    """Count forced sources of earlier visit-detectors there, always in the same order."""
    where, n = np.unique(forced[["visit", "detector"]], return_counts=True)
    for (visit, detector), more in zip(where.tolist(), n.tolist()):
        at = (t.VISITS.c.visit == visit) & (t.VISITS.c.detector == detector)
        done = t.VISITS.update().where(at & (t.VISITS.c.status == "done"))
        total = t.VISITS.c.nDiaForcedSources + more
        if connection.execute(done.values(nDiaForcedSources=total)).rowcount != 1:
            raise ApdbError(
                f"forced sources are of visit {visit} detector {detector}, which is not done"
            )


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value
