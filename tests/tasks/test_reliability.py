"""Features of detections, the forest that judges them, and the task that joins the two."""

import io
from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.change_scene import BOGUS, Scene, change_scene

from promptdia.apdb.schema.lsst import DIA_SOURCE
from promptdia.tasks.forest import BadModel, Forest
from promptdia.tasks.model.exposure import ScienceExposure, TemplateExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.reliability import ReliabilityConfig, ScoreReliability
from promptdia.tasks.reliability_features import FEATURES, reliability_features

COLUMN = {name: i for i, name in enumerate(FEATURES)}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return change_scene(np.random.default_rng(8))


@pytest.fixture(scope="module")
def rows(scene: Scene) -> np.ndarray:
    return features_of(scene)


def features_of(scene: Scene) -> np.ndarray:
    return reliability_features(scene.sources, scene.difference, scene.science, scene.template)


def grown_forest(rng: np.random.Generator, n_trees: int = 7, depth: int = 4) -> Forest:
    """Complete trees with random cuts on the columns."""
    per_tree = 2 ** (depth + 1) - 1
    local = np.arange(per_tree)
    leaf = np.tile(local >= 2**depth - 1, n_trees)
    first = np.repeat(np.arange(n_trees) * per_tree, per_tree)
    own = first + np.tile(local, n_trees)
    n = len(own)
    return Forest(
        feature=np.where(leaf, 0, rng.integers(0, len(FEATURES), n)),
        threshold=rng.normal(0, 2, n),
        missing_left=rng.random(n) < 0.5,
        left=np.where(leaf, own, first + np.tile(2 * local + 1, n_trees)),
        right=np.where(leaf, own, first + np.tile(2 * local + 2, n_trees)),
        value=np.where(leaf, rng.normal(0, 0.3, n), 0.0),
        roots=np.arange(n_trees) * per_tree,
        depth=depth,
        baseline=0.1,
        temperature=1.3,
        features=FEATURES,
        version="test-1",
    )


def walked(forest: Forest, row: np.ndarray) -> float:
    """The plain twin of Forest.logit for one row."""
    total = forest.baseline
    for root in forest.roots:
        node = root
        while forest.left[node] != node:
            value = row[forest.feature[node]]
            left = forest.missing_left[node] if np.isnan(value) else value <= forest.threshold[node]
            node = forest.left[node] if left else forest.right[node]
        total += forest.value[node]
    return total


# ---- features


def test_features_tell_artefacts_from_stars(scene: Scene, rows: np.ndarray) -> None:
    assert rows.shape == (len(scene.sources), len(FEATURES))

    def of(name: str, kind: str) -> float:
        return float(np.nanmedian(rows[scene.kind == kind, COLUMN[name]]))

    stars = [of("psf_match", kind) for kind in ("positive", "negative")]
    assert min(stars) > 0.8
    assert max(of("psf_match", kind) for kind in BOGUS) < min(stars)
    assert of("sharpness", "hot_pixel") > 0.9 > of("sharpness", "positive") + 0.3
    assert of("balance", "dipole") < 0.5 < of("balance", "positive")
    assert of("like_gradient", "dipole") > 3 * of("like_gradient", "negative")
    assert of("psf_residual", "wrong_psf") > 3 * of("psf_residual", "positive")
    assert of("column", "column") > 10 > abs(of("column", "positive"))
    assert of("line_contrast", "column") > 3 * of("line_contrast", "positive")


def test_a_source_and_its_negative_have_the_same_features(scene: Scene, rows: np.ndarray) -> None:
    turned = scene.sources.copy()
    turned["psfFlux"] *= -1
    turned["isNegative"] = ~turned["isNegative"]
    other = reliability_features(
        turned,
        scene.difference.replace(image=-scene.difference.image),
        ScienceExposure.of(scene.template),
        TemplateExposure.of(scene.science),
    )
    assert_allclose(other, rows, rtol=1e-5, atol=1e-5)


def test_features_do_not_depend_on_the_unit_of_flux(scene: Scene, rows: np.ndarray) -> None:
    brighter = scene.sources.copy()
    for name in ("psfFlux", "psfFluxErr"):
        brighter[name] *= 8.0

    def scaled(exposure):
        return exposure.replace(image=exposure.image * 8, variance=exposure.variance * 64)

    other = reliability_features(
        brighter, scaled(scene.difference), scaled(scene.science), scaled(scene.template)
    )
    assert_allclose(other, rows, rtol=1e-4, atol=1e-4)


def test_features_of_a_source_do_not_depend_on_its_neighbours_in_the_table(
    scene: Scene, rows: np.ndarray
) -> None:
    few = reliability_features(scene.sources[5:7], scene.difference, scene.science, scene.template)
    assert_allclose(few, rows[5:7], rtol=1e-6, atol=1e-6)


