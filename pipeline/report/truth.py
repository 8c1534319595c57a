"""The truth report: what was really there against what was alerted.

Pure: tables in, numbers out. ``collect.py`` reads the tables, ``numbers.py`` defines every
number, ``page.py`` shows them.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from promptdia.pipeline.report.completeness import CompletenessCurve, fit_completeness
from promptdia.pipeline.report.evidence import POINTS, STATIONARY, Evidence, TruthConfig
from promptdia.pipeline.report.matching import beside_segment, closest_first, offsets_arcsec
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints

VisitDetector: TypeAlias = tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Comparison:
    """Epochs and alerts, each with its partner."""

    evidence: Evidence
    config: TruthConfig
    true_flux: Floats
    """(n_epochs,) flux the difference should show, nJy."""
    snr: Floats
    """(n_epochs,) |true_flux| over its error, nan where there is no difference image."""
    point: Bools
    """(n_epochs,) False for trails, satellites and asteroids that are drawn out."""
    counted: Bools
    """(n_epochs,) a point on usable pixels of a difference image."""
    found: Ints
    """(n_epochs,) row of the alert matched to the epoch, -1 when none."""
    truth: Ints
    """(n_alerts,) row of the epoch matched to the alert, -1 when none."""
    real: Bools
    """(n_alerts,) matched to an epoch of S/N >= real_snr."""
    rejected_real: Bools
    """(n_rejected,) within the match radius of an epoch of S/N >= real_snr."""
    on_streak: Bools
    """(n_alerts,) on a trail or a satellite's track without being its one match."""
    curve: CompletenessCurve | None
    """Completeness against S/N; None when there is too little to fit."""

    def pairs(self, kinds: Sequence[str], snr: float) -> tuple[Ints, Ints]:
        """Rows of alerts and of their epochs: points of these kinds with S/N >= ``snr``."""
        alerts = np.nonzero(self.truth >= 0)[0]
        rows = self.truth[alerts]
        of_kind = self.point[rows] & np.isin(self.evidence.epochs["kind"][rows], kinds)
        keep = of_kind & (self.snr[rows] >= snr)
        return alerts[keep], rows[keep]

    def offsets_arcsec(self, alerts: Ints, rows: Ints) -> tuple[Floats, Floats]:
        """(east, north) of each alert from its epoch."""
        mine, true = self.evidence.alerts[alerts], self.evidence.epochs[rows]
        return offsets_arcsec(mine["ra"], mine["dec"], true["ra"], true["dec"])

    def missed(self) -> Ints:
        """Rows of countable epochs with S/N >= complete_snr that were not alerted."""
        rows: Ints = np.nonzero(
            self.counted & (self.snr >= self.config.complete_snr) & (self.found < 0)
        )[0]
        return rows

    def false(self) -> Ints:
        """Rows of alerts that are not real."""
        rows: Ints = np.nonzero(~self.real)[0]
        return rows

    def flux_pulls(self) -> Floats:
        """(measured - true) / psfFluxErr of supernovae and variables with S/N >= complete_snr."""
        i, j = self.pairs(STATIONARY, self.config.complete_snr)
        alerts = self.evidence.alerts
        pull = (alerts["psfFlux"][i] - self.true_flux[j]) / alerts["psfFluxErr"][i]
        finite: Floats = np.asarray(pull[np.isfinite(pull)], float)
        return finite


@dataclass(frozen=True, slots=True, eq=False)
class TruthReport:
    """The numbers of report.json and the comparison behind them."""

    numbers: dict[str, Any]
    definitions: dict[str, str]
    """What each number means, in the order to show them."""
    comparison: Comparison
    settings: dict[str, Any] = field(default_factory=dict)
    """The configuration that produced the alerts."""
    versions: dict[str, str] = field(default_factory=dict)
    """Of promptdia and the libraries it ran with."""

    def to_json(self) -> dict[str, Any]:
        """The content of report.json."""
        return {
            **self.numbers,
            "settings": self.settings,
            "versions": self.versions,
            "definitions": self.definitions,
        }


