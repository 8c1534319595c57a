"""Loops of detection: usable pixels, the matched filter and its systematic noise, bins."""

import math

import numpy as np

from promptdia.tasks.kernels._jit import fast_kernel, kernel
from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints, Mask


@fast_kernel
def correlate_block(plane: Image, columns: Image, rows: Image, out: Image) -> None:
    """Correlate a padded block with a low-rank stamp.

    ``plane`` is (b + size - 1, w + size - 1), ``columns`` and ``rows`` (rank, size): the
    stamp is the sum over rank of outer(columns, rows). Fills (b, w) ``out``.
    """
    rank, size = rows.shape
    height, width = out.shape
    line = np.empty((plane.shape[0], width), np.float32)
    out[:] = np.float32(0.0)
    for r in range(rank):
        for j in range(plane.shape[0]):
            target = line[j]
            source = plane[j]
            for i in range(width):
                target[i] = rows[r, 0] * source[i]
            for k in range(1, size):
                w = rows[r, k]
                for i in range(width):
                    target[i] += w * source[i + k]
        for j in range(height):
            target = out[j]
            for k in range(size):
                w = columns[r, k]
                source = line[j + k]
                for i in range(width):
                    target[i] += w * source[i]


@kernel
def matched_filter(
    image: Image,
    variance: Image,
    good: Bools,
    psf_factors: Image,
    square_factors: Image,
    cell: int,
    first: int,
    end: int,
    snr: Image,
) -> None:
    """Fill rows ``first`` to ``end`` of ``snr`` with sum(P g D) / sqrt(sum(P^2 g V)).

    g is 1 on good pixels, else 0; S/N is 0 where no good pixel lies under the PSF. The
    factors are (2, ny_cells, nx_cells, rank, size): columns and rows of the PSF P, and
    of its square, in each cell of ``cell`` pixels.
    """
    ny, nx = image.shape
    size = psf_factors.shape[4]
    half = size // 2
    row = first
    while row < end:
        cy = min(row // cell, psf_factors.shape[1] - 1)
        last = min(end, (cy + 1) * cell) if cy < psf_factors.shape[1] - 1 else end
        for cx in range(psf_factors.shape[2]):
            x0 = cx * cell
            x1 = min(x0 + cell, nx) if cx < psf_factors.shape[2] - 1 else nx
            data = np.zeros((last - row + 2 * half, x1 - x0 + 2 * half), np.float32)
            noise = np.zeros(data.shape, np.float32)
            for j in range(max(0, row - half), min(ny, last + half)):
                for i in range(max(0, x0 - half), min(nx, x1 + half)):
                    if good[j, i]:
                        data[j - row + half, i - x0 + half] = image[j, i]
                        noise[j - row + half, i - x0 + half] = variance[j, i]
            signal = np.empty((last - row, x1 - x0), np.float32)
            power = np.empty((last - row, x1 - x0), np.float32)
            correlate_block(data, psf_factors[0, cy, cx], psf_factors[1, cy, cx], signal)
            correlate_block(noise, square_factors[0, cy, cx], square_factors[1, cy, cx], power)
            for j in range(last - row):
                for i in range(x1 - x0):
                    v = power[j, i]
                    snr[row + j, x0 + i] = signal[j, i] / math.sqrt(v) if v > 0.0 else 0.0
        row = last


@kernel
def trust_factors(
    static: Image,
    variance: Image,
    good: Bools,
    stamps: Image,
    cell: int,
    x: Ints,
    y: Ints,
    registration_px: float,
    flux_error: float,
    out: Floats,
) -> None:
    """Random noise over random and systematic noise of the filtered difference, (n,).

    The systematic part is what an image ``static`` leaves behind when it is misplaced by
    ``registration_px`` or mis-scaled by ``flux_error`` (a fraction). ``stamps`` is
    (ny_cells, nx_cells, size, size), the filter in each cell.
    """
    size = stamps.shape[2]
    half = size // 2
    light = np.empty((size + 2, size + 2), np.float32)
    noise = np.empty((size, size), np.float32)
    for n in range(x.size):
        cy, cx = min(y[n] // cell, stamps.shape[0] - 1), min(x[n] // cell, stamps.shape[1] - 1)
        cut_good(static, good, x[n] - half - 1, y[n] - half - 1, light)
        cut_good(variance, good, x[n] - half, y[n] - half, noise)
        flux, right, down, power = filtered(stamps[cy, cx], light, noise)
        slope = 0.25 * (right * right + down * down)
        systematic = registration_px**2 * slope + (flux_error * flux) ** 2
        out[n] = math.sqrt(power / (power + systematic)) if power > 0.0 else 0.0


@kernel
def cut_good(plane: Image, good: Bools, x0: int, y0: int, out: Image) -> None:
    """Fill ``out`` from the pixels at (x0, y0) on, 0 where bad or off the image."""
    for j in range(out.shape[0]):
        for i in range(out.shape[1]):
            py, px = y0 + j, x0 + i
            inside = 0 <= py < plane.shape[0] and 0 <= px < plane.shape[1]
            out[j, i] = plane[py, px] if inside and good[py, px] else np.float32(0.0)


@fast_kernel
def filtered(stamp: Image, light: Image, noise: Image) -> tuple[float, float, float, float]:
    """Sums over a stamp P: P L, how it changes over two pixels along x and y, and P^2 V.

    ``light`` is larger than stamp and ``noise`` by a pixel on every side.
    """
    flux = right = down = power = 0.0
    for j in range(stamp.shape[0]):
        for i in range(stamp.shape[1]):
            p = stamp[j, i]
            flux += p * light[j + 1, i + 1]
            right += p * (light[j + 1, i + 2] - light[j + 1, i])
            down += p * (light[j + 2, i + 1] - light[j, i + 1])
            power += p * p * noise[j, i]
    return flux, right, down, power


@kernel
def find_usable(image: Image, variance: Image, mask: Mask, bits: int, out: Bools) -> None:
    """Fill ``out``: none of the bits set, image finite, variance positive and finite."""
    for j in range(image.shape[0]):
        for i in range(image.shape[1]):
            v = variance[j, i]
            out[j, i] = (
                (mask[j, i] & bits) == 0 and v > 0.0 and v < np.inf and np.isfinite(image[j, i])
            )


@kernel
def bin_snr(
    image: Image, variance: Image, good: Bools, side: int, clip: float, total: Floats, count: Floats
) -> None:
    """Sum image / noise, clipped, over the good pixels of squares; fills (ny, nx) arrays."""
    for j in range(total.shape[0]):
        for i in range(total.shape[1]):
            value = 0.0
            n = 0
            for y in range(j * side, (j + 1) * side):
                for x in range(i * side, (i + 1) * side):
                    if good[y, x]:
                        value += min(max(image[y, x] / math.sqrt(variance[y, x]), -clip), clip)
                        n += 1
            total[j, i] = value
            count[j, i] = n
