"""The APDB in a SQL database: SQLite in a file, or PostgreSQL."""

import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self, cast

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from promptdia.apdb import outbox
from promptdia.apdb import tables as t
from promptdia.apdb.backends import Backend, backend_of
from promptdia.apdb.checks import broken_invariants
from promptdia.apdb.conflicts import (
    OBJECT_STATE,
    refuse_changed_objects,
    refuse_changed_sky,
    refuse_later_visits,
    refuse_nonsense,
)
from promptdia.apdb.errors import ApdbError
from promptdia.apdb.explain import explain
from promptdia.apdb.merging import move_rows
from promptdia.apdb.partitions import pixel_range, split
from promptdia.apdb.pixels import ORDER, Region, sky_pixel
from promptdia.apdb.rows import Rows, from_rows, to_rows
from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE, DIA_OBJECT, DIA_SOURCE
from promptdia.apdb.schema.table import TableSchema
from promptdia.apdb.store import (
    Batch,
    Explanation,
    History,
    OutboxEntry,
    Partition,
    Sending,
    Status,
    VisitDetector,
)

_LOCK_ORDER = 7
"""Writers wait for each other in HEALPix cells of this order, 27 arcmin."""
_LONG_AGO = -1e6
"""MJD before everything."""
_CREATING = -1
"""The lock of those who make the tables."""


