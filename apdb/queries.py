"""Parts of SQL that both databases understand: what lies where, since when, of which objects."""

import numpy as np
from numpy.typing import NDArray

from promptdia.apdb.pixels import Region


def join_region(region: Region) -> str:
    """The pixels of a region as rows to join: 64 conditions would take long to plan."""
    ranges = ", ".join(f"({a}, {b})" for a, b in region.ranges().tolist())
    return f'JOIN (VALUES {ranges}) AS r ON "pixelId" BETWEEN r.column1 AND r.column2'


def valid_since(mjd_tai: float) -> str:
    """Measured at a time or later, and not withdrawn."""
    return f'"midpointMjdTai" >= {mjd_tai!r} AND "timeWithdrawnMjdTai" IS NULL'


def among(dia_object_ids: NDArray[np.int64]) -> str:
    """Of one of these objects."""
    ids = ", ".join(str(i) for i in dia_object_ids.tolist())
    return f'"diaObjectId" IN ({ids or "NULL"})'
