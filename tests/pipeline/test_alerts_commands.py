"""list, show, export, send and listen on a repository's alerts."""

import io
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from rich.console import Console
from support.alerts import DETECTOR, VISIT, exposures, tables

from promptdia.apdb.ids import dia_source_ids
from promptdia.pipeline import alerts
from promptdia.pipeline.broker import EmbeddedBroker
from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.io.alert_files import read_container, write_container
from promptdia.pipeline.io.avro import alert_id, encode_alerts
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings, read_topic
from promptdia.pipeline.io.registry import RegistrySchemas
from promptdia.tasks.package import PackageAlerts, PackageConfig

SETTINGS = BrokerSettings(timeout_s=5)


@pytest.fixture(scope="module")
def messages() -> list[bytes]:
    sources, objects, prv, forced, ss_sources, orbits = tables(6, 3, n_sso=1)
    sources["diaSourceId"] = dia_source_ids(VISIT.id, DETECTOR.id, np.arange(6))
    ss_sources["diaSourceId"] = sources["diaSourceId"][-1:]
    package = PackageAlerts(PackageConfig())
    return encode_alerts(
        package.run(sources, objects, prv, forced, *exposures(), ss_sources, orbits)
    )


@pytest.fixture
def root(tmp_path: Path, messages: list[bytes]) -> Path:
    write_container(tmp_path / "alerts" / str(VISIT.id) / f"{DETECTOR.id}.avro", messages[:4])
    write_container(tmp_path / "alerts" / str(VISIT.id) / "11.avro", messages[4:])
    return tmp_path


def test_every_alert_has_its_line(root: Path, messages: list[bytes]) -> None:
    lines = list(alerts.list_alerts(root))
    assert [line["diaSourceId"] for line in lines] == [alert_id(m) for m in messages]
    assert [line["history"] for line in lines] == [3] * 5 + [0]
    assert list(alerts.list_alerts(root, 1)) == []


def test_the_table_is_printed_with_unknown_values_left_blank(root: Path) -> None:
    lines = list(alerts.list_alerts(root))
    lines[0]["snr"] = np.nan
    lines[1]["band"] = "[/bad markup]"
    stream = io.StringIO()
    Console(file=stream, width=240).print(alerts.table(lines, "title"))
    text = stream.getvalue()
    assert "nan" not in text.splitlines()[5]
    assert "[/bad markup]" in text
    assert all(str(line["diaSourceId"]) in text for line in lines)


def test_an_alert_is_described_and_drawn(root: Path, messages: list[bytes]) -> None:
    id_ = alert_id(messages[2])
    png = root / "report" / "x.png"
    text = "\n".join(alerts.show_alert(root, id_, png))
    assert f"diaSourceId:                       {id_}" in text
    assert "prvDiaSources:                     3 rows" in text
    assert "cutoutScience:" in text
    assert "nan" not in text
    assert png.read_bytes().startswith(b"\x89PNG")


def test_an_alert_that_is_not_kept_is_said_so(root: Path) -> None:
    unknown = int(dia_source_ids(VISIT.id, DETECTOR.id, np.array([99]))[0])
    with pytest.raises(ConfigError, match=f"keeps no alert {unknown} .visit {VISIT.id}"):
        alerts.find_alert(root, unknown)
    with pytest.raises(ConfigError, match="no id of a source"):
        alerts.find_alert(root, -1)


def test_export_makes_one_nested_table(root: Path, messages: list[bytes]) -> None:
    path = root / "all.parquet"
    assert alerts.export_alerts(root, path) == 6
    table = pq.read_table(path)
    assert table["diaSourceId"].to_pylist() == [alert_id(m) for m in messages]
    kept = [a for p in alerts.alert_files(root) for a in read_container(p)]
    assert table["cutoutScience"].to_pylist() == [a["cutoutScience"] for a in kept]
    assert table["prvDiaSources"].to_pylist()[-1] is None
    assert [len(h) for h in table["prvDiaForcedSources"].to_pylist()[:-1]] == [3] * 5
    assert table["mpc_orbits"].to_pylist()[-1]["designation"] == "2026 A0"
    source = table["diaSource"].to_pylist()[0]
    assert source["x"] == kept[0]["diaSource"]["x"]


def test_export_makes_a_file_for_each_alert(root: Path, messages: list[bytes]) -> None:
    folder = root / "packets"
    assert alerts.export_alerts(root, folder) == 6
    assert {p.stem for p in folder.iterdir()} == {str(alert_id(m)) for m in messages}
    (alert,) = read_container(folder / f"{alert_id(messages[0])}.avro")
    assert alert["diaSourceId"] == alert_id(messages[0])
    with pytest.raises(ConfigError, match=r"must end in \.parquet or be a folder"):
        alerts.export_alerts(root, root / "all.csv")


def test_what_is_sent_from_a_repository_is_what_a_listener_archives(
    root: Path, messages: list[bytes]
) -> None:
    with EmbeddedBroker(["t"]) as broker:
        stored = alerts.stored_messages(root)
        delivery = alerts.send_alerts(stored, broker.url, "t", SETTINGS)
        assert sorted(delivery.acknowledged) == sorted(alert_id(m) for m in messages)
        assert {r.value for r in read_topic(broker.url, "t", SETTINGS)} == set(messages)
        states = []
        heard = alerts.listen(
            broker.url, "t", "g", SETTINGS, RegistrySchemas(broker.registry_url),
            root / "received", 0.5, lambda h: states.append(h.n_alerts),
        )  # fmt: skip
    assert (heard.n_alerts, heard.n_errors, states[-1]) == (6, 0, 6)
    archived = [a["diaSourceId"] for p in (root / "received").iterdir() for a in read_container(p)]
    assert sorted(archived) == sorted(alert_id(m) for m in messages)
    assert "6 alerts, 0 unreadable" in str(heard.table().title)


def test_a_thousand_damaged_messages_are_a_thousand_counted_errors(
    messages: list[bytes], tmp_path: Path
) -> None:
    rng = np.random.default_rng(4)
    small = messages[0][:4000]
    bad = []
    for i in range(1000):
        message = bytearray(small[: rng.integers(len(small))])
        if i % 3 == 0 and message:
            message[rng.integers(len(message))] ^= 0x10
        if i % 5 == 0:
            message[:5] = b"\x00\x00\x00\x02\xc0"  # 704, which nobody here knows
        bad.append((i, bytes(message)))
    with EmbeddedBroker(["t"]) as broker:
        AlertSender(broker.url, "t", SETTINGS).send([*bad, (2000, messages[1])])
        schemas = RegistrySchemas(broker.registry_url)
        heard = alerts.listen(broker.url, "t", "g", SETTINGS, schemas, tmp_path / "in", 0.5)
    assert (heard.n_alerts, heard.n_errors) == (1, 1000)
    assert set(heard.errors) == {"no alert", "unknown schema", "does not decode"}
    assert len(list((tmp_path / "in").iterdir())) == 1


def test_a_rate_is_kept(messages: list[bytes]) -> None:
    items = [(alert_id(m), m) for m in messages]
    start = time.monotonic()
    assert list(alerts.paced(items, 20.0)) == items
    assert 0.24 < time.monotonic() - start < 1.0
    with pytest.raises(ConfigError, match="must be positive"):
        list(alerts.paced(items, 0))