class SqlApdb:
    """An ``Apdb``; see store.py for what each method promises.

    Made by ``create`` or ``open``. It may be handed to another process, which then
    connects for itself.
    """

    def __init__(self, url: sa.URL, backend: Backend, engine: sa.Engine) -> None:
        self._url, self._backend, self._engine = url, backend, engine
        weakref.finalize(self, engine.dispose)  # a forgotten store leaves no connection open

    @classmethod
    def create(cls, url: str) -> Self:
        """An APDB at ``url``, made there unless one of this version already is."""
        apdb = cls._connect(url, create=True)
        with apdb._transaction(write=True) as connection:
            apdb._backend.lock(connection, [_CREATING])
            t.metadata.create_all(connection)
            if not connection.execute(sa.select(t.META.c.value).limit(1)).first():
                settings = {"schema_version": t.SCHEMA_VERSION, "healpix_order": str(ORDER)}
                rows = [{"name": name, "value": value} for name, value in settings.items()]
                connection.execute(t.META.insert(), rows)
        return apdb._checked()

    @classmethod
    def open(cls, url: str) -> Self:
        """The APDB at ``url``; ApdbError when there is none or its version is another."""
        return cls._connect(url, create=False)._checked()

    def close(self) -> None:
        """Give all connections back."""
        self._engine.dispose()

    def preload(self, region: Region, mjd_tai: float, window_days: float = 365.0) -> History:
        since = mjd_tai - window_days
        inside = _in_ranges(t.OBJECTS, region)
        with self._transaction() as connection:
            found = self._objects(connection, DIA_OBJECT, inside)
            objects = found[region.contains(found["ra"], found["dec"])]
            sources, forced = (
                self._measured(connection, schema, table, inside, since, objects)
                for schema, table in ((DIA_SOURCE, t.SOURCES), (DIA_FORCED_SOURCE, t.FORCED))
            )
        return History(objects, sources, forced)

    def commit(self, batch: Batch, *, out_of_order: bool = False) -> bool:
        refuse_nonsense(batch)
        with self._transaction(write=True) as connection:
            self._backend.lock(connection, batch.region.cells(_LOCK_ORDER))
            if self._status(connection, batch.visit, batch.detector) == "done":
                return False
            if not out_of_order:
                later = [self._later(connection, table, batch) for table in (t.SOURCES, t.FORCED)]
                refuse_later_visits(batch, [row for rows in later for row in rows])
            inside = _in_ranges(t.OBJECTS, batch.region)
            refuse_changed_sky(batch, self._objects(connection, OBJECT_STATE, inside))
            self._write(connection, batch)
        return True

    def status(self, visit: int, detector: int) -> Status | None:
        with self._transaction() as connection:
            return self._status(connection, visit, detector)

    def outcomes(self, visit: int | None = None) -> list[VisitDetector]:
        query = sa.select(t.VISITS).order_by(t.VISITS.c.visit, t.VISITS.c.detector)
        if visit is not None:
            query = query.where(t.VISITS.c.visit == visit)
        with self._transaction() as connection:
            rows = connection.execute(query).all()
        return [_outcome(row) for row in rows]

    def record_status(
        self,
        visit: int,
        detector: int,
        status: Status,
        reason: str,
        *,
        mjd_tai: float = np.nan,
        now_mjd_tai: float = np.nan,
    ) -> bool:
        if status == "done":
            raise ApdbError("only commit makes a visit-detector done")
        row = (visit, detector, status, reason, _null(mjd_tai), _null(now_mjd_tai), 0, 0, 0, 0)
        with self._transaction(write=True) as connection:
            if self._status(connection, visit, detector) == "done":
                return False
            self._backend.upsert(connection, t.VISITS, [row])
        return True

    def outbox(self, visit: int, detector: int) -> list[OutboxEntry]:
        with self._transaction() as connection:
            return outbox.of_detector(connection, visit, detector)

    def mark_archived(self, visit: int, detector: int) -> int:
        with self._transaction(write=True) as connection:
            return outbox.mark_archived(connection, visit, detector)

    def unsent(self, topic: str) -> list[OutboxEntry]:
        with self._transaction() as connection:
            return outbox.unsent(connection, topic)

    def mark_sent(self, dia_source_ids: NDArray[np.int64]) -> int:
        with self._transaction(write=True) as connection:
            return outbox.mark_sent(connection, dia_source_ids.tolist())

    @contextmanager
    def sole_sender(self) -> Iterator[None]:
        with ExitStack() as held:
            with self._refusals():
                held.enter_context(self._backend.sole_sender(self._engine))
            yield

    def begin_sending(
        self, topic: str, dia_source_ids: Sequence[int], offsets: Mapping[int, int]
    ) -> None:
        with self._transaction(write=True) as connection:
            outbox.begin_sending(connection, topic, dia_source_ids, offsets)

    def sending(self, topic: str) -> Sending | None:
        with self._transaction() as connection:
            return outbox.sending(connection, topic)

    def settle(self, topic: str, arrived: NDArray[np.int64]) -> int:
        with self._transaction(write=True) as connection:
            return outbox.settle(connection, topic, arrived.tolist())

    def find(self, region: Region, visit: int) -> NDArray[np.int64]:
        found: list[int] = []
        with self._transaction() as connection:
            for table, key in ((t.SOURCES, t.SOURCES.c.diaSourceId), (t.LEDGER, t.LEDGER.c.id)):
                near = _in_ranges(table, region) & (table.c.visit == visit)
                query = sa.select(key, table.c.ra, table.c.dec).where(near).order_by(key)
                for id, ra, dec in connection.execute(query):
                    if region.contains(np.array(ra), np.array(dec)):
                        found.append(id)
        return np.array(found, np.int64)

    def objects(self) -> Rows:
        with self._transaction() as connection:
            return self._objects(connection, OBJECT_STATE, sa.true())

    def history(self, dia_object_ids: NDArray[np.int64]) -> History:
        ids = [int(i) for i in dia_object_ids]
        with self._transaction() as connection:
            these = t.OBJECTS.c.diaObjectId.in_(ids)
            objects = self._objects(connection, DIA_OBJECT, these)
            sources, forced = (
                self._measured(connection, schema, table, these, _LONG_AGO, objects)
                for schema, table in ((DIA_SOURCE, t.SOURCES), (DIA_FORCED_SOURCE, t.FORCED))
            )
        return History(objects, sources, forced)

    def merge(self, into: Mapping[int, int], objects: Rows, seen: Rows, now_mjd_tai: float) -> int:
        concerned = [int(i) for i in seen["diaObjectId"]]
        pixels = sky_pixel(seen["ra"], seen["dec"]) >> 2 * (ORDER - _LOCK_ORDER)
        with self._transaction(write=True) as connection:
            self._backend.lock(connection, sorted({int(p) for p in pixels}))
            present = t.OBJECTS.c.diaObjectId.in_(concerned)
            refuse_changed_objects(seen, self._objects(connection, OBJECT_STATE, present))
            dropped = move_rows(connection, into, now_mjd_tai)
            self._backend.upsert(connection, t.OBJECTS, _with_pixels(DIA_OBJECT, objects))
        return dropped

    def partitions(self, max_rows: int) -> Iterator[Partition]:
        tables = ((DIA_OBJECT, t.OBJECTS), (DIA_SOURCE, t.SOURCES), (DIA_FORCED_SOURCE, t.FORCED))
        with self._transaction() as connection:
            for schema, table in tables:
                everything = sa.select(table.c.pixelId).order_by(table.c.pixelId)
                pixels = np.array(connection.execute(everything).scalars().all(), np.int64)
                columns = [table.c[column.name] for column in schema.columns]
                for order, pixel, _ in split(pixels, max_rows):
                    inside = table.c.pixelId.between(*pixel_range(order, pixel))
                    query = sa.select(*columns).where(inside).order_by(table.c.pixelId, columns[0])
                    rows = from_rows(schema, self._backend.fetch(connection, query))
                    yield Partition(schema, order, pixel, rows)

    def explain(self, id: int) -> Explanation:
        with self._transaction() as connection:
            return explain(connection, id)

    def check(self) -> list[str]:
        with self._transaction() as connection:
            return broken_invariants(connection)

    def countings(self) -> dict[str, int]:
        counts: dict[str, int] = {}
        with self._transaction() as connection:
            for table in (
                t.OBJECTS, t.SOURCES, t.FORCED, t.VISITS, t.OUTBOX, t.LEDGER, t.MERGED
            ):  # fmt: skip
                query = sa.select(sa.func.count()).select_from(table)
                counts[table.name] = int(connection.execute(query).scalar_one())
            for column in (t.VISITS.c.status, t.OUTBOX.c.state):
                grouped = sa.select(column, sa.func.count()).group_by(column).order_by(column)
                for name, n in connection.execute(grouped):
                    counts[f"{column.table.name}.{name}"] = int(n)
        return counts

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).open, (self._url.render_as_string(hide_password=False),)

    @classmethod
    def _connect(cls, url: str, *, create: bool) -> Self:
        try:
            parsed = sa.make_url(url)
        except sa.exc.ArgumentError as error:
            raise ApdbError(f"{url!r} is no database URL: {error}") from error
        backend = backend_of(parsed)
        return cls(parsed, backend, backend.engine(parsed, create=create))

    def _checked(self) -> Self:
        with self._transaction() as connection:
            if not sa.inspect(connection).has_table(t.META.name):
                raise ApdbError(
                    f"{self._where} holds no APDB; make one with `promptdia apdb ROOT create`"
                )
            query = sa.select(t.META.c.value).where(t.META.c.name == "schema_version")
            version = connection.execute(query).scalar()
        if version != t.SCHEMA_VERSION:
            raise ApdbError(
                f"{self._where} has schema version {version}, this promptdia reads "
                f"{t.SCHEMA_VERSION}: use the promptdia that wrote it, or name another "
                "database and make it with `promptdia apdb ROOT create`"
            )
        return self

    @property
    def _where(self) -> str:
        return f"database {self._url.render_as_string(hide_password=True)}"

    @contextmanager
    def _transaction(self, *, write: bool = False) -> Iterator[sa.Connection]:
        """A transaction that commits at the end; the driver's errors become ours."""
        options = self._engine.execution_options(write=write)
        with self._refusals(), options.begin() as connection:
            yield connection

    @contextmanager
    def _refusals(self) -> Iterator[None]:
        """Turns the driver's errors into ours."""
        try:
            yield
        except self._backend.errors as error:
            refusal = self._backend.refusal(error, self._where)
            if refusal is None:
                raise
            raise refusal from error

    def _objects(
        self, connection: sa.Connection, schema: TableSchema, where: sa.ColumnElement[bool]
    ) -> Rows:
        """Some columns of objects, by id."""
        columns = [t.OBJECTS.c[column.name] for column in schema.columns]
        query = sa.select(*columns).where(where).order_by(t.OBJECTS.c.diaObjectId)
        return from_rows(schema, self._backend.fetch(connection, query))

    def _measured(
        self,
        connection: sa.Connection,
        schema: TableSchema,
        table: sa.Table,
        inside: sa.ColumnElement[bool],
        since: float,
        objects: Rows,
    ) -> Rows:
        """The rows of ``table`` that belong to ``objects``, oldest first."""
        of_object = t.OBJECTS.c.diaObjectId == table.c.diaObjectId
        valid = (table.c.midpointMjdTai >= since) & table.c.timeWithdrawnMjdTai.is_(None)
        columns = [table.c[column.name] for column in schema.columns]
        query = sa.select(*columns).join(t.OBJECTS, of_object).where(inside & valid)
        key = schema.columns[0].name
        query = query.order_by(table.c.midpointMjdTai, table.c[key])
        rows = from_rows(schema, self._backend.fetch(connection, query))
        return rows[np.isin(rows["diaObjectId"], objects["diaObjectId"])]

    def _later(
        self, connection: sa.Connection, table: sa.Table, batch: Batch
    ) -> Sequence[Sequence[Any]]:
        """(visit, mjd, ra, dec) of rows near the batch that were observed after it."""
        later = _in_ranges(table, batch.region) & (table.c.midpointMjdTai > batch.mjd_tai)
        columns = (table.c.visit, table.c.midpointMjdTai, table.c.ra, table.c.dec)
        return self._backend.fetch(connection, sa.select(*columns).where(later))

    def _status(self, connection: sa.Connection, visit: int, detector: int) -> Status | None:
        at = (t.VISITS.c.visit == visit) & (t.VISITS.c.detector == detector)
        status = connection.execute(sa.select(t.VISITS.c.status).where(at)).scalar()
        return cast(Status | None, status)

    def _write(self, connection: sa.Connection, batch: Batch) -> None:
        write, at = self._backend, (batch.visit, batch.detector)
        write.upsert(connection, t.OBJECTS, _with_pixels(DIA_OBJECT, batch.objects))
        write.insert(connection, t.SOURCES, _with_pixels(DIA_SOURCE, batch.sources))
        write.insert(connection, t.FORCED, _with_pixels(DIA_FORCED_SOURCE, batch.forced))
        write.insert(connection, t.LEDGER, _ledger_rows(batch))
        payloads: Sequence[bytes | None] = batch.payloads or [None] * len(batch.sources)
        alerts = [
            (id, *at, position, batch.topic, "committed", payload)
            for position, (id, payload) in enumerate(
                zip(batch.sources["diaSourceId"].tolist(), payloads)
            )
        ]
        write.insert(connection, t.OUTBOX, alerts)
        new = np.isin(batch.objects["diaObjectId"], batch.sources["diaSourceId"]).sum()
        counts = (len(batch.sources), int(new), len(batch.forced), len(batch.rejected))
        marker = (*at, "done", "", batch.mjd_tai, _null(batch.now_mjd_tai), *counts)
        write.upsert(connection, t.VISITS, [marker])


def _in_ranges(table: sa.Table, region: Region) -> sa.ColumnElement[bool]:
    return sa.or_(*(table.c.pixelId.between(int(a), int(b)) for a, b in region.ranges()))


def _with_pixels(schema: TableSchema, rows: Rows) -> list[tuple[Any, ...]]:
    return to_rows(schema, rows, sky_pixel(rows["ra"], rows["dec"]).tolist())


def _ledger_rows(batch: Batch) -> list[tuple[Any, ...]]:
    """A rejected detection may lack a position; it is kept all the same."""
    rows = batch.rejected
    placed = np.isfinite(rows["ra"]) & np.isfinite(rows["dec"])
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


def _outcome(row: Sequence[Any]) -> VisitDetector:
    values: list[Any] = [np.nan if value is None else value for value in row]
    return VisitDetector(*values)


def _null(value: float) -> float | None:
    return None if np.isnan(value) else value
