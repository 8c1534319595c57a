"""Alerts too large for the broker: the oldest history goes, the alert never."""

import io
import logging
from pathlib import Path

import fastavro
import pytest
from support.alerts import make_alerts
from support.processed import NIGHT, change_settings, promptdia

from promptdia.apdb.sql import SqlApdb
from promptdia.pipeline.alerts import stored_messages
from promptdia.pipeline.broker import EmbeddedBroker
from promptdia.pipeline.io.avro import (
    ENVELOPE_BYTES,
    HEADER,
    alert_id,
    bundled_schema,
    decode,
    encode_alerts,
    identifier,
    packets,
)
from promptdia.pipeline.io.kafka import BrokerSettings, read_topic


def times(message: bytes, name: str) -> list[float]:
    return [row["midpointMjdTai"] for row in decode(message)[name] or ()]


def test_what_fits_is_whole() -> None:
    alerts = make_alerts(3, 5, n_sso=1)
    whole = encode_alerts(alerts)
    limit = max(map(len, whole)) + 22
    assert [(p.message, p.n_left_out) for p in packets(alerts, max_bytes=limit)] == [
        (message, 0) for message in whole
    ]


@pytest.mark.parametrize("n_bytes", [1, 400, 3000, 12_000])
def test_the_oldest_points_go_until_it_fits(n_bytes: int) -> None:
    (alert,) = make_alerts(1, 30)
    (whole,) = encode_alerts([alert])
    limit = len(whole) - n_bytes
    (packet,) = packets([alert], max_bytes=limit)
    assert limit - 500 < len(packet.message) <= limit  # a point has up to 460 bytes
    n = 0
    kept = []
    for name in ("prvDiaSources", "prvDiaForcedSources"):
        before, after = times(whole, name), times(packet.message, name)
        assert after == before[len(before) - len(after) :]
        n += len(before) - len(after)
        kept.append(after[0])
    assert packet.n_left_out == n > 0
    # both histories are cut at one time: half a day lies between points
    assert abs(kept[0] - kept[1]) <= 0.5
    left, had = decode(packet.message), decode(whole)
    assert {k: v for k, v in left.items() if not k.startswith("prv")}.keys() == {
        k for k in had if not k.startswith("prv")
    }
    assert left["cutoutScience"] == had["cutoutScience"]


def test_an_alert_that_never_fits_keeps_all_but_its_history() -> None:
    (alert,) = make_alerts(1, 5)
    (packet,) = packets([alert], max_bytes=1000)
    decoded = decode(packet.message)
    assert (decoded["prvDiaSources"], decoded["prvDiaForcedSources"]) == (None, [])
    assert packet.n_left_out == 10
    assert decoded["diaObject"]["diaObjectId"] == alert.object["diaObjectId"][0]


def test_a_night_for_a_small_broker_sends_every_alert_and_says_what_is_missing(
    imaged: Path, processed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = dict(stored_messages(processed))
    # the largest alert without any history fits, so every alert does
    limit = max(map(bare_size, whole.values())) + 22 + ENVELOPE_BYTES
    too_large = {id_ for id_, message in whole.items() if len(message) > limit - ENVELOPE_BYTES}
    assert 0 < len(too_large) < len(whole)
    with EmbeddedBroker() as broker:
        small = {"max_message_bytes": limit, "partitions": 4}
        change_settings(imaged, broker=small, pipeline={"strict_cutouts": True})
        with caplog.at_level(logging.WARNING):
            ran = promptdia("night", imaged, NIGHT, "--workers", 1, "--broker", broker.url)
        assert ran.status == 0, ran.err
        sent = [m.value for m in read_topic(broker.url, "lsst-alerts", BrokerSettings())]
    assert sorted(map(alert_id, sent)) == sorted(whole)
    assert max(map(len, sent)) <= limit
    assert [m for m in sent if b"CTYPE1" in m] == []  # strict cutouts
    assert [m for m in whole.values() if m.count(b"CTYPE1") != 3] == []
    short = {id_ for id_ in map(alert_id, sent) if f"alert {id_} lacks the oldest" in caplog.text}
    assert short == too_large
    store = SqlApdb.open(f"sqlite:///{imaged / 'apdb.sqlite'}")
    by_id = {alert_id(m): m for m in sent}
    for id_ in whole:
        missing = n_points(whole[id_]) - n_points(by_id[id_])
        assert (missing > 0) == (id_ in too_large)
        story = " ".join(store.explain(id_).story)
        assert (f"lacks the oldest {missing} points" in story) == (missing > 0)
    store.close()


def bare_size(message: bytes) -> int:
    """Bytes of a message without its history."""
    stream = io.BytesIO()
    alert = decode(message) | {"prvDiaSources": None, "prvDiaForcedSources": []}
    fastavro.schemaless_writer(stream, bundled_schema(identifier(message)), alert)
    return HEADER.size + len(stream.getvalue())


def n_points(message: bytes) -> int:
    alert = decode(message)
    return len(alert["prvDiaSources"] or ()) + len(alert["prvDiaForcedSources"] or ())
