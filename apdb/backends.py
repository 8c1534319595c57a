"""What SQLite and PostgreSQL do differently: connecting, locking, bulk rows, failing."""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from promptdia.apdb.errors import ApdbError, PromptdiaError, TransientError
from promptdia.apdb.rows import Rows, from_rows, to_rows
from promptdia.apdb.schema.table import TableSchema

BUSY_SECONDS = 60
"""How long a transaction waits for others, unless the URL says otherwise."""


class Backend(Protocol):
    """One kind of database."""

    errors: tuple[type[Exception], ...]
    """What its driver raises."""

    def engine(self, url: sa.URL, *, create: bool) -> sa.Engine:
        """Connections to ``url``; ApdbError when there can be none."""
        ...

    def lock(self, connection: sa.Connection, cells: Sequence[int]) -> None:
        """Keep writers that lock one of the same cells waiting until the transaction ends."""
        ...

    def sole_sender(self, engine: sa.Engine) -> AbstractContextManager[None]:
        """Held by one process at a time; others wait. The end of a process lets go."""
        ...

    def prepare(self, engine: sa.Engine, mjd: Rows) -> None:
        """Make room for measurements of these times, before the transaction that writes them."""
        ...

    def read(self, connection: sa.Connection, schema: TableSchema, chosen: str) -> Rows:
        """The columns of ``schema``; ``chosen`` is the SQL that follows FROM and the table."""
        ...

    def append(self, connection: sa.Connection, schema: TableSchema, rows: Rows) -> None:
        """Add rows of ``schema`` to its table; ApdbError when one lacks what it must have."""
        ...

    def insert(self, connection: sa.Connection, table: sa.Table, rows: list[Any]) -> None:
        """Add rows, tuples in the table's column order."""
        ...

    def refusal(self, error: Exception, where: str) -> PromptdiaError | None:
        """What a driver's error means to the user; None when it is a bug of ours."""
        ...


def backend_of(url: sa.URL) -> Backend:
    """The backend for a database URL."""
    name = url.get_backend_name()
    if name == "sqlite":
        return Sqlite()
    if name == "postgresql":
        from promptdia.apdb.postgres import Postgres

        return Postgres()
    raise ApdbError(f"database URL {url} is for {name}; promptdia knows sqlite and postgresql")


class Sqlite:
    """One file, one writer at a time; readers are never blocked (WAL)."""

    errors: tuple[type[Exception], ...] = (sa.exc.DBAPIError, sqlite3.Error)

    def engine(self, url: sa.URL, *, create: bool) -> sa.Engine:
        path = Path(url.database or "")
        if not url.database or url.database == ":memory:":
            raise ApdbError("an SQLite APDB needs a file: sqlite:////absolute/path/apdb.sqlite")
        if not (create or url.database.startswith("file:") or path.exists()):
            raise ApdbError(f"no APDB at {path}; make one with `promptdia apdb ROOT create`")
        waits = {} if "timeout" in url.query else {"timeout": BUSY_SECONDS}
        engine = sa.create_engine(url, connect_args=waits)

        @sa.event.listens_for(engine, "connect")
        def prepare(connection: Any, _: Any) -> None:
            connection.isolation_level = None  # transactions begin where we say
            # an alert must never be sent for a commit that a power cut takes back
            connection.execute("PRAGMA synchronous = FULL")
            if create:
                connection.execute("PRAGMA journal_mode = WAL")

        @sa.event.listens_for(engine, "begin")
        def begin(connection: sa.Connection) -> None:
            write = connection.get_execution_options().get("write", False)
            # a writer takes its lock at once: no deadlock between two that have read
            connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

        return engine

    def lock(self, connection: sa.Connection, cells: Sequence[int]) -> None:
        """Nothing to do: BEGIN IMMEDIATE holds the whole file."""

    @contextmanager
    def sole_sender(self, engine: sa.Engine) -> Iterator[None]:
        # a transaction that never writes, in a file of its own: the system ends it with us
        path = f"{engine.url.database or ''}".removeprefix("file:") + "-sender"
        waits = float(str(engine.url.query.get("timeout", BUSY_SECONDS)))
        with closing(sqlite3.connect(path, timeout=waits, isolation_level=None)) as holder:
            holder.execute("BEGIN EXCLUSIVE")
            yield

    def prepare(self, engine: sa.Engine, mjd: Rows) -> None:
        """Nothing to do: each table is one."""

    def read(self, connection: sa.Connection, schema: TableSchema, chosen: str) -> Rows:
        columns = ", ".join(f'"{column.name}"' for column in schema.columns)
        result = connection.exec_driver_sql(f'SELECT {columns} FROM "{schema.name}" {chosen}')
        assert result.cursor is not None  # a SELECT always has one
        rows = result.cursor.fetchall()
        result.close()
        return from_rows(schema, rows)

    def append(self, connection: sa.Connection, schema: TableSchema, rows: Rows) -> None:
        _insert(connection, schema.name, to_rows(schema, rows))

    def insert(self, connection: sa.Connection, table: sa.Table, rows: list[Any]) -> None:
        _insert(connection, table.name, rows)

    def refusal(self, error: Exception, where: str) -> PromptdiaError | None:
        said = str(getattr(error, "orig", error))
        if "locked" in said or "busy" in said:
            return TransientError(f"{where} is locked by another process; try again later")
        for sign, sentence in _SQLITE_REFUSALS.items():
            if sign in said:
                return ApdbError(f"{where} {sentence} ({said})")
        return None


def _insert(connection: sa.Connection, name: str, rows: list[Any]) -> None:
    if rows:
        places = ", ".join("?" * len(rows[0]))
        connection.exec_driver_sql(f'INSERT INTO "{name}" VALUES ({places})', rows)


_SQLITE_REFUSALS = {
    "readonly": "is read-only: check the permissions of the file and its folder",
    "is full": "cannot grow: no space is left",
    "unable to open": "cannot be opened: check that its folder exists and can be written",
    "not a database": "is no SQLite database",
    "malformed": "is damaged: restore it from a copy",
    "disk I/O": "cannot be read or written: the disk fails",
    "UNIQUE constraint": "already holds one of these rows",
    "no such table": "lacks a table; make it with `promptdia apdb ROOT create`",
}
