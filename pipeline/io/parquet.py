"""Catalogues as Parquet files, with units and descriptions in the field metadata."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from promptdia.apdb.schema.table import TableSchema
from promptdia.pipeline.errors import InputError
from promptdia.pipeline.io.files import whole_file
from promptdia.tasks.model.arrays import Catalog


def write_catalog(path: Path, rows: Catalog, schema: TableSchema | None = None) -> None:
    """Write a structured array, whole or not at all."""
    described = {c.name: c for c in schema.columns} if schema else {}
    fields, columns = [], []
    for name in rows.dtype.names or ():
        values = pa.array(np.ascontiguousarray(rows[name]))
        meta = None
        if name in described:
            meta = {"unit": described[name].unit, "description": described[name].description}
        fields.append(pa.field(name, values.type, metadata=meta))
        columns.append(values)
    table = pa.Table.from_arrays(columns, schema=pa.schema(fields))
    with whole_file(path) as part:
        pq.write_table(table, part, compression="zstd")


def read_catalog(path: Path, schema: TableSchema) -> Catalog:
    """Rows of a file in the schema's dtype; columns the file lacks stay unknown."""
    return catalog(read_table(path), schema)


def catalog(table: pa.Table, schema: TableSchema) -> Catalog:
    """Rows of an Arrow table in the schema's dtype; what it lacks stays unknown."""
    rows = schema.empty(table.num_rows)
    for column in schema.columns:
        if column.name in table.column_names:
            values = table[column.name]
            if values.null_count and column.dtype.kind != "f":
                unknown: Any = "" if column.dtype.kind == "U" else 0
                values = values.fill_null(unknown)
            rows[column.name] = values.to_numpy()
    return rows


def read_array(path: Path) -> Catalog:
    """All columns of a file as a structured array, types as stored."""
    table = read_table(path)
    columns = {name: _numpy(table[name]) for name in table.column_names}
    rows = np.zeros(table.num_rows, [(name, values.dtype) for name, values in columns.items()])
    for name, values in columns.items():
        rows[name] = values
    return rows


def read_table(path: Path) -> pa.Table:
    """A Parquet file as an Arrow table; broken files are named."""
    try:
        return pq.read_table(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise InputError(f"{path} is not a readable Parquet file: {error}") from error


def _numpy(column: Any) -> Any:
    values = column.to_numpy()
    return values.astype(str) if values.dtype.kind == "O" else values
