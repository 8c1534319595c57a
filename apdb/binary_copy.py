"""PostgreSQL's binary COPY format to and from structured arrays, without a loop over rows.

A row is a 16-bit count of fields and, for each, a 32-bit length and the value, all big
endian; a length of -1 is NULL and has no value (PostgreSQL manual, "COPY", file formats).
"""

import numpy as np
from numpy.typing import NDArray

from promptdia.apdb.rows import Rows, missing
from promptdia.apdb.schema.table import Column, TableSchema

_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TRAILER = b"\xff\xff"


def encode(schema: TableSchema, rows: Rows) -> bytes:
    """Rows as COPY FROM reads them; ApdbError when a value that must be known is not."""
    texts = {
        c.name: np.char.encode(rows[c.name], "utf-8") for c in schema.columns if c.dtype.kind == "U"
    }
    widths = {name: max(1, text.dtype.itemsize) for name, text in texts.items()}
    layout = _layout(schema, widths)
    block = np.zeros(rows.size, layout)
    block["n_fields"] = len(schema.columns)
    kept = np.ones((rows.size, layout.itemsize), bool)
    for number, column in enumerate(schema.columns):
        name, length, start = column.name, f"length_{number}", _offset(layout, f"value_{number}")
        value = texts.get(name, rows[name])
        size = layout[f"value_{number}"].itemsize
        block[f"value_{number}"] = value
        block[length] = size
        if name in texts:
            block[length] = np.char.str_len(value)
            used = np.arange(size) < block[length][:, None]
            kept[:, start : start + size] = used
        unknown = missing(schema, column, rows[name])
        if unknown is not None:
            block[length][unknown] = -1
            kept[unknown, start : start + size] = False
    content = block.view(np.uint8).reshape(rows.size, layout.itemsize)[kept]
    return b"".join((_HEADER, content.tobytes(), _TRAILER))


def select_list(schema: TableSchema) -> str:
    """The columns for a COPY TO that ``decode`` reads: no NULL, so that all rows are alike."""
    return ", ".join(_known(column) for column in schema.columns)


def decode(schema: TableSchema, data: bytes) -> Rows | None:
    """The rows of a COPY TO of ``select_list``; None when a text is not ASCII and they differ."""
    widths = {c.name: _characters(c) for c in schema.columns if c.dtype.kind == "U"}
    layout = _layout(schema, widths)
    n, rest = divmod(len(data) - len(_HEADER) - len(_TRAILER), layout.itemsize)
    if rest:
        return None
    block = np.frombuffer(data, layout, n, len(_HEADER))
    rows = np.empty(n, schema.dtype)
    for number, column in enumerate(schema.columns):
        value = block[f"value_{number}"]
        if (block[f"length_{number}"] != value.dtype.itemsize).any():
            return None
        if column.dtype.kind == "U":
            value = np.char.rstrip(value.astype(column.dtype))
        rows[column.name] = value
    return rows


def _known(column: Column) -> str:
    name, kind = f'"{column.name}"', column.dtype.kind
    if kind == "U":
        return f"rpad(coalesce({name}, ''), {_characters(column)})"
    if kind == "b" or not column.nullable:
        return name
    return f"coalesce({name}, {'0' if kind == 'i' else repr('NaN')})"


def _characters(column: Column) -> int:
    return column.dtype.itemsize // np.dtype("U1").itemsize


def _layout(schema: TableSchema, widths: dict[str, int]) -> "np.dtype[np.void]":
    """The bytes of a row in which nothing is NULL."""
    fields: list[tuple[str, str]] = [("n_fields", ">i2")]
    for number, column in enumerate(schema.columns):
        text = f"S{widths[column.name]}" if column.name in widths else ""
        fields += [(f"length_{number}", ">i4"), (f"value_{number}", text or _big_endian(column))]
    return np.dtype(fields)


def _big_endian(column: Column) -> str:
    return column.dtype.newbyteorder(">").str


def _offset(layout: "np.dtype[np.void]", name: str) -> int:
    fields: dict[str, NDArray[np.void]] = dict(layout.fields or {})  # type: ignore[arg-type]
    return int(fields[name][1])
