"""PostgreSQL by psycopg 3: COPY for bulk rows, advisory locks on the sky."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa
from psycopg import pq
from psycopg.errors import error_from_result

from promptdia.apdb.backends import BUSY_SECONDS
from promptdia.apdb.binary_copy import decode, encode, select_list
from promptdia.apdb.errors import ApdbError, PromptdiaError, TransientError
from promptdia.apdb.months import Month, months_of
from promptdia.apdb.rows import Rows, from_rows
from promptdia.apdb.schema.table import TableSchema
from promptdia.apdb.tables import PARTITIONED

_LOCK_SPACE = 0x50_44_49_41  # "PDIA": advisory locks are shared with the database's other users
_SENDERS = _LOCK_SPACE + 1
"""Locks of the processes that send."""
_PARTITIONS = _LOCK_SPACE + 2
"""The lock of those who make partitions."""


class Postgres:
    """Many writers at once; those of overlapping sky wait for each other."""

    errors: tuple[type[Exception], ...] = (sa.exc.DBAPIError, psycopg.Error)

    def engine(self, url: sa.URL, *, create: bool) -> sa.Engine:
        url = url.set(drivername="postgresql+psycopg")
        query = {"connect_timeout": "10", **url.query}
        query["options"] = (
            f"-c lock_timeout={BUSY_SECONDS}s -c jit=off {url.query.get('options', '')}"
        )
        url = url.set(query=query)
        engine = sa.create_engine(url, pool_pre_ping=True)

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            if not connection.get_execution_options().get("write", False):
                # all queries of a reader see one moment
                connection.exec_driver_sql(
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY"
                )

        return engine

    def lock(self, connection: sa.Connection, cells: Sequence[int]) -> None:
        # in ascending order, so that two writers never wait for each other in a circle
        connection.execute(
            sa.text(
                "SELECT pg_advisory_xact_lock(:space, cell) "
                "FROM unnest(CAST(:cells AS integer[])) AS cell"
            ),
            {"space": _LOCK_SPACE, "cells": sorted(cells)},
        )

    @contextmanager
    def sole_sender(self, engine: sa.Engine) -> Iterator[None]:
        # databases in other schemas of the same server send for themselves
        lock, unlock = (
            sa.text(f"SELECT {call}({_SENDERS}, hashtext(current_schema()))")
            for call in ("pg_advisory_lock", "pg_advisory_unlock")
        )
        plain = engine.execution_options(isolation_level="AUTOCOMMIT", write=True)
        with plain.connect() as holder:
            holder.execute(lock)
            try:
                yield
            except BaseException:
                holder.invalidate()  # the lock goes with its connection, even a broken one
                raise
            try:
                holder.execute(unlock)
            except sa.exc.DBAPIError:
                holder.invalidate()  # the server went, or cut the connection, while we sent

    def prepare(self, engine: sa.Engine, mjd: Rows) -> None:
        months = months_of(mjd)
        with engine.execution_options(write=False).begin() as connection:
            present = _partitions(connection)
        missing = [
            (table, month)
            for table in PARTITIONED
            for month in months
            if f"{table}_{month.name}" not in present
        ]
        if missing:
            with engine.execution_options(write=True).begin() as connection:
                _create_partitions(connection, missing)

    def read(self, connection: sa.Connection, schema: TableSchema, chosen: str) -> Rows:
        these = f'FROM "{schema.name}" {chosen}'
        query = f"COPY (SELECT {select_list(schema)} {these}) TO STDOUT (FORMAT BINARY)"
        driver = _driver(connection)
        rows = decode(schema, _copied(driver, query))
        if rows is not None:
            return rows
        columns = ", ".join(f'"{column.name}"' for column in schema.columns)
        with driver.cursor(binary=True) as cursor:
            found = cursor.execute(f"SELECT {columns} {these}".encode()).fetchall()
        return from_rows(schema, found)

    def append(self, connection: sa.Connection, schema: TableSchema, rows: Rows) -> None:
        if rows.size:
            statement = f'COPY "{schema.name}" FROM STDIN (FORMAT BINARY)'
            with _driver(connection).cursor() as cursor, cursor.copy(statement.encode()) as copy:
                copy.write(encode(schema, rows))

    def insert(self, connection: sa.Connection, table: sa.Table, rows: list[Any]) -> None:
        if rows:
            statement = f'COPY "{table.name}" FROM STDIN (FORMAT BINARY)'
            types = [str(c.type.compile(connection.dialect)).lower() for c in table.columns]
            with _driver(connection).cursor() as cursor, cursor.copy(statement.encode()) as copy:
                copy.set_types(types)
                for row in rows:
                    copy.write_row(row)

    def refusal(self, error: Exception, where: str) -> PromptdiaError | None:
        driver_error = getattr(error, "orig", error)
        code = getattr(driver_error, "sqlstate", None) or ""
        said = str(driver_error).strip().splitlines()
        first = said[0] if said else type(driver_error).__name__
        for start, sentence in _REFUSALS.items():
            if code.startswith(start):
                return ApdbError(f"{where} {sentence} ({first})")
        if code.startswith(_PASSING) or (not code and _lost(driver_error)):
            return _connection_refusal(first, where)
        return None


def _copied(driver: "psycopg.Connection[Any]", query: str) -> bytes:
    """What a COPY TO STDOUT sends; psycopg's own way costs more than the database for each row."""
    link = driver.pgconn
    result = link.exec_(query.encode())
    parts = []
    if result.status == pq.ExecStatus.COPY_OUT:
        while (part := link.get_copy_data(0))[0] > 0:
            parts.append(bytes(part[1]))
        result = link.get_result() or result
        while link.get_result():
            pass
    if result.status != pq.ExecStatus.COMMAND_OK:
        raise error_from_result(result)
    return b"".join(parts)


