"""The survey ``tiny`` from raw frames to alerts: what lies where, and what the alerts say."""

import io
import json
from collections import Counter
from pathlib import Path

import lsst.alert.packet
import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from astropy.nddata import CCDData
from astropy.wcs.utils import proj_plane_pixel_scales
from support.processed import (
    DETECTORS,
    JOBS,
    NIGHT,
    SEED,
    TEMPLATE_NIGHT,
    VISITS,
    Ran,
    alerts_of,
    differences,
    has_model,
    leftovers,
    promptdia,
    rows,
    tree,
)

from promptdia.apdb.schema.lsst import DIA_SOURCE, REJECTED
from promptdia.apdb.sql import SqlApdb
from promptdia.pipeline.io.alert_files import read_container, read_messages
from promptdia.pipeline.io.fits import read_exposure
from promptdia.pipeline.io.parquet import read_catalog
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.sim.truth import TRUTH_EPOCH
from promptdia.tasks.model.exposure import DifferenceExposure, ScienceExposure, TemplateExposure

PRODUCTS = {
    "calexp.fits", "difference.fits", "template.fits", "dia_sources.parquet", "rejected.parquet",
    "summary.json",
}  # fmt: skip
BRIEF = {
    "detector", "status", "reason", "n_dia_sources", "n_alerts", "n_new_dia_objects", "seconds"
}  # fmt: skip
REPORT = {
    "n_visits", "n_detectors", "n_failed", "n_alerts", "n_dia_objects", "completeness_snr_ge_6",
    "snr50", "purity", "false_alerts_per_detector", "astrometry_rms_arcsec_snr20", "flux_bias",
    "flux_pull_std", "association_correct", "duplicate_dia_objects", "lost_alerts",
    "duplicate_alerts", "seconds_per_detector_p50", "seconds_per_detector_p98",
}  # fmt: skip


def test_a_night_says_what_became_of_each_detector(first_night: tuple[Path, Ran]) -> None:
    _, ran = first_night
    assert ran.status == 0
    assert ran.err == ""
    assert set(ran.json) == {"day_obs", "detectors"}
    assert ran.json["day_obs"] == NIGHT
    rows = ran.json["detectors"]
    assert [(row["visit"], row["detector"]) for row in rows] == JOBS
    for row in rows:
        assert set(row) == BRIEF | {"visit"}
        assert (row["status"], row["reason"]) == ("done", "")
        assert 0 < row["n_alerts"] == row["n_dia_sources"] >= row["n_new_dia_objects"]
        assert {"isr", "calibrate", "subtract", "commit"} <= set(row["seconds"])
        assert all(seconds >= 0 for seconds in row["seconds"].values())


def test_a_visit_says_the_same_without_doing_it_again(
    night: Path, first_night: tuple[Path, Ran]
) -> None:
    ran = promptdia("visit", night, VISITS[1], "--workers", 1, "--json")
    assert (ran.status, ran.err) == (0, "")
    assert set(ran.json) == {"visit", "detectors"}
    assert ran.json["visit"] == VISITS[1]
    assert all(set(row) == BRIEF for row in ran.json["detectors"])
    before = [r for r in first_night[1].json["detectors"] if r["visit"] == VISITS[1]]
    assert ran.json["detectors"] == [
        {k: v for k, v in row.items() if k != "visit"} for row in before
    ]


def test_everything_lies_where_the_contract_says(processed: Path) -> None:
    found = tree(processed)
    for visit, detector in JOBS:
        assert f"{detector}.fits" in found[f"raw/{visit}"]
        assert set(found[f"products/{visit}/{detector}"]) >= PRODUCTS
        assert found[f"alerts/{visit}"] == [f"{d}.avro" for d in DETECTORS]
    assert {"promptdia.yaml", "apdb.sqlite"} <= set(found["."])
    for kind in ("bias", "dark", "flat", "defects"):
        assert found[f"calib/{kind}"]
    assert found["templates/r"]
    assert all(name.endswith(".parquet") for name in found["refcat"])
    assert found["truth"] == ["epochs.parquet", "objects.parquet"]
    top = {"alerts", "calib", "ephemerides", "products", "raw", "refcat", "report"}
    top |= {"templates", "truth"}
    assert {path.name for path in processed.iterdir() if path.is_dir()} == top
    assert leftovers(processed) == []


def test_the_products_open_in_their_roles(processed: Path) -> None:
    repository = Repository(processed)
    camera = repository.detector(1)
    for name, role in (
        ("calexp", ScienceExposure),
        ("template", TemplateExposure),
        ("difference", DifferenceExposure),
    ):
        exposure = read_exposure(repository.product(VISITS[0], 1, f"{name}.fits"), camera, role)
        assert exposure.shape == camera.shape
        assert exposure.visit.id == VISITS[0]
        assert exposure.psf is not None


