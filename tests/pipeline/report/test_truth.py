"""The numbers of the truth report on a small table whose every number is known by hand."""

from dataclasses import replace

import numpy as np
import pytest
from numpy.testing import assert_allclose

from promptdia.apdb.schema.lsst import DIA_SOURCE, REJECTED
from promptdia.pipeline.report.completeness import binned_completeness, fit_completeness
from promptdia.pipeline.report.evidence import Evidence, Outcome, TruthConfig
from promptdia.pipeline.report.matching import beside_segment, closest_first
from promptdia.pipeline.report.numbers import DEFINITIONS, evaluate, stopped_by
from promptdia.pipeline.report.truth import compare
from promptdia.pipeline.sim.truth import TRUTH_EPOCH

RA, DEC = 150.0, 60.0
ARCSEC = 1.0 / 3600.0
TEMPLATE, FIRST, SECOND = 2026010100001, 2026010200001, 2026010200002
OUTCOMES = (
    Outcome(FIRST, 0, "done", "", {"isr": 1.0, "subtract": 2.0}, (TEMPLATE,)),
    Outcome(SECOND, 0, "done", "", {"isr": 2.0, "subtract": 3.0}, (TEMPLATE,)),
    Outcome(SECOND, 1, "failed", "found 2 PSF stars, needs 8", {"isr": 9.0}, ()),
)
SUPERNOVA, VARIABLE, ASTEROID, FAINT, TRAIL, SATELLITE = range(1, 7)


def epoch(truth_id, kind, visit, east, north, flux, trail=0.0, angle=0.0):
    """One row, placed in arcsec from the field centre."""
    row = TRUTH_EPOCH.empty(1)
    row["truth_id"], row["kind"], row["visit"] = truth_id, kind, visit
    row["dec"] = DEC + north * ARCSEC
    row["ra"] = RA + east * ARCSEC / np.cos(np.deg2rad(DEC))
    row["flux_njy"], row["trail_length_arcsec"], row["trail_angle_deg"] = flux, trail, angle
    return row


def alert(number, visit, east, north, flux, flux_err, dia_object, schema=DIA_SOURCE, rule=""):
    row = schema.empty(1)
    row["diaSourceId"], row["visit"], row["diaObjectId"] = number, visit, dia_object
    row["dec"] = DEC + north * ARCSEC
    row["ra"] = RA + east * ARCSEC / np.cos(np.deg2rad(DEC))
    row["psfFlux"], row["psfFluxErr"], row["snr"] = flux, flux_err, flux / flux_err
    if rule:
        row["rule"] = rule
    return row


