"""Structured arrays as rows for SQL and back: nan, '' and id 0 stand for NULL."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdia.apdb.errors import ApdbError
from promptdia.apdb.schema.table import Column, TableSchema

Rows = NDArray[Any]


def to_rows(table: TableSchema, values: Rows, *more: Sequence[Any]) -> list[tuple[Any, ...]]:
    """One tuple per row in the table's column order, ``more`` columns after them.

    ApdbError when a column that must be known is not.
    """
    columns = [_to_sql(table, column, values[column.name]) for column in table.columns]
    return list(zip(*columns, *more))


def from_rows(table: TableSchema, rows: Sequence[Sequence[Any]]) -> Rows:
    """The structured array of tuples whose first columns are those of the table."""
    result = table.empty(len(rows))
    if rows:
        for column, values in zip(table.columns, zip(*rows)):
            result[column.name] = _to_numpy(column, values)
    return result


def _to_sql(table: TableSchema, column: Column, values: Rows) -> list[Any]:
    kind = column.dtype.kind
    plain: list[Any] = values.tolist()
    if kind == "f":
        missing = np.isnan(values)
    elif kind == "U":
        missing = values == ""
    elif kind == "i" and column.nullable:
        missing = values == 0
    else:
        return plain
    if not missing.any():
        return plain
    if not column.nullable:
        raise ApdbError(
            f"{table.name} row {int(np.argmax(missing))} of {values.size} has no {column.name}, "
            "which every row must have"
        )
    for i in np.flatnonzero(missing):
        plain[i] = None
    return plain


def _to_numpy(column: Column, values: Sequence[Any]) -> Any:
    if column.dtype.kind == "f":
        return np.array(values, float)  # None becomes nan
    if column.dtype.kind == "U":
        return [v or "" for v in values]
    return [v or 0 for v in values] if column.nullable else values
