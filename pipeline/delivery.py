"""From the outbox to files and to Kafka: nothing lost, nothing sent twice by a rerun.

A committed alert is in the database with its bytes. Archiving writes all alerts of a
visit-detector to one file and drops the bytes; sending reads them from the file, and an
alert counts as sent when the broker has acknowledged it.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator

import numpy as np

from promptdia.apdb.store import Apdb, OutboxEntry
from promptdia.pipeline.errors import ApdbError, TransientError
from promptdia.pipeline.io.alert_files import read_messages, write_container
from promptdia.pipeline.io.avro import alert_id
from promptdia.pipeline.io.kafka import AlertSender, NotDelivered
from promptdia.pipeline.repository import Repository


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
    """Send what the outbox holds for a topic, and mark what the broker acknowledged; how many.

    Raises as ``AlertSender.send`` does, after marking what did arrive, and TransientError
    when the broker refuses an alert for good: it stays in the outbox.
    """
    entries = store.unsent(topic)
    if not entries:
        return 0
    try:
        delivery = sender.send(_messages(repository, entries))
    except NotDelivered as some:
        store.mark_sent(np.array(some.delivery.acknowledged, np.int64))
        raise
    store.mark_sent(np.array(delivery.acknowledged, np.int64))
    if delivery.refused:
        first, reason = next(iter(sorted(delivery.refused.items())))
        raise TransientError(
            f"{len(delivery.refused)} alerts were refused and stay in the outbox; "
            f"alert {first}: {reason}"
        )
    return len(delivery.acknowledged)


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
