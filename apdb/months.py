"""Calendar months as ranges of MJD: the partitions of what was measured."""

from typing import NamedTuple

import numpy as np

from promptdia.apdb.rows import Rows

_MJD_ZERO = np.datetime64("1858-11-17", "D")


class Month(NamedTuple):
    """``start`` <= MJD < ``end``."""

    name: str
    """yyyy_mm"""
    start: int
    end: int


def months_of(mjd: Rows) -> list[Month]:
    """The months in which these times lie, in order; times that are not finite are in none."""
    days = np.floor(mjd[np.isfinite(mjd)]).astype(np.int64)
    months = np.unique((_MJD_ZERO + days).astype("datetime64[M]"))
    return [
        Month(str(month).replace("-", "_"), _mjd(month), _mjd(month + np.timedelta64(1, "M")))
        for month in months
    ]


def _mjd(month: "np.datetime64") -> int:
    return int((month.astype("datetime64[D]") - _MJD_ZERO).astype(np.int64))
