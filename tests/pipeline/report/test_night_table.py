"""The table of a night's summaries."""

import csv
import json
from pathlib import Path

from support.processed import JOBS, NIGHT

from promptdia.pipeline.io.files import write_text
from promptdia.pipeline.report.night_table import write_night_table
from promptdia.pipeline.repository import Repository


def _table(root: Path) -> list[dict[str, str]]:
    with (root / "report" / f"summary-{NIGHT}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_night_leaves_a_row_of_statistics_per_visit_detector(processed: Path) -> None:
    rows = _table(processed)
    assert [(int(r["visit"]), int(r["detector"])) for r in rows] == JOBS
    for row in rows:
        summary = Repository(processed).summary(int(row["visit"]), int(row["detector"]))
        assert summary is not None
        assert row["status"] == summary["status"] == "done"
        for name in ("psfSigma", "zeroPoint", "skyBg", "astromOffsetStd", "magLim", "effTime"):
            assert float(row[name]) == summary["metrics"][name]
        assert 0 < float(row["effTime"]) < 60


def test_what_a_failed_detector_did_not_reach_is_empty(night: Path) -> None:
    visit, detector = JOBS[2]
    repository = Repository(night)
    path = repository.product(visit, detector, "summary.json")
    summary = json.loads(path.read_text())
    reached = {"expTime": 30.0, "psfSigma": 1.5}
    failed = summary | {"status": "failed", "reason": "astrometry: no", "metrics": reached}
    write_text(path, json.dumps(failed))
    write_night_table(repository, NIGHT)
    row = _table(night)[2]
    assert row["status"] == "failed"
    assert row["reason"] == "astrometry: no"
    assert row["psfSigma"] == "1.5"
    assert row["zeroPoint"] == row["magLim"] == ""