@pytest.fixture
def evidence() -> Evidence:
    """Noise is 100 nJy everywhere. See the comments for who is found."""
    epochs = np.concatenate(
        [
            # a supernova: nothing in the template, S/N 50 then 30, found twice, one object
            epoch(SUPERNOVA, "supernova", TEMPLATE, 0, 0, 0.0),
            epoch(SUPERNOVA, "supernova", FIRST, 0, 0, 5000.0),
            epoch(SUPERNOVA, "supernova", SECOND, 0, 0, 3000.0),
            # a variable: 10000 in the template, S/N -40 then +8, found twice, two objects
            epoch(VARIABLE, "variable", TEMPLATE, 20, 0, 10000.0),
            epoch(VARIABLE, "variable", FIRST, 20, 0, 6000.0),
            epoch(VARIABLE, "variable", SECOND, 20, 0, 10800.0),
            # an asteroid that passed the template elsewhere: S/N 25 found, S/N 10 missed
            epoch(ASTEROID, "asteroid", TEMPLATE, 30, 30, 2500.0, 0.3),
            epoch(ASTEROID, "asteroid", FIRST, 40, 0, 2500.0, 0.3),
            epoch(ASTEROID, "asteroid", SECOND, 60, 0, 1000.0, 0.3),
            # S/N 2: alerted, but too faint to be what made the alert; S/N 7 on a masked pixel
            epoch(FAINT, "supernova", FIRST, 0, 40, 200.0),
            epoch(FAINT, "supernova", SECOND, 0, 40, 700.0),
            # a 20 arcsec trail to the north-east, alerted in two pieces, and a satellite
            epoch(TRAIL, "trail", FIRST, -60, 0, 9000.0, 20.0, 45.0),
            epoch(SATELLITE, "satellite", FIRST, 0, -60, 9e5, 600.0, 90.0),
        ]
    )
    alerts = np.concatenate(
        [
            alert(11, FIRST, 0.03, 0.0, 5100.0, 100.0, 501),
            alert(12, SECOND, 0.0, -0.04, 2900.0, 100.0, 501),
            alert(13, FIRST, 20.0, 0.05, -4100.0, 100.0, 502),
            alert(14, SECOND, 20.3, 0.0, 1000.0, 100.0, 503),
            alert(15, FIRST, 40.0, 0.0, 2500.0, 100.0, 504),
            alert(16, FIRST, 0.0, 40.2, 520.0, 100.0, 505),
            alert(17, FIRST, -60.3, 0.0, 3000.0, 100.0, 506),
            alert(18, FIRST, -55.0, 5.0, 2000.0, 100.0, 507),
            alert(19, FIRST, 70.0, -60.5, 4000.0, 100.0, 508),
            alert(20, SECOND, -90.0, 90.0, 600.0, 100.0, 501),
        ]
    )
    usable = np.ones(len(epochs), bool)
    usable[10] = False
    sigma = np.where(epochs["visit"] == TEMPLATE, np.nan, 100.0)
    rejected = alert(21, SECOND, 60.2, 0, 900.0, 100.0, 0, REJECTED, "science_snr")
    ids = np.array([11, 12, 13, 14, 15, 16, 17, 18, 19, 20])
    return Evidence(
        epochs, sigma, usable, alerts, rejected, OUTCOMES, 8, ids, np.append(ids[1:], [12, 12])
    )


def test_every_number_of_a_small_table_is_the_one_worked_out_by_hand(evidence: Evidence) -> None:
    numbers = evaluate(evidence, TruthConfig()).numbers
    expected = {
        "n_visits": 2,
        "n_detectors": 3,
        "n_failed": 1,
        "n_alerts": 10,
        "n_dia_objects": 8,
        # 50, 30, 40, 8, 25 found, 10 missed, 7 masked
        "completeness_snr_ge_6": 5 / 6,
        "usable_fraction": 6 / 7,
        "snr50": None,
        # 11-15 and the trail's first piece
        "purity": 6 / 10,
        "false_alerts_per_detector": 4 / 2,
        "alerts_on_streaks": 2,
        "trails_alerted": 1.0,
        "astrometry_rms_arcsec_snr20": np.sqrt((0.03**2 + 0.04**2 + 0.05**2 + 0.0) / 4 / 2),
        # +2 %, -3.33 %, +2.5 %
        "flux_bias": 0.02,
        # pulls +1, -1, -1, +2: median 0, deviations 1, 1, 1, 2
        "flux_pull_std": 1.4826,
        "flux_pull_std_plain": np.std([1.0, -1.0, -1.0, 2.0]),
        # the supernova's two are right; the variable has two objects
        "association_correct": 2 / 4,
        "duplicate_dia_objects": 1,
        "lost_alerts": 1,
        "duplicate_alerts": 2,
        "seconds_per_detector_p50": 4.0,
        "seconds_per_detector_p98": 4.96,
    }
    assert set(expected) == set(DEFINITIONS)
    for key, value in expected.items():
        assert numbers[key] == (None if value is None else pytest.approx(value, rel=1e-5)), key
    assert numbers["by_kind"]["supernova"] == {"n_epochs": 2, "completeness": 1.0}
    assert numbers["by_kind"]["asteroid"] == {"n_epochs": 2, "completeness": 0.5}


def test_a_missed_epoch_names_the_rule_that_stopped_it(evidence: Evidence) -> None:
    numbers = evaluate(evidence, TruthConfig()).numbers
    assert numbers["missed"] == {"science_snr": 1}
    blind = replace(evidence, rejected=REJECTED.empty(0))
    comparison = compare(blind, TruthConfig())
    assert stopped_by(comparison, comparison.missed()) == ["not detected"]


