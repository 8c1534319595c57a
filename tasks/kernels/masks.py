"""Loops over masked pixels, and over variances under a filter that is nearly a point."""

import numpy as np

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Image, Ints, Mask


@kernel
def find_broken(
    image: Image, mask: Mask, broken_bits: int, mended_bits: int, interpolated_bit: int
) -> Ints:
    """Flat indices, ascending, of pixels that are not finite, have a broken bit, or have a
    mended bit without the interpolated one.
    """
    found = np.empty(1024, np.int64)
    n = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            m = mask[y, x]
            if m == 0 and np.isfinite(image[y, x]):
                continue
            unmended = (m & mended_bits) != 0 and (m & interpolated_bit) == 0
            if (m & broken_bits) != 0 or unmended or not np.isfinite(image[y, x]):
                if n == found.size:
                    longer = np.empty(2 * n, np.int64)
                    longer[:n] = found
                    found = longer
                found[n] = y * image.shape[1] + x
                n += 1
    return found[:n].copy()


@kernel
def spread(
    bad_y: Ints,
    bad_x: Ints,
    bits: Mask,
    unknown: Image,
    share: Image,
    out_share: Image,
    out_unknown: Image,
    out_bits: Mask,
) -> None:
    """Add what each bad pixel contributes to its surroundings under a convolution.

    ``bits`` and ``unknown`` (n,) belong to the bad pixels; ``share`` (k, k) is the kernel's
    absolute value over its sum. ``out_share`` gains the share of the kernel that falls on bad
    pixels, ``out_unknown`` the unknown value times it, ``out_bits`` the bits.
    """
    ny, nx = out_share.shape
    h = share.shape[0] // 2
    for n in range(bad_y.size):
        y, x = bad_y[n], bad_x[n]
        for j in range(max(0, y - h), min(ny, y + h + 1)):
            for i in range(max(0, x - h), min(nx, x + h + 1)):
                weight = share[j - y + h, i - x + h]
                out_share[j, i] += weight
                out_unknown[j, i] += weight * unknown[n]
                out_bits[j, i] |= bits[n]


@kernel
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
    for y in range(first, end):
        up, down = max(y - 1, 0), min(y + 1, ny - 1)
        for x in range(nx):
            w = weights[y // tile, x // tile]
            left, right = max(x - 1, 0), min(x + 1, nx - 1)
            total = np.float32(0)
            for plane in range(2):
                v = template if plane else science
                middle = v[y, x]
                ring = np.float32(0.125) * (
                    (v[up, left] + v[up, x] + v[up, right] + v[y, left])
                    + (v[y, right] + v[down, left] + v[down, x] + v[down, right])
                )
                if not np.isfinite(ring):
                    ring = middle
                total += w[2 * plane] * middle + w[2 * plane + 1] * ring
            out[y, x] = total
