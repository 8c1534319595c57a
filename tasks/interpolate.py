"""Fill bad pixels from their neighbours, so that convolutions do not spread them."""

import numpy as np

from promptdia.tasks.kernels.fill import fill_gaps
from promptdia.tasks.model.arrays import Bools, Image, Ints, Mask
from promptdia.tasks.model.mask import MaskPlane

REACH_PX = 64
"""How far a good pixel may lie; the middle of a larger gap gets the frame's median."""


def fill_in_place(
    image: Image, variance: Image, mask: Mask, pixels: tuple[Ints, Ints], unusable: Bools
) -> None:
    """Fill the listed (y, x) pixels of ``image`` and ``variance`` and mark them INTRP in ``mask``.

    Linear across the narrowest side of each gap (row, column or diagonal); the variance is
    that of the neighbours, interpolated alike. ``unusable`` (ny, nx), which includes the listed
    pixels, give no values. The three planes are changed.
    """
    ys, xs = pixels
    if ys.size == 0:
        return
    filled = fill_gaps(image, variance, unusable, ys, xs, REACH_PX).astype(bool)
    if not filled.all():
        y, x = ys[~filled], xs[~filled]
        good = ~unusable
        image[y, x] = np.median(image[good])
        variance[y, x] = np.median(variance[good])
    mask[ys, xs] |= MaskPlane.INTRP.value


def coordinates(where: Bools) -> tuple[Ints, Ints]:
    """(y, x) of the true elements of (ny, nx), in order; several times faster than nonzero."""
    y, x = np.divmod(np.flatnonzero(where), where.shape[1])
    return y.astype(np.int64), x.astype(np.int64)
