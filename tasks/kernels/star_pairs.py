"""Pairs of stars that one similarity carries onto pairs of other stars."""

import math

import numpy as np

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Floats


@kernel
def pair_votes(
    ax: Floats,
    ay: Floats,
    bx: Floats,
    by: Floats,
    min_length: float,
    max_log_scale: float,
    max_rotation: float,
    max_shift: float,
    votes: Floats,
) -> int:
    """Similarities that carry two stars of ``a`` onto two of ``b``; returns how many.

    ``a`` and ``b`` are centred where the shift is wanted. Each row of ``votes`` is filled
    with log scale, rotation (radians) and shift (x, y) within the given bounds; when the
    rows are used up the count goes on, so that the caller can come back with more room.
    """
    na, nb = ax.size, bx.size
    n_pairs = nb * (nb - 1)
    length = np.empty(n_pairs)
    angle = np.empty(n_pairs)
    first = np.empty(n_pairs, np.int64)
    second = np.empty(n_pairs, np.int64)
    k = 0
    for i in range(nb):
        for j in range(nb):
            dx, dy = bx[j] - bx[i], by[j] - by[i]
            r = math.hypot(dx, dy)
            if i != j and r >= min_length:
                length[k] = math.log(r)
                angle[k] = math.atan2(dy, dx)
                first[k], second[k] = i, j
                k += 1
    order = np.argsort(length[:k], kind="mergesort")
    lengths = length[:k][order]
    found = 0
    for i in range(na):
        for j in range(i + 1, na):
            dx, dy = ax[j] - ax[i], ay[j] - ay[i]
            r = math.hypot(dx, dy)
            if r < min_length:
                continue
            log_r, theta = math.log(r), math.atan2(dy, dx)
            start = np.searchsorted(lengths, log_r - max_log_scale)
            for m in range(start, k):
                if lengths[m] > log_r + max_log_scale:
                    break
                p = order[m]
                turn = angle[p] - theta
                if turn > math.pi:
                    turn -= 2.0 * math.pi
                elif turn < -math.pi:
                    turn += 2.0 * math.pi
                if abs(turn) > max_rotation:
                    continue
                scale = math.exp(lengths[m] - log_r)
                c, s = scale * math.cos(turn), scale * math.sin(turn)
                mx, my = 0.5 * (ax[i] + ax[j]), 0.5 * (ay[i] + ay[j])
                tx = 0.5 * (bx[first[p]] + bx[second[p]]) - (c * mx - s * my)
                ty = 0.5 * (by[first[p]] + by[second[p]]) - (s * mx + c * my)
                if tx * tx + ty * ty > max_shift * max_shift:
                    continue
                if found < votes.shape[0]:
                    votes[found, 0] = lengths[m] - log_r
                    votes[found, 1] = turn
                    votes[found, 2] = tx
                    votes[found, 3] = ty
                found += 1
    return found
