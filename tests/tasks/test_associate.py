"""Association: against a brute-force oracle, on the sphere, and its bookkeeping."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from promptdia.apdb.schema.lsst import DIA_OBJECT, DIA_SOURCE
from promptdia.tasks.associate import (
    SS_POSITION,
    AssociateConfig,
    AssociateSources,
    match_closest_first,
)
from promptdia.tasks.errors import TaskError
from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.wcs import separation_arcsec, tan_wcs, unit_vectors

ARCSEC = 1 / 3600
POINTINGS = [(150.0, 2.0), (0.0, -30.0), (200.0, 90.0), (17.0, -90.0), (359.9999, 0.0)]


def placed(pointing: tuple[float, float], offsets: Floats) -> tuple[Floats, Floats]:
    """Sky positions of (n, 2) tangent-plane offsets in arcsec."""
    wcs = tan_wcs(*pointing, 0, 0, np.eye(2) * ARCSEC, (1, 1))
    return wcs.pixel_to_sky(offsets[:, 0], offsets[:, 1])


def make_sources(ra: Floats, dec: Floats, first_id: int = 1000, mjd: float = 60000.0) -> Catalog:
    rows = DIA_SOURCE.empty(np.size(ra))
    rows["diaSourceId"] = first_id + np.arange(rows.size)
    rows["ra"], rows["dec"], rows["midpointMjdTai"] = ra, dec, mjd
    rows["timeProcessedMjdTai"] = mjd + 0.001
    return rows


def make_objects(ra: Floats, dec: Floats, first_id: int = 1) -> Catalog:
    rows = DIA_OBJECT.empty(np.size(ra))
    rows["diaObjectId"] = first_id + np.arange(rows.size)
    rows["ra"], rows["dec"], rows["nDiaSources"] = ra, dec, 1
    rows["firstDiaSourceMjdTai"] = rows["lastDiaSourceMjdTai"] = 59000.0
    return rows


def brute_force(first: tuple, second: tuple, radius_arcsec: float) -> set[tuple[int, int]]:
    """Take the closest remaining pair of all, again and again; ids settle equal distances."""
    (ra1, dec1, id1), (ra2, dec2, id2) = first, second
    v1, v2 = unit_vectors(ra1, dec1), unit_vectors(ra2, dec2)
    limit = 2 * np.sin(np.deg2rad(radius_arcsec / 3600) / 2)
    left = {
        (float(np.sqrt(((a - b) ** 2).sum())), int(i), int(j))
        for a, i in zip(v1, id1)
        for b, j in zip(v2, id2)
    }
    pairs = set()
    while left:
        distance, i, j = min(left)
        if distance > limit:
            break
        pairs.add((i, j))
        left = {p for p in left if p[1] != i and p[2] != j}
    return pairs


crowd = st.lists(
    st.tuples(st.floats(-3, 3, width=32), st.floats(-3, 3, width=32)), min_size=0, max_size=14
)
grid = st.lists(st.tuples(st.integers(-2, 2), st.integers(-2, 2)), min_size=0, max_size=10)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(POINTINGS), st.one_of(crowd, grid), st.one_of(crowd, grid), st.randoms())
def test_matching_is_that_of_the_brute_force_oracle(
    pointing: tuple[float, float], one: list, two: list, random: object
) -> None:
    first, second = (
        (*placed(pointing, np.reshape(np.array(xy, float), (-1, 2))), np.arange(len(xy)) * 7 % 23)
        for xy in (one, two)
    )
    i, j = match_closest_first(*first, *second, radius_arcsec=1.0)
    found = {(int(first[2][a]), int(second[2][b])) for a, b in zip(i, j)}
    assert len(found) == len(i) == len(set(i)) == len(set(j))
    assert found == brute_force(first, second, 1.0)


@pytest.mark.parametrize("pointing", POINTINGS)
def test_a_radius_is_an_angle_on_the_sphere_everywhere(pointing: tuple[float, float]) -> None:
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    ring = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    for radius, matched in ((0.999, 16), (1.001, 0)):
        ra, dec = placed(pointing, np.concatenate([ring * radius]))
        for k in range(16):
            i, _ = match_closest_first(
                ra[k : k + 1], dec[k : k + 1], np.array([1]),
                np.array([pointing[0]]), np.array([pointing[1]]), np.array([2]), 1.0,
            )  # fmt: skip
            matched -= i.size
        assert matched == 0


def test_equal_distances_go_to_the_lower_ids_whatever_the_order_of_rows() -> None:
    ra, dec = np.array([10.0, 10.0]), np.array([0.0, 0.0])
    for ids in ([5, 3], [3, 5]):
        i, j = match_closest_first(ra, dec, np.array(ids), ra[:1], dec[:1], np.array([9]), 1.0)
        assert [ids[k] for k in i] == [3]
        assert j.tolist() == [0]


def test_matching_does_not_depend_on_the_order_of_rows() -> None:
    rng = np.random.default_rng(5)
    ra, dec = placed((0.0, 89.999), rng.uniform(-10, 10, (300, 2)))
    first, second = (ra[:150], dec[:150], np.arange(150)), (ra[150:], dec[150:], np.arange(150))
    expected = brute_force(first, second, 1.0)
    assert len(expected) > 50
    for seed in range(3):
        p, q = (np.random.default_rng(seed + k).permutation(150) for k in (0, 9))
        shuffled = [a[p] for a in first], [a[q] for a in second]
        i, j = match_closest_first(*shuffled[0], *shuffled[1], radius_arcsec=1.0)
        assert {(int(p[a]), int(q[b])) for a, b in zip(i, j)} == expected


def associate(sources: Catalog, objects: Catalog, *more: Catalog, **settings: object):
    return AssociateSources(AssociateConfig(**settings)).run(sources, objects, *more)


def test_a_close_source_joins_and_a_far_one_founds_an_object() -> None:
    sources = make_sources(np.array([10.0, 20.0]), np.array([0.0, 0.0]))
    sources["raErr"] = 2e-5
    objects = make_objects(np.array([10.0 + 0.5 * ARCSEC, 30.0]), np.array([0.0, 0.0]))
    result = associate(sources, objects)
    assert result.sources["diaObjectId"].tolist() == [1, 1001]
    assert result.objects["diaObjectId"].tolist() == [1, 2, 1001]
    assert result.objects["nDiaSources"].tolist() == [2, 1, 1]
    assert result.objects["firstDiaSourceMjdTai"].tolist() == [59000.0, 59000.0, 60000.0]
    assert result.objects["lastDiaSourceMjdTai"].tolist() == [60000.0, 59000.0, 60000.0]
    assert result.objects["ra"].tolist() == [objects["ra"][0], 30.0, 20.0]
    assert result.objects["raErr"][2] == np.float32(2e-5)
    assert result.objects["validityStartMjdTai"][2] == 60000.001
    assert result.counts == (1, 0, 1, 0, 1)


def test_a_second_source_near_one_object_founds_another() -> None:
    offsets = np.array([[0.3, 0.0], [-0.2, 0.0]])
    sources = make_sources(*placed((150.0, 2.0), offsets))
    result = associate(sources, make_objects(np.array([150.0]), np.array([2.0])))
    assert result.sources["diaObjectId"].tolist() == [1000, 1]


def test_inputs_are_left_as_they_were() -> None:
    sources = make_sources(np.array([10.0]), np.array([0.0]))
    objects = make_objects(np.array([10.0]), np.array([0.0]))
    before = sources.tobytes(), objects.tobytes()
    associate(sources, objects)
    assert (sources.tobytes(), objects.tobytes()) == before


def solar_system(ra: float, dec: float) -> Catalog:
    rows = SS_POSITION.empty(1)
    rows["ssObjectId"], rows["ra"], rows["dec"] = 77, ra, dec
    return rows


@pytest.mark.parametrize(("first", "owner"), [(False, (1, 0)), (True, (0, 77))])
def test_the_order_of_static_and_moving_objects_is_a_setting(
    first: bool, owner: tuple[int, int]
) -> None:
    sources = make_sources(np.array([10.0]), np.array([0.0]))
    objects = make_objects(np.array([10.0]), np.array([0.0]))
    result = associate(sources, objects, solar_system(10.0, 0.0), solar_system_first=first)
    assert (result.sources["diaObjectId"][0], result.sources["ssObjectId"][0]) == owner


def test_an_unclaimed_source_at_a_predicted_position_founds_nothing() -> None:
    sources = make_sources(np.array([10.0, 10.1]), np.array([0.0, 0.0]))
    result = associate(sources, make_objects(np.array([]), np.array([])), solar_system(10.0, 0.0))
    assert result.sources["ssObjectId"].tolist() == [77, 0]
    assert result.sources["diaObjectId"].tolist() == [0, 1001]
    assert result.objects["diaObjectId"].tolist() == [1001]
    assert result.counts.solar_system == 1


@settings(max_examples=50, deadline=None)
@given(crowd, crowd, crowd, st.booleans())
def test_every_source_ends_with_exactly_one_owner_and_no_owner_has_two(
    one: list, two: list, three: list, first: bool
) -> None:
    ra, dec = placed((0.0, -89.9999), np.reshape(np.array(one, float), (-1, 2)))
    moving = SS_POSITION.empty(len(three))
    moving["ssObjectId"] = np.arange(len(three)) + 1
    moving["ra"], moving["dec"] = placed(
        (0.0, -89.9999), np.reshape(np.array(three, float), (-1, 2))
    )
    objects = make_objects(*placed((0.0, -89.9999), np.reshape(np.array(two, float), (-1, 2))))
    result = associate(make_sources(ra, dec), objects, moving, solar_system_first=first)
    static, ss = result.sources["diaObjectId"], result.sources["ssObjectId"]
    assert ((static != 0) ^ (ss != 0)).all()
    for ids in (static[static != 0], ss[ss != 0], result.objects["diaObjectId"]):
        assert np.unique(ids).size == ids.size
    assert np.isin(static[static != 0], result.objects["diaObjectId"]).all()
    assert sum(result.counts[:3]) == len(one)


def test_a_source_barred_from_founding_goes_to_the_ledger_with_its_rule() -> None:
    sources = make_sources(np.array([10.0, 20.0, 30.0, 40.0]), np.zeros(4))
    sources["pixelFlags_crCenter"] = [True, True, False, False]
    sources["reliability"] = [0.9, 0.9, 0.01, 0.9]
    objects = make_objects(np.array([10.0]), np.array([0.0]))
    result = associate(
        sources, objects, founding_flags=("pixelFlags_crCenter",), founding_reliability=0.1
    )
    assert result.sources["diaSourceId"].tolist() == [1000, 1003]  # the first joins all the same
    assert result.rejected["diaSourceId"].tolist() == [1001, 1002]
    assert result.rejected["rule"].tolist() == [
        "founding_pixelFlags_crCenter",
        "founding_reliability",
    ]
    assert_array_equal(result.rejected["rule_value"][1], np.float32(0.01))
    assert result.rejected["rule_limit"].tolist() == [0.0, 0.1]
    assert result.counts == (1, 0, 1, 2, 0)
    assert associate(sources, objects).rejected.size == 0


def test_a_source_without_a_position_goes_to_the_ledger_and_the_others_go_on() -> None:
    sources = make_sources(np.array([10.0, 11.0, 12.0, 13.0]), np.zeros(4))
    sources["ra"][1], sources["dec"][2] = np.nan, 91.0
    result = associate(sources, make_objects(np.array([10.0]), np.zeros(1)))
    assert result.sources["diaObjectId"].tolist() == [1, 1003]
    assert result.rejected["diaSourceId"].tolist() == [1001, 1002]
    assert set(result.rejected["rule"]) == {"no_position"}
    assert result.counts == (1, 0, 1, 2, 0)


def test_a_known_object_without_a_position_is_named() -> None:
    objects = make_objects(np.array([10.0, np.nan]), np.zeros(2))
    with pytest.raises(TaskError, match=r"object 2 has ra nan and dec 0\.0"):
        associate(make_sources(np.array([10.0]), np.zeros(1)), objects)
    lost = solar_system(np.nan, 0.0)
    with pytest.raises(TaskError, match="Solar System object 77 has ra nan"):
        associate(make_sources(np.array([10.0]), np.zeros(1)), objects[:1], lost)


def test_ids_that_occur_twice_are_refused() -> None:
    sources = make_sources(np.array([10.0, 11.0]), np.zeros(2))
    sources["diaSourceId"] = 5
    with pytest.raises(TaskError, match="source id 5 occurs 2 times"):
        associate(sources, make_objects(np.array([]), np.array([])))
    objects = make_objects(np.array([10.0, 11.0]), np.zeros(2))
    objects["diaObjectId"] = 8
    with pytest.raises(TaskError, match="object id 8 occurs 2 times"):
        associate(make_sources(np.array([10.0]), np.zeros(1)), objects)


def test_nothing_gives_nothing() -> None:
    result = associate(DIA_SOURCE.empty(), DIA_OBJECT.empty())
    assert (result.sources.size, result.objects.size, result.rejected.size) == (0, 0, 0)


def test_blended_pairs_are_kept_apart_by_closest_first() -> None:
    """Two stars 1.2 arcsec apart, each seen with 0.1 arcsec scatter, keep their own ids."""
    rng = np.random.default_rng(11)
    corners = np.stack(np.meshgrid(np.arange(30) * 10.0, np.arange(30) * 10.0), -1).reshape(-1, 2)
    truth = np.concatenate([corners, corners + np.array([1.2, 0.0])])
    objects = make_objects(*placed((50.0, -60.0), truth))
    ra, dec = placed((50.0, -60.0), truth + rng.normal(0, 0.1, truth.shape))
    result = associate(make_sources(ra, dec), objects)
    right = result.sources["diaObjectId"] == objects["diaObjectId"]
    assert right.mean() > 0.999
    assert separation_arcsec(ra, dec, objects["ra"], objects["dec"]).max() < 1.0
