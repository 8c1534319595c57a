"""What a person at a terminal, or a program behind it, meets."""

import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support.processed import (
    JOBS,
    NIGHT,
    VISITS,
    alerts_of,
    differences,
    outside,
    promptdia,
)

from promptdia.apdb.schema.lsst import VERSIONS
from promptdia.apdb.sql import SqlApdb
from promptdia.pipeline.broker import EmbeddedBroker
from promptdia.pipeline.cli import parser
from promptdia.pipeline.io.avro import schema_id
from promptdia.pipeline.io.registry import RegistrySchemas, SchemaRegistry
from promptdia.pipeline.repository import Repository

HEAVY = ("numpy", "numba", "scipy", "astropy", "galsim", "sqlalchemy", "confluent_kafka", "rich")
COMMANDS = (
    "demo", "init", "simulate", "ingest", "bootstrap", "calib", "template", "visit", "night",
    "alerts", "broker", "schema", "apdb", "explain", "report",
)  # fmt: skip


def test_help_is_immediate() -> None:
    code = (
        "import sys; from promptdia.pipeline.cli import parser\n"
        "text = parser().format_help()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
        "import os; print(sum(os.times()[:2])); print(text)"
    )
    out = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    loaded, seconds, text = out.split("\n", 2)
    assert loaded == "[]"
    assert float(seconds) < 1.0
    for command in COMMANDS:
        assert f"\n    {command} " in text or f"\n    {command}\n" in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command: str) -> None:
    ran = promptdia(command, "--help")
    assert ran.status == 0
    assert ran.out.startswith(f"usage: promptdia {command}")
    assert ran.err == ""


def test_the_version_is_told() -> None:
    ran = promptdia("--version")
    assert ran.status == 0
    assert ran.out.split()[0] == "promptdia"
    assert ran.out.split()[1][0].isdigit()


def test_the_contract_s_arguments_are_understood() -> None:
    for line in (
        "demo --root r --survey tiny --workers 2 --broker b:1 --seed 4",
        "init r --instrument lux2713 --apdb sqlite:///x",
        "simulate r --survey tiny --seed 3",
        "ingest r a b --instrument lux2713 --as calexp",
        "calib r",
        "template r --band r --visit 1 2",
        "visit r 12 --detector 0 1 --broker b:1 --json",
        "night r 20260101 --workers 2 --scheduler tcp://a:1 --broker b:1 --json",
        "alerts r list",
        "alerts r show 1",
        "alerts r export out",
        "alerts r send",
        "alerts r listen --topic a,b --where snr>5 --call a:b --archive x --as parquet",
        "alerts r send --as-taken",
        "stream --broker b:1 --alerts 100 --every 2 --visits 3 --seed 4",
        "broker --port 9092 --registry-port 8081",
        "apdb r create",
        "apdb r check",
        "apdb r dedup",
        "apdb r export out",
        "explain r 12",
        "report r",
    ):
        assert parser().parse_args(line.split()).run


def test_progress_goes_to_standard_error_and_results_to_standard_output(imaged: Path) -> None:
    ran = promptdia("night", imaged, NIGHT, "--workers", 1)
    assert ran.status == 0
    assert ran.err == "detectors ...\n"
    assert str(VISITS[0]) in ran.out
    assert "done" in ran.out


def test_a_reader_that_stops_early_is_no_error(processed: Path) -> None:
    with outside("alerts", processed, "list", "--json") as running:
        assert running.stdout is not None
        running.stdout.close()
        assert running.stderr is not None
        said = running.stderr.read()
        running.wait()
    assert said == ""
    assert running.returncode in (0, 1)


# ---- alerts


def test_alerts_are_listed_and_shown(processed: Path, tmp_path: Path) -> None:
    listed = promptdia("alerts", processed, "list", "--json").json["alerts"]
    known = [alert["diaSourceId"] for alert in alerts_of(processed)]
    assert [line["diaSourceId"] for line in listed] == known
    one = promptdia("alerts", processed, "list", "--visit", VISITS[1]).out
    assert str(VISITS[1]) in one
    assert str(VISITS[0]) not in one
    shown = promptdia("alerts", processed, "show", known[-1], "--png", tmp_path / "a.png")
    assert shown.status == 0
    assert f"{known[-1]}" in shown.out
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_alerts_are_exported(processed: Path, tmp_path: Path) -> None:
    known = [alert["diaSourceId"] for alert in alerts_of(processed)]
    assert promptdia("alerts", processed, "export", tmp_path / "all.parquet").status == 0
    assert pq.read_table(tmp_path / "all.parquet")["diaSourceId"].to_pylist() == known
    assert promptdia("alerts", processed, "export", tmp_path / "packets").status == 0
    assert {p.stem for p in (tmp_path / "packets").iterdir()} == {str(i) for i in known}


