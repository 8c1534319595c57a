"""The likeliest assignment against all assignments there are, and on the sphere."""

from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptdia.apdb.schema.lsst import DIA_OBJECT, DIA_SOURCE
from promptdia.tasks.associate import AssociateConfig, AssociateSources
from promptdia.tasks.errors import TaskError
from promptdia.tasks.match_likelihood import match_most_likely, pair_weights
from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.wcs import separation_arcsec, tan_wcs

ARCSEC = 1 / 3600
POINTINGS = [
    (150.0, 2.0),
    (0.0, -30.0),
    (200.0, 90.0),
    (17.0, -90.0),
    (359.9999, 0.0),
    (80.0, 75.0),
]
FLOOR = 0.1


def rows(
    schema: object, key: str, offsets: Floats, pointing: tuple[float, float] = POINTINGS[0],
    error_arcsec: float = 0.05,
) -> Catalog:  # fmt: skip
    """Positions at (n, 2) tangent-plane offsets in arcsec."""
    offsets = np.reshape(offsets, (-1, 2))
    wcs = tan_wcs(*pointing, 0, 0, np.eye(2) * ARCSEC, (1, 1))
    made: Catalog = schema.empty(len(offsets))  # type: ignore[attr-defined]
    made[key] = (100 if key == "diaObjectId" else 900) + np.arange(made.size)
    made["ra"], made["dec"] = wcs.pixel_to_sky(offsets[:, 0], offsets[:, 1])
    made["raErr"] = made["decErr"] = error_arcsec * ARCSEC
    return made


def sources(offsets: Floats, **more: object) -> Catalog:
    made = rows(DIA_SOURCE, "diaSourceId", offsets, **more)  # type: ignore[arg-type]
    made["midpointMjdTai"] = made["timeProcessedMjdTai"] = 60000.0
    return made


def objects(offsets: Floats, **more: object) -> Catalog:
    return rows(DIA_OBJECT, "diaObjectId", offsets, **more)  # type: ignore[arg-type]


def best_by_trying_all(table: Floats, allowed: np.ndarray) -> float:
    """Greatest total weight over all one-to-one matchings of a small table."""
    n, m = table.shape
    best = 0.0
    for size in range(1, min(n, m) + 1):
        for chosen in combinations(range(n), size):
            for partners in permutations(range(m), size):
                if all(allowed[i, j] for i, j in zip(chosen, partners)):
                    best = max(best, sum(table[i, j] for i, j in zip(chosen, partners)))
    return best


def offsets_of(numbers: st.SearchStrategy) -> st.SearchStrategy:
    pairs = st.lists(st.tuples(numbers, numbers), min_size=0, max_size=4)
    return pairs.map(lambda drawn: np.array(drawn, float).reshape(-1, 2))


places = st.one_of(
    offsets_of(st.floats(-1.5, 1.5)),
    offsets_of(st.sampled_from([-0.4, 0.0, 0.4])),  # with ties and positions that coincide
)


