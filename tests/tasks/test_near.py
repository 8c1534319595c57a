"""Close pairs and look-up of ids, against plain loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptdia.tasks.kernels.lookup import rows_of
from promptdia.tasks.model.arrays import copied
from promptdia.tasks.model.wcs import separation_arcsec, tan_wcs
from promptdia.tasks.near import close_pairs

POLES_AND_WRAP = [(0.0, 0.0), (359.9999, -45.0), (100.0, 90.0), (3.0, -90.0), (90.0, 10.0)]
numbers = st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40)


@settings(max_examples=80, deadline=None)
@given(numbers, numbers)
def test_rows_of_ids_are_those_of_a_dictionary(ids: list[int], others: list[int]) -> None:
    wanted = np.array(others + ids[::2], np.int64)
    first: dict[int, int] = {}
    for row, number in enumerate(ids):
        first.setdefault(number, row)
    expected = [first.get(int(number), -1) for number in wanted]
    assert rows_of(np.array(ids, np.int64), wanted).tolist() == expected


def test_many_ids_of_one_visit_are_found() -> None:
    ids = (1 << 40) + np.arange(5000) * (1 << 19)
    np.random.default_rng(1).shuffle(ids)
    assert rows_of(ids, ids).tolist() == list(range(5000))


@pytest.mark.parametrize("pointing", POLES_AND_WRAP)
@pytest.mark.parametrize("side_arcsec", [3.0, 40.0])
def test_pairs_are_all_that_lie_within_the_radius(
    pointing: tuple[float, float], side_arcsec: float
) -> None:
    """In the small field nearly everything pairs with everything: the list must grow."""
    rng = np.random.default_rng(2)
    wcs = tan_wcs(*pointing, 0, 0, np.eye(2) / 3600, (1, 1))
    one, two = (wcs.pixel_to_sky(*rng.uniform(0, side_arcsec, (2, n))) for n in (60, 90))
    i, j, chord = close_pairs(*one, *two, 1.5)
    away = separation_arcsec(one[0][:, None], one[1][:, None], two[0], two[1])
    assert set(zip(i.tolist(), j.tolist())) == set(
        zip(*map(np.ndarray.tolist, np.where(away < 1.5)))
    )
    assert i.size == len(set(zip(i.tolist(), j.tolist())))
    np.testing.assert_allclose(np.rad2deg(chord) * 3600, away[i, j], atol=1e-5)


def test_nothing_is_close_to_nothing() -> None:
    some, none = np.array([1.0, 2.0]), np.zeros(0)
    for left, right in ((some, none), (none, some), (none, none)):
        assert [a.size for a in close_pairs(left, left, right, right, 1.0)] == [0, 0, 0]


def test_copied_rows_are_those_of_concatenate() -> None:
    dtype = np.dtype([("id", np.int64), ("name", "U3"), ("flag", bool), ("x", np.float32)])
    one = np.array([(1, "a", True, np.nan), (2, "bcd", False, 0.5), (3, "", True, 1.0)], dtype)
    other = one[::-2]
    both = copied(one, other)
    assert both.tobytes() == np.concatenate([one, other]).tobytes()
    both["id"] = 0
    assert one["id"].tolist() == [1, 2, 3]
    with pytest.raises(TypeError, match="different columns"):
        copied(one, np.zeros(1, [("id", np.int64)]))
