"""How good scores are, in all and in slices."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from reliability_examples import Examples
from sklearn.metrics import roc_auc_score

SNR_BINS = ((0.0, 6.0), (6.0, 8.0), (8.0, 12.0), (12.0, 30.0), (30.0, np.inf))


def metrics(examples: Examples, score: NDArray[np.float64]) -> dict[str, Any]:
    """Numbers for all examples, by sign, by S/N, and completeness by kind of truth.

    Purities are as if real and bogus were equally many, so that they compare between sets.
    """
    real = examples.real
    negative = examples.negative
    return {
        **_slice(real, score),
        "calibration_error": calibration_error(real, score),
        "by_sign": {
            "positive": _slice(real[~negative], score[~negative]),
            "negative": _slice(real[negative], score[negative]),
        },
        "by_snr": {
            f"{low:g}-{high:g}": _slice(real[rows], score[rows])
            for low, high in SNR_BINS
            if (rows := (examples.snr >= low) & (examples.snr < high)).any()
        },
        "by_kind": {
            str(kind): {
                "n": int((rows := examples.kind == kind).sum()),
                "above_0.5": float((score[rows] >= 0.5).mean()),
            }
            for kind in np.unique(examples.kind)
        },
    }


def completeness_at_purity(
    real: NDArray[np.bool_], score: NDArray[np.float64], purity: float
) -> float:
    """Largest share of real examples above a threshold that reaches the purity at 1:1."""
    order = np.argsort(-score, kind="stable")
    hits = np.cumsum(real[order]) / real.sum()
    false = np.cumsum(~real[order]) / (~real).sum()
    pure = hits >= purity * (hits + false)
    last_of_score = np.append(np.diff(score[order]) != 0, True)
    good = hits[pure & last_of_score]
    return float(good.max()) if good.size else 0.0


def calibration_error(real: NDArray[np.bool_], score: NDArray[np.float64], bins: int = 15) -> float:
    """Expected calibration error: mean |share of real - mean score| over equal bins of score."""
    which = np.minimum((score * bins).astype(int), bins - 1)
    error = 0.0
    for i in np.unique(which):
        rows = which == i
        error += rows.mean() * abs(real[rows].mean() - score[rows].mean())
    return float(error)


def _slice(real: NDArray[np.bool_], score: NDArray[np.float64]) -> dict[str, Any]:
    n_real, n_bogus = int(real.sum()), int((~real).sum())
    numbers: dict[str, Any] = {"n_real": n_real, "n_bogus": n_bogus}
    if n_real:
        numbers["completeness_at_0.5"] = float((score[real] >= 0.5).mean())
    if n_bogus:
        numbers["false_positive_rate_at_0.5"] = float((score[~real] >= 0.5).mean())
    if n_real and n_bogus:
        numbers["auc"] = float(roc_auc_score(real, score))
        for purity in (0.95, 0.99, 0.995):
            key = f"completeness_at_purity_{purity:g}"
            numbers[key] = completeness_at_purity(real, score, purity)
    return numbers
