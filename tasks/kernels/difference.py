"""Whitening filters from noise amplitudes, variances under them, and medians of blocks."""

import numpy as np

from promptdia.tasks.kernels._jit import fast_kernel, kernel
from promptdia.tasks.model.arrays import Bools, Image, Ints

BINS = 64
PIECE = 512
"""Frequencies at a time, so that all that is known of them stays in the innermost cache."""


@fast_kernel
def whiten(
    spectra: Image,
    science: Image,
    template: Image,
    science_weights: Image,
    template_weights: Image,
    levels: Image,
    least: np.float32,
) -> None:
    """Multiply spectra by sqrt(P(0) / P), P the noise power but at least ``least`` x P(0).

    P = levels[:, 0] |A|^2 + levels[:, 1] |B|^2 with the amplitudes A and B of science and
    template, which are sums of parts (n_parts, 2, m) times weights (n, n_parts). ``spectra``
    (n, 2 m) has real and imaginary parts in turn, the parts have them one after the other; zero
    frequency comes first; ``levels`` is (n, 2).
    """
    m = science.shape[2]
    real, imaginary = np.empty(PIECE, np.float32), np.empty(PIECE, np.float32)
    power = np.empty(PIECE, np.float32)
    for n in range(spectra.shape[0]):
        flat = np.float32(0)
        for first in range(0, m, PIECE):
            end = min(first + PIECE, m)
            p, re, im = power[: end - first], real[: end - first], imaginary[: end - first]
            p[:] = 0
            for image in range(2):
                parts = template if image else science
                weights = template_weights[n] if image else science_weights[n]
                re[:] = 0
                im[:] = 0
                for t in range(weights.size):
                    part_re, part_im = parts[t, 0, first:end], parts[t, 1, first:end]
                    for k in range(p.size):
                        re[k] += weights[t] * part_re[k]
                        im[k] += weights[t] * part_im[k]
                for k in range(p.size):
                    p[k] += levels[n, image] * (re[k] * re[k] + im[k] * im[k])
            if first == 0:
                flat = p[0]
            low = flat * least
            out = spectra[n, 2 * first : 2 * end]
            for k in range(p.size):
                p[k] = np.sqrt(flat / max(p[k], low))
            for k in range(p.size):
                out[2 * k] *= p[k]
                out[2 * k + 1] *= p[k]


@fast_kernel
def blend_variances(
    science: Image,
    template: Image,
    weights: Image,
    tile: int,
    first: int,
    end: int,
    out: Image,
) -> None:
    """Rows of w0 Vs + w1 <Vs> + w2 Vt + w3 <Vt>, <V> the mean of the eight neighbours.

    ``weights`` (ny_tiles, nx_tiles, 4). Neighbours that are not finite, and the border,
    count as the pixel itself; a pixel that is not finite stays so.
    """
    ny, nx = out.shape
    sums = np.empty(nx + 2, np.float32)
    left, middle, right = sums[:nx], sums[1 : nx + 1], sums[2:]
    for y in range(first, end):
        out[y] = 0
        for plane in range(2):
            v = template if plane else science
            above, row, below = v[max(y - 1, 0)], v[y], v[min(y + 1, ny - 1)]
            for x in range(nx):
                middle[x] = above[x] + row[x] + below[x]
            sums[0] = sums[1]
            sums[nx + 1] = sums[nx]
            for x0 in range(0, nx, tile):
                x1 = min(x0 + tile, nx)
                around = weights[y // tile, x0 // tile, 2 * plane + 1] * np.float32(0.125)
                own = weights[y // tile, x0 // tile, 2 * plane] - around
                alone = own + np.float32(9) * around
                a, b, c = left[x0:x1], middle[x0:x1], right[x0:x1]
                centre, result = row[x0:x1], out[y, x0:x1]
                for x in range(result.size):
                    nine = a[x] + b[x] + c[x]
                    value = own * centre[x] + around * nine
                    # so that nan is caught with what is infinite
                    if not (np.abs(nine) < np.float32(1e30)):
                        value = alone * centre[x]
                    result[x] += value


@kernel
def block_medians(
    image: Image,
    good: Bools,
    rows: Ints,
    columns: Ints,
    least: float,
    first: int,
    end: int,
    out: Image,
) -> None:
    """Rows of blocks of the medians of good pixels on every second line; nan where few are good.

    Block (j, i) has the pixels from ``rows[j]`` and ``columns[i]`` up to the next; few is
    less than the part ``least``. The median is interpolated between counts in bins, about
    a hundredth of a sigma wide and chosen from a sample.
    """
    for j in range(first, end):
        for i in range(columns.size - 1):
            size = ((rows[j + 1] - rows[j] + 1) // 2) * (columns[i + 1] - columns[i])
            values = np.empty(size, np.float32)
            n = 0
            for y in range(rows[j], rows[j + 1], 2):
                for x in range(columns[i], columns[i + 1]):
                    values[n] = image[y, x]
                    n += good[y, x]
            out[j, i] = _median(values[:n]) if n > 0 and n > least * size else np.nan


@kernel
def _median(values: Image) -> float:
    sample = np.sort(values[:: 1 + values.size // 255])
    middle, reach = sample.size // 2, 1 + sample.size // 6
    low, high = sample[max(middle - reach, 0)], sample[min(middle + reach, sample.size - 1)]
    # neighbours count in different rows, so that no increment waits for the one before
    counts = np.zeros((4, BINS + 2), np.int32)
    per_bin = np.float32(BINS) / (high - low) if high > low else np.float32(0)
    origin = np.float32(1) - low * per_bin
    for k in range(values.size):
        place = min(max(values[k] * per_bin + origin, np.float32(0)), np.float32(BINS + 1))
        counts[k & 3, np.int64(place)] += 1
    total = counts.sum(axis=0)
    wanted = 0.5 * values.size
    if high <= low or total[0] >= wanted or total[BINS + 1] > wanted:
        return float(np.median(values))
    below, k = total[0], 1
    while below + total[k] < wanted:
        below += total[k]
        k += 1
    return float(low + (k - 1 + (wanted - below) / total[k]) / per_bin)
