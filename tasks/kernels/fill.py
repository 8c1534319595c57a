"""Fill listed pixels from good neighbours across the narrowest side of the gap."""

import numpy as np
from numpy.typing import NDArray

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Bools, Image, Ints


@kernel
def fill_gaps(
    image: Image, variance: Image, gap: Bools, ys: Ints, xs: Ints, reach: int
) -> NDArray[np.uint8]:
    """Interpolate ``image`` and ``variance`` in place; returns 1 for each pixel that was filled.

    Of the row, the column and the two diagonals through a gap pixel, the one whose good pixels
    lie nearest together gives a linear interpolation between them. Where no direction has good
    pixels on both sides within ``reach`` steps (at the border), the nearest good one is copied.
    """
    ny, nx = image.shape
    filled = np.zeros(ys.size, np.uint8)
    for i in range(ys.size):
        y, x = ys[i], xs[i]
        best = np.inf
        for direction in range(4):
            dx = 0 if direction == 1 else 1
            dy = 0 if direction == 0 else (-1 if direction == 3 else 1)
            step = 1.0 if direction < 2 else np.sqrt(2.0)
            back = 0
            ahead = 0
            for k in range(1, reach + 1):
                yy, xx = y - k * dy, x - k * dx
                if yy < 0 or yy >= ny or xx < 0 or xx >= nx:
                    break
                if not gap[yy, xx]:
                    back = k
                    break
            for k in range(1, reach + 1):
                yy, xx = y + k * dy, x + k * dx
                if yy < 0 or yy >= ny or xx < 0 or xx >= nx:
                    break
                if not gap[yy, xx]:
                    ahead = k
                    break
            if back == 0 and ahead == 0:
                continue
            if back > 0 and ahead > 0:
                span = step * (back + ahead)
                w = ahead / (back + ahead)
            else:
                # one side only: any two-sided direction is preferred
                span = step * (back + ahead) + 4.0 * reach
                w = 1.0 if back > 0 else 0.0
            if span < best:
                best = span
                yb, xb = y - back * dy, x - back * dx
                ya, xa = y + ahead * dy, x + ahead * dx
                if w == 1.0:
                    ya, xa = yb, xb
                if w == 0.0:
                    yb, xb = ya, xa
                image[y, x] = w * image[yb, xb] + (1.0 - w) * image[ya, xa]
                variance[y, x] = w * variance[yb, xb] + (1.0 - w) * variance[ya, xa]
                filled[i] = 1
    return filled
