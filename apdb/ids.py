"""64-bit identifiers that say where they come from.

From the high bits to the low: release (6), day since 2010-01-01 (15), sequence number
of the exposure (15), detector (8), counter (19). 63 bits in all, so that an id fits a
signed integer. This is the packing of Rubin's alerts, which a test holds.
"""

from datetime import date, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdia.apdb.errors import ApdbError

_FIRST_DAY = date(2010, 1, 1).toordinal()
_N_COUNTERS, _N_DETECTORS, _N_SEQUENCE, _N_DAYS, _N_RELEASES = 2**19, 2**8, 2**15, 2**14, 2**6
_N_PACKED = 2**38
"""Detector, sequence and day take 37 bits; the 38th tells kinds of visits apart, always 0 here."""


class SourceId(NamedTuple):
    """What an id says about its source."""

    visit: int
    detector: int
    counter: int
    release: int


def visit_id(day_obs: int, sequence: int) -> int:
    """yyyymmddNNNNN from a day of observation yyyymmdd and a sequence number."""
    _day_number(day_obs)
    _check("sequence number", sequence, _N_SEQUENCE)
    return day_obs * 100_000 + sequence


def dia_source_id(visit: int, detector: int, counter: int, release: int = 0) -> int:
    """The id of the ``counter``-th detection on a detector of a visit; ApdbError out of range."""
    _check("counter", counter, _N_COUNTERS)
    return _first_id(visit, detector, release) + counter


def dia_source_ids(
    visit: int, detector: int, counters: NDArray[Any], release: int = 0
) -> NDArray[np.int64]:
    """(n,) ids of many detections of one detector-visit; forced sources are numbered alike."""
    if counters.size:
        _check("counter", int(counters.min()), _N_COUNTERS)
        _check("counter", int(counters.max()), _N_COUNTERS)
    ids: NDArray[np.int64] = counters.astype(np.int64) + _first_id(visit, detector, release)
    return ids


def unpack(source_id: int) -> SourceId:
    """Visit, detector, counter and release of an id; ApdbError when no visit can have made it."""
    packed, counter = divmod(int(source_id), _N_COUNTERS)
    release, packed = divmod(packed, _N_PACKED)
    packed, detector = divmod(packed, _N_DETECTORS)
    days, sequence = divmod(packed, _N_SEQUENCE)
    if not 0 <= release < _N_RELEASES or days >= _N_DAYS:
        raise ApdbError(f"{source_id} is no id of a source: its bits name no visit")
    day = date(2010, 1, 1) + timedelta(days)
    day_obs = day.year * 10_000 + day.month * 100 + day.day
    return SourceId(day_obs * 100_000 + sequence, detector, counter, release)


def _first_id(visit: int, detector: int, release: int) -> int:
    day_obs, sequence = divmod(int(visit), 100_000)
    days = _day_number(day_obs)
    _check("sequence number", sequence, _N_SEQUENCE)
    _check("detector", detector, _N_DETECTORS)
    _check("release", release, _N_RELEASES)
    packed = int(detector) + _N_DETECTORS * (sequence + _N_SEQUENCE * days)
    return (release * _N_PACKED + packed) * _N_COUNTERS


def _day_number(day_obs: int) -> int:
    try:
        day = date(day_obs // 10_000, day_obs // 100 % 100, day_obs % 100)
    except ValueError:
        raise ApdbError(f"day of observation {day_obs} is no date yyyymmdd") from None
    days = day.toordinal() - _FIRST_DAY
    _check("day of observation since 2010-01-01", days, _N_DAYS)
    return days


def _check(what: str, value: int, end: int) -> None:
    if not 0 <= value < end:
        raise ApdbError(f"{what} is {value}, must be from 0 to {end - 1}")
