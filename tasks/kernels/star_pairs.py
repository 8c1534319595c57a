"""Pairs of stars that one similarity carries onto pairs of other stars."""

import math

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Floats, Ints


@kernel
def pair_votes(
    a: Floats,
    b: Floats,
    first: Ints,
    max_log_scale: float,
    max_rotation: float,
    max_shift: float,
    votes: Floats,
) -> int:
    """Similarities that carry a pair of stars onto another pair; returns how many.

    ``a`` and ``b`` are pairs, (n, 4): log of the length, its angle, the middle (x, y) from
    where the shift is wanted. ``b`` is sorted by sector of the angle, and by length within
    a sector; sector k, of equal width from -pi on, begins at row ``first[k]``. Each row of
    ``votes`` is filled with log scale, rotation (radians) and shift (x, y) within the given
    bounds; the search ends when the rows are used up.
    """
    found, room = 0, votes.shape[0]
    sectors = first.shape[0] - 1
    width = 2.0 * math.pi / sectors
    for i in range(a.shape[0]):
        low = math.floor((a[i, 1] - max_rotation + math.pi) / width)
        high = math.floor((a[i, 1] + max_rotation + math.pi) / width)
        for sector in range(low, min(high, low + sectors - 1) + 1):
            begin = first[sector % sectors]
            end = first[sector % sectors + 1]
            for k in range(_first_of_length(b, begin, end, a[i, 0] - max_log_scale), end):
                stretch = b[k, 0] - a[i, 0]
                if stretch > max_log_scale:
                    break
                turn = b[k, 1] - a[i, 1]
                if turn > math.pi:
                    turn -= 2.0 * math.pi
                elif turn < -math.pi:
                    turn += 2.0 * math.pi
                if abs(turn) > max_rotation:
                    continue
                scale = math.exp(stretch)
                c, s = scale * math.cos(turn), scale * math.sin(turn)
                tx = b[k, 2] - (c * a[i, 2] - s * a[i, 3])
                ty = b[k, 3] - (s * a[i, 2] + c * a[i, 3])
                if tx * tx + ty * ty > max_shift * max_shift:
                    continue
                if found == room:
                    return found
                votes[found, 0] = stretch
                votes[found, 1] = turn
                votes[found, 2] = tx
                votes[found, 3] = ty
                found += 1
    return found


@kernel
def _first_of_length(b: Floats, begin: int, end: int, log_length: float) -> int:
    """The first row in [begin, end) at least so long; bisection."""
    while begin < end:
        middle = (begin + end) // 2
        if b[middle, 0] < log_length:
            begin = middle + 1
        else:
            end = middle
    return begin
