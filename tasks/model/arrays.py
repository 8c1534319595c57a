"""Array types, so that signatures say what they hold."""

from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

Floats: TypeAlias = NDArray[np.float64]
"""Any shape, double precision: positions, fluxes, coordinates."""
Image: TypeAlias = NDArray[np.float32]
"""(ny, nx) pixels."""
Mask: TypeAlias = NDArray[np.int32]
"""(ny, nx) bits of MaskPlane."""
Bools: TypeAlias = NDArray[np.bool_]
Ints: TypeAlias = NDArray[np.int64]
Catalog: TypeAlias = NDArray[Any]
"""A structured array whose dtype comes from a TableSchema."""


def copied(*tables: Catalog) -> Catalog:
    """The rows of tables of one dtype, in new memory.

    As ``np.concatenate``, but row by row as bytes: numpy copies structured rows field by
    field, which takes ten times as long when there are a hundred fields.
    """
    dtype = tables[0].dtype
    if any(table.dtype != dtype for table in tables):
        raise TypeError("tables of different columns cannot be joined")
    raw = [np.ascontiguousarray(table).view(f"V{dtype.itemsize}") for table in tables]
    joined: Catalog = np.concatenate(raw).view(dtype)
    return joined
