"""Rows of a table to Avro records (Apache Avro 1.12 specification, "Binary encoding")."""

import numpy as np
from numpy.typing import NDArray

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Ints

Bytes = NDArray[np.uint8]

COPY, INTEGER, TEXT = 0, 1, 2
"""What a field is: bytes as they are, a signed integer, or UTF-32 characters ended by zeros."""
PLAIN, KNOWN, NULLABLE = 0, 1, 2
"""Whether it stands alone, in a union as never null, or in one as null when it is zero."""
_UNION_NULL, _UNION_SOME = 0, 2
_LONGEST_INTEGER = 10


@kernel
def avro_records(rows: Bytes, fields: Ints) -> tuple[Bytes, Ints]:
    """The records of all rows without gaps, and (n + 1,) where each begins and the last ends.

    ``rows`` is (n, itemsize), little-endian. ``fields`` is (m, 4): what a field is, its union,
    where its bytes start in the row and how many they are.
    """
    longest = 0
    for k in range(fields.shape[0]):
        longest += 1 + _LONGEST_INTEGER + fields[k, 3]
    data = np.empty(longest + min(longest, 400) * rows.shape[0], np.uint8)
    ends = np.zeros(rows.shape[0] + 1, np.int64)
    at = 0
    for i in range(rows.shape[0]):
        if at + longest > data.size:
            larger = np.empty(2 * data.size + longest, np.uint8)
            larger[:at] = data[:at]
            data = larger
        for k in range(fields.shape[0]):
            kind, union, start, width = fields[k]
            value = np.int64(1)
            if kind != COPY:
                value = _integer(rows, i, start, min(width, 4) if kind == TEXT else width)
            if union != PLAIN:
                null = union == NULLABLE and value == 0
                data[at] = _UNION_NULL if null else _UNION_SOME
                at += 1
                if null:
                    continue
            if kind == COPY:
                for b in range(width):
                    data[at + b] = rows[i, start + b]
                at += width
            elif kind == INTEGER:
                at = _put_integer(data, at, value)
            else:
                at = _put_text(data, at, rows, i, start, width)
        ends[i + 1] = at
    return data[:at], ends


@kernel
def _integer(rows: Bytes, i: int, start: int, width: int) -> np.int64:
    """A little-endian two's complement number of up to 8 bytes."""
    value = np.uint64(0)
    for b in range(width):
        value |= np.uint64(rows[i, start + b]) << np.uint64(8 * b)
    shift = np.int64(64 - 8 * width)
    return (np.int64(value) << shift) >> shift  # spreads the sign


@kernel
def _put_integer(data: Bytes, at: int, value: np.int64) -> int:
    """Zigzag, seven bits a byte, lowest first."""
    left = np.uint64((value << np.int64(1)) ^ (value >> np.int64(63)))
    while left > np.uint64(0x7F):
        data[at] = (left & np.uint64(0x7F)) | np.uint64(0x80)
        left >>= np.uint64(7)
        at += 1
    data[at] = left
    return at + 1


@kernel
def _put_text(data: Bytes, at: int, rows: Bytes, i: int, start: int, width: int) -> int:
    """The length in UTF-8, and the UTF-8."""
    size = 0
    end = start
    while end < start + width:
        code = _integer(rows, i, end, 4)
        if code == 0:
            break
        size += int(1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF))
        end += 4
    at = _put_integer(data, at, np.int64(size))
    for place in range(start, end, 4):
        code = _integer(rows, i, place, 4)
        if code <= 0x7F:
            data[at] = code
            at += 1
            continue
        more = int(1 + (code > 0x7FF) + (code > 0xFFFF))
        data[at] = (0xFF << (7 - more)) & 0xFF | code >> (6 * more)
        for b in range(1, more + 1):
            data[at + b] = 0x80 | (code >> (6 * (more - b))) & 0x3F
        at += more + 1
    return at
