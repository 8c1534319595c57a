"""list, show, export and replay a repository's alerts."""

import io
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose
from rich.console import Console
from support.alerts import DETECTOR, VISIT, exposures, tables

from promptdia.apdb.ids import dia_source_ids
from promptdia.pipeline import alerts
from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.io.alert_files import read_container, write_container
from promptdia.pipeline.io.avro import alert_id, encode_alerts
from promptdia.pipeline.sim.stream_alerts import NightStream
from promptdia.tasks.package import PackageAlerts, PackageConfig


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


class Clock:
    """Time that passes only by sleeping."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def sent_at(
    monkeypatch: pytest.MonkeyPatch, pace: Callable[[], Iterator[tuple[int, bytes]]]
) -> list[float]:
    clock = Clock()
    monkeypatch.setattr(alerts, "time", clock)
    return [clock.now - 100.0 for _ in pace()]


def test_a_rate_is_kept(messages: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    items = [(alert_id(m), m) for m in messages]
    times = sent_at(monkeypatch, lambda: alerts.paced(items, 20.0))
    assert_allclose(times, np.arange(6) / 20)
    assert list(alerts.paced(items, 1e9)) == items
    with pytest.raises(ConfigError, match="must be positive"):
        list(alerts.paced(items, 0))


def test_a_replay_in_real_time_keeps_the_pauses_between_exposures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items = []
    for visit in (0, 1, 4):
        made = next(NightStream(alerts_per_visit=2).visit(visit))
        items += [(alert_id(m), m) for m in encode_alerts(made)]
    times = sent_at(monkeypatch, lambda: alerts.as_taken(items, 1.0))
    assert_allclose(times, [0, 0, 37, 37, 4 * 37, 4 * 37], atol=1e-3)
    times = sent_at(monkeypatch, lambda: alerts.as_taken(items, 10.0))
    assert times[-1] == pytest.approx(14.8, abs=1e-3)
    assert list(alerts.as_taken(items, 1e9)) == items
    with pytest.raises(ConfigError, match="must be positive"):
        list(alerts.as_taken(items, 0))
