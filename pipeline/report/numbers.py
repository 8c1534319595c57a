"""The numbers of report.json: what each means, and the code that computes it."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from promptdia.pipeline.report.evidence import POINTS, STATIONARY, Evidence, Outcome, TruthConfig
from promptdia.pipeline.report.truth import Comparison, TruthReport, compare, match_points
from promptdia.tasks.model.arrays import Floats, Ints
from promptdia.tasks.robust import MAD_TO_SIGMA

Number: TypeAlias = float | int | None

DEFINITIONS: dict[str, str] = {
    "n_visits": "visits with at least one detector processed",
    "n_detectors": "visit-detectors processed, whatever their status",
    "n_failed": "visit-detectors with status failed",
    "n_alerts": "alerts written",
    "n_dia_objects": "DIAObjects in the APDB",
    "completeness_snr_ge_6": (
        "true epochs with S/N ≥ 6 that were alerted / all such epochs on usable pixels; trails "
        "and satellites left out. Alerted: an alert within 1.0 arcsec, paired one to one, nearest "
        "first. S/N: |flux in the visit − mean flux over the template's visits| / error of the "
        "PSF flux on the difference image at the true position"
    ),
    "usable_fraction": (
        "true epochs with S/N ≥ 6 on usable pixels / all of them inside the image; usable: no "
        "pixel of the 3 × 3 around it is bad, saturated, hit by a cosmic ray, interpolated, on a "
        "streak, a spike or a bright star's halo, without data or of high variance"
    ),
    "snr50": (
        "S/N at which half of the true epochs are alerted: maximum-likelihood logistic curve in "
        "ln S/N with a free plateau, over usable epochs with S/N ≥ 1"
    ),
    "purity": (
        "alerts matched to a true change with S/N ≥ 3 / all alerts; one alert on a trail "
        "counts as its match, alerts on satellites are false"
    ),
    "false_alerts_per_detector": "alerts without such a match / visit-detectors that are done",
    "alerts_on_streaks": "false alerts within 2 arcsec of a trail or a satellite's track",
    "trails_alerted": "long trails with an alert on them / long trails in processed images",
    "astrometry_rms_arcsec_snr20": (
        "per axis, √(mean(east² + north²) / 2) of matched alerts with S/N ≥ 20 against the "
        "true position"
    ),
    "flux_bias": (
        "median of measured / true difference flux − 1, supernovae and variables with S/N ≥ 20"
    ),
    "flux_pull_std": (
        "1.4826 × median absolute deviation of (measured − true flux) / psfFluxErr, supernovae "
        "and variables with S/N ≥ 6"
    ),
    "flux_pull_std_plain": "standard deviation of the same pulls, outliers included",
    "association_correct": (
        "matched alerts of supernovae and variables (S/N ≥ 3) whose DIAObject holds mostly alerts "
        "of the same truth, which has no other DIAObject / all of them"
    ),
    "duplicate_dia_objects": "DIAObjects beyond the first of each supernova and variable",
    "lost_alerts": "alerts committed to the APDB and not read back",
    "duplicate_alerts": "copies beyond the first among the alerts read back",
    "seconds_per_detector_p50": "median over done visit-detectors of the sum of task times",
    "seconds_per_detector_p98": "98th percentile of the same",
}
"""Key of report.json: its meaning, in the order they are shown."""


def evaluate(
    evidence: Evidence,
    config: TruthConfig,
    settings: dict[str, Any] | None = None,
    versions: dict[str, str] | None = None,
) -> TruthReport:
    """Compare alerts with the truth and work out every number of DEFINITIONS."""
    comparison = compare(evidence, config)
    found = {
        **_count_numbers(evidence),
        **_detection_numbers(comparison),
        **_measurement_numbers(comparison),
        **_association_numbers(comparison),
        **_delivery_numbers(evidence),
        **_time_numbers(evidence.outcomes),
    }
    numbers: dict[str, Any] = {key: found[key] for key in DEFINITIONS}
    numbers["by_kind"] = _by_kind(comparison)
    numbers["missed"] = missed_by_rule(comparison)
    return TruthReport(numbers, DEFINITIONS, comparison, settings or {}, versions or {})


def stopped_by(c: Comparison, epochs: Ints) -> list[str]:
    """For each epoch row the rule that rejected the detection there, or "not detected"."""
    rejected, radius = c.evidence.rejected, c.config.match_radius_arcsec
    wanted = np.zeros(len(c.found), bool)
    wanted[epochs] = True
    rules = {
        int(row): str(rejected["rule"][i])
        for i, row in enumerate(match_points(rejected, c.evidence.epochs, wanted, radius))
        if row >= 0
    }
    return [rules.get(int(row), "not detected") for row in epochs]


def missed_by_rule(c: Comparison) -> dict[str, int]:
    """How many of the missed epochs each rule explains, most frequent first."""
    return dict(Counter(stopped_by(c, c.missed())).most_common())


def robust_std(values: Floats) -> float:
    """1.4826 x median absolute deviation: the standard deviation of a normal core."""
    if values.size == 0:
        return float("nan")
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))))


def _ratio(part: float, whole: float) -> float | None:
    return float(part) / float(whole) if whole else None


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _count_numbers(evidence: Evidence) -> dict[str, Number]:
    outcomes = evidence.outcomes
    return {
        "n_visits": len({o.visit for o in outcomes}),
        "n_detectors": len(outcomes),
        "n_failed": sum(o.status == "failed" for o in outcomes),
        "n_alerts": len(evidence.alerts),
        "n_dia_objects": evidence.n_dia_objects,
    }


def _detection_numbers(c: Comparison) -> dict[str, Number]:
    inside = c.point & (c.snr >= c.config.complete_snr)
    usable = c.counted & inside
    trail = ~c.point & (c.evidence.epochs["kind"] != "satellite") & np.isfinite(c.snr)
    n_done = sum(o.status == "done" for o in c.evidence.outcomes)
    return {
        "completeness_snr_ge_6": _ratio((c.found[usable] >= 0).sum(), usable.sum()),
        "usable_fraction": _ratio(usable.sum(), inside.sum()),
        "snr50": None if c.curve is None else _finite(c.curve.snr50),
        "purity": _ratio(c.real.sum(), c.real.size),
        "false_alerts_per_detector": _ratio((~c.real).sum(), n_done),
        "alerts_on_streaks": int(c.on_streak.sum()),
        "trails_alerted": _ratio((c.found[trail] >= 0).sum(), trail.sum()),
    }


def _by_kind(c: Comparison) -> dict[str, dict[str, Number]]:
    bright = c.counted & (c.snr >= c.config.complete_snr)
    table: dict[str, dict[str, Number]] = {}
    for kind in POINTS:
        rows = bright & (c.evidence.epochs["kind"] == kind)
        hits = (c.found[rows] >= 0).sum()
        table[kind] = {"n_epochs": int(rows.sum()), "completeness": _ratio(hits, rows.sum())}
    return table


def _measurement_numbers(c: Comparison) -> dict[str, Number]:
    i, j = c.pairs(POINTS, c.config.bright_snr)
    east, north = c.offsets_arcsec(i, j)
    rms = float(np.sqrt(np.mean(east**2 + north**2) / 2.0)) if i.size else None
    i, j = c.pairs(STATIONARY, c.config.bright_snr)
    excess = c.evidence.alerts["psfFlux"][i] / c.true_flux[j] - 1.0
    excess = excess[np.isfinite(excess)]
    pull = c.flux_pulls()
    return {
        "astrometry_rms_arcsec_snr20": rms,
        "flux_bias": float(np.median(excess)) if excess.size else None,
        "flux_pull_std": _finite(robust_std(pull)),
        "flux_pull_std_plain": float(np.std(pull)) if pull.size else None,
    }


def _association_numbers(c: Comparison) -> dict[str, Number]:
    """Alerts without a DIAObject are wrong; false alerts vote in the majority as strangers."""
    objects = [int(i) for i in c.evidence.alerts["diaObjectId"]]
    truth_ids = c.evidence.epochs["truth_id"]
    owners = [int(truth_ids[row]) if row >= 0 else -1 for row in c.truth]
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    for obj, owner in zip(objects, owners):
        votes[obj][owner] += 1
    majority = {obj: min(n, key=lambda owner: (-n[owner], owner)) for obj, n in votes.items()}
    matched, _ = c.pairs(STATIONARY, c.config.real_snr)
    objects_of: dict[int, set[int]] = defaultdict(set)
    for i in matched:
        if objects[i]:
            objects_of[owners[i]].add(objects[i])
    correct = sum(
        len(objects_of[owners[i]]) == 1 and objects[i] != 0 and majority[objects[i]] == owners[i]
        for i in matched
    )
    return {
        "association_correct": _ratio(correct, len(matched)),
        "duplicate_dia_objects": sum(max(len(found) - 1, 0) for found in objects_of.values()),
    }


def _delivery_numbers(evidence: Evidence) -> dict[str, Number]:
    copies = Counter(int(i) for i in evidence.delivered)
    return {
        "lost_alerts": len({int(i) for i in evidence.committed} - set(copies)),
        "duplicate_alerts": sum(copies.values()) - len(copies),
    }


def _time_numbers(outcomes: Sequence[Outcome]) -> dict[str, Number]:
    totals = [sum(o.seconds.values()) for o in outcomes if o.status == "done"]
    p50, p98 = np.percentile(totals, [50, 98]) if totals else (np.nan, np.nan)
    return {"seconds_per_detector_p50": _finite(p50), "seconds_per_detector_p98": _finite(p98)}