def _partitions(connection: sa.Connection) -> set[str]:
    """The names of all that exist."""
    parents = ", ".join(f"to_regclass('\"{name}\"')" for name in PARTITIONED)
    children = connection.exec_driver_sql(
        "SELECT relname FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid "
        f"WHERE inhparent IN ({parents})"
    )
    return set(children.scalars())


def _create_partitions(connection: sa.Connection, missing: Sequence[tuple[str, Month]]) -> None:
    """Those of ``missing`` that nobody else made meanwhile.

    A table is made alone and attached then, which keeps no reader and no writer of the
    others waiting, as making it in its place would.
    """
    connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_PARTITIONS}, 0)")
    present = _partitions(connection)
    for table, month in missing:
        name = f"{table}_{month.name}"
        if name not in present:
            connection.exec_driver_sql(f'CREATE TABLE "{name}" (LIKE "{table}" INCLUDING ALL)')
            connection.exec_driver_sql(
                f'ALTER TABLE "{table}" ATTACH PARTITION "{name}" '
                f"FOR VALUES FROM ({month.start}) TO ({month.end})"
            )


_REFUSALS = {
    "25006": "is read-only",
    "53100": "cannot grow: no space is left",
    "42501": "does not let this user write",
    "42P01": "lacks a table; make it with `promptdia apdb ROOT create`",
    "23505": "already holds one of these rows",
    "23502": "was given a row without a value it needs",
}
_PASSING = ("08", "57P", "53", "40", "55P03")
"""Connection lost, server stopping, too many clients, deadlock, lock not granted in time."""


def _lost(error: object) -> bool:
    return isinstance(error, psycopg.OperationalError | psycopg.InterfaceError)


def _connection_refusal(said: str, where: str) -> PromptdiaError:
    """A refused login never heals by waiting; everything else about a connection may."""
    if "does not exist" in said or "authentication failed" in said or "no password" in said:
        return ApdbError(f"{where} refuses the connection: {said}")
    return TransientError(f"{where} is away or busy: {said}")


def _driver(connection: sa.Connection) -> "psycopg.Connection[Any]":
    driver = connection.connection.driver_connection
    assert isinstance(driver, psycopg.Connection)
    return driver
