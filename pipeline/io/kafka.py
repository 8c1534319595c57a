"""Alerts to and from a Kafka topic.

A batch counts as sent only for the alerts whose delivery the broker acknowledged and whose
place in the topic it told. Sending never asks a schema registry.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import confluent_kafka as ck

from promptdia.pipeline.errors import TransientError
from promptdia.pipeline.io.kafka_link import BrokerSettings, Link, new_client, offsets

__all__ = [
    "AlertSender",
    "BrokerSettings",
    "Delivery",
    "NotDelivered",
    "Received",
    "follow_topics",
    "read_topic",
]
_JOIN_S = 30.0
_BATCH = 200
_KEY_BYTES = 8
_READER = {"group.id": "promptdia-read", "enable.partition.eof": True}
"""A reader that joins no group."""
_PERMANENT = {
    ck.KafkaError.MSG_SIZE_TOO_LARGE,
    ck.KafkaError.INVALID_RECORD,
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
}


class Delivery(NamedTuple):
    """What became of a batch."""

    acknowledged: list[int]
    """diaSourceIds that the broker holds, in the order of its answers."""
    refused: dict[int, str]
    """diaSourceIds that it will never take, and why."""


class NotDelivered(TransientError):
    """Some alerts were not acknowledged in time; those not in ``delivery`` may be sent again."""

    def __init__(self, reason: str, delivery: Delivery) -> None:
        super().__init__(reason)
        self.delivery = delivery
        """What was settled before."""


class Received(NamedTuple):
    """One message of a topic."""

    partition: int
    offset: int
    key: bytes | None
    value: bytes
    topic: str = ""


class AlertSender:
    """Sends batches of wire messages to one topic."""

    def __init__(self, broker: str, topic: str, settings: BrokerSettings) -> None:
        self._link = Link(broker, topic, settings)
        self._producer: Any = None
        self._reader: Any = None

    def check(self) -> None:
        """Reach the topic, creating it if the settings say so, and each partition's leader.

        TransientError when the broker does not answer within 10 seconds, ConfigError
        when it refuses: wrong credentials, no such topic, no permission.
        """
        if self._producer is not None:
            return
        settings = self._link.settings
        self._link.errors.clear()
        producer = new_client(
            ck.Producer,
            self._link.config()
            | {
                "enable.idempotence": True,
                "compression.type": settings.compression,
                "linger.ms": settings.linger_ms,
                "batch.size": settings.max_message_bytes,
                "message.max.bytes": settings.max_message_bytes,
                "queue.buffering.max.kbytes": 1024 * settings.queue_mib,
                "queue.buffering.max.messages": 0,
                "delivery.timeout.ms": int(1000 * settings.timeout_s),
            },
        )
        partitions = self._link.reach(producer, create=True)
        reader = new_client(ck.Consumer, self._link.config() | _READER)
        offsets(self._link, reader, partitions, ck.OFFSET_END)
        self._producer, self._reader = producer, reader

    def ends(self) -> dict[int, int]:
        """Offset after the last message of each partition; one question to the broker.

        Raises as ``check`` does.
        """
        self.check()
        partitions = self._link.reach(self._producer)
        return offsets(self._link, self._reader, partitions, ck.OFFSET_END)

    def find(self, ids: Collection[int], since: Mapping[int, int]) -> set[int]:
        """Which alerts lie in the topic from offset ``since`` of each partition on.

        A partition without an entry, or one that is now shorter, was made anew: it is read
        from its start. Waits first until nothing has come in for ``settle_s``, because
        what a dead process sent may still be on its way. Raises as ``check`` does.
        """
        self._wait_for_silence()
        link = self._link
        found = set()
        for received in read_topic(link.broker, link.topic, link.settings, since):
            key = received.key or b""
            if len(key) == _KEY_BYTES and (id_ := int.from_bytes(key, "big")) in ids:
                found.add(id_)
        return found

    def _wait_for_silence(self) -> None:
        """Until nothing came in for ``settle_s``; others who always send cost ``timeout_s``."""
        settings = self._link.settings
        give_up = time.monotonic() + settings.timeout_s
        before, ends = None, self.ends()
        while before != ends and time.monotonic() < give_up:
            time.sleep(settings.settle_s)
            before, ends = ends, self.ends()

    def send(self, messages: Iterable[tuple[int, bytes]]) -> Delivery:
        """Send (diaSourceId, wire message) pairs and wait for the broker's answers.

        The messages are taken from the iterable as memory allows. Raises as ``check``
        does, and NotDelivered when answers are missing after ``timeout_s``.
        """
        self.check()
        answers = _Answers()
        for id_, message in messages:
            if not self._produce(id_, message, answers):
                break
        self._flush()
        # A broker refuses the whole batch in which one message is too large for it.
        for id_, message in answers.take_too_large():
            answers.alone = True
            self._produce(id_, message, answers)
            self._flush()
        if answers.pending:
            self.close()
            link = self._link
            raise NotDelivered(
                f"broker {link.broker} acknowledged {len(answers.delivery.acknowledged)} alerts "
                f"and left {len(answers.pending)} unconfirmed in {link.settings.timeout_s:g} s: "
                f"{answers.last_error or link.last_error() or 'it is silent'}",
                answers.delivery,
            )
        return answers.delivery

    def close(self) -> None:
        """Drop the connection and what is still queued; the next batch connects again."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(1.0)
            self._reader.close()
            self._producer = self._reader = None

    def _flush(self) -> None:
        self._producer.flush(self._link.settings.timeout_s + 5.0)

    def _produce(self, id_: int, message: bytes, answers: "_Answers") -> bool:
        """Put a message into the queue; False when the queue stays full."""
        limit = self._link.settings.max_message_bytes
        if len(message) > limit:
            answers.delivery.refused[id_] = (
                f"it has {len(message)} bytes, the limit max_message_bytes is {limit}"
            )
            return True
        answers.pending.add(id_)
        give_up = time.monotonic() + self._link.settings.timeout_s
        while True:
            try:
                self._producer.produce(
                    self._link.topic,
                    message,
                    key=id_.to_bytes(_KEY_BYTES, "big"),
                    headers=[("producer_timestamp", str(time.time() * 1000).encode())],
                    on_delivery=answers.take,
                )
            except BufferError:
                if time.monotonic() > give_up:
                    return False
                self._producer.poll(0.1)
            else:
                self._producer.poll(0)
                return True


