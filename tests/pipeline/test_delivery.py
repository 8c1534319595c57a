"""Nothing lost and nothing sent twice, whatever interrupts archiving and sending."""

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.apdb import random_batch
from support.databases import BACKENDS, fresh_database

from promptdia.apdb.sql import SqlApdb
from promptdia.apdb.store import Batch
from promptdia.pipeline.broker import EmbeddedBroker
from promptdia.pipeline.delivery import archive_alerts, send_alerts
from promptdia.pipeline.errors import TransientError
from promptdia.pipeline.io import kafka_link
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings, NotDelivered, read_topic

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
sys.path.insert(0, str(SCRIPTS))

from crash_night import Night, Steps, message, process, verdict  # noqa: E402  (after its path)

SETTINGS = BrokerSettings(partitions=3, timeout_s=5, settle_s=0.05)


class Crash(BaseException):
    """The process ends here; nothing catches it."""


@dataclass
class Place:
    """All that delivery asks of a repository."""

    root: Path

    def alerts_path(self, visit: int, detector: int) -> Path:
        return self.root / str(visit) / f"{detector}.avro"


@dataclass
class Setting:
    """A database with alerts, a folder and an empty topic."""

    place: Any
    store: SqlApdb
    broker: str
    topic: str

    def commit(self, n: int, visit: int = 1, archive: bool = True) -> Batch:
        batch = random_batch(n, seed=visit, visit=visit)
        payloads = [message(source) for source in batch.sources]
        batch = replace(batch, topic=self.topic, payloads=payloads)
        assert self.store.commit(batch)
        if archive:
            archive_alerts(self.place, self.store, batch.visit, batch.detector)
        return batch

    def sender(self, **settings: Any) -> AlertSender:
        return AlertSender(self.broker, self.topic, replace(SETTINGS, **settings))

    def send(self, sender: AlertSender | None = None, store: Any = None) -> int:
        sender = sender or self.sender()
        try:
            return send_alerts(self.place, store or self.store, sender, self.topic)
        finally:
            sender.close()

    def arrived(self) -> list[int]:
        messages = read_topic(self.broker, self.topic, SETTINGS)
        return sorted(int.from_bytes(m.key or b"", "big") for m in messages)

    def states(self) -> dict[str, int]:
        counts = self.store.countings()
        return {k.split(".")[1]: n for k, n in counts.items() if k.startswith("Outbox.")}


class CrashingStore:
    """A database before or after one of whose calls the process ends."""

    def __init__(self, store: SqlApdb, when: str, call: str) -> None:
        self._store, self._when, self._call = store, when, call

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)
        if name != self._call:
            return method

        def crash(*args: Any) -> None:
            if self._when == "after":
                method(*args)
            raise Crash

        return crash