def test_the_summary_and_the_database_agree_with_the_tables(processed: Path) -> None:
    repository = Repository(processed)
    kept = {(row.visit, row.detector): row for row in SqlApdb.open(repository.apdb_url).outcomes()}
    assert sorted(kept) == JOBS
    for where in JOBS:
        summary = json.loads(repository.product(*where, "summary.json").read_text())
        sources = read_catalog(repository.product(*where, "dia_sources.parquet"), DIA_SOURCE)
        rejected = read_catalog(repository.product(*where, "rejected.parquet"), REJECTED)
        alerts = list(read_container(repository.alerts_path(*where)))
        assert summary["status"] == kept[where].status == "done"
        assert len(alerts) == summary["n_alerts"] == kept[where].n_dia_sources
        assert {a["diaSourceId"] for a in alerts} <= set(sources["diaSourceId"].tolist())
        assert kept[where].n_rejected >= len(rejected)
        assert all(visit // 100_000 == TEMPLATE_NIGHT for visit in summary["template_visits"])
    assert SqlApdb.open(repository.apdb_url).check() == []


def test_bright_changes_are_alerted_where_the_truth_has_them(processed: Path) -> None:
    epochs = read_catalog(processed / "truth" / "epochs.parquet", TRUTH_EPOCH)
    epochs = epochs[np.isin(epochs["visit"], VISITS)]
    found = [alert["diaSource"] for alert in alerts_of(processed)]
    at = SkyCoord([s["ra"] for s in found], [s["dec"] for s in found], unit="deg")
    visits = np.array([s["visit"] for s in found])
    snr = np.abs(epochs["flux_njy"]) / epochs["sky_noise_njy"]
    bright = epochs[(snr > 30) & np.isin(epochs["kind"], ["supernova", "variable", "asteroid"])]
    inside = bright[
        (np.minimum(bright["x"], bright["y"]) > 10) & (np.maximum(bright["x"], bright["y"]) < 502)
    ]
    assert len(inside) >= 5
    offsets = []
    for epoch in inside:
        away = at[visits == epoch["visit"]].separation(
            SkyCoord(epoch["ra"], epoch["dec"], unit="deg")
        )
        offsets.append(away.arcsec.min())
    assert np.mean(np.array(offsets) < 0.5) >= 0.9
    assert np.median(offsets) < 0.1


def test_alerts_are_read_by_the_survey_s_own_schema(processed: Path) -> None:
    folder = Path(lsst.alert.packet.get_schema_path(11, 0))
    schema = lsst.alert.packet.Schema.from_file(str(folder / "lsst.v11_0.alert.avsc"))
    n = 0
    for path in sorted((processed / "alerts").glob("*/*.avro")):
        ours = list(read_container(path))
        for message, alert in zip(read_messages(path), ours, strict=True):
            decoded = schema.deserialize(message[5:])
            assert decoded["diaSourceId"] == alert["diaSourceId"]
            assert schema.validate(decoded)
            n += 1
        with path.open("rb") as file:
            [_, theirs] = schema.retrieve_alerts(file)
            assert [a["diaSourceId"] for a in theirs] == [a["diaSourceId"] for a in ours]
    assert n > 10


def test_a_broker_s_client_unpacks_the_alerts(
    processed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "none")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "none")
    import pittgoogle

    path = processed / "alerts" / str(VISITS[2]) / "1.avro"
    for message, ours in zip(read_messages(path), read_container(path), strict=True):
        decoded = pittgoogle.Schemas.get("lsst", alert_bytes=message).deserialize(message)
        alert = pittgoogle.Alert.from_dict(decoded, schema_name="lsst")
        source = ours["diaSource"]
        assert alert.sourceid == source["diaSourceId"]
        assert alert.objectid == (source["diaObjectId"] or source["ssObjectId"])


def test_cutouts_open_as_images_of_the_sky(processed: Path) -> None:
    [alert, *_] = read_container(processed / "alerts" / str(VISITS[0]) / "0.avro")
    source = alert["diaSource"]
    for name in ("cutoutDifference", "cutoutScience", "cutoutTemplate"):
        image = CCDData.read(io.BytesIO(alert[name]))
        assert image.unit == "nJy"
        assert image.wcs is not None
        ny, nx = image.shape
        x, y = image.wcs.world_to_pixel(SkyCoord(source["ra"], source["dec"], unit="deg"))
        assert abs(x - (nx - 1) / 2) < 1
        assert abs(y - (ny - 1) / 2) < 1
        scale = 3600 * proj_plane_pixel_scales(image.wcs)
        np.testing.assert_allclose(scale, 0.3, rtol=0.01)


def test_an_object_s_alerts_carry_its_past(processed: Path) -> None:
    alerts = alerts_of(processed)
    times = Counter(a["diaSource"]["diaObjectId"] for a in alerts if a["diaSource"]["diaObjectId"])
    often, n = times.most_common(1)[0]
    assert n == len(VISITS)
    history = [a["prvDiaSources"] or [] for a in alerts if a["diaSource"]["diaObjectId"] == often]
    assert [len(past) for past in history] == [0, 1, 2]
    for alert in alerts:
        static = alert["diaSource"]["diaObjectId"] != 0
        assert (alert["diaObject"] is not None) == static
        assert (alert["ssSource"] is not None) == (not static)


def test_the_report_has_its_keys(night: Path) -> None:
    ran = promptdia("report", night, "--json")
    assert (ran.status, ran.err) == (0, "")
    assert REPORT | {"settings", "versions"} <= set(ran.json)
    assert json.loads((night / "report" / "report.json").read_text()) == ran.json
    assert (night / "report" / "report.html").stat().st_size > 1000
    assert ran.json["n_detectors"] == len(JOBS)
    assert ran.json["n_alerts"] == len(alerts_of(night))
    assert ran.json["lost_alerts"] == ran.json["duplicate_alerts"] == ran.json["n_failed"] == 0


@pytest.mark.skipif(not has_model(), reason="no reliability model is shipped yet")
def test_the_demonstration_gives_the_same_alerts_with_two_workers(
    tmp_path: Path, processed: Path
) -> None:
    root = tmp_path / "demo"
    ran = promptdia(
        "demo", "--root", root, "--survey", "tiny", "--seed", SEED, "--workers", 2, "--json"
    )
    assert ran.status == 0, ran.err
    assert set(ran.json) >= REPORT
    assert ran.json["lost_alerts"] == ran.json["duplicate_alerts"] == 0
    assert differences(alerts_of(root), alerts_of(processed)) == {}
    same = rows(root) == rows(processed)
    assert same
    again = promptdia("demo", "--root", root, "--survey", "tiny")
    assert again.status == 2
    assert "is not empty" in again.complaint
