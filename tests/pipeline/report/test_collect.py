"""Reading a repository for the truth report."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from support.alerts import DETECTOR, NX, VISIT, exposures, make_alerts

from promptdia.apdb.schema.lsst import REJECTED
from promptdia.pipeline.io.alert_files import write_container
from promptdia.pipeline.io.avro import encode_alerts
from promptdia.pipeline.io.fits import write_exposure
from promptdia.pipeline.io.parquet import write_catalog
from promptdia.pipeline.report.collect import make_report, read_alerts
from promptdia.pipeline.sim.truth import TRUTH_EPOCH


class Folder:
    """As much of a repository as the report reads."""

    config = DETECTOR

    def __init__(self, root: Path) -> None:
        self.root = root

    def product(self, visit: int, detector: int, name: str) -> Path:
        return self.root / "products" / str(visit) / str(detector) / name

    def summary(self, visit: int, detector: int) -> Any:
        return json.loads(self.product(visit, detector, "summary.json").read_text())

    def detector(self, number: int) -> Any:
        assert number == DETECTOR.id
        return DETECTOR


@pytest.fixture
def repository(tmp_path: Path) -> Folder:
    """Six alerts: five on truths of S/N about 20, one on nothing; one more truth was rejected."""
    folder, where = Folder(tmp_path), (VISIT.id, DETECTOR.id)
    alerts = make_alerts(6)
    write_container(tmp_path / f"alerts/{VISIT.id}/{DETECTOR.id}.avro", encode_alerts(alerts))
    difference = exposures()[2].replace(visit=replace(VISIT, target_name=""))
    write_exposure(folder.product(*where, "difference.fits"), difference)
    epochs = TRUTH_EPOCH.empty(6)
    epochs["truth_id"], epochs["kind"] = np.arange(6) + 1, "supernova"
    epochs["visit"], epochs["detector"] = where
    sources = np.concatenate([a.source for a in alerts])
    for name in ("x", "y", "ra", "dec"):
        epochs[name][:5] = sources[name][:5]
    epochs["x"][5] = epochs["y"][5] = 100.0
    epochs["ra"][5], epochs["dec"][5] = difference.wcs.pixel_to_sky(100.0, 100.0)
    epochs["flux_njy"] = 20 * 30 * np.sqrt(4 * np.pi) * 1.9
    write_catalog(tmp_path / "truth/epochs.parquet", epochs, TRUTH_EPOCH)
    rejected = REJECTED.empty(1)
    rejected["visit"], rejected["detector"] = where
    rejected["ra"], rejected["dec"], rejected["rule"] = epochs["ra"][5], epochs["dec"][5], "trail"
    write_catalog(folder.product(*where, "rejected.parquet"), rejected, REJECTED)
    done = {"status": "done", "reason": "", "seconds": {"isr": 1.5}, "template_visits": [1]}
    folder.product(*where, "summary.json").write_text(json.dumps(done))
    failed = {"status": "failed", "reason": "no PSF", "seconds": {}, "template_visits": []}
    other = folder.product(VISIT.id, 9, "summary.json")
    other.parent.mkdir(parents=True)
    other.write_text(json.dumps(failed))
    return folder


def test_a_repository_becomes_a_report_with_gallery(repository: Folder) -> None:
    ids = read_alerts(repository)["diaSourceId"]
    report = make_report(repository, 6, ids)
    numbers = json.loads((repository.root / "report/report.json").read_text())
    assert numbers["n_detectors"] == 2
    assert numbers["n_failed"] == 1
    assert numbers["completeness_snr_ge_6"] == pytest.approx(5 / 6)
    assert numbers["purity"] == pytest.approx(5 / 6)
    assert numbers["missed"] == {"trail": 1}
    assert numbers["lost_alerts"] == numbers["duplicate_alerts"] == 0
    assert numbers["seconds_per_detector_p50"] == 1.5
    assert numbers["versions"]["numpy"] == np.__version__
    assert numbers["settings"]["nx"] == NX
    assert np.nanmin(report.comparison.snr) == pytest.approx(20, rel=0.1)
    assert (repository.root / "report/gallery.png").stat().st_size > 10_000


def test_alerts_read_back_hold_the_sources_that_were_sent(repository: Folder) -> None:
    found = read_alerts(repository)
    sent = np.concatenate([a.source for a in make_alerts(6)])
    for name in ("diaSourceId", "diaObjectId", "ra", "psfFlux", "isNegative", "band"):
        assert_array_equal(found[name], sent[name])
