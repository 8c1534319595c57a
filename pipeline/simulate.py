"""Fill a repository with a simulated survey: raw and calibration frames, references, truth."""

from collections import defaultdict
from pathlib import Path

import numpy as np

from promptdia.pipeline.ephemerides import store_ephemerides
from promptdia.pipeline.io.fits import write_raw
from promptdia.pipeline.io.parquet import write_catalog
from promptdia.pipeline.pool import Executor, ordered
from promptdia.pipeline.refcat import store_references
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.sim import SimulatedSurvey, Survey
from promptdia.pipeline.sim.seeds import generator
from promptdia.pipeline.sim.truth import TRUTH_EPOCH, TRUTH_OBJECT
from promptdia.tasks.associate import SS_POSITION
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.solar_system import ss_object_id

KNOWN_ASTEROIDS = 0.5
"""Part of the simulated asteroids that have a predicted position."""
EPHEMERIS_ERROR_ARCSEC = 0.1

_surveys: dict[tuple[str, int], SimulatedSurvey] = {}


def simulate(
    repository: Repository, survey: Survey, seed: int, executor: Executor
) -> SimulatedSurvey:
    """Render everything the survey delivers; the same seed gives the same bytes."""
    sim = SimulatedSurvey(survey, seed)
    numbers = sorted(sim.instrument.detectors)
    jobs = [(repository.root, survey, seed, v.id, d) for v in sim.visits for d in numbers]
    calibs = [(repository.root, survey, seed, d) for d in numbers]
    store_references(repository.root / "refcat", sim.references())
    truth = repository.root / "truth"
    write_catalog(truth / "objects.parquet", sim.truth_objects(), TRUTH_OBJECT)
    for _ in ordered(executor, _calibration_frames, calibs):
        pass
    epochs = np.concatenate(list(ordered(executor, _frame, jobs)))
    write_catalog(truth / "epochs.parquet", epochs, TRUTH_EPOCH)
    for visit, rows in _predictions(epochs, seed).items():
        store_ephemerides(repository.root, visit, rows)
    return sim


def _survey(survey: Survey, seed: int) -> SimulatedSurvey:
    """One survey per process: its sky is costly to make."""
    if (survey.name, seed) not in _surveys:
        _surveys[survey.name, seed] = SimulatedSurvey(survey, seed)
    return _surveys[survey.name, seed]


def _frame(root: Path, survey: Survey, seed: int, visit: int, detector: int) -> Catalog:
    sim = _survey(survey, seed)
    write_raw(Repository(root).raw_path(visit, detector), sim.raw(visit, detector))
    return sim.truth_epochs(visit, detector)


def _calibration_frames(root: Path, survey: Survey, seed: int, detector: int) -> None:
    repository = Repository(root)
    for number, made in enumerate(_survey(survey, seed).calibration_frames(detector)):
        folder = repository.raw_calibration_folder(made.kind, detector)
        write_raw(folder / f"{made.kind}{number:03d}.fits", made.frame)


def _predictions(epochs: Catalog, seed: int) -> dict[int, Catalog]:
    """Where the known ones among the asteroids should be seen, by visit."""
    asteroids = epochs[epochs["kind"] == "asteroid"]
    rng = generator(seed, "ephemerides", 0, 0)
    ids = np.unique(asteroids["truth_id"])
    known = dict(zip(ids, rng.random(ids.size) < KNOWN_ASTEROIDS))
    rows: dict[int, list[tuple[int, float, float]]] = defaultdict(list)
    for epoch in asteroids:
        error = rng.normal(0, EPHEMERIS_ERROR_ARCSEC / 3600, 2)
        if known[epoch["truth_id"]]:
            cos_dec = np.cos(np.deg2rad(epoch["dec"]))
            number = ss_object_id(f"K26S{int(epoch['truth_id']) % 1000:03d}")
            rows[int(epoch["visit"])].append(
                (number, epoch["ra"] + error[0] / cos_dec, epoch["dec"] + error[1])
            )
    predictions = {}
    for visit, found in rows.items():
        table = np.array(sorted(found), SS_POSITION.dtype)
        # an asteroid on two detectors of one visit is one object
        predictions[visit] = table[np.unique(table["ssObjectId"], return_index=True)[1]]
    return predictions