def test_borders_holes_and_unknown_measurements_give_rows_that_say_so(scene: Scene) -> None:
    image, mask = scene.difference.image.copy(), scene.difference.mask.copy()
    variance = scene.difference.variance.copy()
    mask[100:140, 100:140] |= MaskPlane.NO_DATA.value
    image[100:140, 100:140], variance[100:140, 100:140] = np.nan, np.inf
    mask[200:230, 200:230] |= MaskPlane.SAT.value
    holed = scene.difference.replace(image=image, mask=mask, variance=variance)
    sources = DIA_SOURCE.empty(4)
    sources["x"], sources["y"] = [0.2, 120.0, 237.0, 300.0], [399.4, 120.0, 215.0, 300.0]
    rows = reliability_features(sources, holed, scene.science, scene.template)
    assert not np.isinf(rows).any()
    unknown = rows[:, COLUMN["unknown"]]
    assert unknown[0] == pytest.approx(0.75, abs=0.05)
    assert unknown[1] > 0.95
    assert unknown[3] == 0.0
    assert rows[1, COLUMN["unknown_core"]] == 1.0
    assert rows[2, COLUMN["saturated_distance"]] == pytest.approx(8 / (2.3548 * 1.8), abs=0.02)


def test_no_sources_give_no_rows(scene: Scene) -> None:
    none = reliability_features(DIA_SOURCE.empty(), scene.difference, scene.science, scene.template)
    assert none.shape == (0, len(FEATURES))


# ---- forest


def test_the_forest_walks_like_its_plain_twin() -> None:
    rng = np.random.default_rng(2)
    forest = grown_forest(rng)
    rows = rng.normal(0, 2, (50, len(FEATURES)))
    rows[rng.random(rows.shape) < 0.2] = np.nan
    expected = [walked(forest, row) for row in rows]
    assert_allclose(forest.logit(rows), expected, rtol=1e-12)
    calibrated = 1 / (1 + np.exp(-np.array(expected) / 1.3))
    assert_allclose(forest.probability(rows), calibrated, rtol=1e-12)


def test_a_forest_survives_its_file_and_a_changed_one_is_refused() -> None:
    forest = grown_forest(np.random.default_rng(2))
    again = Forest.from_bytes(forest.to_bytes())
    assert again.checksum() == forest.checksum()
    assert again.features == FEATURES
    rows = np.random.default_rng(3).normal(size=(5, len(FEATURES)))
    assert_array_equal(again.logit(rows), forest.logit(rows))
    with pytest.raises(BadModel, match="no forest file"):
        Forest.from_bytes(forest.to_bytes()[:200])
    with np.load(io.BytesIO(forest.to_bytes())) as arrays:
        kept = dict(arrays)
    kept["threshold"] = kept["threshold"] + 1e-9
    stream = io.BytesIO()
    np.savez(stream, **kept)
    with pytest.raises(BadModel, match="does not match its checksum"):
        Forest.from_bytes(stream.getvalue())


def test_a_forest_for_other_features_is_refused() -> None:
    forest = replace(grown_forest(np.random.default_rng(2)), features=(*FEATURES[:-1], "moon"))
    with pytest.raises(BadModel, match="differing: moon, seeing_ratio"):
        forest.require_features(FEATURES)
    with pytest.raises(BadModel, match="the order"):
        replace(forest, features=FEATURES[::-1]).require_features(FEATURES)
    with pytest.raises(ValueError, match="rows have shape"):
        forest.logit(np.zeros((3, 2)))


# ---- task


def test_scores_are_probabilities_with_the_models_version(scene: Scene) -> None:
    task = ScoreReliability(ReliabilityConfig(), grown_forest(np.random.default_rng(2)))
    scored = task.run(scene.sources, scene.difference, scene.science, scene.template)
    assert ((scored["reliability"] >= 0) & (scored["reliability"] <= 1)).all()
    assert len(np.unique(scored["reliability"])) > 10
    assert (scored["reliabilityVersion"] == "test-1").all()
    assert np.isnan(scene.sources["reliability"]).all()
    assert_array_equal(scored["psfFlux"], scene.sources["psfFlux"])
    nothing = task.run(DIA_SOURCE.empty(), scene.difference, scene.science, scene.template)
    assert len(nothing) == 0


def test_scoring_switched_off_keeps_everything_under_its_own_name(scene: Scene) -> None:
    task = ScoreReliability(ReliabilityConfig(enabled=False))
    scored = task.run(scene.sources, scene.difference, scene.science, scene.template)
    assert (scored["reliability"] == 1.0).all()
    assert (scored["reliabilityVersion"] == "none").all()
