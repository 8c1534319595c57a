"""Loops over the few pixels of an image that matter: find, grow and connect them."""

import numpy as np
from numpy.typing import NDArray

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints, Mask


@kernel
def pixels_over(snr: Image, threshold: float) -> Ints:
    """Flat indices, ascending, of the pixels with absolute value at or over the threshold."""
    ny, nx = snr.shape
    counts = np.zeros(ny, np.int64)
    for y in range(ny):
        row, count = snr[y], 0
        for x in range(nx):
            count += 1 if abs(row[x]) >= threshold else 0
        counts[y] = count
    found = np.empty(counts.sum(), np.int64)
    n = 0
    for y in range(ny):
        for x in range(nx if counts[y] > 0 else 0):
            if abs(snr[y, x]) >= threshold:
                found[n] = y * nx + x
                n += 1
    return found


@kernel
def paint_disks(
    y: Ints, x: Ints, bits: NDArray[np.uint8], radius: int, out: NDArray[np.uint8]
) -> None:
    """Set the bits of each of n pixels on all pixels of ``out`` within ``radius`` of it."""
    ny, nx = out.shape
    for n in range(y.size):
        for j in range(max(0, y[n] - radius), min(ny, y[n] + radius + 1)):
            for i in range(max(0, x[n] - radius), min(nx, x[n] + radius + 1)):
                if (j - y[n]) ** 2 + (i - x[n]) ** 2 <= radius**2:
                    out[j, i] |= bits[n]


@kernel
def connect(pixels: Ints, width: int, labels: Mask) -> int:
    """Number groups of pixels that touch, also by a corner, from 1 in the order of their first.

    ``pixels`` are flat indices, ascending; ``labels`` (ny, nx) is -1 there and 0 elsewhere.
    Returns how many groups there are.
    """
    ny, nx = labels.shape
    stack = np.empty(pixels.size, np.int64)
    n = 0
    for start in pixels:
        if labels[start // width, start % width] > 0:
            continue
        n += 1
        labels[start // width, start % width] = n
        stack[0] = start
        depth = 1
        while depth > 0:
            depth -= 1
            y, x = stack[depth] // width, stack[depth] % width
            for j in range(max(0, y - 1), min(ny, y + 2)):
                for i in range(max(0, x - 1), min(nx, x + 2)):
                    if labels[j, i] < 0:
                        labels[j, i] = n
                        stack[depth] = j * width + i
                        depth += 1
    return n


@kernel
def claim_pixels(good: Bools, pixels: Ints, numbers: Ints, claims: Mask) -> None:
    """Give ``pixels`` (flat indices) their numbers in ``claims``, all zero, and bad pixels -1."""
    ny, nx = good.shape
    for k in range(pixels.size):
        claims[pixels[k] // nx, pixels[k] % nx] = numbers[k]
    for j in range(ny):
        for i in range(nx):
            if not good[j, i]:
                claims[j, i] = -1


@kernel
def cut_squares(
    image: Image,
    claims: Mask,
    own: Ints,
    sign: Floats,
    x0: Ints,
    y0: Ints,
    stamps: Image,
    blocked: Bools,
) -> None:
    """Fill (n * size, size) ``stamps``, one below the other, with the pixels from (x0, y0) on.

    Light is multiplied by ``sign`` (n,). A pixel is ``blocked``, and 0, off the image or where
    ``claims`` is neither 0 nor the square's ``own`` number.
    """
    ny, nx = image.shape
    size = stamps.shape[1]
    for n in range(own.size):
        for j in range(size):
            y = y0[n] + j
            for i in range(size):
                x = x0[n] + i
                free = False
                if 0 <= y < ny and 0 <= x < nx:
                    free = claims[y, x] == 0 or claims[y, x] == own[n]
                blocked[n * size + j, i] = not free
                stamps[n * size + j, i] = sign[n] * image[y, x] if free else 0.0
