"""The image phase as a worker runs it: read the inputs, compute, write the products.

The one place that turns an exception into a failed detector, so that the others go on.
"""

import json
import logging
import traceback
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from promptdia.apdb.schema.lsst import DIA_SOURCE, REJECTED
from promptdia.pipeline.errors import NoWork, PromptdiaError
from promptdia.pipeline.factory import make_tasks
from promptdia.pipeline.io.files import write_text
from promptdia.pipeline.io.fits import read_exposure, write_exposure
from promptdia.pipeline.io.parquet import read_catalog, write_catalog
from promptdia.pipeline.refcat import MARGIN_ARCSEC, load_references
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.timing import Stopwatch
from promptdia.pipeline.visit import Changes, calibrate, find_changes
from promptdia.tasks.calibrate import Calibrated, CalibrationFailed
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.catalogs import SOURCE
from promptdia.tasks.model.exposure import (
    DifferenceExposure,
    RawFrame,
    ScienceExposure,
    TemplateExposure,
)

log = logging.getLogger(__name__)


@dataclass
class Outcome:
    """What became of one detector of one visit; the content of summary.json."""

    visit: int
    detector: int
    status: str
    """done, no_work or failed."""
    reason: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    """Wall seconds per task."""
    metrics: dict[str, float] = field(default_factory=dict)
    template_visits: list[int] = field(default_factory=list)
    precovery_missing: list[str] = field(default_factory=list)
    """Why earlier detectors could not be measured where this one found something new."""
    n_dia_sources: int = 0
    n_alerts: int = 0
    n_new_dia_objects: int = 0
    traceback: str = ""
    """Of an unforeseen error: a bug to report."""


def process_images(root: Path, visit: int, detector: int) -> Outcome:
    """Run the image phase of one detector and write its products; never raises for one frame.

    The outcome is the caller's to write: a detector is done when the database says so.
    """
    repository = Repository(root)
    outcome = Outcome(visit, detector, "done")
    timed = Stopwatch(outcome.seconds)
    try:
        changes = _changes(repository, visit, detector, outcome, timed)
        timed("write", save_changes, repository, changes)
    except NoWork as nothing:
        outcome.status, outcome.reason = "no_work", str(nothing)
    except CalibrationFailed as failure:
        outcome.status, outcome.reason = "failed", str(failure)
        outcome.metrics = failure.reached.summary
        save_incomplete(repository, failure)
    except PromptdiaError as failure:
        outcome.status, outcome.reason = "failed", str(failure)
    except Exception as bug:  # a bug in one frame must not stop the night
        outcome.status = "failed"
        outcome.reason = f"unforeseen {type(bug).__name__}: {bug}"
        outcome.traceback = traceback.format_exc()
        log.exception("visit %d detector %d", visit, detector)
    return outcome


def calibrate_frame(root: Path, visit: int, detector: int) -> Outcome:
    """Only the calibrated exposure and its stars: what templates are built from."""
    repository = Repository(root)
    outcome = Outcome(visit, detector, "done")
    try:
        found = _calibrated(repository, visit, detector, Stopwatch(outcome.seconds))
        outcome.metrics = found.summary
        save_calibrated(repository, found)
    except PromptdiaError as failure:
        outcome.status, outcome.reason = "failed", str(failure)
    return outcome


def _changes(
    repository: Repository, visit: int, detector: int, outcome: Outcome, timed: Stopwatch
) -> Changes:
    calibrated = _calibrated(repository, visit, detector, timed)
    outcome.metrics = dict(calibrated.summary)
    save_calibrated(repository, calibrated)
    tasks = make_tasks(repository.config)
    changes = find_changes(calibrated, repository.templates, tasks, timed)
    outcome.metrics = changes.metrics
    outcome.template_visits = [
        int(number) for number in str(changes.template.notes["visits"]).split(",")
    ]
    outcome.n_dia_sources = len(changes.sources)
    return changes


def _calibrated(repository: Repository, visit: int, detector: int, timed: Stopwatch) -> Calibrated:
    tasks = make_tasks(repository.config)
    if not repository.raw_path(visit, detector).exists():
        return timed("calibrate", tasks.calibrate.adopt, repository.calexp(visit, detector))
    raw = timed("read", repository.raw, visit, detector)
    given = repository.calibrations(raw.visit, detector)
    return calibrate(raw, given, references_for(repository, raw), tasks, timed)


def references_for(repository: Repository, raw: RawFrame) -> Catalog:
    """Reference stars on and around a frame."""
    detector = raw.detector
    middle = np.array([detector.nx - 1.0]) / 2, np.array([detector.ny - 1.0]) / 2
    ra, dec = (float(v[0]) for v in raw.wcs.pixel_to_sky(*middle))
    half = 0.5 * float((detector.nx**2 + detector.ny**2) ** 0.5) * detector.pixel_scale_arcsec
    return load_references(repository.root / "refcat", ra, dec, half + MARGIN_ARCSEC)


def save_calibrated(repository: Repository, calibrated: Calibrated) -> None:
    """Write calexp.fits and sources.parquet."""
    science = calibrated.science
    where = science.visit.id, science.detector.id
    write_exposure(repository.product(*where, "calexp.fits"), science)
    write_catalog(repository.product(*where, "sources.parquet"), calibrated.sources, SOURCE)


def save_incomplete(repository: Repository, failure: CalibrationFailed) -> None:
    """Keep what calibration reached, under a name that nothing takes for a science image."""
    reached = failure.reached.exposure
    reached = reached.replace(notes={**reached.notes, "FAILED": failure.step})
    where = reached.visit.id, reached.detector.id
    write_exposure(repository.product(*where, "calexp_incomplete.fits"), reached)
    path = repository.product(*where, "sources_incomplete.parquet")
    write_catalog(path, failure.reached.sources, SOURCE)


def save_changes(repository: Repository, changes: Changes) -> None:
    """Write the products of the image phase beside calexp.fits."""
    where = changes.science.visit.id, changes.science.detector.id
    write_exposure(repository.product(*where, "template.fits"), changes.template)
    write_exposure(repository.product(*where, "difference.fits"), changes.difference)
    write_catalog(repository.product(*where, "dia_sources.parquet"), changes.sources, DIA_SOURCE)
    write_catalog(repository.product(*where, "rejected.parquet"), changes.rejected, REJECTED)


def load_changes(
    repository: Repository, visit: int, detector: int, metrics: dict[str, float]
) -> Changes:
    """What ``save_changes`` wrote, for the catalogue phase; ``metrics`` are in no file."""
    camera = repository.detector(detector)

    def product(name: str) -> Path:
        return repository.product(visit, detector, name)

    return Changes(
        science=read_exposure(product("calexp.fits"), camera, ScienceExposure),
        template=read_exposure(product("template.fits"), camera, TemplateExposure),
        difference=read_exposure(product("difference.fits"), camera, DifferenceExposure),
        sources=read_catalog(product("dia_sources.parquet"), DIA_SOURCE),
        rejected=read_catalog(product("rejected.parquet"), REJECTED),
        metrics=metrics,
    )


def save_outcome(repository: Repository, outcome: Outcome) -> None:
    """Write summary.json."""
    path = repository.product(outcome.visit, outcome.detector, "summary.json")
    write_text(path, json.dumps(asdict(outcome), indent=1, default=float) + "\n")


def load_outcome(repository: Repository, visit: int, detector: int) -> Outcome | None:
    """What summary.json holds; None before the detector was processed."""
    content: dict[str, Any] | None = repository.summary(visit, detector)
    return Outcome(**content) if content else None