@settings(max_examples=120, deadline=None)
@given(places, places, st.sampled_from(POINTINGS), st.integers(0, 2**32 - 1))
def test_no_assignment_is_likelier(
    first: Floats, second: Floats, pointing: tuple[float, float], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    left = sources(first, pointing=pointing)
    right = objects(second, pointing=pointing)
    for table in (left, right):
        table["raErr"] = rng.uniform(0, 0.3, table.size) * ARCSEC
        table["decErr"] = rng.uniform(0, 0.3, table.size) * ARCSEC
        table["ra_dec_Cov"] = rng.uniform(-0.9, 0.9, table.size) * table["raErr"] * table["decErr"]
    i, j = match_most_likely(left, right, 1.0, FLOOR)
    assert len(set(i)) == len(set(j)) == i.size
    assert (separation_arcsec(left["ra"][i], left["dec"][i], right["ra"][j], right["dec"][j])
            <= 1 + 1e-6).all()  # fmt: skip
    if left.size and right.size:
        a, b = np.meshgrid(np.arange(left.size), np.arange(right.size), indexing="ij")
        table = pair_weights(left[a.ravel()], right[b.ravel()], 1.0, FLOOR)[0].reshape(a.shape)
        allowed = (
            separation_arcsec(left["ra"][a], left["dec"][a], right["ra"][b], right["dec"][b]) <= 1
        )
        assert table[i, j].sum() == pytest.approx(best_by_trying_all(table, allowed), abs=1e-6)


@settings(max_examples=40, deadline=None)
@given(places, places, st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(first: Floats, second: Floats, random: object) -> None:
    left, right = sources(first), objects(second)
    i, j = match_most_likely(left, right, 1.0, FLOOR)
    pairs = set(zip(left["diaSourceId"][i], right["diaObjectId"][j]))
    mixed_left, mixed_right = left.copy(), right.copy()
    for table in (mixed_left, mixed_right):
        order = list(range(table.size))
        random.shuffle(order)  # type: ignore[attr-defined]
        table[:] = table[order]
    i, j = match_most_likely(mixed_left, mixed_right, 1.0, FLOOR)
    assert set(zip(mixed_left["diaSourceId"][i], mixed_right["diaObjectId"][j])) == pairs


@pytest.mark.parametrize("pointing", POINTINGS)
def test_the_weight_is_that_of_a_gaussian_offset_everywhere_on_the_sphere(
    pointing: tuple[float, float],
) -> None:
    offsets = np.array([[0.3, 0.4], [-0.6, 0.0]])
    left = sources(np.zeros((2, 2)), pointing=pointing, error_arcsec=0.0)
    right = objects(offsets, pointing=pointing, error_arcsec=0.0)
    floor2 = 2 * FLOOR**2
    expected = (1 - (offsets**2).sum(axis=1)) / (2 * floor2)
    weight, chi2 = pair_weights(left, right, 1.0, FLOOR)
    np.testing.assert_allclose(weight, expected, rtol=1e-4)
    np.testing.assert_allclose(chi2, (offsets**2).sum(axis=1) / floor2, rtol=1e-4)


def test_what_is_well_measured_along_one_axis_counts_there() -> None:
    """The nearer object lies where the source cannot be; the farther where it may well be."""
    left = sources(np.zeros((1, 2)))
    left["raErr"], left["decErr"] = 0.5 * ARCSEC, 0.01 * ARCSEC
    right = objects(np.array([[0.0, 0.5], [0.7, 0.0]]), error_arcsec=0.01)
    for method, chosen in (("closest", 100), ("likelihood", 101)):
        config = AssociateConfig(method=method)  # type: ignore[arg-type]
        found = AssociateSources(config).run(left, right)
        assert found.sources["diaObjectId"].tolist() == [chosen]


def test_two_that_fit_well_beat_one_that_fits_best() -> None:
    """In a row o s o s the greedy rule takes the middle pair and leaves two alone."""
    left = sources(np.array([[0.50, 0.0], [1.35, 0.0]]))
    right = objects(np.array([[0.0, 0.0], [0.92, 0.0]]))
    joined = {}
    for method in ("closest", "likelihood"):
        config = AssociateConfig(method=method)  # type: ignore[arg-type]
        joined[method] = AssociateSources(config).run(left, right).sources["diaObjectId"].tolist()
    assert joined["closest"] == [101, left["diaSourceId"][1]]
    assert joined["likelihood"] == [100, 101]


@pytest.mark.parametrize(
    ("away", "max_sigma", "joined"),
    [(0.999, 1e9, 1), (1.001, 1e9, 0), (0.60, 4.0, 1), (0.66, 4.0, 0)],
)
def test_a_free_object_is_joined_within_the_radius_and_so_many_sigma(
    away: float, max_sigma: float, joined: int
) -> None:
    """Both errors are 0.05 and 0.1 arcsec: 4 sigma are 0.632 arcsec."""
    found = AssociateSources(AssociateConfig(method="likelihood", max_sigma=max_sigma)).run(
        sources(np.array([[away, 0.0]])), objects(np.zeros((1, 2)))
    )
    assert (found.counts.updated, found.counts.founded) == (joined, 1 - joined)


def test_blends_are_told_apart_better_than_by_distance_alone() -> None:
    """Pairs 0.6" apart, measured with errors that differ by axis."""
    rng = np.random.default_rng(3)
    n, correct = 400, {}
    centres = np.stack([np.arange(n) * 20.0, np.zeros(n)], axis=1)
    angle = rng.uniform(0, np.pi, n)
    half = 0.3 * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    truth = np.concatenate([centres - half, centres + half])
    error = np.tile([0.35, 0.02], (2 * n, 1))
    left = sources(truth + rng.normal(0, error))
    left["raErr"], left["decErr"] = error[:, 0] * ARCSEC, error[:, 1] * ARCSEC
    right = objects(truth, error_arcsec=0.01)
    for method in ("closest", "likelihood"):
        config = AssociateConfig(method=method, error_floor_arcsec=0.02)  # type: ignore[arg-type]
        found = AssociateSources(config).run(left, right)
        correct[method] = (found.sources["diaObjectId"] == right["diaObjectId"]).mean()
    assert correct["likelihood"] > correct["closest"] + 0.02
    assert correct["likelihood"] > 0.85


def test_an_error_floor_of_nothing_is_refused() -> None:
    config = AssociateConfig(method="likelihood", error_floor_arcsec=0.0)
    with pytest.raises(TaskError, match="error_floor_arcsec is 0"):
        AssociateSources(config).run(sources(np.zeros((1, 2))), objects(np.zeros((1, 2))))
