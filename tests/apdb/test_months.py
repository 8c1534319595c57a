"""Calendar months as ranges of MJD."""

from datetime import date, timedelta

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from promptdia.apdb.months import months_of

ZERO = date(1858, 11, 17)


@given(st.floats(0, 200_000))
def test_each_time_lies_in_the_month_of_its_date(mjd: float) -> None:
    [month] = months_of(np.array([mjd]))
    day = ZERO + timedelta(int(mjd))
    assert month.name == f"{day:%Y_%m}"
    assert month.start <= mjd < month.end
    assert (ZERO + timedelta(month.start)).day == 1
    assert (ZERO + timedelta(month.end)).day == 1
    assert 28 <= month.end - month.start <= 31


def test_months_follow_each_other_without_a_gap() -> None:
    months = months_of(np.arange(61000.0, 62000.0))
    assert [m.end for m in months[:-1]] == [m.start for m in months[1:]]
    assert len({m.name for m in months}) == len(months)


def test_times_that_are_not_known_are_in_no_month() -> None:
    assert months_of(np.array([np.nan, np.inf])) == []
