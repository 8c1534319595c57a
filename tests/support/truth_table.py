"""Truth and alerts of a pretended night, noise and all, for the report's figures."""

import numpy as np

from promptdia.apdb.schema.lsst import DIA_SOURCE, REJECTED
from promptdia.pipeline.report.evidence import Evidence, Outcome
from promptdia.pipeline.sim.truth import TRUTH_EPOCH

TEMPLATE, FIRST = 2026010100001, 2026010200001
RA, DEC, NOISE = 30.0, -20.0, 100.0


def pretended_night(rng: np.random.Generator, n_truth: int = 120, n_visits: int = 6) -> Evidence:
    """Each truth is detected when its noisy S/N reaches 5; one false alert in ten."""
    kinds = rng.choice(["supernova", "variable", "asteroid"], n_truth)
    visits = [TEMPLATE, *range(FIRST, FIRST + n_visits)]
    epochs = TRUTH_EPOCH.empty(n_truth * len(visits))
    epochs["truth_id"] = np.repeat(np.arange(n_truth) + 1, len(visits))
    epochs["kind"] = np.repeat(kinds, len(visits))
    epochs["visit"] = np.tile(visits, n_truth)
    epochs["ra"] = np.repeat(RA + rng.uniform(0, 0.1, n_truth), len(visits))
    epochs["dec"] = np.repeat(DEC + rng.uniform(0, 0.1, n_truth), len(visits))
    change = NOISE * np.exp(rng.uniform(0, np.log(150), len(epochs)))
    change *= np.where(rng.random(len(epochs)) < 0.2, -1.0, 1.0)
    moving = epochs["kind"] == "asteroid"
    change[moving] = np.abs(change[moving])
    base = np.where(epochs["kind"] == "variable", 30000.0, 0.0)
    epochs["flux_njy"] = base + np.where(epochs["visit"] == TEMPLATE, 0.0, change)
    epochs["trail_length_arcsec"] = np.where(moving, 0.4, 0.0)
    measured = change + NOISE * rng.normal(size=len(epochs))
    seen = (epochs["visit"] != TEMPLATE) & (np.abs(measured) > 5 * NOISE)
    alerts = _alerts(rng, epochs[seen], measured[seen])
    tasks = {"isr": 0.4, "calibrate": 2.1, "subtract": 1.3, "detect": 0.5, "measure": 0.6}
    outcomes = [
        Outcome(
            v, 0, "done", "", {k: t * rng.uniform(0.9, 1.4) for k, t in tasks.items()}, (TEMPLATE,)
        )
        for v in visits[1:]
    ]
    outcomes.append(Outcome(FIRST, 1, "failed", "found 2 <PSF> stars, needs 8"))
    sigma = np.where(epochs["visit"] == TEMPLATE, np.nan, NOISE)
    ids = alerts["diaSourceId"]
    usable = rng.random(len(epochs)) < 0.95
    rejected = REJECTED.empty(60)
    rejected["reliability"], rejected["snr"] = rng.beta(1, 8, 60), rng.uniform(5, 30, 60)
    rejected["ra"], rejected["dec"], rejected["rule"] = RA - 0.1, DEC - 0.1, "reliability"
    return Evidence(epochs, sigma, usable, alerts, rejected, outcomes, n_truth, ids, ids)


def _alerts(rng, epochs, measured):
    n_false = len(epochs) // 10
    rows = DIA_SOURCE.empty(len(epochs) + n_false)
    real = np.arange(len(rows)) < len(epochs)
    rows["diaSourceId"] = np.arange(len(rows)) + 1000
    rows["visit"] = np.append(epochs["visit"], np.full(n_false, FIRST))
    rows["diaObjectId"] = np.append(epochs["truth_id"], 10**6 + np.arange(n_false))
    snr = np.append(measured / NOISE, rng.uniform(5, 8, n_false))
    scatter = 0.3 / np.abs(snr) / 3600.0
    ra = np.append(epochs["ra"], RA + rng.uniform(0, 0.1, n_false))
    dec = np.append(epochs["dec"], DEC + rng.uniform(0, 0.1, n_false))
    rows["ra"] = ra + scatter * rng.normal(size=len(rows)) / np.cos(np.deg2rad(DEC))
    rows["dec"] = dec + scatter * rng.normal(size=len(rows))
    rows["snr"], rows["psfFlux"], rows["psfFluxErr"] = snr, snr * NOISE, NOISE
    rows["reliability"] = np.where(real, rng.beta(9, 1, len(rows)), rng.beta(4, 3, len(rows)))
    return rows
