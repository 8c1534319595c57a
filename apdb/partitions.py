"""Divide a table into sky pixels of about equal content."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from promptdia.apdb.pixels import ORDER


def split(pixels: NDArray[np.int64], max_rows: int) -> Iterator[tuple[int, int, int]]:
    """(order, pixel, number of rows) of the largest pixels that hold at most ``max_rows``.

    ``pixels`` are the order-20 nested pixels of the rows, in ascending order. Pixels
    without rows are left out; one of order 20 is not split, however full.
    """
    for pixel in range(12):
        yield from _split(pixels, max_rows, 0, pixel)


def pixel_range(order: int, pixel: int) -> tuple[int, int]:
    """First and last order-20 pixel inside a pixel of ``order``."""
    shift = 2 * (ORDER - order)
    return pixel << shift, ((pixel + 1) << shift) - 1


def _split(
    pixels: NDArray[np.int64], max_rows: int, order: int, pixel: int
) -> Iterator[tuple[int, int, int]]:
    first, last = pixel_range(order, pixel)
    inside = pixels[np.searchsorted(pixels, first) : np.searchsorted(pixels, last, side="right")]
    if 0 < inside.size <= max_rows or (inside.size and order == ORDER):
        yield order, pixel, int(inside.size)
    elif inside.size:
        for child in range(4 * pixel, 4 * pixel + 4):
            yield from _split(inside, max_rows, order + 1, child)