@pytest.fixture(scope="module", params=["embedded", pytest.param("real", marks=pytest.mark.kafka)])
def broker(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "embedded":
        with EmbeddedBroker() as running:
            yield running.url
        return
    address = os.environ.get("PROMPTDIA_TEST_KAFKA")
    if not address:
        pytest.skip("no Kafka: run scripts/kafka up and set PROMPTDIA_TEST_KAFKA to what it prints")
    yield address


@pytest.fixture(params=BACKENDS)
def setting(request: pytest.FixtureRequest, tmp_path: Path, broker: str) -> Iterator[Setting]:
    with fresh_database(request.param, tmp_path) as url:
        store = SqlApdb.create(url)
        yield Setting(Place(tmp_path), store, broker, f"t{uuid.uuid4().hex[:12]}")
        store.close()


def ids(*batches: Batch) -> list[int]:
    return sorted(int(i) for batch in batches for i in batch.sources["diaSourceId"])


def test_all_is_sent_once_however_often_it_is_asked(setting: Setting) -> None:
    first, second = setting.commit(5), setting.commit(4, visit=2)
    assert setting.send() == 9
    assert setting.send() == 0
    assert setting.arrived() == ids(first, second)
    assert setting.states() == {"sent": 9}


@pytest.mark.parametrize(
    ("when", "call"),
    [
        ("before", "begin_sending"),
        ("after", "begin_sending"),  # nothing was produced yet
        ("before", "settle"),  # all was acknowledged
        ("after", "settle"),
    ],
)
def test_a_crash_around_the_sending_loses_and_doubles_nothing(
    setting: Setting, when: str, call: str
) -> None:
    early = setting.commit(3)
    setting.send()
    batch = setting.commit(6, visit=2)
    with pytest.raises(Crash):
        setting.send(store=CrashingStore(setting.store, when, call))
    setting.send()
    assert setting.arrived() == ids(early, batch)
    assert setting.states() == {"sent": 9}
    assert setting.store.check() == []


def test_a_crash_while_producing_sends_only_the_rest(setting: Setting) -> None:
    batch = setting.commit(8)
    entries = setting.store.unsent(setting.topic)

    class HalfWay(AlertSender):
        def send(self, messages: Any) -> Any:
            super().send([pair for pair, _ in zip(messages, range(3))])
            raise Crash

    with pytest.raises(Crash):
        setting.send(HalfWay(setting.broker, setting.topic, SETTINGS))
    assert setting.states() == {"sending": 8}
    assert setting.arrived() == sorted(e.dia_source_id for e in entries[:3])
    assert setting.send() == 8
    assert setting.arrived() == ids(batch)


def test_what_was_committed_but_not_archived_is_archived_and_sent(setting: Setting) -> None:
    batch = setting.commit(4, archive=False)
    assert setting.send() == 4
    assert setting.arrived() == ids(batch)
    assert archive_alerts(setting.place, setting.store, batch.visit, batch.detector) == 4


def test_alerts_of_others_in_the_topic_are_not_taken_for_ours(setting: Setting) -> None:
    batch = setting.commit(4)
    with pytest.raises(Crash):
        setting.send(store=CrashingStore(setting.store, "after", "begin_sending"))
    others = setting.sender()
    others.send([(10**15 + i, b"theirs") for i in range(20)])
    others.close()
    assert setting.send() == 4
    assert len(setting.arrived()) == 24
    assert set(ids(batch)) < set(setting.arrived())


def test_a_topic_made_anew_gets_what_it_lacks(setting: Setting) -> None:
    setting.commit(3)
    setting.send()
    batch = setting.commit(4, visit=2)
    with pytest.raises(Crash):  # acknowledged, and never marked
        setting.send(store=CrashingStore(setting.store, "before", "settle"))
    before = setting.broker
    with EmbeddedBroker() as other:  # as after the loss of the first broker
        setting.broker = other.url
        assert setting.send() == 4
        assert setting.arrived() == ids(batch)
    setting.broker = before


def test_a_shorter_topic_is_read_from_its_start(setting: Setting) -> None:
    batch = setting.commit(4)
    sender = setting.sender()
    sender.send([(ids(batch)[0], b"there")])
    far = dict.fromkeys(sender.ends(), 1000)
    setting.store.begin_sending(setting.topic, ids(batch), far)
    sender.close()
    assert setting.send() == 4
    assert setting.arrived() == ids(batch)


def test_the_ends_of_a_topic_count_its_messages(setting: Setting) -> None:
    batch = setting.commit(7)
    sender = setting.sender()
    assert set(sender.ends().values()) == {0}
    setting.send(sender)
    assert sum(sender.ends().values()) == 7
    assert sender.find(ids(batch), sender.ends()) == set()
    assert sender.find(ids(batch)[:2], {}) == set(ids(batch)[:2])
    sender.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_broker_that_goes_away_and_comes_back_gets_each_alert_once(
    tmp_path: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_link, "_CONTACT_S", 1.5)
    with fresh_database(backend, tmp_path) as url, EmbeddedBroker() as broker:
        store = SqlApdb.create(url)
        setting = Setting(Place(tmp_path), store, broker.url, "away")
        first = setting.commit(5)
        sender = setting.sender(timeout_s=1.0)
        setting.send(sender)
        second = setting.commit(6, visit=2)
        sender.check()
        ends = sender.ends
        sender.ends = lambda: (ends(), broker.stop_answering())[0]  # type: ignore[method-assign]
        with pytest.raises(NotDelivered):
            setting.send(sender)
        assert setting.states() == {"sending": 6, "sent": 5}
        with pytest.raises(TransientError):
            setting.send(setting.sender(timeout_s=1.0))
        broker.answer_again()
        assert setting.send() == 6
        assert setting.arrived() == ids(first, second)
        store.close()


def test_a_refused_alert_waits_and_the_others_are_sent(setting: Setting) -> None:
    batch = setting.commit(4)
    sizes = sorted(len(message(source)) for source in batch.sources)
    sender = setting.sender()
    sender.check()
    # librdkafka itself does not go below 1000 bytes
    sender._link.settings = replace(SETTINGS, max_message_bytes=sizes[-1] - 1)
    n = sizes.count(sizes[-1])
    with pytest.raises(TransientError, match=f"{n} alerts were refused and stay in the outbox"):
        setting.send(sender)
    assert setting.states() == {"archived": n, "sent": 4 - n}
    assert setting.send() == n
    assert setting.arrived() == ids(batch)


def test_a_night_killed_at_many_points_loses_and_doubles_nothing() -> None:
    """The short version of scripts/crash."""
    command = [sys.executable, str(SCRIPTS / "crash_points.py"), "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["crashes"], result["at_named_steps"]) == (6, 3)
    assert result["alerts"] > 10
    bad = ("lost", "duplicated", "strange", "broken_invariants", "different_skies", "unfinished")
    assert [result[name] for name in bad] == [0] * 6


def test_the_night_is_judged_by_what_the_topic_holds(tmp_path: Path) -> None:
    """The verdict of scripts/crash sees an alert that is missing and one that came twice."""
    with EmbeddedBroker() as broker:
        night = Night(
            tmp_path, f"sqlite:///{tmp_path / 'a.sqlite'}", broker.url, "n", 1, n_visits=1
        )
        process(night, Steps())
        sender = AlertSender(broker.url, "n", night.settings)
        some = [int.from_bytes(m.key or b"", "big") for m in read_topic(broker.url, "n", SETTINGS)]
        sender.send([(some[0], b"again"), (5, b"nobody's")])
        sender.close()
        found = verdict(night)
        assert (found["duplicated"], found["strange"], found["lost"]) == (1, 1, 0)
        late = replace(night, topic="empty")
        AlertSender(broker.url, "empty", night.settings).check()
        store = SqlApdb.open(night.database)
        store.mark_sent(np.array(some))
        assert verdict(late)["lost"] == len(some)
        store.close()
