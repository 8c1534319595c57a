"""Sending and reading with the embedded broker."""

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from support.alerts import make_alerts

from promptdia.pipeline import broker as broker_module
from promptdia.pipeline.broker import PARTITIONS, EmbeddedBroker, serve
from promptdia.pipeline.errors import ConfigError, TransientError
from promptdia.pipeline.io import kafka, kafka_link
from promptdia.pipeline.io.avro import alert_id, decode, encode_alerts
from promptdia.pipeline.io.kafka import (
    AlertSender,
    BrokerSettings,
    NotDelivered,
    follow_topics,
    read_topic,
)
from promptdia.pipeline.io.registry import RegistrySchemas

SETTINGS = BrokerSettings(timeout_s=3.0)


@pytest.fixture(scope="module")
def messages() -> dict[int, bytes]:
    return {alert_id(m): m for m in encode_alerts(make_alerts(40, 2))}


@pytest.fixture(scope="module")
def broker() -> Iterator[EmbeddedBroker]:
    with EmbeddedBroker(["a", "b", "c", "d"]) as running:
        yield running


@pytest.mark.parametrize("compression", ["zstd", "lz4", "snappy", "none"])
def test_what_is_sent_is_acknowledged_and_read_back(
    broker: EmbeddedBroker, messages: dict[int, bytes], compression: str
) -> None:
    topic = f"topic-{compression}"
    sender = AlertSender(broker.url, topic, BrokerSettings(compression=compression))
    delivery = sender.send(messages.items())
    sender.close()
    assert sorted(delivery.acknowledged) == sorted(messages)
    assert delivery.refused == {}
    received = list(read_topic(broker.url, topic, SETTINGS))
    assert {int.from_bytes(r.key or b"", "big"): r.value for r in received} == messages
    assert len(received) == len(messages)


def test_what_the_broker_calls_a_duplicate_is_not_taken_for_delivered(
    broker: EmbeddedBroker, messages: dict[int, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Duplicate(NamedTuple):  # as librdkafka reports it
        key: Callable[[], bytes]
        offset: Callable[[], None] = lambda: None

    take, first = kafka._Answers.take, min(messages)

    def as_duplicate(self: kafka._Answers, error: object, message: Any) -> None:
        take(self, error, Duplicate(message.key) if alert_id(message.value()) == first else message)

    monkeypatch.setattr(kafka._Answers, "take", as_duplicate)
    with pytest.raises(NotDelivered, match="left 1 unconfirmed") as raised:
        AlertSender(broker.url, "duplicate", SETTINGS).send(messages.items())
    assert "does not say where" in str(raised.value)
    assert sorted(raised.value.delivery.acknowledged) == sorted(set(messages) - {first})


def test_a_topic_of_the_broker_has_many_partitions_and_its_schemas(
    broker: EmbeddedBroker, messages: dict[int, bytes]
) -> None:
    sender = AlertSender(broker.url, "a", SETTINGS)
    assert len(sender.send(messages.items()).acknowledged) == 40
    received = list(read_topic(broker.url, "a", SETTINGS))
    assert len({r.partition for r in received}) > 20
    assert max(r.partition for r in received) < PARTITIONS
    schemas = RegistrySchemas(broker.registry_url)
    assert {decode(r.value, schemas)["diaSourceId"] for r in received} == set(messages)


def test_a_message_carries_the_producers_time(
    broker: EmbeddedBroker, messages: dict[int, bytes]
) -> None:
    import confluent_kafka

    AlertSender(broker.url, "header", SETTINGS).send(list(messages.items())[:1])
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": broker.url, "group.id": "h", "auto.offset.reset": "earliest"}
    )
    consumer.subscribe(["header"])
    message = consumer.poll(10)
    ((name, value),) = message.headers()
    consumer.close()
    assert name == "producer_timestamp"
    assert abs(float(value) / 1000 - time.time()) < 60


def test_every_group_gets_each_message_once(
    broker: EmbeddedBroker, messages: dict[int, bytes]
) -> None:
    AlertSender(broker.url, "b", SETTINGS).send(messages.items())
    for group in ("one", "two"):
        batches = list(follow_topics(broker.url, ["b"], group, SETTINGS, 0.5))
        assert sorted(r.value for batch in batches for r in batch) == sorted(messages.values())


def test_reading_an_empty_topic_gives_nothing(broker: EmbeddedBroker) -> None:
    assert list(read_topic(broker.url, "c", SETTINGS)) == []


def test_an_alert_too_large_is_refused_and_the_others_go(
    broker: EmbeddedBroker, messages: dict[int, bytes]
) -> None:
    items = [*list(messages.items())[:3], (7, bytes(150_000))]
    settings = BrokerSettings(max_message_bytes=149_999)
    delivery = AlertSender(broker.url, "large", settings).send(items)
    assert sorted(delivery.acknowledged) == sorted(id_ for id_, _ in items[:3])
    assert delivery.refused == {7: "it has 150000 bytes, the limit max_message_bytes is 149999"}


def test_a_full_queue_makes_the_sender_wait(
    broker: EmbeddedBroker, messages: dict[int, bytes]
) -> None:
    settings = BrokerSettings(queue_mib=1, linger_ms=0)
    delivery = AlertSender(broker.url, "narrow", settings).send(messages.items())
    assert len(delivery.acknowledged) == 40


def test_nobody_listening_is_a_transient_error_in_bounded_time(
    monkeypatch: pytest.MonkeyPatch, messages: dict[int, bytes]
) -> None:
    monkeypatch.setattr(kafka_link, "_CONTACT_S", 1.0)
    start = time.monotonic()
    with pytest.raises(TransientError, match=r"broker 127\.0\.0\.1:1 does not answer within 1 s"):
        AlertSender("127.0.0.1:1", "x", SETTINGS).send(messages.items())
    with pytest.raises(TransientError, match="does not answer"):
        list(read_topic("127.0.0.1:1", "x", SETTINGS))
    assert time.monotonic() - start < 8


def test_a_broker_that_goes_away_leaves_the_unacknowledged_and_takes_them_later(
    messages: dict[int, bytes],
) -> None:
    items = list(messages.items())
    with EmbeddedBroker(["away"]) as broker:
        sender = AlertSender(broker.url, "away", BrokerSettings(timeout_s=1.5))
        sender.send(items[:10])
        broker.stop_answering()
        with pytest.raises(NotDelivered, match="acknowledged 0 alerts and left 30") as raised:
            sender.send(items[10:])
        assert raised.value.delivery.acknowledged == []
        broker.answer_again()
        again = sender.send(items[10:])
        assert sorted(again.acknowledged) == sorted(id_ for id_, _ in items[10:])
        read = [alert_id(r.value) for r in read_topic(broker.url, "away", SETTINGS)]
        assert set(read) == set(messages)


def test_a_short_absence_goes_unnoticed(messages: dict[int, bytes]) -> None:
    with EmbeddedBroker(["blink"]) as broker:
        sender = AlertSender(broker.url, "blink", BrokerSettings(timeout_s=20))
        sender.check()
        broker.stop_answering()
        timer = threading.Timer(0.7, broker.answer_again)
        timer.start()
        delivery = sender.send(messages.items())
        timer.join()
        assert sorted(delivery.acknowledged) == sorted(messages)


def test_unusable_settings_are_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match="set PROMPTDIA_KAFKA_USER"):
        AlertSender("h:1", "t", BrokerSettings(security="SASL_PLAINTEXT")).check()
    missing = BrokerSettings(security="SSL", ca_file="/nowhere/ca.pem")
    with pytest.raises(ConfigError, match="settings are unusable"):
        AlertSender("h:1", "t", missing).check()


