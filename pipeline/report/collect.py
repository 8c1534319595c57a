"""Read what the truth report compares from a repository."""

import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from promptdia.apdb.schema.lsst import DIA_SOURCE, REJECTED
from promptdia.apdb.schema.table import TableSchema
from promptdia.pipeline.io.alert_files import read_container
from promptdia.pipeline.io.fits import read_exposure
from promptdia.pipeline.io.parquet import read_catalog
from promptdia.pipeline.report.depth import Depth, depth_at
from promptdia.pipeline.report.evidence import POINTS, Evidence, Outcome, TruthConfig
from promptdia.pipeline.report.gallery import choose
from promptdia.pipeline.report.numbers import evaluate
from promptdia.pipeline.report.page import write_report
from promptdia.pipeline.report.triplets import draw_triplets
from promptdia.pipeline.report.truth import TruthReport, rows_by_detector
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.sim.truth import TRUTH_EPOCH
from promptdia.tasks.model.arrays import Catalog, Ints
from promptdia.tasks.model.exposure import DifferenceExposure

LIBRARIES = ("promptdia", "numpy", "scipy", "astropy", "numba", "galsim", "confluent-kafka")
GALLERY_SIZE = 12


def make_report(
    repository: Repository, n_dia_objects: int, committed: Ints, delivered: Ints | None = None
) -> TruthReport:
    """Write ``report/`` of a repository with truth and return what it says.

    ``n_dia_objects`` and ``committed`` (alert ids) come from the APDB; ``delivered`` are
    the ids read back from the stream, or by default those in ``alerts/``.
    """
    evidence = collect(repository, n_dia_objects, committed, delivered)
    report = evaluate(evidence, TruthConfig(), asdict(repository.config), versions())
    folder = repository.root / "report"
    wanted = choose(report.comparison, GALLERY_SIZE)
    picture = None
    if wanted:
        picture = folder / "gallery.png"
        draw_triplets(_records(repository, wanted), picture)
    write_report(report, folder, picture)
    return report


def collect(
    repository: Repository, n_dia_objects: int, committed: Ints, delivered: Ints | None = None
) -> Evidence:
    """Everything the report compares; see ``make_report``."""
    outcomes = read_outcomes(repository)
    epochs = read_catalog(repository.root / "truth" / "epochs.parquet", TRUTH_EPOCH)
    depth = read_depth(repository, epochs, outcomes)
    alerts = read_alerts(repository)
    return Evidence(
        epochs=epochs,
        sigma_njy=depth.sigma_njy,
        usable=depth.usable,
        alerts=alerts,
        rejected=read_rejected(repository, outcomes),
        outcomes=outcomes,
        n_dia_objects=n_dia_objects,
        committed=committed,
        delivered=alerts["diaSourceId"] if delivered is None else delivered,
    )


def read_outcomes(repository: Repository) -> list[Outcome]:
    """One per visit-detector with a summary, by visit and detector."""
    found = sorted(
        (int(path.parent.parent.name), int(path.parent.name))
        for path in (repository.root / "products").glob("*/*/summary.json")
    )
    outcomes = []
    for visit, detector in found:
        summary = repository.summary(visit, detector) or {}
        outcomes.append(
            Outcome(
                visit,
                detector,
                summary["status"],
                summary.get("reason") or "",
                summary.get("seconds", {}),
                tuple(summary.get("template_visits", ())),
            )
        )
    return outcomes


def read_depth(repository: Repository, epochs: Catalog, outcomes: Iterable[Outcome]) -> Depth:
    """Depth of the difference images of done visit-detectors at every epoch."""
    sigma, usable = np.full(len(epochs), np.nan), np.zeros(len(epochs), bool)
    rows_of = rows_by_detector(epochs, np.isin(epochs["kind"], [*POINTS, "trail"]))
    for outcome in outcomes:
        rows = rows_of.get((outcome.visit, outcome.detector))
        if outcome.status != "done" or rows is None:
            continue
        path = repository.product(outcome.visit, outcome.detector, "difference.fits")
        detector = repository.detector(outcome.detector)
        difference = read_exposure(path, detector, DifferenceExposure)
        sigma[rows], usable[rows] = depth_at(difference, epochs["x"][rows], epochs["y"][rows])
    return Depth(sigma, usable)


def read_alerts(repository: Repository) -> Catalog:
    """The diaSource of every alert in ``alerts/``."""
    return as_table((record["diaSource"] for record in _records(repository)), DIA_SOURCE)


def read_rejected(repository: Repository, outcomes: Iterable[Outcome]) -> Catalog:
    """All detections that were not alerted."""
    tables = [REJECTED.empty()]
    for outcome in outcomes:
        path = repository.product(outcome.visit, outcome.detector, "rejected.parquet")
        if path.exists():
            tables.append(read_catalog(path, REJECTED))
    return np.concatenate(tables)


def as_table(records: Iterable[Mapping[str, Any]], schema: TableSchema) -> Catalog:
    """Decoded Avro records as rows; what a record lacks or has as null stays unknown."""
    listed = list(records)
    rows = schema.empty(len(listed))
    for name in schema.dtype.names or ():
        for i, record in enumerate(listed):
            if record.get(name) is not None:
                rows[name][i] = record[name]
    return rows


def versions() -> dict[str, str]:
    """Of Python, promptdia and the libraries that shape its results."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def _records(repository: Repository, wanted: Sequence[int] | None = None) -> list[dict[str, Any]]:
    """Alerts of the repository; those of the ids ``wanted``, in their order, or all of them."""
    if wanted is None:
        return [_without_cutouts(r) for path in _files(repository) for r in read_container(path)]
    ids = {int(i) for i in wanted}
    found = {
        r["diaSourceId"]: r
        for path in _files(repository)
        for r in read_container(path)
        if r["diaSourceId"] in ids
    }
    return [found[int(i)] for i in wanted]


def _files(repository: Repository) -> list[Path]:
    return sorted((repository.root / "alerts").glob("*/*.avro"))


def _without_cutouts(record: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in record.items() if not key.startswith("cutout")}
