"""Alerts from their file to a broker: rate, completeness, outages, slow readers, damage."""

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from lib.alert_broker import Broker

from promptdia.pipeline.errors import TransientError
from promptdia.pipeline.io.alert_files import read_messages
from promptdia.pipeline.io.avro import alert_id
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings, follow_topics, read_topic
from promptdia.pipeline.io.registry import RegistrySchemas
from promptdia.pipeline.listening import listen

PARTITIONS = 8
CODECS = ("zstd", "lz4", "snappy", "none")
REPEATS = 3
TOPICS = [
    *(f"rate-{codec}" for codec in CODECS),
    *(f"slow-{number}" for number in range(2 * REPEATS)),
    "outage",
    "damaged",
]
"""All that are sent to; the embedded broker gives a topic room only when it is named early."""
_NOBODY = "http://127.0.0.1:9"
"""No registry listens there."""

Row = dict[str, Any]


@dataclass(frozen=True)
class Alerts:
    """Packaged alerts in a container file."""

    path: Path
    ids: list[int]
    """In the order of the file."""

    def pairs(self, n: int | None = None) -> Iterator[tuple[int, bytes]]:
        """(id, message) of the first n, as they are sent."""
        yield from zip(self.ids[:n], read_messages(self.path))


def settings(codec: str = "zstd") -> BrokerSettings:
    """As a night would use them, with a topic made on demand."""
    return BrokerSettings(partitions=PARTITIONS, compression=codec, timeout_s=60.0)


def send(broker: Broker, topic: str, alerts: Iterator[tuple[int, bytes]], codec: str) -> float:
    """Wall seconds from the first alert taken from the file to the last acknowledgement."""
    sender = AlertSender(broker.url, topic, settings(codec))
    sender.check()
    try:
        start = time.monotonic()
        delivery = sender.send(alerts)
        took = time.monotonic() - start
    finally:
        sender.close()
    if delivery.refused:
        raise RuntimeError(f"{len(delivery.refused)} alerts were refused")
    return took


def read_back(broker: Broker, topic: str, ids: list[int]) -> Row:
    """Reads the topic and compares: alerts missing, strange, twice, and out of order."""
    place = {id_: i for i, id_ in enumerate(ids)}
    last: dict[int, int] = {}
    found: list[int] = []
    disordered = 0
    start = time.monotonic()
    for received in read_topic(broker.url, topic, settings()):
        id_ = alert_id(received.value)
        found.append(id_)
        disordered += place.get(id_, 0) < last.get(received.partition, 0)
        last[received.partition] = place.get(id_, 0)
    return {
        "read_s": time.monotonic() - start,
        "lost": len(set(ids) - set(found)),
        "strange": len(set(found) - set(ids)),
        "twice": len(found) - len(set(found)),
        "out_of_order": disordered,
    }


def outage(broker: Broker, topic: str, alerts: Alerts, away_s: float) -> Row:
    """Sends while the broker is away for a while, from the middle of the batch on."""
    back: list[threading.Thread] = []

    def absent() -> None:
        broker.stop()
        time.sleep(away_s)
        broker.start()

    def pairs() -> Iterator[tuple[int, bytes]]:
        for i, pair in enumerate(alerts.pairs()):
            if i == len(alerts.ids) // 2:
                back.append(threading.Thread(target=absent))
                back[0].start()
            yield pair

    took = send(broker, topic, pairs(), "zstd")
    back[0].join()
    return {"seconds": took, **read_back(broker, topic, alerts.ids)}


def slowed(broker: Broker, alerts: Alerts, n: int) -> Row:
    """Send times alone and with a reader that takes a second per batch and has no registry."""
    times: dict[bool, list[float]] = {False: [], True: []}
    behind = 0
    for number in range(2 * REPEATS):
        lagging, topic = bool(number % 2), f"slow-{number}"
        send(broker, topic, alerts.pairs(1), "zstd")
        ended = threading.Event()
        counts: list[int] = []
        reader = threading.Thread(target=_lag, args=(broker, topic, ended, counts))
        if lagging:
            reader.start()
        times[lagging].append(send(broker, topic, alerts.pairs(n), "zstd"))
        ended.set()
        if lagging:
            reader.join()
            behind += n + 1 - sum(counts)
    alone, beside = (float(np.median(times[lagging])) for lagging in (False, True))
    return {"alone_s": alone, "beside_s": beside, "ratio": beside / alone, "unread": behind}


def damaged(broker: Broker, alerts: Alerts, seed: int) -> Row:
    """1,000 messages that are no alerts among 100 that are, and what a listener makes of them."""
    rng = np.random.default_rng(seed)
    good = [message for _, message in alerts.pairs(100)]
    wrong = [_DAMAGE[i % 3](good[i % len(good)], rng) for i in range(1000)]
    mixed = [(i, (good + wrong)[k]) for i, k in enumerate(rng.permutation(len(good) + 1000))]
    send(broker, "damaged", iter(mixed), "zstd")
    heard = listen(broker.url, ["damaged"], "bench", settings(), idle_s=3.0)
    return {"sent": 1000, "errors": heard.n_errors, "alerts": heard.n_alerts, **heard.errors}


def _truncated(message: bytes, rng: np.random.Generator) -> bytes:
    return message[: rng.integers(1, len(message))]


def _flipped(message: bytes, rng: np.random.Generator) -> bytes:
    """One bit of the schema's number or of the alert's own."""
    bytes_ = bytearray(message)
    bytes_[rng.integers(13)] ^= 1 << rng.integers(8)
    return bytes(bytes_)


def _of_another_schema(message: bytes, rng: np.random.Generator) -> bytes:
    """The number of a schema that these bytes do not follow."""
    return message[:1] + int(rng.choice([1000, 1101, 900, 704])).to_bytes(4, "big") + message[5:]


_DAMAGE = (_truncated, _flipped, _of_another_schema)


def _lag(broker: Broker, topic: str, ended: threading.Event, counts: list[int]) -> None:
    schemas = RegistrySchemas(_NOBODY)
    for batch in follow_topics(broker.url, [topic], f"lag-{topic}", settings()):
        counts.append(len(batch))
        try:
            schemas(1100)
        except TransientError:
            ended.wait(1.0)
        if ended.is_set():
            return
