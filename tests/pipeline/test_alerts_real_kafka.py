"""The same clients with a real Apache Kafka: scripts/kafka up."""

import uuid
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from confluent_kafka.admin import AdminClient, NewTopic
from support.alerts import make_alerts
from support.brokers import certificate, real_kafka
from support.packets import our_messages

from promptdia.pipeline import listening
from promptdia.pipeline.errors import ConfigError, TransientError
from promptdia.pipeline.io import kafka_link
from promptdia.pipeline.io.avro import alert_id, encode_alerts
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings, follow_topics, read_topic

pytestmark = pytest.mark.kafka

SETTINGS = BrokerSettings(partitions=4, timeout_s=20)


@pytest.fixture(scope="module")
def broker() -> str:
    return real_kafka()


@pytest.fixture
def topic() -> str:
    return f"test-{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def messages() -> dict[int, bytes]:
    return {alert_id(m): m for m in encode_alerts(make_alerts(1000, 3))}


@pytest.mark.parametrize("compression", ["zstd", "none"])
def test_a_thousand_alerts_arrive_each_once(
    broker: str, topic: str, messages: dict[int, bytes], compression: str
) -> None:
    settings = BrokerSettings(partitions=4, compression=compression)
    sender = AlertSender(broker, topic, settings)
    delivery = sender.send(messages.items())
    sender.close()
    assert sorted(delivery.acknowledged) == sorted(messages)
    received = list(read_topic(broker, topic, settings))
    assert len(received) == 1000
    assert {alert_id(r.value): r.value for r in received} == messages
    for partition in range(4):
        offsets = [r.offset for r in received if r.partition == partition]
        assert offsets == list(range(len(offsets)))
        assert offsets


def test_the_first_alerts_of_a_new_topic_arrive(broker: str) -> None:
    large = [(alert_id(m), m) for m in our_messages("11.1")]
    for _ in range(30):  # without the wait for the leaders about one topic in ten lost some
        topic, settings = f"test-{uuid.uuid4().hex}", BrokerSettings(partitions=4)
        sender = AlertSender(broker, topic, settings)
        assert len(sender.send(large).acknowledged) == len(large)
        assert sum(sender.ends().values()) == len(large)
        sender.close()


def test_a_group_goes_on_where_it_stopped(
    broker: str, topic: str, messages: dict[int, bytes]
) -> None:
    items = list(messages.items())[:40]
    sender = AlertSender(broker, topic, SETTINGS)
    sender.send(items[:25])
    first = [r for batch in follow_topics(broker, [topic], topic, SETTINGS, 1) for r in batch]
    sender.send(items[25:])
    second = [r for batch in follow_topics(broker, [topic], topic, SETTINGS, 1) for r in batch]
    assert (len(first), len(second)) == (25, 15)
    assert {r.value for r in first + second} == {m for _, m in items}


def test_an_unknown_topic_is_named(broker: str, topic: str, messages: dict[int, bytes]) -> None:
    settings = BrokerSettings()
    with pytest.raises(ConfigError, match=f"has no topic {topic}; create it"):
        AlertSender(broker, topic, settings).send(messages.items())
    with pytest.raises(ConfigError, match=f"has no topic {topic}"):
        list(read_topic(broker, topic, settings))
    with pytest.raises(ConfigError, match=f"has no topic {topic}"):
        list(follow_topics(broker, [topic], "g", settings, 1))


def test_a_topic_that_takes_only_small_messages_refuses_the_large_ones(
    broker: str, topic: str, messages: dict[int, bytes]
) -> None:
    admin = AdminClient({"bootstrap.servers": broker})
    new = NewTopic(topic, num_partitions=1, config={"max.message.bytes": "110000"})
    admin.create_topics([new])[topic].result(20)
    items = list(messages.items())[:5]
    settings = BrokerSettings(compression="none")
    delivery = AlertSender(broker, topic, settings).send([*items, (1, bytes(50_000))])
    assert sorted(delivery.refused) == sorted(id_ for id_, _ in items)
    assert "too large" in next(iter(delivery.refused.values()))
    assert delivery.acknowledged == [1]


