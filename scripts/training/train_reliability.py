"""Train, calibrate, check and export the reliability model; run by scripts/training/reliability."""

import argparse
import json
import sys
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from reliability_examples import Examples, LabelRules, gather, split_unit, splits
from reliability_metrics import metrics
from scipy.optimize import minimize_scalar
from sklearn.ensemble import HistGradientBoostingClassifier
from threadpoolctl import threadpool_limits

from promptdia.tasks.forest import Forest
from promptdia.tasks.reliability import MODEL_FILE
from promptdia.tasks.reliability_features import FEATURES

DATA = Path(__file__).resolve().parents[2] / "tasks" / "data"
SAME_SCORE = 1e-6


def main() -> None:
    """Read the arguments and do it all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("roots", nargs="+", type=Path, metavar="ROOT")
    parser.add_argument("--version", required=True, help="at most 7 characters, e.g. gbt-1")
    parser.add_argument("--out", type=Path, default=DATA, help="folder of the two files")
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    if len(arguments.version) > 7:
        parser.error(f"--version has {len(arguments.version)} characters, must have at most 7")
    rules = LabelRules()
    examples = Examples.join([gather(root, rules) for root in arguments.roots])
    print(examples.describe(), file=sys.stderr)
    forest, card = train(examples, arguments.version, arguments.seed)
    card["labels"] = asdict(rules)
    card["roots"] = [root.name for root in arguments.roots]
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = arguments.out / MODEL_FILE
    model.write_bytes(forest.to_bytes())
    model.with_suffix(".json").write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(card["test"], indent=2))


def train(
    examples: Examples, name: str, seed: int, trees: int = 300
) -> tuple[Forest, dict[str, Any]]:
    """The calibrated forest and its model card; RuntimeError if the export scores differently."""
    fit, validate, test = splits(examples.group, seed)
    model = HistGradientBoostingClassifier(
        max_iter=trees,
        learning_rate=0.06,
        max_leaf_nodes=24,
        min_samples_leaf=20,
        l2_regularization=1.0,
        early_stopping=False,
        random_state=seed,
    )
    with threadpool_limits(1):  # the same trees whatever the number of cores
        model.fit(without_unknown_columns(examples.features[fit]), examples.real[fit])
    raw = export(model, name, 1.0)
    temperature = best_temperature(raw.logit(examples.features[validate]), examples.real[validate])
    forest = export(model, name, temperature)
    check_same(forest, model, examples.features)
    score = forest.probability(examples.features)
    card = {
        "version": name,
        "checksum": forest.checksum(),
        "temperature": temperature,
        "trees": len(forest.roots),
        "features": list(FEATURES),
        "split_by": split_unit(examples.group)[0],
        "share_real_in_training": float(examples.real[fit].mean()),
        "n": {"train": len(fit), "validation": len(validate), "test": len(test)},
        "validation": metrics(examples.rows(validate), score[validate]),
        "test": metrics(examples.rows(test), score[test]),
        "made_with": {p: version(p) for p in ("promptdia", "scikit-learn", "numpy")},
        "seed": seed,
    }
    return forest, card


def without_unknown_columns(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Columns that are nan throughout as zeros: scikit-learn cannot bin them, no tree uses them."""
    return np.where(np.isfinite(rows).any(axis=0), rows, 0.0)


def export(model: HistGradientBoostingClassifier, name: str, temperature: float) -> Forest:
    """A fitted binary scikit-learn model as a Forest."""
    trees = [predictors[0].nodes for predictors in model._predictors]
    first = np.concatenate([[0], np.cumsum([len(tree) for tree in trees])])
    nodes = np.concatenate(trees)
    leaf = nodes["is_leaf"].astype(bool)
    own = np.arange(len(nodes))
    offset = np.repeat(first[:-1], [len(tree) for tree in trees])
    return Forest(
        feature=np.where(leaf, 0, nodes["feature_idx"]).astype(np.int64),
        threshold=np.where(leaf, 0.0, nodes["num_threshold"]),
        missing_left=nodes["missing_go_to_left"].astype(bool),
        left=np.where(leaf, own, nodes["left"].astype(np.int64) + offset),
        right=np.where(leaf, own, nodes["right"].astype(np.int64) + offset),
        value=np.where(leaf, nodes["value"], 0.0),
        roots=first[:-1].astype(np.int64),
        depth=int(nodes["depth"].max()),
        baseline=float(np.ravel(model._baseline_prediction)[0]),
        temperature=temperature,
        features=FEATURES,
        version=name,
    )


def best_temperature(logit: NDArray[np.float64], real: NDArray[np.bool_]) -> float:
    """The temperature with the least cross entropy on held-out data."""

    def cost(log_temperature: float) -> float:
        z = logit / np.exp(log_temperature)
        return float(np.mean(np.logaddexp(0.0, np.where(real, -z, z))))

    return float(np.exp(minimize_scalar(cost, bounds=(-2.0, 2.0), method="bounded").x))


def check_same(
    forest: Forest, model: HistGradientBoostingClassifier, rows: NDArray[np.float64]
) -> None:
    """RuntimeError unless the exported forest and scikit-learn agree on every row."""
    expected = model.predict_proba(rows)[:, 1]
    found = 1.0 / (1.0 + np.exp(-forest.logit(rows)))
    worst = float(np.max(np.abs(found - expected)))
    if worst > SAME_SCORE:
        raise RuntimeError(f"exported scores differ from scikit-learn's by up to {worst:.2g}")


if __name__ == "__main__":
    main()
