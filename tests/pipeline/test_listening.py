"""Listening: archive, filters, callback, and whatever may come in."""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from support.alerts import make_alerts
from support.packets import our_messages

from promptdia.pipeline.alert_filter import load_function, python_filter, sql_filter
from promptdia.pipeline.broker import EmbeddedBroker
from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.io.alert_files import read_container
from promptdia.pipeline.io.avro import alert_id, decode, encode_alerts
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings
from promptdia.pipeline.io.registry import RegistrySchemas
from promptdia.pipeline.listening import Archive, Heard, follow_alerts, listen

SETTINGS = BrokerSettings(timeout_s=5)
IDLE_S = 2.0
"""Longer than a busy machine lets a message wait."""


@pytest.fixture(scope="module")
def messages() -> dict[int, bytes]:
    return {alert_id(m): m for m in our_messages()}


@pytest.fixture(scope="module")
def alerts(messages: dict[int, bytes]) -> list[dict[str, Any]]:
    return [decode(m) for m in messages.values()]


def send(broker: EmbeddedBroker, topic: str, items: dict[int, bytes]) -> None:
    sender = AlertSender(broker.url, topic, SETTINGS)
    assert len(sender.send(items.items()).acknowledged) == len(items)
    sender.close()


@pytest.mark.parametrize("form", ["avro", "parquet"])
def test_what_was_sent_to_two_topics_is_in_the_archive(
    messages: dict[int, bytes], tmp_path: Path, form: Any
) -> None:
    ids = list(messages)
    with EmbeddedBroker(["a", "b"]) as broker:
        send(broker, "a", {i: messages[i] for i in ids[:4]})
        send(broker, "b", {i: messages[i] for i in ids[4:]})
        states: list[int] = []
        called: list[int] = []
        heard = listen(
            broker.url,
            ["a", "b"],
            "g",
            SETTINGS,
            RegistrySchemas(broker.registry_url),
            Archive(tmp_path / "in", form),
            on_alert=lambda alert: called.append(alert["diaSourceId"]),
            on_batch=lambda so_far: states.append(so_far.n_alerts),
            idle_s=IDLE_S,
        )
    assert (heard.n_alerts, heard.n_kept, heard.n_errors) == (len(ids), len(ids), 0)
    assert states[-1] == len(ids)
    assert sorted(called) == sorted(ids)
    files = sorted((tmp_path / "in").iterdir())
    assert {f.name[:2] for f in files} == {"a-", "b-"}
    if form == "avro":
        kept = [a["diaSourceId"] for f in files for a in read_container(f)]
    else:
        kept = [i for f in files for i in pq.read_table(f)["diaSourceId"].to_pylist()]
    assert sorted(kept) == sorted(ids)
    assert str(heard.table().title) == f"{len(ids)} alerts, 0 unreadable messages"


def test_a_program_of_ones_own_gets_the_alerts(
    messages: dict[int, bytes],
) -> None:
    with EmbeddedBroker(["t"]) as broker:
        send(broker, "t", messages)
        heard = Heard()
        got = [
            a["diaSourceId"]
            for a in follow_alerts(broker.url, ["t"], "g", idle_s=IDLE_S, heard=heard)
        ]
        assert sorted(got) == sorted(messages)
        assert heard.n_alerts == len(messages)


@pytest.mark.parametrize(
    ("sql", "python"),
    [
        ("diaSource.snr > 10", "diaSource['snr'] > 10"),
        ("ssObjectId != 0", None),
        ("diaSource.ssObjectId != 0", "diaSource['ssObjectId'] != 0"),
        ("snr > 5 AND diaObject.nDiaSources > 3", "diaObject and diaObject['nDiaSources'] > 3"),
        ("nPrvDiaSources = 0", "not prvDiaSources"),
        ("target_name LIKE 'ddf%' AND isNegative", "diaSource['isNegative']"),
        ("ephVmag < 23", "ssSource is not None and ssSource['ephVmag'] < 23"),
        ("trailChi2 < 1", "diaSource['trailChi2'] < 1"),  # nan: never
    ],
)
def test_sql_and_python_keep_the_same(
    alerts: list[dict[str, Any]], sql: str, python: str | None
) -> None:
    if python is None:
        with pytest.raises(ConfigError, match="ambiguous column name: ssObjectId"):
            sql_filter(sql)
        return
    kept = sql_filter(sql)(alerts)
    assert kept == python_filter(python)(alerts)
    if "trail" in sql:
        assert not any(kept)
    else:
        assert 0 < sum(map(bool, kept)) < len(alerts)


