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
