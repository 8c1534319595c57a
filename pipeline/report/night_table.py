"""The summaries of a night as one table: a row per visit-detector, failed ones included."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from promptdia.pipeline.io.files import write_text
from promptdia.pipeline.repository import Repository
from promptdia.tasks.model.visit import Visit

FIRST = ("visit", "detector", "band", "mjd_tai", "status", "reason", "seconds", "n_dia_sources")
"""Columns before those of the summary statistics."""


def write_night_table(repository: Repository, day_obs: int) -> Path:
    """Write report/summary-NIGHT.csv from the summaries of the night; where it lies.

    After the columns of FIRST come the statistics, in the order of the alphabet; those that a
    detector did not reach are empty.
    """
    rows = list(_rows(repository, repository.visits(day_obs)))
    names = sorted({name for row in rows for name in row} - set(FIRST))
    text = io.StringIO()
    table = csv.DictWriter(text, [*FIRST, *names], restval="", lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    path = repository.root / "report" / f"summary-{day_obs}.csv"
    write_text(path, text.getvalue())
    return path


def _rows(repository: Repository, visits: Iterable[Visit]) -> Iterable[dict[str, Any]]:
    for visit in visits:
        for number in repository.detectors(visit.id):
            summary = repository.summary(visit.id, number)
            if summary is None:
                continue
            yield {
                **summary["metrics"],
                "visit": visit.id,
                "detector": number,
                "band": visit.band,
                "mjd_tai": visit.mjd_tai,
                "status": summary["status"],
                "reason": summary["reason"],
                "seconds": round(sum(summary["seconds"].values()), 3),
                "n_dia_sources": summary["n_dia_sources"],
            }