def test_alerts_are_sent_and_listened_to(imaged: Path) -> None:
    promptdia("visit", imaged, VISITS[0], "--workers", 1)
    known = {alert["diaSourceId"] for alert in alerts_of(imaged)}
    with EmbeddedBroker(["lsst-alerts"]) as broker:
        at = ("--broker", broker.url)
        assert promptdia("alerts", imaged, "send", *at).out.startswith(f"{len(known)} alerts sent")
        heard = promptdia(
            "alerts", imaged, "listen", *at, "--registry", broker.registry_url, "--timeout", 3
        )
        again = promptdia("alerts", imaged, "send", *at, "--replay", "--topic", "other")
    assert heard.out == f"{len(known)} alerts, 0 unreadable messages\n"
    assert heard.status == 0
    kept = list((imaged / "received").rglob("*.avro"))
    assert kept
    assert again.out.startswith(f"{len(known)} alerts sent to topic other")


def test_a_night_is_streamed_and_a_listener_keeps_what_it_wants(
    processed: Path, tmp_path: Path
) -> None:
    calls = "promptdia.pipeline.alerts:summary"
    with EmbeddedBroker(["lsst-alerts"]) as broker:
        at = ("--broker", broker.url)
        sent = promptdia("stream", *at, "--alerts", 20, "--every", 0, "--visits", 2)
        heard = promptdia(
            "alerts", processed, "listen", *at, "--timeout", 2, "--where", "diaSource.snr > 6",
            "--call", calls, "--archive", tmp_path / "in", "--as", "parquet",
        )  # fmt: skip
        wrong = promptdia("alerts", processed, "listen", *at, "--where", "snrr > 6")
    assert [line.split(",")[0] for line in sent.out.splitlines()] == [
        "visit 2026112000001: 20 alerts",
        "visit 2026112000002: 20 alerts",
    ]
    kept = [
        snr
        for path in (tmp_path / "in").iterdir()
        for snr in pq.read_table(path)["diaSource"].combine_chunks().field("snr").to_pylist()
    ]
    assert 0 < len(kept) < 40
    assert min(kept) > 6
    assert heard.out == f"40 alerts, {len(kept)} kept, 0 unreadable messages\n"
    assert wrong.status == 2
    assert "no such column: snrr" in wrong.err
    assert promptdia("stream", "--visits", 1).status == 2


def test_the_broker_tells_its_addresses_and_stops_when_told() -> None:
    with outside("broker") as running:
        assert running.stdout is not None
        lines = [running.stdout.readline().split() for _ in range(2)]
        assert [line[0] for line in lines] == ["broker", "registry"]
        assert lines[0][1].startswith("127.0.0.1:")
        assert RegistrySchemas(lines[1][1])(schema_id("11.0"))["name"] == "lsst.v11_0.alert"
        running.send_signal(2)
        assert running.wait(10) == 0


def test_the_schemas_are_registered_with_a_registry_that_is_there() -> None:
    with SchemaRegistry(0) as registry:
        ran = promptdia("schema", "register", registry.url)
        assert ran.status == 0
        for version in VERSIONS:
            assert version in ran.out
            assert RegistrySchemas(registry.url)(schema_id(version))
    gone = promptdia("schema", "register", registry.url)
    assert gone.status == 1
    assert registry.url in gone.complaint


# ---- explain and check


def test_an_alert_and_a_rejection_are_explained(processed: Path) -> None:
    alert = alerts_of(processed)[0]["diaSource"]
    told = promptdia("explain", processed, alert["diaSourceId"])
    assert told.status == 0
    assert f"visit {VISITS[0]}, detector 0" in told.out
    assert f"ra {alert['ra']:.6f}" in told.out
    store = SqlApdb.open(Repository(processed).apdb_url)
    with store._engine.connect() as connection:
        query = 'SELECT id, rule FROM "Ledger" ORDER BY id LIMIT 1'
        id_, rule = connection.exec_driver_sql(query).one()
    told = promptdia("explain", processed, id_)
    assert told.status == 0
    assert f"It was not alerted: rule {rule} stopped it" in told.out
    told = promptdia("explain", processed, 12)
    assert "knows nothing of it" in told.out


def test_the_database_is_made_once_and_checked(night: Path, fresh: Path) -> None:
    assert promptdia("apdb", fresh, "check").status == 2
    assert "promptdia apdb ROOT create" in promptdia("apdb", fresh, "check").complaint
    for _ in range(2):
        assert promptdia("apdb", fresh, "create").status == 0
    assert promptdia("apdb", night, "check").status == 0
    store = SqlApdb.open(Repository(night).apdb_url)
    with store._engine.begin() as connection:
        connection.exec_driver_sql('DELETE FROM "DiaObject"')
    broken = promptdia("apdb", night, "check")
    assert broken.status == 1
    assert "belongs to an object that does not exist" in broken.err


# ---- Dask


def test_a_dask_cluster_gives_the_same_alerts(fresh: Path, processed: Path) -> None:
    from distributed import LocalCluster

    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
    ) as cluster:
        ran = promptdia("night", fresh, NIGHT, "--scheduler", cluster.scheduler_address, "--json")
    assert ran.status == 0, ran.err
    assert len(ran.json["detectors"]) == len(JOBS)
    assert differences(alerts_of(fresh), alerts_of(processed)) == {}


def test_a_scheduler_that_does_not_answer_is_told(fresh: Path) -> None:
    ran = promptdia("night", fresh, NIGHT, "--scheduler", "tcp://127.0.0.1:1", "--json")
    assert ran.status == 1
    assert "no Dask scheduler answers at tcp://127.0.0.1:1" in ran.complaint