def test_users_with_the_right_password_get_in_and_others_are_told(
    broker: str, topic: str, messages: dict[int, bytes]
) -> None:
    host, port = broker.split(":")
    secure = f"{host}:{int(port) + 1}"
    right = BrokerSettings(
        partitions=1, security="SASL_PLAINTEXT", user="tester", password="tester-secret"
    )
    items = list(messages.items())[:5]
    assert len(AlertSender(secure, topic, right).send(items).acknowledged) == 5
    assert len(list(read_topic(secure, topic, right))) == 5
    wrong = right.with_environment({"PROMPTDIA_KAFKA_PASSWORD": "guess"})
    for attempt in (
        lambda: AlertSender(secure, topic, wrong).send(items),
        lambda: list(read_topic(secure, topic, wrong)),
    ):
        with pytest.raises(ConfigError, match="refuses user tester"):
            attempt()


@pytest.fixture(scope="module")
def tls(broker: str) -> tuple[str, BrokerSettings]:
    """The listener that wants TLS and a password, and settings that it accepts."""
    host, port = broker.split(":")
    environ = {
        "PROMPTDIA_KAFKA_SECURITY": "SASL_SSL",
        "PROMPTDIA_KAFKA_MECHANISM": "SCRAM-SHA-512",
        "PROMPTDIA_KAFKA_CA_FILE": certificate(),
        "PROMPTDIA_KAFKA_USER": "tester",
        "PROMPTDIA_KAFKA_PASSWORD": "tester-secret",
    }
    settings = BrokerSettings(partitions=1, timeout_s=20).with_environment(environ)
    return f"{host}:{int(port) + 3}", settings


def test_alerts_go_and_come_over_tls_with_a_password(
    tls: tuple[str, BrokerSettings], topic: str, messages: dict[int, bytes]
) -> None:
    address, settings = tls
    items = list(messages.items())[:20]
    assert len(AlertSender(address, topic, settings).send(items).acknowledged) == 20
    assert {r.value for r in read_topic(address, topic, settings)} == {m for _, m in items}
    heard = listening.listen(address, [topic], topic, settings, idle_s=1)
    assert heard.n_alerts == 20


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"password": "guess"}, "refuses user tester.*invalid credentials"),
        ({"user": "nobody"}, "refuses user nobody.*invalid credentials"),
        ({"mechanism": "SCRAM-SHA-256"}, "supported mechanisms: SCRAM-SHA-512"),
        ({"ca_file": ""}, r"certificate of broker .* is not trusted by ca_file \(the system\)"),
    ],
)
def test_what_the_secure_listener_refuses_is_said(
    tls: tuple[str, BrokerSettings], changes: dict[str, Any], message: str
) -> None:
    address, settings = tls
    with pytest.raises(ConfigError, match=message):
        AlertSender(address, "t", replace(settings, **changes)).check()


def test_speaking_plainly_to_a_tls_listener_is_no_answer(
    tls: tuple[str, BrokerSettings], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kafka_link, "_CONTACT_S", 1.0)
    with pytest.raises(TransientError, match=r"does not answer .* \(asked with PLAINTEXT\)"):
        AlertSender(tls[0], "t", BrokerSettings()).check()


def test_a_listener_counts_damaged_messages_and_keeps_the_good_ones(
    broker: str, topic: str, messages: dict[int, bytes], tmp_path: object
) -> None:
    rng = np.random.default_rng(3)
    good = list(messages.items())[:30]
    bad = [(i, m[: rng.integers(5000)]) for i, (_, m) in enumerate(good)]
    AlertSender(broker, topic, SETTINGS).send([*good, *bad])
    heard = listening.listen(broker, [topic], topic, SETTINGS, idle_s=1)
    assert (heard.n_alerts, heard.n_errors) == (30, 30)