def compare(evidence: Evidence, config: TruthConfig) -> Comparison:
    """Pair alerts with the truth."""
    epochs, alerts = evidence.epochs, evidence.alerts
    templates = {(o.visit, o.detector): o.template_visits for o in evidence.outcomes}
    true_flux = difference_flux(epochs, templates)
    with np.errstate(divide="ignore", invalid="ignore"):
        snr = np.abs(true_flux) / evidence.sigma_njy
    point = is_point(epochs, config)
    visible = point & (snr >= config.faintest_snr)
    truth = match_points(alerts, epochs, visible, config.match_radius_arcsec)
    truth, on_streak = match_streaks(alerts, epochs, truth, point, config)
    found = np.full(len(epochs), -1, np.int64)
    matched = np.nonzero(truth >= 0)[0]
    found[truth[matched]] = matched
    real = np.zeros(len(alerts), bool)
    real[matched] = snr[truth[matched]] >= config.real_snr
    strong = point & (snr >= config.real_snr)
    spoiled = match_points(evidence.rejected, epochs, strong, config.match_radius_arcsec)
    counted = point & evidence.usable & np.isfinite(snr)
    fitted = counted & (snr >= config.faintest_snr)
    return Comparison(
        evidence=evidence,
        config=config,
        true_flux=true_flux,
        snr=snr,
        point=point,
        counted=counted,
        found=found,
        truth=truth,
        real=real,
        rejected_real=spoiled >= 0,
        on_streak=on_streak,
        curve=fit_completeness(snr[fitted], found[fitted] >= 0),
    )


def difference_flux(epochs: Catalog, templates: Mapping[VisitDetector, Sequence[int]]) -> Floats:
    """(n,) flux that the difference image should show at each epoch, nJy.

    The flux in the visit minus the mean over those template visits that saw the object;
    what moves has no flux in the template.
    """
    seen = {(int(e["truth_id"]), int(e["visit"])): float(e["flux_njy"]) for e in epochs}
    flux: Floats = epochs["flux_njy"].astype(float)
    for i in np.nonzero(np.isin(epochs["kind"], STATIONARY))[0]:
        row = epochs[i]
        visits = templates.get((int(row["visit"]), int(row["detector"])), ())
        keys = [(int(row["truth_id"]), int(v)) for v in visits]
        before = [seen[key] for key in keys if key in seen]
        if before:
            flux[i] -= float(np.mean(before))
    return flux


def is_point(epochs: Catalog, config: TruthConfig) -> Bools:
    """(n,) False for trails, satellites and asteroids fast enough to be drawn out."""
    drawn_out = epochs["trail_length_arcsec"] > config.longest_point_arcsec
    result: Bools = np.isin(epochs["kind"], POINTS) & ~drawn_out
    return result


def match_points(alerts: Catalog, epochs: Catalog, allowed: Bools, radius_arcsec: float) -> Ints:
    """(n_alerts,) row of the epoch each alert belongs to, -1 when none."""
    truth = np.full(len(alerts), -1, np.int64)
    rows_of = rows_by_detector(epochs, allowed)
    measured = np.isfinite(alerts["ra"]) & np.isfinite(alerts["dec"])
    for key, mine in rows_by_detector(alerts, measured).items():
        if key not in rows_of:
            continue
        rows = rows_of[key]
        a, e = alerts[mine], epochs[rows]
        i, j = closest_first(a["ra"], a["dec"], e["ra"], e["dec"], radius_arcsec)
        truth[mine[i]] = rows[j]
    return truth


def match_streaks(
    alerts: Catalog, epochs: Catalog, truth: Ints, point: Bools, config: TruthConfig
) -> tuple[Ints, Bools]:
    """``truth`` completed with one alert for each trail, and the alerts left over on streaks.

    The alert of a trail is the one on it that is nearest to its middle; a satellite is not
    the sky changing and gets none.
    """
    truth = truth.copy()
    on_streak = np.zeros(len(alerts), bool)
    free_of = rows_by_detector(alerts, (truth < 0) & np.isfinite(alerts["ra"]))
    for row in np.nonzero(~point)[0]:
        epoch = epochs[row]
        mine = free_of.get((int(epoch["visit"]), int(epoch["detector"])))
        if mine is None:
            continue
        east, north = offsets_arcsec(
            alerts["ra"][mine], alerts["dec"][mine], epoch["ra"], epoch["dec"]
        )
        length, angle = float(epoch["trail_length_arcsec"]), float(epoch["trail_angle_deg"])
        near = beside_segment(east, north, length, angle) <= config.streak_radius_arcsec
        on_streak[mine[near]] = True
        if near.any() and epoch["kind"] != "satellite":
            truth[mine[np.argmin(np.where(near, np.hypot(east, north), np.inf))]] = row
    return truth, on_streak & (truth < 0)


def rows_by_detector(table: Catalog, keep: Bools) -> dict[VisitDetector, Ints]:
    """Row numbers of each visit-detector among the rows kept."""
    rows: dict[VisitDetector, list[int]] = defaultdict(list)
    for i in np.nonzero(keep)[0]:
        rows[(int(table["visit"][i]), int(table["detector"][i]))].append(int(i))
    return {key: np.array(found, np.int64) for key, found in rows.items()}
