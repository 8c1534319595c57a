"""PostgreSQL by psycopg 3: COPY for bulk rows, advisory locks on the sky."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
import sqlalchemy as sa

from promptdia.apdb.backends import BUSY_SECONDS, literal_sql, on_conflict
from promptdia.apdb.errors import ApdbError, PromptdiaError, TransientError

_LOCK_SPACE = 0x50_44_49_41  # "PDIA": advisory locks are shared with the database's other users
_SENDERS = _LOCK_SPACE + 1
"""Locks of the processes that send."""


class Postgres:
    """Many writers at once; those of overlapping sky wait for each other."""

    errors: tuple[type[Exception], ...] = (sa.exc.DBAPIError, psycopg.Error)

    def engine(self, url: sa.URL, *, create: bool) -> sa.Engine:
        url = url.set(drivername="postgresql+psycopg")
        query = {"connect_timeout": "10", **url.query}
        query["options"] = f"-c lock_timeout={BUSY_SECONDS}s {url.query.get('options', '')}"
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
            holder.execute(unlock)

    def fetch(self, connection: sa.Connection, query: sa.Select[Any]) -> Sequence[Sequence[Any]]:
        sql = literal_sql(connection, query)
        with _driver(connection).cursor(binary=True) as cursor:
            return cursor.execute(sql.encode()).fetchall()

    def insert(self, connection: sa.Connection, table: sa.Table, rows: list[Any]) -> None:
        if rows:
            self._copy(connection, table.name, rows)

    def upsert(self, connection: sa.Connection, table: sa.Table, rows: list[Any]) -> None:
        if not rows:
            return
        staged = f"staged_{table.name}"
        keys = ", ".join(f'"{column.name}"' for column in table.primary_key)
        connection.exec_driver_sql(
            f'CREATE TEMP TABLE "{staged}" (LIKE "{table.name}") ON COMMIT DROP'
        )
        self._copy(connection, staged, rows)
        # rows are locked in the order of their keys: no deadlock with another writer
        connection.exec_driver_sql(
            f'INSERT INTO "{table.name}" SELECT * FROM "{staged}" ORDER BY {keys} '
            + on_conflict(table)
        )

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

    def _copy(self, connection: sa.Connection, name: str, rows: list[Any]) -> None:
        with (
            _driver(connection).cursor() as cursor,
            cursor.copy(f'COPY "{name}" FROM STDIN'.encode()) as copy,
        ):
            for row in rows:
                copy.write_row(row)


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
