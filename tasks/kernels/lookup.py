"""Where ids stand in a list of ids, by a hash table: order of rows does not matter."""

import numpy as np

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Ints


@kernel
def rows_of(ids: Ints, wanted: Ints) -> Ints:
    """(n,) index in ``ids`` of each wanted id, -1 for one that is not there.

    Open addressing with Fibonacci hashing. Of an id that occurs twice the first row counts.
    """
    bits = 3
    while 1 << bits < 2 * ids.size:
        bits += 1
    table = np.full(1 << bits, -1)
    for row in range(ids.size):
        slot = _slot(ids[row], bits)
        while table[slot] >= 0:
            slot = (slot + 1) & (table.size - 1)
        table[slot] = row
    rows = np.empty(wanted.size, np.int64)
    for k in range(wanted.size):
        slot = _slot(wanted[k], bits)
        while table[slot] >= 0 and ids[table[slot]] != wanted[k]:
            slot = (slot + 1) & (table.size - 1)
        rows[k] = table[slot]
    return rows


@kernel
def _slot(id: int, bits: int) -> np.int64:
    return np.int64((np.uint64(id) * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - bits))
