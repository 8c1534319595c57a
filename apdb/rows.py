"""Structured arrays as rows for SQL and back: nan, '' and id 0 stand for NULL."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from promptdia.apdb.errors import ApdbError
from promptdia.apdb.pixels import sky_pixel
from promptdia.apdb.schema.table import Column, TableSchema

Rows = NDArray[Any]

PIXEL = Column("pixelId", "long", "", "order-20 nested HEALPix pixel", nullable=False)


def stored(schema: TableSchema) -> TableSchema:
    """A table of the sky as the database holds it: the pixel of each row is its last column."""
    return TableSchema(schema.name, (*schema.columns, PIXEL))


def with_pixels(schema: TableSchema, rows: Rows) -> Rows:
    """Rows of ``stored(schema)``; ApdbError when one has no position."""
    result = np.empty(rows.size, stored(schema).dtype)
    for column in schema.columns:
        result[column.name] = rows[column.name]
    result[PIXEL.name] = sky_pixel(rows["ra"], rows["dec"])
    return result


def missing(table: TableSchema, column: Column, values: Rows) -> NDArray[np.bool_] | None:
    """(n,) which values are NULL, None when none is; ApdbError where a value must be known."""
    kind = column.dtype.kind
    if kind == "f":
        unknown = np.isnan(values)
    elif kind == "U":
        unknown = values == ""
    elif kind == "i" and column.nullable:
        unknown = values == 0
    else:
        return None
    if not unknown.any():
        return None
    if not column.nullable:
        raise ApdbError(
            f"{table.name} row {int(np.argmax(unknown))} of {values.size} has no {column.name}, "
            "which every row must have"
        )
    return np.asarray(unknown)


def to_rows(table: TableSchema, values: Rows) -> list[tuple[Any, ...]]:
    """One tuple per row in the table's column order.

    ApdbError when a column that must be known is not.
    """
    return list(zip(*(_to_sql(table, column, values[column.name]) for column in table.columns)))


def from_rows(table: TableSchema, rows: Sequence[Sequence[Any]]) -> Rows:
    """The structured array of tuples whose first columns are those of the table."""
    result = table.empty(len(rows))
    if rows:
        for column, values in zip(table.columns, zip(*rows)):
            result[column.name] = _to_numpy(column, values)
    return result


def _to_sql(table: TableSchema, column: Column, values: Rows) -> list[Any]:
    plain: list[Any] = values.tolist()
    unknown = missing(table, column, values)
    if unknown is not None:
        for i in np.flatnonzero(unknown):
            plain[i] = None
    return plain


def _to_numpy(column: Column, values: Sequence[Any]) -> Any:
    if column.dtype.kind == "f":
        return np.array(values, float)  # None becomes nan
    if column.dtype.kind == "U":
        return [v or "" for v in values]
    return [v or 0 for v in values] if column.nullable else values
