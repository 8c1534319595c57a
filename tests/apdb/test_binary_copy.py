"""PostgreSQL's binary COPY format, against a reader and writer that go value by value."""

import struct
from typing import Any

import numpy as np
import pytest
from support.apdb import assert_same_rows, random_rows

from promptdia.apdb.binary_copy import decode, encode
from promptdia.apdb.errors import ApdbError
from promptdia.apdb.rows import to_rows
from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE, DIA_OBJECT, DIA_SOURCE, REJECTED
from promptdia.apdb.schema.table import TableSchema

TABLES = [DIA_OBJECT, DIA_SOURCE, DIA_FORCED_SOURCE, REJECTED]
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
FORMATS = {"i8": ">q", "i4": ">i", "i2": ">h", "f8": ">d", "f4": ">f", "b1": ">?"}


def value_bytes(schema: TableSchema, name: str, value: Any) -> bytes:
    """One field as the manual describes it."""
    if value is None:
        return struct.pack(">i", -1)
    dtype = schema[name].dtype
    raw = value.encode() if dtype.kind == "U" else struct.pack(FORMATS[dtype.str[1:]], value)
    return struct.pack(">i", len(raw)) + raw


def by_hand(schema: TableSchema, rows: list[tuple[Any, ...]]) -> bytes:
    lines = [
        struct.pack(">h", len(row))
        + b"".join(value_bytes(schema, c.name, v) for c, v in zip(schema.columns, row))
        for row in rows
    ]
    return HEADER + b"".join(lines) + b"\xff\xff"


def as_sent(schema: TableSchema, rows: Any) -> bytes:
    """What the server sends for ``select_list``: nan, 0 and blanks where nothing is known."""
    texts = {c.name: c.dtype.itemsize // 4 for c in schema.columns if c.dtype.kind == "U"}
    padded = [
        tuple(v.ljust(texts[n]) if n in texts else v for n, v in zip(rows.dtype.names, row))
        for row in rows.tolist()
    ]
    return by_hand(schema, padded)


@pytest.mark.parametrize("schema", TABLES, ids=lambda s: s.name)
@pytest.mark.parametrize("n", [0, 1, 50])
def test_rows_are_written_as_the_format_says(schema: TableSchema, n: int) -> None:
    rows = random_rows(schema, n, np.random.default_rng(n))
    assert encode(schema, rows) == by_hand(schema, to_rows(schema, rows))


@pytest.mark.parametrize("schema", TABLES, ids=lambda s: s.name)
def test_rows_without_null_are_read_back(schema: TableSchema) -> None:
    rows = random_rows(schema, 30, np.random.default_rng(1))
    back = decode(schema, as_sent(schema, rows))
    assert back is not None
    assert_same_rows(back, rows)


def test_text_beyond_ascii_is_written_and_its_reading_left_to_the_driver() -> None:
    rows = random_rows(DIA_SOURCE, 2, np.random.default_rng(2))
    rows["reliabilityVersion"] = ["forêt", "wald"]
    assert encode(DIA_SOURCE, rows) == by_hand(DIA_SOURCE, to_rows(DIA_SOURCE, rows))
    assert decode(DIA_SOURCE, as_sent(DIA_SOURCE, rows)) is None


def test_a_value_that_must_be_known_is_missed_by_name() -> None:
    rows = random_rows(DIA_SOURCE, 3, np.random.default_rng(3))
    rows["ra"][1] = np.nan
    with pytest.raises(ApdbError, match="DiaSource row 1 of 3 has no ra"):
        encode(DIA_SOURCE, rows)
