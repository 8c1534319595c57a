"""A small synthetic night through the real database, files, outbox and Kafka, killable anywhere.

No pixels: sources are drawn from a seed. Everything after them is what ``promptdia night``
does for each visit-detector: commit, archive, send.
"""

import hashlib
import io
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import sqlalchemy as sa

from promptdia.apdb.ids import dia_source_ids
from promptdia.apdb.pixels import Region
from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE, DIA_SOURCE, REJECTED, avro_schema
from promptdia.apdb.sql import SqlApdb
from promptdia.apdb.store import Batch
from promptdia.pipeline import delivery
from promptdia.pipeline.io.avro import HEADER, schema_id
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings, read_topic
from promptdia.pipeline.retry import with_retries
from promptdia.tasks.associate import AssociateConfig, AssociateSources
from promptdia.tasks.summarize import SummarizeObjects

RA, DEC = 150.0, 2.0
FIELD = Region.circle(RA, DEC, 0.05)
DETECTORS = (0, 1)
"""Both see the same sky, so that their batches depend on each other."""
_SCHEMA = fastavro.parse_schema(avro_schema("11.0"))

Hit = Callable[[str], None]
"""Called with the name of each step that is reached."""


@dataclass(frozen=True)
class Night:
    """What is processed, and where to."""

    folder: Path
    database: str
    broker: str
    topic: str
    seed: int
    n_visits: int = 6
    n_stars: int = 12
    timeout_s: float = 10.0
    settle_s: float = 1.0

    @property
    def settings(self) -> BrokerSettings:
        """Of the sender and the reader."""
        return BrokerSettings(partitions=4, timeout_s=self.timeout_s, settle_s=self.settle_s)

    def alerts_path(self, visit: int, detector: int) -> Path:
        """As a repository has it; all that delivery asks of one."""
        return self.folder / "alerts" / str(visit) / f"{detector}.avro"

    def jobs(self) -> Iterator[tuple[int, int, float]]:
        """(visit, detector, MJD) in order."""
        for number in range(1, self.n_visits + 1):
            for detector in DETECTORS:
                yield 20260301_00000 + number, detector, 61100 + number / 1000


def process(night: Night, hit: Hit) -> None:
    """The night from where it stopped to its end."""
    store: Any = SqlApdb.create(night.database)
    sa.event.listen(store._engine, "commit", lambda _: hit("inside a transaction, before its end"))
    store = Watched(store, hit)
    sender = WatchedSender(night.broker, night.topic, night.settings)
    sender.hit = hit
    plain_write = delivery.write_container
    delivery.write_container = Watched(delivery, hit).write_container
    repository: Any = night
    try:
        for visit, detector, mjd in night.jobs():
            if store.status(visit, detector) != "done":
                with_retries(lambda: store.commit(batch(night, store, visit, detector, mjd)))  # noqa: B023
            delivery.archive_alerts(repository, store, visit, detector)
            delivery.send_alerts(repository, store, sender, night.topic)
    finally:
        delivery.write_container = plain_write
        sender.close()


def batch(night: Night, store: Any, visit: int, detector: int, mjd: float) -> Batch:
    """What one detector of one visit sees of the stars, tied to what is stored."""
    rng = np.random.default_rng([night.seed, visit, detector])
    stars = np.random.default_rng(night.seed).uniform(-0.03, 0.03, (2, night.n_stars))
    seen = stars[:, rng.random(night.n_stars) < 0.7]
    noise = rng.normal(0, 0.05 / 3600, seen.shape)
    sources = DIA_SOURCE.empty(seen.shape[1])
    sources["diaSourceId"] = dia_source_ids(visit, detector, np.arange(sources.size))
    sources["visit"], sources["detector"], sources["band"] = visit, detector, "r"
    sources["midpointMjdTai"], sources["timeProcessedMjdTai"] = mjd, mjd
    sources["ra"], sources["dec"] = RA + (seen + noise)[0], DEC + (seen + noise)[1]
    sources["raErr"] = sources["decErr"] = 1e-5
    for name in ("x", "y", "psfFlux"):
        sources[name] = rng.uniform(100, 200, sources.size)
    sources["psfFluxErr"] = 10.0
    past = store.preload(FIELD, mjd)
    found = AssociateSources(AssociateConfig()).run(sources, past.objects)
    forced = DIA_FORCED_SOURCE.empty(past.objects.size)
    forced["diaForcedSourceId"] = dia_source_ids(visit, detector, np.arange(forced.size))
    for name in ("diaObjectId", "ra", "dec"):
        forced[name] = past.objects[name]
    forced["visit"], forced["detector"], forced["band"] = visit, detector, "r"
    forced["midpointMjdTai"], forced["timeProcessedMjdTai"] = mjd, mjd
    objects = SummarizeObjects().run(
        found.objects,
        np.concatenate([past.sources, found.sources]),
        np.concatenate([past.forced, forced]),
    )
    objects["validityStartMjdTai"] = mjd
    return Batch(
        visit=visit, detector=detector, mjd_tai=mjd, now_mjd_tai=mjd, region=FIELD, history=past,
        sources=found.sources, objects=objects, forced=forced, rejected=REJECTED.empty(),
        topic=night.topic, payloads=[message(source) for source in found.sources],
    )  # fmt: skip