def test_a_filter_forgets_the_batch_before(alerts: list[dict[str, Any]]) -> None:
    keep = sql_filter("diaSource.diaSourceId % 2 = 0")
    for batch in (alerts, alerts[:2], alerts[1:], []):
        assert keep(batch) == [a["diaSourceId"] % 2 == 0 for a in batch]


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("snrr > 5", "no such column: snrr"),
        ("ra > 5", "ambiguous column name: ra.*as in diaSource.ra"),
        ("snr >", "is no SQL"),
        ("1); DROP TABLE alert; --", "is no SQL"),
    ],
)
def test_an_unusable_condition_is_refused_before_anything_is_read(
    condition: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sql_filter(condition)


def test_an_unusable_expression_is_refused_and_a_failing_one_is_counted(
    alerts: list[dict[str, Any]], messages: dict[int, bytes]
) -> None:
    with pytest.raises(ConfigError, match="no Python expression"):
        python_filter("snr >")
    with pytest.raises(ConfigError, match="name 'snr' is not defined; an alert has cutoutDiff"):
        python_filter("snr > 5")(alerts)
    asteroids = sum(a["diaObject"] is None for a in alerts)
    with EmbeddedBroker(["t"]) as broker:
        send(broker, "t", messages)
        keep = python_filter("diaObject['nDiaSources'] >= 1")
        heard = listen(broker.url, ["t"], "g", SETTINGS, keep=keep, idle_s=IDLE_S)
    assert heard.errors == {"filter: TypeError 'NoneType' object is not subscriptable": asteroids}
    assert heard.n_kept == len(alerts) - asteroids


def test_a_callback_is_found_by_its_name() -> None:
    assert load_function("json:dumps")({"a": 1}) == '{"a": 1}'
    for name in ("json", "json:nothing", "no_such_module:f", "json:__name__", ":f"):
        with pytest.raises(ConfigError):
            load_function(name)


def damaged(good: bytes, rng: np.random.Generator) -> bytes:
    """Cut short, a bit of the header, of a length or of a union's branch turned, or mislabelled."""
    kind = rng.integers(4)
    if kind == 0:
        return good[: rng.integers(len(good))]
    message = bytearray(good)
    if kind == 1:  # the label of another schema of ours, which reads on until it fails
        message[:5] = struct.pack(">bI", 0, int(rng.choice([1000, 1101])))
    elif kind == 2:
        message[rng.integers(5)] ^= 1 << rng.integers(8)
    else:  # the bytes after the id: the union's branch and the length of a text
        place = 5 + 9 + rng.integers(2)
        message[place] ^= 1 << rng.integers(1, 8)
    return bytes(message)


def test_a_thousand_damaged_messages_are_a_thousand_counted_errors(tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    good = encode_alerts(make_alerts(40, 2))
    bad = {i: damaged(good[i % 40], rng) for i in range(1000)}
    with EmbeddedBroker(["t"]) as broker:
        send(broker, "t", bad | {2000: good[1]})
        schemas = RegistrySchemas(broker.registry_url)
        heard = listen(
            broker.url, ["t"], "g", SETTINGS, schemas, Archive(tmp_path / "in"), idle_s=IDLE_S
        )
    assert (heard.n_alerts, heard.n_errors) == (1, 1000)
    assert set(heard.errors) >= {"no alert", "unknown schema", "does not decode"}
    assert len(list((tmp_path / "in").iterdir())) == 1


def test_a_turned_bit_anywhere_is_an_error_or_an_alert_but_never_a_crash() -> None:
    # a flipped pixel cannot be told from a pixel; that is what Kafka's checksums are for
    rng = np.random.default_rng(8)
    (message,) = encode_alerts(make_alerts(1, 2))
    turned = {}
    for i in range(1000):
        bits = bytearray(message)
        bits[rng.integers(2500)] ^= 1 << rng.integers(8)
        turned[i] = bytes(bits)
    with EmbeddedBroker(["t"]) as broker:
        send(broker, "t", turned)
        heard = listen(broker.url, ["t"], "g", SETTINGS, idle_s=IDLE_S)
    assert heard.n_alerts + heard.n_errors == 1000
    assert heard.n_errors > 100
