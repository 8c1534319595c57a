"""Pairs of stars that one similarity carries onto pairs of other stars."""

import math

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Floats, Ints


@kernel
def pair_votes(
    a: Floats,
    b: Floats,
    start: Ints,
    max_log_scale: float,
    max_rotation: float,
    max_shift: float,
    votes: Floats,
) -> int:
    """Similarities that carry a pair of stars onto another pair; returns how many.

    ``a`` and ``b`` are pairs, (n, 4): log of the length, its angle, the middle (x, y) from
    where the shift is wanted; ``b`` is sorted by length and ``start`` (n,) is the first
    pair of ``b`` long enough for each of ``a``. Each row of ``votes`` is filled with log
    scale, rotation (radians) and shift (x, y) within the given bounds; when the rows are
    used up the count goes on, so that the caller can come back with more room.
    """
    found = 0
    for i in range(a.shape[0]):
        for k in range(start[i], b.shape[0]):
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
            if found < votes.shape[0]:
                votes[found, 0] = stretch
                votes[found, 1] = turn
                votes[found, 2] = tx
                votes[found, 3] = ty
            found += 1
    return found