def test_a_report_without_alerts_or_without_truth_still_stands(evidence: Evidence) -> None:
    nothing = evaluate(
        replace(evidence, alerts=evidence.alerts[:0], delivered=np.zeros(0, np.int64)),
        TruthConfig(),
    ).numbers
    assert nothing["completeness_snr_ge_6"] == 0.0
    assert nothing["purity"] is None
    assert nothing["lost_alerts"] == 10
    blank = evaluate(
        replace(
            evidence,
            epochs=evidence.epochs[:0],
            sigma_njy=evidence.sigma_njy[:0],
            usable=evidence.usable[:0],
        ),
        TruthConfig(),
    ).numbers
    assert blank["purity"] == 0.0
    assert blank["completeness_snr_ge_6"] is None


def test_template_flux_is_the_mean_over_the_visits_that_saw_the_object() -> None:
    other = TEMPLATE + 1
    epochs = np.concatenate(
        [
            epoch(VARIABLE, "variable", TEMPLATE, 0, 0, 100.0),
            epoch(VARIABLE, "variable", other, 0, 0, 300.0),
            epoch(VARIABLE, "variable", FIRST, 0, 0, 500.0),
        ]
    )
    outcome = replace(OUTCOMES[0], template_visits=(TEMPLATE, other, other + 1))
    evidence = Evidence(
        epochs,
        np.full(3, 10.0),
        np.ones(3, bool),
        DIA_SOURCE.empty(0),
        REJECTED.empty(0),
        (outcome,),
        0,
        np.zeros(0, np.int64),
        np.zeros(0, np.int64),
    )
    assert compare(evidence, TruthConfig()).true_flux[2] == 300.0


def test_pairs_are_taken_nearest_first_and_one_to_one() -> None:
    true_ra, measured_ra = np.array([0.0, 0.8]) * ARCSEC, np.array([0.5, 0.9]) * ARCSEC
    measured, true = closest_first(measured_ra, np.zeros(2), true_ra, np.zeros(2), 1.0)
    assert dict(zip(measured.tolist(), true.tolist())) == {1: 1, 0: 0}
    far, _ = closest_first(np.array([1.01 * ARCSEC]), np.zeros(1), np.zeros(1), np.zeros(1), 1.0)
    assert far.size == 0
    across, _ = closest_first(
        np.array([359.99999]), np.zeros(1), np.array([0.00001]), np.zeros(1), 1.0
    )
    assert across.size == 1


def test_the_distance_from_a_trail_is_measured_across_it_and_past_its_ends() -> None:
    east, north = np.array([5.0, 0.0, 12.0]), np.array([0.5, -3.0, 0.0])
    assert_allclose(beside_segment(east, north, 20.0, 90.0), [0.5, 3.0, 2.0], atol=1e-12)
    assert_allclose(beside_segment(north, east, 20.0, 0.0), [0.5, 3.0, 2.0], atol=1e-12)


def test_the_fitted_curve_gives_back_the_one_it_was_drawn_from() -> None:
    rng = np.random.default_rng(5)
    snr = np.exp(rng.uniform(0, np.log(100), 4000))
    chance = 0.95 / (1 + np.exp(-(np.log(snr) - np.log(5.5)) / 0.12))
    curve = fit_completeness(snr, rng.random(4000) < chance)
    assert curve is not None
    assert curve.snr50 == pytest.approx(5.5, rel=0.03)
    assert curve.plateau == pytest.approx(0.95, abs=0.015)
    assert curve(np.array([5.5]))[0] == pytest.approx(0.475, abs=0.06)


def test_too_few_epochs_or_one_outcome_give_no_curve() -> None:
    snr = np.linspace(1, 30, 40)
    assert fit_completeness(snr[:10], snr[:10] > 3) is None
    assert fit_completeness(snr, np.ones(40, bool)) is None


def test_binned_completeness_holds_the_wilson_interval() -> None:
    binned = binned_completeness(
        np.repeat([1.5, 2.5], [10, 4]), np.arange(14) < 8, np.array([1.0, 2.0, 3.0, 4.0])
    )
    assert_allclose(binned.fraction[:2], [0.8, 0.0])
    assert np.isnan(binned.fraction[2])
    assert_allclose([binned.low[1], binned.high[1]], [0.0, 0.2], atol=1e-12)
    assert binned.low[0] < 0.8 < binned.high[0]
