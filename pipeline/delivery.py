"""From the outbox to files and to Kafka: nothing lost, nothing sent twice.

A committed alert is in the database with its bytes. Archiving writes all alerts of a
visit-detector to one file and drops the bytes; sending reads them from the file.

Before a batch is produced, the database notes which alerts it holds and where the topic
ends. Whatever interrupts it, the next run finds that note, reads the topic from there on,
and knows each alert by its key, the diaSourceId: what has arrived is sent, the rest is
sent again. One process sends at a time. What the topic no longer holds (made anew, moved
to another broker, old messages deleted) counts as not arrived: an alert may then come
twice, with the same id, but none is lost.
"""

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from promptdia.apdb.store import Apdb, OutboxEntry
from promptdia.pipeline.errors import ApdbError, TransientError
from promptdia.pipeline.io.alert_files import read_messages, write_container
from promptdia.pipeline.io.avro import alert_id
from promptdia.pipeline.io.kafka import AlertSender, NotDelivered
from promptdia.pipeline.repository import Repository

log = logging.getLogger(__name__)


def archive_alerts(repository: Repository, store: Apdb, visit: int, detector: int) -> int:
    """Write the alerts of a visit-detector to their file, if they are not there; how many."""
    entries = store.outbox(visit, detector)
    payloads = [e.payload for e in entries if e.state == "committed" and e.payload is not None]
    path = repository.alerts_path(visit, detector)
    if payloads or not path.exists():
        if len(payloads) < len(entries):
            raise ApdbError(
                f"{path} is gone, and the database keeps {len(payloads)} of its {len(entries)} "
                "alerts; restore the file"
            )
        write_container(path, payloads)
        store.mark_archived(visit, detector)
    return len(entries)


def send_alerts(repository: Repository, store: Apdb, sender: AlertSender, topic: str) -> int:
    """Send what the outbox holds for a topic, and mark what the broker acknowledged.

    Returns how many alerts are known to have arrived now that were not before. Raises as
    ``AlertSender.send`` does, after marking what did arrive, and TransientError when the
    broker refuses an alert for good: it stays in the outbox.
    """
    with store.sole_sender():
        found = _settle(store, sender, topic)
        entries = store.unsent(topic)
        if not entries:
            return found
        for visit, detector in {(e.visit, e.detector) for e in entries if e.state == "committed"}:
            archive_alerts(repository, store, visit, detector)
        store.begin_sending(topic, [e.dia_source_id for e in entries], sender.ends())
        try:
            delivery = sender.send(_messages(repository, entries))
        except NotDelivered as some:
            # the others may have arrived all the same: the next run looks
            store.mark_sent(np.array(some.delivery.acknowledged, np.int64))
            raise
        store.settle(topic, np.array(delivery.acknowledged, np.int64))
    if delivery.refused:
        first, reason = next(iter(sorted(delivery.refused.items())))
        raise TransientError(
            f"{len(delivery.refused)} alerts were refused and stay in the outbox; "
            f"alert {first}: {reason}"
        )
    return found + len(delivery.acknowledged)


def _settle(store: Apdb, sender: AlertSender, topic: str) -> int:
    """Find out what an interrupted sending left in the topic; how many alerts arrived."""
    interrupted = store.sending(topic)
    if interrupted is None:
        return 0
    arrived = sender.find(interrupted.dia_source_ids, interrupted.offsets)
    waiting = store.settle(topic, np.array(sorted(arrived), np.int64))
    log.warning(
        "sending to topic %s was interrupted: %d alerts had arrived, %d are sent now",
        topic, len(arrived), waiting,
    )  # fmt: skip
    return len(arrived)


def _messages(
    repository: Repository, entries: Iterable[OutboxEntry]
) -> Iterator[tuple[int, bytes]]:
    wanted: dict[tuple[int, int], set[int]] = defaultdict(set)
    for entry in entries:
        wanted[entry.visit, entry.detector].add(entry.dia_source_id)
    for (visit, detector), ids in wanted.items():
        for message in read_messages(repository.alerts_path(visit, detector)):
            number = alert_id(message)
            if number in ids:
                yield number, message
