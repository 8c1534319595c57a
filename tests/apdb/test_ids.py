"""Identifiers: packing, unpacking, limits."""

from datetime import date

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from promptdia.apdb.errors import ApdbError
from promptdia.apdb.ids import SourceId, dia_source_id, dia_source_ids, unpack, visit_id


def test_a_published_rubin_id_unpacks_to_its_known_parts() -> None:
    assert unpack(170059286935240883) == SourceId(2026022500167, 145, 179, 1)
    assert dia_source_id(2026022500167, 145, 179, release=1) == 170059286935240883


@given(
    st.dates(date(2010, 1, 1), date(2054, 11, 8)),
    st.integers(0, 32767),
    st.integers(0, 255),
    st.integers(0, 2**19 - 1),
    st.integers(0, 63),
)
def test_packing_and_unpacking_are_inverse_and_fit_a_signed_integer(
    day: date, sequence: int, detector: int, counter: int, release: int
) -> None:
    visit = visit_id(int(f"{day:%Y%m%d}"), sequence)
    packed = dia_source_id(visit, detector, counter, release)
    assert 0 <= packed < 2**63
    assert unpack(packed) == SourceId(visit, detector, counter, release)


def test_many_ids_are_the_single_ones() -> None:
    ids = dia_source_ids(2026022500167, 145, np.array([0, 5, 179]), release=1)
    assert ids.dtype == np.int64
    assert ids.tolist() == [dia_source_id(2026022500167, 145, n, 1) for n in (0, 5, 179)]
    assert dia_source_ids(2026022500167, 145, np.array([], int)).shape == (0,)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((2026023000001, 1, 1, 0), "20260230 is no date"),
        ((2009123100001, 1, 1, 0), "day of observation since 2010-01-01 is -1"),
        ((2026022532768, 1, 1, 0), "sequence number is 32768, must be from 0 to 32767"),
        ((2026022500001, 256, 1, 0), "detector is 256, must be from 0 to 255"),
        ((2026022500001, 1, 2**19, 0), "counter is 524288"),
        ((2026022500001, 1, -1, 0), "counter is -1"),
        ((2026022500001, 1, 1, 64), "release is 64, must be from 0 to 63"),
    ],
)
def test_what_does_not_fit_is_named(arguments: tuple[int, int, int, int], complaint: str) -> None:
    with pytest.raises(ApdbError, match=complaint):
        dia_source_id(*arguments)


def test_counters_out_of_range_are_refused_in_bulk_too() -> None:
    with pytest.raises(ApdbError, match="counter is 524288"):
        dia_source_ids(2026022500001, 1, np.array([0, 2**19]))


@pytest.mark.parametrize("bad", [-1, 2**63 - 1])
def test_a_number_that_no_visit_can_have_made_is_refused(bad: int) -> None:
    with pytest.raises(ApdbError, match="is no id of a source"):
        unpack(bad)
