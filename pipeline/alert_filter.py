"""Which alerts to keep: an SQL condition or a Python expression, tried on many at a time."""

import importlib
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from promptdia.apdb.schema.lsst import avro_schema
from promptdia.pipeline.errors import ConfigError

Packet = dict[str, Any]
Keep = Callable[[Sequence[Packet]], list[bool | str]]
"""For each alert True or False, or what went wrong when it was asked."""
_RECORDS = ("diaSource", "diaObject", "ssSource")
_COUNTS = {"nPrvDiaSources": "prvDiaSources", "nPrvDiaForcedSources": "prvDiaForcedSources"}
_TEXTS = ("observation_reason", "target_name")
# What an expression raises on a value that it did not reckon with, mostly a missing one.
_UNEXPECTED = (TypeError, ValueError, LookupError, ArithmeticError, AttributeError)


def sql_filter(condition: str) -> Keep:
    """What a WHERE clause in SQLite's dialect keeps; ConfigError when it is none.

    The columns are those of diaSource, diaObject and ssSource (``snr > 10 AND
    diaObject.nDiaSources > 3``; a name that two of them have needs its record in front),
    and observation_reason, target_name, nPrvDiaSources and nPrvDiaForcedSources. Missing
    values and nan are NULL.
    """
    database = sqlite3.connect(":memory:", check_same_thread=False)
    columns = _columns()
    for table, names in columns.items():
        database.execute(f"CREATE TABLE {table} (row INTEGER PRIMARY KEY, {', '.join(names)})")
    query = (
        "SELECT alert.row FROM alert JOIN diaSource USING (row) LEFT JOIN diaObject USING (row) "
        f"LEFT JOIN ssSource USING (row) WHERE ({condition}\n)"
    )
    used: dict[str, set[str]] = {table: set() for table in columns}

    def note(action: int, table: str | None, column: str | None, *_: object) -> int:
        if action == sqlite3.SQLITE_READ and table in used and column != "row":
            used[table].add(str(column))
        allowed = (sqlite3.SQLITE_READ, sqlite3.SQLITE_SELECT, sqlite3.SQLITE_FUNCTION)
        return sqlite3.SQLITE_OK if action in allowed else sqlite3.SQLITE_DENY

    database.set_authorizer(note)
    try:
        database.execute(query).fetchall()
    except (sqlite3.Error, sqlite3.Warning) as error:
        raise ConfigError(
            f"the condition {condition!r} is no SQL: {error}; columns are those of "
            f"{', '.join(_RECORDS)}, as in diaSource.ra"
        ) from error
    database.set_authorizer(None)
    wanted = {table: [c for c in columns[table] if c in used[table]] for table in columns}

    def keep(alerts: Sequence[Packet]) -> list[bool | str]:
        for table, names in wanted.items():
            database.execute(f"DELETE FROM {table}")
            rows = [
                (i, *(record.get(n) for n in names))
                for i, alert in enumerate(alerts)
                if (record := _record(alert, table)) is not None
            ]
            marks = ", ".join("?" * (1 + len(names)))
            into = ", ".join(["row", *names])
            database.executemany(f"INSERT INTO {table} ({into}) VALUES ({marks})", rows)
        try:
            kept = {row for (row,) in database.execute(query)}
        except sqlite3.Error as error:
            return [f"filter: {error}"] * len(alerts)
        return [i in kept for i in range(len(alerts))]

    return keep


def python_filter(expression: str) -> Keep:
    """What a Python expression keeps, whose names are the alert's fields.

    For example ``diaSource["snr"] > 10 and len(prvDiaSources or ()) > 3``. ConfigError when
    it is no expression. An alert on which it raises is not kept.
    """
    try:
        code = compile(expression, "<filter>", "eval")
    except (SyntaxError, ValueError) as error:
        raise ConfigError(f"{expression!r} is no Python expression: {error}") from error
    fields = {field["name"] for field in avro_schema("11.1")["fields"]}
    nothing = dict.fromkeys(fields)

    def one(alert: Packet) -> bool | str:
        try:
            return bool(eval(code, {}, nothing | alert))
        except NameError as error:
            raise ConfigError(
                f"{expression!r}: {error}; an alert has {', '.join(sorted(fields))}"
            ) from error
        except _UNEXPECTED as error:
            return f"filter: {type(error).__name__} {error}"

    return lambda alerts: [one(alert) for alert in alerts]


def load_function(name: str) -> Callable[[Packet], object]:
    """The function that MODULE:FUNCTION names; ConfigError when there is none."""
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"{name} is no MODULE:FUNCTION that can be called: {error}") from error
    if not callable(found):
        raise ConfigError(f"{name} is no function")
    return found  # type: ignore[no-any-return]  # whatever it returns is not looked at


def _columns() -> dict[str, list[str]]:
    columns = {"alert": [*_TEXTS, *_COUNTS]}
    for field in avro_schema("11.1")["fields"]:
        if field["name"] in _RECORDS:
            kind = field["type"][1] if isinstance(field["type"], list) else field["type"]
            columns[field["name"]] = [column["name"] for column in kind["fields"]]
    return columns


def _record(alert: Packet, table: str) -> Packet | None:
    if table != "alert":
        return alert.get(table)
    counts = {name: len(alert.get(array) or ()) for name, array in _COUNTS.items()}
    return {**{name: alert.get(name) for name in _TEXTS}, **counts}
