"""Pixels sharper than the PSF allows, and the regions that grow from them."""

import numpy as np
from numpy.typing import NDArray

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints, Mask

CANDIDATE = np.uint8(1)
"""Flag of a pixel well above the mean of two opposite neighbours."""
RAY = np.uint8(2)
"""Flag of a cosmic-ray pixel."""


@kernel
def find_candidates(
    image: Image, variance: Image, threshold: float, first: int, end: int, flags: NDArray[np.uint8]
) -> None:
    """Set CANDIDATE in rows [first, end) where a pixel stands out from opposite neighbours.

    A pixel stands out when in one of the four directions it is ``threshold`` sigma above the
    mean of its two neighbours, sigma being its own. The image's border is left out.
    """
    ny, nx = image.shape
    limit = 4.0 * threshold * threshold
    for y in range(max(first, 1), min(end, ny - 1)):
        for x in range(1, nx - 1):
            row = image[y, x - 1] + image[y, x + 1]
            column = image[y - 1, x] + image[y + 1, x]
            up = image[y - 1, x - 1] + image[y + 1, x + 1]
            down = image[y - 1, x + 1] + image[y + 1, x - 1]
            d = 2.0 * image[y, x] - min(min(row, column), min(up, down))
            if d > 0.0 and d * d > limit * variance[y, x]:
                flags[y, x] = CANDIDATE


@kernel
def sharp_value(
    image: Image,
    variance: Image,
    y: int,
    x: int,
    sky: float,
    ratios: Floats,
    threshold: float,
    margin: float,
) -> float:
    """What (y, x) would hold without its cosmic ray; nan when the pixel is no cosmic ray.

    It is one when in some direction it stands ``threshold`` sigma above the mean of its two
    neighbours and their mean above the sky is less than ``ratios`` (row, column, diagonals)
    of its own height, each taken ``margin`` of its errors to the safe side. The lowest such
    mean is what it would hold: the others may have charge of the same track.
    """
    own = image[y, x]
    error = np.sqrt(variance[y, x])
    height = own - sky - margin * error
    if height <= 0.0:
        return np.nan
    lowest = np.inf
    for direction in range(4):
        dx = 0 if direction == 1 else 1
        dy = 0 if direction == 0 else (-1 if direction == 3 else 1)
        mean = 0.5 * (image[y - dy, x - dx] + image[y + dy, x + dx])
        if own - mean <= threshold * error:
            continue
        mean_error = 0.5 * np.sqrt(variance[y - dy, x - dx] + variance[y + dy, x + dx])
        if mean - sky + margin * mean_error < ratios[direction] * height:
            lowest = min(lowest, mean)
    return lowest if lowest < np.inf else np.nan


@kernel
def grow_rays(
    image: Image,
    variance: Image,
    mask: Mask,
    forbidden: int,
    level: Image,
    box: int,
    ys: Ints,
    xs: Ints,
    ratios: Floats,
    threshold: float,
    grow_threshold: float,
    margin: float,
    iterations: int,
    flags: NDArray[np.uint8],
) -> None:
    """Test the candidates (ys, xs) and grow the rays among them; sets RAY in ``flags``.

    ``image`` is overwritten with the estimates without rays. Neighbours of a ray are tested
    with ``grow_threshold`` and a quarter of the margin in their disfavour, ``iterations`` times
    over. Pixels that touch a ``forbidden`` mask bit are never rays. ``level`` is the sky, one
    value per ``box`` x ``box`` pixels.
    """
    ny, nx = image.shape
    front = [(0, 0)]
    front.clear()
    for i in range(ys.size):
        y, x = ys[i], xs[i]
        if _touches(mask, y, x, forbidden):
            continue
        sky = level[y // box, x // box]
        value = sharp_value(image, variance, y, x, sky, ratios, threshold, margin)
        if not np.isnan(value):
            flags[y, x] |= RAY
            image[y, x] = value
            front.append((y, x))
    for _ in range(iterations):
        found = [(0, 0)]
        found.clear()
        for cy, cx in front:
            for y in range(max(cy - 1, 1), min(cy + 2, ny - 1)):
                for x in range(max(cx - 1, 1), min(cx + 2, nx - 1)):
                    if flags[y, x] & RAY or _touches(mask, y, x, forbidden):
                        continue
                    sky = level[y // box, x // box]
                    value = sharp_value(
                        image, variance, y, x, sky, ratios, grow_threshold, -0.25 * margin
                    )
                    if not np.isnan(value):
                        flags[y, x] |= RAY
                        image[y, x] = value
                        found.append((y, x))
        front = found


@kernel
def strong_regions(
    image: Image, cleaned: Image, ys: Ints, xs: Ints, min_sum: float, flags: NDArray[np.uint8]
) -> tuple[Bools, int]:
    """Which of the pixels (ys, xs) are in a ray of enough light, and how many such rays there are.

    Rays are 8-connected RAY pixels of ``flags``, which are used up; their light is ``image``
    less ``cleaned``.
    """
    ny, nx = image.shape
    keep = np.zeros(flags.shape, np.bool_)
    n = 0
    for i in range(ys.size):
        if not flags[ys[i], xs[i]] & RAY:
            continue
        flags[ys[i], xs[i]] = 0
        region = [(ys[i], xs[i])]
        light = 0.0
        k = 0
        while k < len(region):
            cy, cx = region[k]
            k += 1
            light += image[cy, cx] - cleaned[cy, cx]
            for y in range(max(cy - 1, 0), min(cy + 2, ny)):
                for x in range(max(cx - 1, 0), min(cx + 2, nx)):
                    if flags[y, x] & RAY:
                        flags[y, x] = 0
                        region.append((y, x))
        if light >= min_sum:
            n += 1
            for cy, cx in region:
                keep[cy, cx] = True
    return keep, n


@kernel
def _touches(mask: Mask, y: int, x: int, forbidden: int) -> bool:
    for yy in range(y - 1, y + 2):
        for xx in range(x - 1, x + 2):
            if mask[yy, xx] & forbidden:
                return True
    return False
