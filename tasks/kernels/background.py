"""Means over blocks of pixels, the sky level of boxes of blocks, and sums over squares."""

import numpy as np

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints, Mask


@kernel
def block_means(
    image: Image, mask: Mask, excluded: int, block: int, first: int, end: int, means: Image
) -> None:
    """Fill rows [first, end) of ``means`` with the means of ``block`` x ``block`` pixels.

    Pixels with an ``excluded`` bit or nan do not count; nan where fewer than half are left.
    """
    ny, nx = image.shape
    for j in range(first, end):
        y0, y1 = j * block, min((j + 1) * block, ny)
        for i in range(means.shape[1]):
            x0, x1 = i * block, min((i + 1) * block, nx)
            total = 0.0
            n = 0
            for y in range(y0, y1):
                for x in range(x0, x1):
                    v = image[y, x]
                    if not mask[y, x] & excluded and v == v:
                        total += v
                        n += 1
            means[j, i] = total / n if 2 * n >= (y1 - y0) * (x1 - x0) and n > 0 else np.nan


@kernel
def box_levels(
    means: Image,
    sources: Bools,
    y_edges: Ints,
    x_edges: Ints,
    upper: float,
    shift: float,
    level: Floats,
    sigma: Floats,
    used: Floats,
) -> None:
    """Fill ``level``, ``sigma`` (of a block) and ``used`` of each box of blocks.

    The level m is the mean of the blocks in (m - 3 sigma, m + ``upper`` sigma) less ``shift``
    sigma, and sigma the rms below m, iterated from a sample's median and its distance to the
    16th percentile. ``sources`` and nan do not count; ``used`` is the part of the blocks that does.
    A box without any gets nan.
    """
    for j in range(y_edges.size - 1):
        for i in range(x_edges.size - 1):
            y0, y1, x0, x1 = y_edges[j], y_edges[j + 1], x_edges[i], x_edges[i + 1]
            values = np.empty((y1 - y0) * (x1 - x0))
            n = 0
            for y in range(y0, y1):
                for x in range(x0, x1):
                    if means[y, x] == means[y, x] and not sources[y, x]:
                        values[n] = means[y, x]
                        n += 1
            used[j, i] = n / values.size
            if n == 0:
                level[j, i] = np.nan
                sigma[j, i] = np.nan
                continue
            sample = np.sort(values[: n : max(1, n // 128)])
            m = sample[sample.size // 2]
            s = m - sample[int(0.1587 * sample.size)]
            for _ in range(30):
                below = 0.0
                n_below = 0
                total = 0.0
                n_in = 0
                low, high = m - 3.0 * s, m + upper * s
                for v in values[:n]:
                    if v >= low and v <= high:
                        total += v
                        n_in += 1
                        if v < m:
                            below += (m - v) * (m - v)
                            n_below += 1
                if n_below == 0:
                    break
                # the rms of a Gaussian cut at 3 sigma is 0.9866 of the whole one's
                s = np.sqrt(below / n_below) / 0.9866
                previous = m
                m = total / n_in - shift * s
                if abs(m - previous) < 0.003 * s:
                    break
            level[j, i] = m
            sigma[j, i] = s


@kernel
def square_sums(values: Image, side: int, sums: Image) -> None:
    """Fill ``sums`` with the sum of ``values`` in the square of odd ``side`` around each element.

    Squares are cut at the border.
    """
    ny, nx = values.shape
    half = side // 2
    column = np.zeros(nx)
    for y in range(min(half, ny)):
        for x in range(nx):
            column[x] += values[y, x]
    for y in range(ny):
        if y + half < ny:
            for x in range(nx):
                column[x] += values[y + half, x]
        if y - half > 0:
            for x in range(nx):
                column[x] -= values[y - half - 1, x]
        total = 0.0
        for x in range(min(half, nx)):
            total += column[x]
        for x in range(nx):
            if x + half < nx:
                total += column[x + half]
            if x - half > 0:
                total -= column[x - half - 1]
            sums[y, x] = total


@kernel
def subtract_where(
    image: Image, mask: Mask, empty: int, sky: Image, first: int, end: int, result: Image
) -> None:
    """Fill rows [first, end) of ``result`` with image less sky, 0 under an ``empty`` bit."""
    for y in range(first, end):
        for x in range(image.shape[1]):
            result[y, x] = 0.0 if mask[y, x] & empty else image[y, x] - sky[y, x]
