"""Light of many point-like or small objects added to an image, from oversampled plates."""

import numpy as np
from numpy.typing import NDArray

from promptdia.tasks.kernels._jit import fast_kernel
from promptdia.tasks.model.arrays import Floats, Image, Ints


@fast_kernel
def add_stamps(
    image: Image,
    x: Floats,
    y: Floats,
    plate: Ints,
    weight: Floats,
    plates: NDArray[np.float32],
    oversampling: int,
    half: int,
) -> None:
    """Add each object as a weighted sum of four plates, shifted to its subpixel position.

    ``plates`` (n_plates, m, m) hold cubic B-spline coefficients, ``oversampling`` per
    pixel, of the light per pixel with the centre at index m // 2, m odd and at least
    ``2 oversampling (half + 1) + 5``. ``plate`` and ``weight`` are (n, 4): which plates,
    times how much. Pixels within ``half`` of the nearest one are filled, in place.
    """
    centre = plates.shape[1] // 2
    n_row = 2 * half * oversampling + 4
    row = np.empty(n_row, np.float32)
    wx = np.empty(4, np.float32)
    wy = np.empty(4, np.float32)
    for n in range(x.shape[0]):
        column, line = int(np.floor(x[n] + 0.5)), int(np.floor(y[n] + 0.5))
        at_x = centre - oversampling * (x[n] - column)
        at_y = centre - oversampling * (y[n] - line)
        base_x, base_y = int(np.floor(at_x)), int(np.floor(at_y))
        for axis in range(2):
            t = at_x - base_x if axis == 0 else at_y - base_y
            w = wx if axis == 0 else wy
            w[0] = (1 - t) ** 3 / 6
            w[1] = (4 - 6 * t * t + 3 * t * t * t) / 6
            w[2] = (1 + 3 * t + 3 * t * t - 3 * t * t * t) / 6
            w[3] = t * t * t / 6
        first_x = base_x - 1 - oversampling * half
        x_low = max(0, column - half)
        x_high = min(image.shape[1], column + half + 1)
        for py in range(max(0, line - half), min(image.shape[0], line + half + 1)):
            first_y = base_y - 1 + oversampling * (py - line)
            row[:] = 0
            for k in range(4):
                if weight[n, k] == 0:
                    continue
                for a in range(4):
                    factor = np.float32(weight[n, k]) * wy[a]
                    source = plates[plate[n, k], first_y + a, first_x : first_x + n_row]
                    for i in range(n_row):
                        row[i] += factor * source[i]
            for px in range(x_low, x_high):
                at = oversampling * (px - column + half)
                image[py, px] += (
                    wx[0] * row[at]
                    + wx[1] * row[at + 1]
                    + wx[2] * row[at + 2]
                    + wx[3] * row[at + 3]
                )
