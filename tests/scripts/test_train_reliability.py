"""The reliability model's training, on drawn triplets: labels, splits, export, model card."""

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from support.change_scene import DETECTOR, VISIT, change_scene

from promptdia.apdb.schema.lsst import DIA_SOURCE
from promptdia.pipeline.sim.truth import TRUTH_EPOCH
from promptdia.tasks.forest import Forest
from promptdia.tasks.model.wcs import nominal_wcs
from promptdia.tasks.reliability import ReliabilityConfig, ScoreReliability
from promptdia.tasks.reliability_features import reliability_features

pytest.importorskip(
    "sklearn", reason="training needs scikit-learn (pip install promptdia[training])"
)
sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts" / "training"))

from reliability_examples import Examples, LabelRules, label, splits
from reliability_metrics import calibration_error, completeness_at_purity
from train_reliability import best_temperature, train


@pytest.fixture(scope="module")
def examples() -> Examples:
    parts = []
    for field in range(6):
        scene = change_scene(np.random.default_rng(100 + field))
        rows = reliability_features(scene.sources, scene.difference, scene.science, scene.template)
        parts.append(
            Examples(
                features=rows,
                real=scene.real,
                kind=scene.kind,
                snr=scene.sources["snr"].astype(float),
                negative=scene.sources["isNegative"],
                group=np.full(len(rows), f"field{field}/1"),
            )
        )
    return Examples.join(parts)


def test_the_trained_forest_tells_real_from_bogus_on_fields_it_never_saw(
    examples: Examples,
) -> None:
    forest, card = train(examples, "test-1", 4, trees=60)
    again = Forest.from_bytes(forest.to_bytes())
    scene = change_scene(np.random.default_rng(999))
    scored = ScoreReliability(ReliabilityConfig(), again).run(
        scene.sources, scene.difference, scene.science, scene.template
    )
    score = scored["reliability"]
    assert (score[scene.real] > 0.5).mean() > 0.9
    assert (score[~scene.real] < 0.5).mean() > 0.8
    assert card["checksum"] == again.checksum()
    assert card["split_by"] == "visit"
    assert card["test"]["auc"] > 0.9
    assert set(card["test"]["by_sign"]) == {"positive", "negative"}
    assert sum(card["n"].values()) == len(examples.real)


def test_no_field_is_in_two_sets(examples: Examples) -> None:
    parts = splits(examples.group, 4)
    fields = [set(examples.group[part]) for part in parts]
    assert not fields[0] & fields[1]
    assert not fields[0] & fields[2]
    assert not fields[1] & fields[2]
    assert sum(map(len, parts)) == len(examples.group)
    few = np.array([f"one/{visit}" for visit in (1, 1, 2, 2, 3, 3)])
    assert all(len(part) == 2 for part in splits(few, 1))
    with pytest.raises(ValueError, match="cannot be split"):
        splits(few[:4], 1)


def test_labels_follow_the_distance_from_true_changes() -> None:
    epochs = TRUTH_EPOCH.empty(5)
    epochs["kind"] = ["supernova", "variable", "supernova", "satellite", "trail"]
    epochs["x"], epochs["y"] = [50, 100, 150, 200, 300], [50, 50, 50, 200, 300]
    epochs["trail_length_arcsec"] = [0, 0, 0, 200, 10]
    epochs["trail_angle_deg"] = [0, 0, 0, 90, 0]
    snr = np.array([20.0, 2.0, 0.5, np.nan, 50.0])
    cases = {
        (51, 51): "supernova",
        (54, 50): "",  # between 2.5 and 5 pixels
        (56, 50): "bogus",
        (100, 50): "",  # a true change, too faint to have been found
        (150, 50): "bogus",  # fainter still
        (380, 203): "satellite",
        (300, 320): "",  # on the trail, which runs north
        (320, 300): "bogus",
    }
    sources = DIA_SOURCE.empty(len(cases))
    sources["x"], sources["y"] = np.array(list(cases), float).T
    found = label(sources, epochs, snr, nominal_wcs(VISIT, DETECTOR), LabelRules())
    assert_array_equal(found, list(cases.values()))


def test_the_temperature_undoes_a_known_overconfidence() -> None:
    rng = np.random.default_rng(1)
    logit = rng.normal(0, 2, 20000)
    real = rng.random(20000) < 1 / (1 + np.exp(-logit))
    assert_allclose(best_temperature(3.0 * logit, real), 3.0, rtol=0.05)


def test_completeness_at_purity_and_calibration_error_by_hand() -> None:
    real = np.array([True, True, False, True, False, False])
    score = np.array([0.9, 0.8, 0.7, 0.6, 0.2, 0.1])
    assert completeness_at_purity(real, score, 0.95) == pytest.approx(2 / 3)
    assert completeness_at_purity(real, score, 0.70) == pytest.approx(1.0)
    assert calibration_error(np.array([True, False]), np.array([0.8, 0.8])) == pytest.approx(0.3)


def test_with_many_fields_no_field_is_in_two_sets() -> None:
    group = np.array([f"field{i}/{visit}" for i in range(15) for visit in (1, 2)])
    parts = [{name.split("/")[0] for name in group[part]} for part in splits(group, 1)]
    assert not parts[0] & parts[1] | parts[0] & parts[2] | parts[1] & parts[2]
