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
    LINK_ARCSEC,
    OBJECT_STATE,
    PLACE_OF_FORCED,
    PLACE_OF_SOURCE,
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
from promptdia.apdb.queries import among, join_region, valid_since
from promptdia.apdb.rows import Rows
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
from promptdia.apdb.writing import QUALITY, mark, marker, replace_objects, write_batch

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
            # a database that is read-only or on a full disk is noticed before any work
            if not connection.execute(t.META.update().values(value=t.META.c.value)).rowcount:
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
        # what was measured of an object near the border may lie beyond it
        around = f"{join_region(region.widened(LINK_ARCSEC))} WHERE {valid_since(since)}"
        with self._transaction() as connection:
            found = self._objects(connection, DIA_OBJECT, join_region(region))
            objects = found[region.contains(found["ra"], found["dec"])]
            sources, forced = (
                self._measured(connection, schema, around, objects)
                for schema in (DIA_SOURCE, DIA_FORCED_SOURCE)
            )
        return History(objects, sources, forced)

    def commit(self, batch: Batch, *, out_of_order: bool = False) -> bool:
        refuse_nonsense(batch)
        with self._refusals():
            self._backend.prepare(self._engine, _times(batch))
        with self._transaction(write=True) as connection:
            self._backend.lock(connection, batch.region.cells(_LOCK_ORDER))
            if self._status(connection, batch.visit, batch.detector) == "done":
                return False
            inside = join_region(batch.region)
            if not out_of_order:
                # a month more than is asked: for a few rows PostgreSQL would read all of a month's
                later = f'{inside} WHERE "midpointMjdTai" >= {batch.mjd_tai - 31!r}'
                for schema in (PLACE_OF_SOURCE, PLACE_OF_FORCED):
                    refuse_later_visits(batch, self._backend.read(connection, schema, later))
            refuse_changed_sky(batch, self._objects(connection, OBJECT_STATE, inside))
            write_batch(self._backend, connection, batch)
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

    def observed(self, region: Region, since: float, before: float) -> list[VisitDetector]:
        at = t.VISITS.c
        then = (at.midpointMjdTai >= since) & (at.midpointMjdTai < before) & (at.status == "done")
        dec, reach = region.centre_deg[1], region.radius_deg + at.radius
        then &= at.dec.between(dec - reach, dec + reach)
        query = sa.select(t.VISITS).where(then).order_by(at.midpointMjdTai, at.visit, at.detector)
        with self._transaction() as connection:
            rows = [_outcome(row) for row in connection.execute(query).all()]
        return [row for row in rows if region.touches(row.ra, row.dec, row.radius_deg)]

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
        row = marker(visit, detector, status, reason, mjd_tai, now_mjd_tai)
        with self._transaction(write=True) as connection:
            if self._status(connection, visit, detector) == "done":
                return False
            mark(connection, row)
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
        inside = join_region(region)
        with self._transaction() as connection:
            for table, key in ((t.SOURCES, "diaSourceId"), (t.LEDGER, "id")):
                near = connection.exec_driver_sql(
                    f'SELECT "{key}", ra, dec FROM "{table.name}" {inside} '
                    f'WHERE visit = {int(visit)} ORDER BY "{key}"'
                )
                for id, ra, dec in near:
                    if region.contains(np.array(ra), np.array(dec)):
                        found.append(id)
        return np.array(found, np.int64)

    def objects(self) -> Rows:
        with self._transaction() as connection:
            return self._objects(connection, OBJECT_STATE, "")

    def history(self, dia_object_ids: NDArray[np.int64]) -> History:
        these = f"WHERE {among(dia_object_ids)}"
        with self._transaction() as connection:
            objects = self._objects(connection, DIA_OBJECT, these)
            sources, forced = (
                self._measured(connection, schema, f"{these} AND {valid_since(_LONG_AGO)}", objects)
                for schema in (DIA_SOURCE, DIA_FORCED_SOURCE)
            )
        return History(objects, sources, forced)

    def merge(self, into: Mapping[int, int], objects: Rows, seen: Rows, now_mjd_tai: float) -> int:
        pixels = sky_pixel(seen["ra"], seen["dec"]) >> 2 * (ORDER - _LOCK_ORDER)
        with self._transaction(write=True) as connection:
            self._backend.lock(connection, sorted({int(p) for p in pixels}))
            these = f"WHERE {among(seen['diaObjectId'])}"
            refuse_changed_objects(seen, self._objects(connection, OBJECT_STATE, these))
            dropped = move_rows(connection, into, now_mjd_tai)
            replace_objects(self._backend, connection, objects)
        return dropped

    def partitions(self, max_rows: int) -> Iterator[Partition]:
        tables = ((DIA_OBJECT, t.OBJECTS), (DIA_SOURCE, t.SOURCES), (DIA_FORCED_SOURCE, t.FORCED))
        with self._transaction() as connection:
            for schema, table in tables:
                everything = sa.select(table.c.pixelId).order_by(table.c.pixelId)
                pixels = np.array(connection.execute(everything).scalars().all(), np.int64)
                by_place = f'ORDER BY "pixelId", "{schema.columns[0].name}"'
                for order, pixel, _ in split(pixels, max_rows):
                    first, last = pixel_range(order, pixel)
                    inside = f'WHERE "pixelId" BETWEEN {first} AND {last} {by_place}'
                    rows = self._backend.read(connection, schema, inside)
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

    def _objects(self, connection: sa.Connection, schema: TableSchema, chosen: str) -> Rows:
        """Some columns of objects, by id."""
        rows = self._backend.read(connection, schema, chosen)
        return rows[np.argsort(rows["diaObjectId"])]

    def _measured(
        self, connection: sa.Connection, schema: TableSchema, chosen: str, objects: Rows
    ) -> Rows:
        """The rows of ``schema`` that belong to ``objects``, oldest first."""
        rows = self._backend.read(connection, schema, chosen)
        mine = np.flatnonzero(np.isin(rows["diaObjectId"], objects["diaObjectId"]))
        keys = (rows[name][mine] for name in (schema.columns[0].name, "midpointMjdTai"))
        return rows[mine[np.lexsort(tuple(keys))]]

    def _status(self, connection: sa.Connection, visit: int, detector: int) -> Status | None:
        at = (t.VISITS.c.visit == visit) & (t.VISITS.c.detector == detector)
        status = connection.execute(sa.select(t.VISITS.c.status).where(at)).scalar()
        return cast(Status | None, status)


def _times(batch: Batch) -> Rows:
    return np.concatenate([rows["midpointMjdTai"] for rows in (batch.sources, batch.forced)])


def _outcome(row: Sequence[Any]) -> VisitDetector:
    values: list[Any] = [np.nan if value is None else value for value in row]
    known = {k: v for k, v in zip(QUALITY, row[-len(QUALITY) :]) if v is not None}
    return VisitDetector(*[*values[: -len(QUALITY)], known])