def message(source: Any) -> bytes:
    """A wire message without cutouts and history."""
    known = {
        name: value.item()
        for name, value in zip(source.dtype.names, source)
        if name != "timeWithdrawnMjdTai"
    }
    record = io.BytesIO()
    alert = {"diaSourceId": int(source["diaSourceId"]), "diaSource": known}
    fastavro.schemaless_writer(record, _SCHEMA, alert)
    return HEADER.pack(0, schema_id("11.0")) + record.getvalue()


def verdict(night: Night) -> dict[str, Any]:
    """What is wrong after the night was run to its end."""
    store = SqlApdb.open(night.database)
    entries = [e for visit, detector, _ in night.jobs() for e in store.outbox(visit, detector)]
    arrived = Counter(
        int.from_bytes(received.key or b"", "big")
        for received in read_topic(night.broker, night.topic, night.settings)
    )
    committed = {e.dia_source_id for e in entries}
    broken = store.check()
    if store.sending(night.topic) is not None or {e.state for e in entries} != {"sent"}:
        broken.append("the outbox is not empty")
    return {
        "alerts": len(committed),
        "lost": len(committed - set(arrived)),
        "duplicated": sum(n - 1 for n in arrived.values()),
        "strange": len(set(arrived) - committed),
        "broken": broken,
        "sky": sky_digest(store),
    }


def sky_digest(store: SqlApdb) -> str:
    """A checksum of objects, sources and forced sources."""
    digest = hashlib.blake2b(digest_size=12)
    for part in store.partitions(10**9):
        rows = np.sort(part.rows, order=list(part.rows.dtype.names or ())[:3])
        digest.update(repr(rows.tolist()).encode())
    return digest.hexdigest()


class Steps:
    """Counts the steps, and ends the process as ``kill -9`` does at one of them."""

    def __init__(self, name: str = "", occurrence: int = 0) -> None:
        self.counts: Counter[str] = Counter()
        self._last = name, occurrence

    def __call__(self, name: str) -> None:
        self.counts[name] += 1
        if (name, self.counts[name]) == self._last:
            os.kill(os.getpid(), signal.SIGKILL)


class Watched:
    """An object whose methods tell before they begin and after they end."""

    def __init__(self, target: Any, hit: Hit) -> None:
        self._target, self._hit = target, hit

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._target, name)

        def call(*args: Any, **named: Any) -> Any:
            self._hit(f"before {name}")
            result = method(*args, **named)
            self._hit(f"after {name}")
            return result

        return call


class WatchedSender(AlertSender):
    """Tells when messages are produced and acknowledged."""

    hit: Hit

    def check(self) -> None:
        super().check()
        if not isinstance(self._producer, _WatchedProducer):
            self._producer = _WatchedProducer(self._producer, self.hit)


class _WatchedProducer:
    def __init__(self, producer: Any, hit: Hit) -> None:
        self._producer, self._hit = producer, hit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def produce(self, *args: Any, on_delivery: Any, **named: Any) -> None:
        def told(error: Any, message: Any) -> None:
            self._hit("before an acknowledgement is seen")
            on_delivery(error, message)
            self._hit("after an acknowledgement is seen")

        self._producer.produce(*args, on_delivery=told, **named)
        self._hit("after a message is queued")

    def flush(self, *args: Any) -> Any:
        self._hit("before the queue is flushed")
        left = self._producer.flush(*args)
        self._hit("after all is acknowledged")
        return left