class _Answers:
    """What the broker said to the alerts of one batch."""

    def __init__(self) -> None:
        self.delivery = Delivery([], {})
        self.pending: set[int] = set()
        self.alone = False
        """True once each message travels in a batch of its own."""
        self.last_error = ""
        self._too_large: list[tuple[int, bytes]] = []

    def take(self, error: Any, message: Any) -> None:
        """Delivery callback."""
        id_ = int.from_bytes(message.key(), "big")
        if error is None and message.offset() is None:
            # librdkafka counts "duplicate" as delivered; of a new topic's first batches, when
            # a later one was taken before an earlier one is retried, that may not be so
            self.last_error = "the broker does not say where in the topic it put them"
            return
        if error is None:
            self.delivery.acknowledged.append(id_)
        elif error.code() == ck.KafkaError.MSG_SIZE_TOO_LARGE and not self.alone:
            self._too_large.append((id_, message.value()))
        elif error.code() in _PERMANENT:
            self.delivery.refused[id_] = f"the broker refuses it: {error.str()}"
        else:
            self.last_error = error.str()
            return
        self.pending.discard(id_)

    def take_too_large(self) -> list[tuple[int, bytes]]:
        """The messages that were refused for the size of their batch."""
        found, self._too_large = self._too_large, []
        return found


def read_topic(
    broker: str, topic: str, settings: BrokerSettings, since: Mapping[int, int] | None = None
) -> Iterator[Received]:
    """Every message that is in the topic now, partition by partition mixed, then end.

    With ``since`` only those from that offset of each partition on; a partition that is not
    named there, or has become shorter, is read from its start. Raises as
    ``AlertSender.check`` does.
    """
    link = Link(broker, topic, settings)
    consumer = new_client(ck.Consumer, link.config() | _READER)
    try:
        partitions = link.reach(consumer)
        ends = offsets(link, consumer, partitions, ck.OFFSET_END)
        starts = offsets(link, consumer, partitions, ck.OFFSET_BEGINNING)
        for partition, offset in (since or {}).items():
            if partition in ends and offset <= ends[partition]:
                starts[partition] = max(starts[partition], offset)
        ends = {p: end for p, end in ends.items() if end > starts[p]}
        consumer.assign([ck.TopicPartition(topic, p, starts[p]) for p in ends])
        while ends:
            message = consumer.poll(settings.timeout_s)
            if message is None:
                raise TransientError(
                    f"broker {broker} sent nothing of topic {topic} for {settings.timeout_s:g} s"
                )
            partition = message.partition()
            if message.error() is None:
                yield _received(message)
                if message.offset() + 1 >= ends.get(partition, 0):
                    ends.pop(partition, None)
            elif message.error().code() == ck.KafkaError._PARTITION_EOF:
                ends.pop(partition, None)
            else:
                link.raise_for(message.error())
    finally:
        consumer.close()


def follow_topics(
    broker: str,
    topics: Sequence[str],
    group: str,
    settings: BrokerSettings,
    idle_s: float = float("inf"),
) -> Iterator[list[Received]]:
    """Batches of messages as member of a consumer group, until none came for ``idle_s``.

    A new group starts at the oldest message. A batch counts as read for the group when
    the next one is asked for. Raises as ``AlertSender.check`` does.
    """
    link = Link(broker, topics[0], settings)
    config = {
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "session.timeout.ms": 10_000,
    }
    consumer = new_client(ck.Consumer, link.config() | config)
    idle_since = time.monotonic() + _JOIN_S

    def joined(*_: Any) -> None:  # the group has dealt out its partitions; may take seconds
        nonlocal idle_since
        idle_since = time.monotonic()

    try:
        for link.topic in topics:
            link.reach(consumer)
        consumer.subscribe(list(topics), on_assign=joined)
        while time.monotonic() - idle_since < idle_s:
            batch = []
            for message in consumer.consume(_BATCH, timeout=0.2):
                if message.error() is None:
                    batch.append(_received(message))
                else:
                    link.raise_for(message.error())
            if batch:
                yield batch
                consumer.commit(asynchronous=False)
                idle_since = time.monotonic()
    finally:
        consumer.close()


def _received(message: Any) -> Received:
    return Received(
        message.partition(),
        message.offset(),
        message.key(),
        message.value() or b"",
        message.topic(),
    )
