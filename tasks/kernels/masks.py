"""Loops over masked pixels."""

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
def merge_masks(
    science: Mask,
    template: Mask,
    kept: tuple[int, int],
    renamed: Ints,
    first: int,
    end: int,
    out: Mask,
) -> None:
    """Rows of the ``kept`` bits of both masks; ``renamed`` (n, 2): template bits, new ones."""
    for y in range(first, end):
        for x in range(out.shape[1]):
            bits = science[y, x] & kept[0]
            other = template[y, x]
            if other != 0:
                bits |= other & kept[1]
                for k in range(renamed.shape[0]):
                    if other & renamed[k, 0]:
                        bits |= renamed[k, 1]
            out[y, x] = bits


@kernel
def spread(
    bad_y: Ints,
    bad_x: Ints,
    bits: Mask,
    unknown: Image,
    share: Image,
    first: int,
    out_share: Image,
    out_unknown: Image,
    out_bits: Mask,
) -> None:
    """Add what each bad pixel contributes to the rows from ``first`` on under a convolution.

    ``bits`` and ``unknown`` (n,) belong to the bad pixels; ``share`` (k, k) is the kernel's
    absolute value over its sum. ``out_share`` gains the share of the kernel that falls on bad
    pixels, ``out_unknown`` the unknown value times it, ``out_bits`` the bits.
    """
    ny, nx = out_share.shape
    h = share.shape[0] // 2
    for n in range(bad_y.size):
        y, x = bad_y[n] - first, bad_x[n]
        for j in range(max(0, y - h), min(ny, y + h + 1)):
            for i in range(max(0, x - h), min(nx, x + h + 1)):
                weight = share[j - y + h, i - x + h]
                out_share[j, i] += weight
                out_unknown[j, i] += weight * unknown[n]
                out_bits[j, i] |= bits[n]