def test_credentials_come_from_the_environment_and_are_not_shown() -> None:
    environ = {"PROMPTDIA_KAFKA_USER": "rubin", "PROMPTDIA_KAFKA_PASSWORD": "swordfish"}
    settings = BrokerSettings(security="SASL_SSL").with_environment(environ)
    assert (settings.user, settings.password) == ("rubin", "swordfish")
    assert "swordfish" not in repr(settings)
    assert BrokerSettings(user="u").with_environment({}).user == "u"
    environ = {"PROMPTDIA_KAFKA_SECURITY": "SSL", "PROMPTDIA_KAFKA_CA_FILE": "ca.pem"}
    settings = BrokerSettings().with_environment(environ)
    assert (settings.security, settings.ca_file) == ("SSL", "ca.pem")


def test_a_library_without_the_mock_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = {"rd_kafka_mock_no_such_thing": (None, [])}
    monkeypatch.setattr(broker_module, "_FUNCTIONS", functions)
    with pytest.raises(ConfigError, match="lacks rd_kafka_mock_no_such_thing"):
        EmbeddedBroker()


def test_serving_tells_both_addresses_and_answers_on_the_chosen_port(
    messages: dict[int, bytes],
) -> None:
    until, lines = threading.Event(), []
    said = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            said.set()

    port = _free_port()
    thread = threading.Thread(target=serve, args=(["s"], say, port, 0, until))
    thread.start()
    try:
        assert said.wait(10)
        assert lines[0] == f"broker   127.0.0.1:{port}"
        assert lines[1].startswith("registry http://127.0.0.1:")
        sender = AlertSender(f"127.0.0.1:{port}", "s", SETTINGS)
        assert len(sender.send(messages.items()).acknowledged) == 40
        with pytest.raises(ConfigError, match=f"cannot listen on port {port}"):
            serve(["s"], lines.append, port)
    finally:
        until.set()
        thread.join()


def test_another_process_can_read_the_embedded_broker(
    broker: EmbeddedBroker, messages: dict[int, bytes]
) -> None:
    AlertSender(broker.url, "d", SETTINGS).send(messages.items())
    program = (
        "import sys\n"
        "from promptdia.pipeline.io.kafka import BrokerSettings, read_topic\n"
        "print(sum(len(r.value) for r in read_topic(sys.argv[1], 'd', BrokerSettings())))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, broker.url], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.strip() == str(sum(map(len, messages.values()))), done.stderr


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
