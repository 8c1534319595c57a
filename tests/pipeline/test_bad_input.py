"""What is wrong is said in one sentence and kept; the other detectors go on."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sqlalchemy as sa
import yaml
from astropy.io import fits
from support.processed import (
    JOBS,
    NIGHT,
    VISITS,
    Ran,
    alerts_of,
    change_settings,
    copy_repository,
    leftovers,
    promptdia,
)

from promptdia.apdb.sql import SqlApdb
from promptdia.pipeline import worker
from promptdia.pipeline.errors import TransientError
from promptdia.pipeline.io import kafka_link
from promptdia.pipeline.io.parquet import read_table
from promptdia.pipeline.repository import Repository


def rewrite(path: Path, change: Callable[[fits.Header, np.ndarray], np.ndarray | None]) -> None:
    """Replace a FITS file (a link to one that is shared) by a changed copy."""
    with fits.open(path) as hdus:
        header, data = hdus[0].header.copy(), np.array(hdus[0].data, np.float32)
    for card in ("BZERO", "BSCALE"):
        header.remove(card, ignore_missing=True)
    changed = change(header, data)
    path.unlink()
    fits.PrimaryHDU(data if changed is None else changed, header=header).writeto(path)


def cut(path: Path, length: int) -> None:
    """Keep only the first bytes of a file."""
    content = path.read_bytes()[:length]
    path.unlink()
    path.write_bytes(content)


# ---- frames that cannot be used

VISIT, LATER, LAST = VISITS
BROKEN = {
    (VISIT, 0): "is not a readable FITS file",
    (VISIT, 7): "instrument sim-tiny has no detector 7; it has 0, 1",
    (LATER, 0): "no usable pixel",
    (LATER, 1): "no usable pixel",
    (LAST, 0): "is not a readable FITS file",
    (LAST, 1): "is not a readable FITS file",
}


@pytest.fixture(scope="module")
def bad_night(prepared: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """A night in which only detector 1 of the first visit is as it should be."""
    root = copy_repository(prepared, tmp_path_factory.mktemp("bad") / "root")
    cut(root / f"raw/{VISIT}/0.fits", 200_000)
    shutil.copy(root / f"raw/{LATER}/0.fits", root / f"raw/{VISIT}/7.fits")
    rewrite(root / f"raw/{LATER}/0.fits", lambda header, data: data * np.nan)
    rewrite(root / f"raw/{LATER}/1.fits", lambda header, data: data * 0 + 65535)
    for detector in (0, 1):
        cut(root / f"raw/{LAST}/{detector}.fits", 1000)
    return root, promptdia("night", root, NIGHT, "--workers", 1, "--json")


def test_a_broken_frame_does_not_stop_the_others(bad_night: tuple[Path, Ran]) -> None:
    root, ran = bad_night
    assert ran.status == 1
    rows = {(row["visit"], row["detector"]): row for row in ran.json["detectors"]}
    assert set(rows) == {*JOBS, (VISIT, 7)}
    assert rows[VISIT, 1]["status"] == "done"
    assert rows[VISIT, 1]["n_alerts"] > 0
    assert {alert["diaSource"]["detector"] for alert in alerts_of(root)} == {1}


@pytest.mark.parametrize(("visit", "detector"), BROKEN)
def test_what_was_wrong_is_told_and_kept(
    bad_night: tuple[Path, Ran], visit: int, detector: int
) -> None:
    root, ran = bad_night
    rows = {(row["visit"], row["detector"]): row for row in ran.json["detectors"]}
    status, reason = rows[visit, detector]["status"], rows[visit, detector]["reason"]
    assert status == "failed"
    assert BROKEN[visit, detector] in reason
    assert "\n" not in reason
    assert f"promptdia: visit {visit} detector {detector} failed: {reason}\n" in ran.err
    repository = Repository(root)
    summary = json.loads(repository.product(visit, detector, "summary.json").read_text())
    assert (summary["status"], summary["reason"]) == ("failed", reason)
    [kept] = [
        row for row in SqlApdb.open(repository.apdb_url).outcomes(visit) if row.detector == detector
    ]
    assert (kept.status, kept.reason, kept.n_dia_sources) == ("failed", reason, 0)


def test_nothing_but_sentences_is_said(bad_night: tuple[Path, Ran]) -> None:
    _, ran = bad_night
    assert len(ran.err.splitlines()) == len(BROKEN)
    assert "Traceback" not in ran.err


def test_nothing_half_written_stays(bad_night: tuple[Path, Ran]) -> None:
    root, _ = bad_night
    assert leftovers(root) == []
    for visit, detector in BROKEN:
        assert not (root / f"alerts/{visit}/{detector}.avro").exists()
        assert not (root / f"products/{visit}/{detector}/dia_sources.parquet").exists()
    assert SqlApdb.open(Repository(root).apdb_url).check() == []


def test_a_frame_that_was_brought_again_is_processed(fresh: Path, prepared: Path) -> None:
    cut(fresh / f"raw/{VISIT}/0.fits", 200_000)
    assert promptdia("visit", fresh, VISIT, "--detector", 0).status == 1
    shutil.copy(prepared / f"raw/{VISIT}/0.fits", fresh / f"raw/{VISIT}/0.fits")
    ran = promptdia("visit", fresh, VISIT, "--detector", 0, "--json")
    assert (ran.status, ran.err) == (0, "")
    assert ran.json["detectors"][0]["status"] == "done"
    [kept] = SqlApdb.open(Repository(fresh).apdb_url).outcomes(VISIT)
    assert (kept.status, kept.reason) == ("done", "")


@pytest.mark.parametrize("card", ["EXPTIME", "MJD-AVG", "BAND"])
def test_a_frame_without_a_card_is_named(fresh: Path, card: str) -> None:
    path = fresh / f"raw/{VISIT}/0.fits"
    rewrite(path, lambda header, data: header.remove(card))
    ran = promptdia("visit", fresh, VISIT, "--detector", 0, "--json")
    assert ran.status == 1
    [row] = ran.json["detectors"]
    assert row["reason"] == f"{path} has no {card} card; ingest the frame again"


def test_a_calibrated_frame_without_wcs_is_named(fresh: Path, processed: Path) -> None:
    path = fresh / f"calexp/{VISIT}/0.fits"
    path.parent.mkdir(parents=True)
    shutil.copy(processed / f"products/{VISIT}/0/calexp.fits", path)
    with fits.open(path, mode="update") as hdus:
        for hdu in hdus:
            for card in ("CTYPE1", "CTYPE2"):
                hdu.header.remove(card, ignore_missing=True)
    (fresh / f"raw/{VISIT}/0.fits").unlink()
    ran = promptdia("visit", fresh, VISIT, "--detector", 0, "--json")
    assert ran.status == 1
    [row] = ran.json["detectors"]
    assert row["reason"] == f"{path} has no celestial WCS (CTYPE1, CTYPE2)"


def test_an_unforeseen_error_is_kept_with_its_traceback(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def bug(*_: object) -> None:
        raise ZeroDivisionError("division by nothing")

    monkeypatch.setattr(worker, "find_changes", bug)
    monkeypatch.setattr(worker, "_calibrated", lambda *_: worker.Calibrated)
    ran = promptdia("visit", fresh, VISIT, "--detector", 0, "--json")
    assert ran.status == 1
    summary = Repository(fresh).summary(VISIT, 0)
    assert summary is not None
    assert summary["status"] == "failed"
    assert summary["reason"].startswith("unforeseen ")
    assert "Traceback" in summary["traceback"]


# ---- what is missing beside the frame


def test_no_template_is_no_failure(fresh: Path) -> None:
    shutil.rmtree(fresh / "templates")
    ran = promptdia("visit", fresh, VISIT, "--detector", 0, "--json")
    assert (ran.status, ran.err) == (0, "")
    [row] = ran.json["detectors"]
    assert row["status"] == "no_work"
    assert "no template" in row["reason"]
    assert row["n_alerts"] == 0
    [kept] = SqlApdb.open(Repository(fresh).apdb_url).outcomes(VISIT)
    assert (kept.status, kept.reason) == ("no_work", row["reason"])
    assert (fresh / f"products/{VISIT}/0/calexp.fits").exists()
    assert alerts_of(fresh) == []


def test_no_reference_stars_is_a_failure(fresh: Path) -> None:
    shutil.rmtree(fresh / "refcat")
    ran = promptdia("visit", fresh, VISIT, "--detector", 0, "--json")
    assert ran.status == 1
    [row] = ran.json["detectors"]
    assert row["status"] == "failed"
    assert "reference" in row["reason"]
    product = fresh / "products" / str(VISIT) / "0"
    assert read_table(product / "sources_incomplete.parquet").num_rows > 50
    assert (product / "calexp_incomplete.fits").exists()
    assert not (product / "calexp.fits").exists()


def test_no_calibration_is_a_failure_that_says_what_to_do(fresh: Path) -> None:
    for path in (fresh / "calib" / "flat").glob("0-r_*.fits"):
        path.unlink()
    ran = promptdia("visit", fresh, VISIT, "--detector", 0, "--json")
    assert ran.status == 1
    [row] = ran.json["detectors"]
    assert row["reason"].startswith("no master flat for detector 0 in band r within 60 days")
    assert "promptdia calib" in row["reason"]


def test_nothing_detected_is_done_with_no_alerts(fresh: Path) -> None:
    change_settings(fresh, pipeline={"detect": {"threshold": 1e5}})
    ran = promptdia("visit", fresh, VISIT, "--detector", 0, "--json")
    assert (ran.status, ran.err) == (0, "")
    [row] = ran.json["detectors"]
    assert (row["status"], row["n_dia_sources"], row["n_alerts"]) == ("done", 0, 0)
    assert (fresh / f"alerts/{VISIT}/0.avro").exists()
    assert alerts_of(fresh) == []
    assert (fresh / f"products/{VISIT}/0/dia_sources.parquet").exists()


def test_a_blank_sky_cannot_be_calibrated(fresh: Path) -> None:
    rng = np.random.default_rng(1)
    rewrite(
        fresh / f"raw/{VISIT}/0.fits",
        lambda header, data: np.rint(np.median(data) + rng.normal(0, 8, data.shape)),
    )
    ran = promptdia("visit", fresh, VISIT, "--detector", 0, "--json")
    assert ran.status == 1
    [row] = ran.json["detectors"]
    assert row["status"] == "failed"
    assert "no source" in row["reason"]
    assert "unforeseen" not in row["reason"]


# ---- places that cannot be written


def test_products_that_cannot_be_written_end_the_command(fresh: Path) -> None:
    shutil.rmtree(fresh / "products")
    (fresh / "products").write_text("in the way")
    ran = promptdia("visit", fresh, VISIT, "--detector", 0, "--json")
    assert ran.status == 2
    assert ran.complaint.startswith(f"cannot write {fresh / 'products'}")
    [kept] = SqlApdb.open(Repository(fresh).apdb_url).outcomes(VISIT)
    assert kept.status == "failed"
    assert kept.reason.startswith(f"cannot write {fresh / 'products'}")


def test_alerts_that_cannot_be_written_end_the_command_and_are_written_later(imaged: Path) -> None:
    (imaged / "alerts").write_text("in the way")
    ran = promptdia("visit", imaged, VISIT, "--workers", 1)
    assert ran.status == 2
    assert ran.complaint.startswith(f"cannot write {imaged / 'alerts'}")
    (imaged / "alerts").unlink()
    assert promptdia("visit", imaged, VISIT, "--workers", 1).status == 0
    assert len(alerts_of(imaged)) == SqlApdb.open(Repository(imaged).apdb_url).countings()["Outbox"]


def test_a_repository_cannot_be_made_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = promptdia("init", tmp_path / "file" / "root", "--instrument", "lux2713")
    assert ran.status == 2
    assert ran.complaint.startswith("cannot write")


# ---- database and broker


def test_a_file_that_is_no_database_ends_the_command(imaged: Path) -> None:
    (imaged / "apdb.sqlite").write_text("no database at all" * 100)
    ran = promptdia("night", imaged, NIGHT, "--workers", 1)
    assert ran.status == 2
    assert "is no SQLite database" in ran.complaint
    assert not (imaged / "alerts").exists()


def test_a_database_that_cannot_be_made_ends_the_command(imaged: Path) -> None:
    change_settings(imaged, apdb="sqlite:///nowhere/apdb.sqlite")
    ran = promptdia("night", imaged, NIGHT, "--workers", 1)
    assert ran.status == 2
    assert "cannot be opened" in ran.complaint


def test_a_database_that_cannot_be_written_ends_the_command(imaged: Path) -> None:
    assert promptdia("apdb", imaged, "create").status == 0
    change_settings(imaged, apdb=f"sqlite:///file:{imaged / 'apdb.sqlite'}?mode=ro&uri=true")
    ran = promptdia("visit", imaged, VISIT, "--workers", 1, "--json")
    assert (ran.status, ran.out) == (2, "")
    assert "is read-only" in ran.complaint
    assert not (imaged / "alerts").exists()


def test_a_full_database_fails_the_detectors_and_later_they_go_on(imaged: Path) -> None:
    assert promptdia("apdb", imaged, "create").status == 0

    def full(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA max_page_count = 1")  # not below the present size

    sa.event.listen(sa.Engine, "connect", full)
    try:
        ran = promptdia("visit", imaged, VISIT, "--workers", 1, "--json")
    finally:
        sa.event.remove(sa.Engine, "connect", full)
    assert ran.status == 1
    assert all("no space is left" in row["reason"] for row in ran.json["detectors"])
    assert promptdia("visit", imaged, VISIT, "--workers", 1).status == 0
    assert promptdia("apdb", imaged, "check").status == 0


@pytest.mark.parametrize("url", ["nonsense", "mysql://localhost/apdb"])
def test_an_unusable_database_url_ends_the_command(imaged: Path, url: str) -> None:
    change_settings(imaged, apdb=url)
    ran = promptdia("night", imaged, NIGHT, "--workers", 1)
    assert ran.status == 2
    assert url.split(":")[0] in ran.complaint


def test_a_database_that_does_not_answer_is_told(
    imaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_settings(imaged, apdb="postgresql+psycopg://nobody@127.0.0.1:1/apdb")
    ran = promptdia("night", imaged, NIGHT, "--workers", 1)
    assert ran.status == 1
    assert "127.0.0.1" in ran.complaint


def test_a_database_that_goes_away_is_tried_again(
    imaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = []
    commit = SqlApdb.commit

    def shaky(self: SqlApdb, *args: object, **named: object) -> bool:
        tries.append(1)
        if len(tries) < 3:
            raise TransientError("the database is away")
        return commit(self, *args, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(SqlApdb, "commit", shaky)
    monkeypatch.setattr("promptdia.pipeline.retry.time.sleep", lambda _: None)
    ran = promptdia("visit", imaged, VISIT, "--detector", 0, "--json")
    assert ran.status == 0
    assert ran.json["detectors"][0]["n_alerts"] > 0
    assert len(tries) == 3


def test_a_database_that_stays_away_ends_the_command(
    imaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object, **__: object) -> None:
        raise TransientError("the database is away")

    monkeypatch.setattr(SqlApdb, "commit", away)
    monkeypatch.setattr("promptdia.pipeline.retry.time.sleep", lambda _: None)
    ran = promptdia("visit", imaged, VISIT, "--detector", 0, "--json")
    assert ran.status == 1
    assert "the database is away" in ran.err
    assert ran.out == ""


def test_alerts_wait_for_a_broker_that_is_away(
    imaged: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_link, "_CONTACT_S", 1.0)
    ran = promptdia("night", imaged, NIGHT, "--workers", 1, "--broker", "127.0.0.1:1", "--json")
    assert ran.status == 1
    assert all(row["status"] == "done" for row in ran.json["detectors"])
    assert "the alerts are kept" in ran.complaint
    assert "127.0.0.1:1" in ran.complaint
    n = len(alerts_of(imaged))
    assert len(SqlApdb.open(Repository(imaged).apdb_url).unsent("lsst-alerts")) == n > 0


# ---- settings


@pytest.mark.parametrize("command", [("night", NIGHT), ("visit", VISIT), ("template",), ("calib",)])
def test_an_unknown_key_is_named_before_any_work(fresh: Path, command: tuple[object, ...]) -> None:
    change_settings(fresh, pipeline={"detect": {"treshold": 4.0}})
    ran = promptdia(command[0], fresh, *command[1:])
    assert ran.status == 2
    assert ran.complaint == f"{fresh / 'promptdia.yaml'}: pipeline: detect.treshold: unknown key"
    assert not list((fresh / "products" / str(VISIT)).glob("*"))
    assert not (fresh / "apdb.sqlite").exists()


def test_an_unknown_key_at_the_top_is_named(fresh: Path) -> None:
    change_settings(fresh, brocker={"url": "localhost:9092"})
    ran = promptdia("night", fresh, NIGHT)
    assert (ran.status, ran.complaint) == (2, f"{fresh / 'promptdia.yaml'}: brocker: unknown key")


def test_a_value_of_the_wrong_kind_is_named(fresh: Path) -> None:
    change_settings(fresh, pipeline={"detect": {"threshold": "high"}})
    ran = promptdia("night", fresh, NIGHT)
    assert ran.status == 2
    assert "pipeline: detect.threshold: " in ran.complaint


def test_an_unknown_key_of_a_camera_is_named(fresh: Path, tmp_path: Path) -> None:
    camera = {"name": "mine", "detectors": [{"id": 0, "size": [9, 9], "pixel_scale": 1, "gian": 2}]}
    (tmp_path / "camera.yaml").write_text(yaml.safe_dump(camera))
    ran = promptdia("init", tmp_path / "new", "--instrument", tmp_path / "camera.yaml")
    assert ran.status == 2
    assert "camera.yaml: detectors.0.gian: unknown key" in ran.complaint
    assert not (tmp_path / "new").exists()


def test_an_unknown_pipeline_key_of_a_camera_is_named(fresh: Path) -> None:
    camera = {"name": "mine", "detectors": [], "pipeline": {"isr": {"bais": False}}}
    (fresh / "camera.yaml").write_text(yaml.safe_dump(camera))
    change_settings(fresh, instrument="camera.yaml")
    ran = promptdia("night", fresh, NIGHT)
    assert ran.status == 2
    assert ran.complaint == "instrument mine: pipeline: isr.bais: unknown key"


# ---- arguments


def test_what_does_not_exist_is_named(fresh: Path, tmp_path: Path) -> None:
    for arguments, sentence in (
        (("visit", fresh, 12), f"{fresh} has no visit 12; ingest its frames first"),
        (("night", fresh, 20200101), "has no visit of night 20200101; nights: 20260930, 2026"),
        (("visit", fresh, VISIT, "--detector", 9), "has no detector 9; it has 0, 1"),
        (("visit", tmp_path, VISIT), "is not a promptdia repository"),
        (("init", tmp_path / "r", "--instrument", "hal"), "no instrument named hal; known are"),
        (("ingest", fresh, tmp_path / "gone.fits"), "gone.fits does not exist"),
        (("template", fresh, "--visit", 12), "has no visit 12"),
        (("template", fresh, "--band", "z"), "no visit in band z"),
        (("night", fresh, NIGHT, "--workers", -1), "number of workers is -1, must be at least"),
        (("alerts", fresh, "show", 12), "12"),
        (("alerts", fresh, "send"), "name a broker with --broker"),
        (("simulate", fresh, "--survey", "tiny"), "is already a promptdia repository"),
    ):
        ran = promptdia(*arguments)
        assert ran.status == 2, (arguments, ran)
        assert sentence in ran.complaint
        assert ran.out == ""


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("frobnicate",),
        ("simulate", "root", "--survey", "huge"),
        ("visit", "root", "last"),
        ("night", "root"),
    ],
)
def test_unusable_arguments_are_refused_by_name(arguments: tuple[str, ...]) -> None:
    ran = promptdia(*arguments)
    assert ran.status == 2
    assert ran.out == ""
    assert "usage: promptdia" in ran.err
