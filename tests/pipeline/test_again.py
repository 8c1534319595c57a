"""Run again, interrupted, in another order, by more workers: the same alerts, each sent once."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from support.processed import (
    DETECTORS,
    JOBS,
    NIGHT,
    VISITS,
    alerts_of,
    differences,
    leftovers,
    outside,
    promptdia,
    rows,
    without_times,
)

from promptdia.apdb.sql import SqlApdb
from promptdia.pipeline import night as night_module
from promptdia.pipeline.broker import EmbeddedBroker
from promptdia.pipeline.io.avro import alert_id, decode
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings, read_topic
from promptdia.pipeline.repository import Repository

TOPIC = "lsst-alerts"
SETTINGS = BrokerSettings(timeout_s=5)


class Crash(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@pytest.fixture
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker() as running:
        yield running


def received(broker: EmbeddedBroker) -> list[int]:
    """The ids in the topic."""
    return sorted(alert_id(m.value) for m in read_topic(broker.url, TOPIC, SETTINGS))


def ids(root: Path) -> list[int]:
    """The ids in ``alerts/``."""
    return sorted(alert["diaSourceId"] for alert in alerts_of(root))


def summary(root: Path, visit: int, detector: int) -> list[object]:
    """What summary.json counts."""
    found = Repository(root).summary(visit, detector) or {}
    return [found[name] for name in ("status", "n_dia_sources", "n_alerts", "n_new_dia_objects")]


def test_a_second_run_changes_nothing_and_sends_nothing(
    imaged: Path, processed: Path, broker: EmbeddedBroker
) -> None:
    command = ("night", imaged, NIGHT, "--workers", 1, "--broker", broker.url, "--json")
    first = promptdia(*command)
    files = {p: p.read_bytes() for p in imaged.rglob("*") if p.is_file() and "apdb" not in p.name}
    stored = rows(imaged)
    second = promptdia(*command)
    assert first.status == second.status == 0
    assert first.json == second.json
    assert rows(imaged) == stored
    assert {p: p.read_bytes() for p in files} == files
    assert received(broker) == ids(imaged) == ids(processed)


def test_what_is_sent_is_what_is_kept(imaged: Path, broker: EmbeddedBroker) -> None:
    command = ("visit", imaged, VISITS[0], "--workers", 1, "--broker", broker.url)
    assert promptdia(*command).status == 0
    sent = [without_times(decode(m.value)) for m in read_topic(broker.url, TOPIC, SETTINGS)]
    assert sorted(sent, key=lambda a: a["diaSourceId"]) == alerts_of(imaged)


def test_visit_by_visit_and_detector_by_detector_is_the_same_as_a_night(
    imaged: Path, processed: Path
) -> None:
    for visit, detector in JOBS:
        ran = promptdia("visit", imaged, visit, "--detector", detector, "--workers", 1)
        assert ran.status == 0, ran.err
    assert differences(alerts_of(imaged), alerts_of(processed)) == {}
    assert rows(imaged) == rows(processed)


@pytest.mark.slow
def test_more_workers_store_the_same(fresh: Path, processed: Path) -> None:
    """The short version of scripts/workers; the visits overlap."""
    assert promptdia("night", fresh, NIGHT, "--workers", 3).status == 0
    assert differences(alerts_of(fresh), alerts_of(processed)) == {}
    assert rows(fresh) == rows(processed)


def test_a_visit_that_comes_late_is_refused_and_can_be_forced(imaged: Path) -> None:
    assert promptdia("visit", imaged, VISITS[1], "--workers", 1).status == 0
    late = promptdia("visit", imaged, VISITS[0], "--workers", 1, "--json")
    assert late.status == 1
    assert {row["status"] for row in late.json["detectors"]} == {"failed"}
    assert all("--out-of-order" in row["reason"] for row in late.json["detectors"])
    assert {alert["diaSource"]["visit"] for alert in alerts_of(imaged)} == {VISITS[1]}
    forced = promptdia("visit", imaged, VISITS[0], "--workers", 1, "--json", "--out-of-order")
    assert forced.status == 0
    assert {row["status"] for row in forced.json["detectors"]} == {"done"}
    assert promptdia("apdb", imaged, "check").status == 0


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(
    ("owner", "step"),
    [
        (SqlApdb, "commit"),
        (night_module, "archive_alerts"),
        (night_module, "save_outcome"),
        (SqlApdb, "begin_sending"),
        (AlertSender, "send"),
        (SqlApdb, "settle"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_after_a_crash_the_same_command_goes_on(
    imaged: Path,
    processed: Path,
    broker: EmbeddedBroker,
    monkeypatch: pytest.MonkeyPatch,
    owner: object,
    step: str,
    after: bool,
) -> None:
    command = ("visit", imaged, VISITS[0], "--workers", 1, "--broker", broker.url)
    original, calls = getattr(owner, step), []

    def crashing(*args: object, **named: object) -> object:
        calls.append(step)
        if len(calls) == 2 and not after:
            raise Crash
        result = original(*args, **named)
        if len(calls) == 2:
            raise Crash
        return result

    with monkeypatch.context() as patch:
        patch.setattr(owner, step, crashing)
        with pytest.raises(Crash):
            promptdia(*command)
    assert leftovers(imaged) == []
    assert promptdia(*command).status == 0
    expected = [a for a in alerts_of(processed) if a["diaSource"]["visit"] == VISITS[0]]
    assert alerts_of(imaged) == expected
    assert received(broker) == ids(imaged)
    assert promptdia("apdb", imaged, "check").status == 0
    for detector in DETECTORS:
        assert summary(imaged, VISITS[0], detector) == summary(processed, VISITS[0], detector)


def test_alerts_that_waited_for_their_broker_are_sent_once(
    imaged: Path, broker: EmbeddedBroker
) -> None:
    assert promptdia("night", imaged, NIGHT, "--workers", 1).status == 0
    sent = promptdia("alerts", imaged, "send", "--broker", broker.url)
    assert (sent.status, sent.err) == (0, "")
    assert sent.out.startswith(f"{len(ids(imaged))} alerts sent to topic {TOPIC}")
    again = promptdia("night", imaged, NIGHT, "--workers", 1, "--broker", broker.url)
    assert again.status == 0
    assert promptdia("alerts", imaged, "send", "--broker", broker.url).out.startswith("0 alerts")
    assert received(broker) == ids(imaged)


def test_a_killed_night_goes_on_where_it_was(
    fresh: Path, processed: Path, broker: EmbeddedBroker
) -> None:
    command = ("night", fresh, NIGHT, "--workers", 1, "--broker", broker.url)
    with outside(*command) as running:
        while not (fresh / f"alerts/{VISITS[0]}/1.avro").exists():
            assert running.poll() is None, running.communicate()
            time.sleep(0.02)
        running.kill()
    assert 0 < len(ids(fresh)) < len(ids(processed))
    assert promptdia(*command).status == 0
    assert received(broker) == ids(fresh) == ids(processed)
    assert differences(alerts_of(fresh), alerts_of(processed)) == {}


def test_two_commands_at_once_send_nothing_twice(imaged: Path, broker: EmbeddedBroker) -> None:
    assert promptdia("night", imaged, NIGHT, "--workers", 1).status == 0
    with ExitStack() as stack:
        senders = [
            stack.enter_context(outside("alerts", imaged, "send", "--broker", broker.url))
            for _ in range(2)
        ]
        said = [sender.communicate() for sender in senders]
    assert [sender.returncode for sender in senders] == [0, 0], said
    assert received(broker) == ids(imaged)
