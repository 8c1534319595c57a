"""Pairs of positions that lie close together, and the greedy choice among them."""

import numpy as np

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Bools, Floats, Ints


@kernel
def sweep_pairs(
    v1: Floats, v2: Floats, order1: Ints, order2: Ints, axis: int, chord: float
) -> tuple[Ints, Ints]:
    """Indices of all pairs of unit vectors not farther apart than ``chord``.

    ``v1`` and ``v2`` are (n, 3) and (m, 3), the orders sort them along ``axis``: a window
    of that width slides over the second while the first is walked through.
    """
    i, j = np.empty(2 * v1.shape[0] + 8, np.int64), np.empty(2 * v1.shape[0] + 8, np.int64)
    found, start = 0, 0
    for k in order1:
        here = v1[k, axis]
        while start < order2.size and v2[order2[start], axis] < here - chord:
            start += 1
        for place in range(start, order2.size):
            m = order2[place]
            if v2[m, axis] > here + chord:
                break
            d2 = 0.0
            for c in range(3):
                d2 += (v1[k, c] - v2[m, c]) ** 2
            if d2 <= chord * chord:
                if found == i.size:
                    i, j = np.append(i, i), np.append(j, j)  # room for twice as many
                i[found], j[found] = k, m
                found += 1
    return i[:found], j[:found]


@kernel
def first_come(i: Ints, j: Ints, n1: int, n2: int) -> Bools:
    """(n,) which pairs are taken when each in turn takes what its members left free."""
    free1, free2 = np.ones(n1, np.bool_), np.ones(n2, np.bool_)
    taken = np.zeros(i.size, np.bool_)
    for k in range(i.size):
        if free1[i[k]] and free2[j[k]]:
            free1[i[k]] = free2[j[k]] = False
            taken[k] = True
    return taken
