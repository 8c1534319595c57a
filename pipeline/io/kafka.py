"""Alerts to and from a Kafka topic.

A batch counts as sent only for the alerts whose delivery the broker acknowledged.
Sending never asks a schema registry.
"""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NamedTuple

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient, NewTopic

from promptdia.pipeline.errors import ConfigError, TransientError

USER_VARIABLE = "PROMPTDIA_KAFKA_USER"
PASSWORD_VARIABLE = "PROMPTDIA_KAFKA_PASSWORD"
_CONTACT_S = 10.0
_JOIN_S = 30.0
_BATCH = 200
_KEY_BYTES = 8
_READER = {"group.id": "promptdia-read", "enable.partition.eof": True}
"""A reader that joins no group."""
_REFUSALS = {
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
    ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    ck.KafkaError.GROUP_AUTHORIZATION_FAILED,
    ck.KafkaError.SASL_AUTHENTICATION_FAILED,
    ck.KafkaError._AUTHENTICATION,
    ck.KafkaError._SSL,
}
_PERMANENT = {
    ck.KafkaError.MSG_SIZE_TOO_LARGE,
    ck.KafkaError.INVALID_RECORD,
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
}


@dataclass(frozen=True, slots=True)
class BrokerSettings:
    """Where alerts go, and how."""

    url: str = ""
    """host:port of one or more brokers, separated by commas; empty: alerts stay in files."""
    topic: str = "lsst-alerts"
    """Topic to send to."""
    partitions: int = 0
    """A missing topic is created with so many partitions; 0: a missing topic is an error."""
    compression: Literal["zstd", "lz4", "snappy", "none"] = "zstd"
    """Of the batches on the wire."""
    linger_ms: float = 5.0
    """How long to wait for a batch to fill, milliseconds."""
    queue_mib: int = 128
    """Memory for alerts on their way, MiB; a full queue makes the sender wait."""
    max_message_bytes: int = 1_000_000
    """Largest alert, bytes; at most the broker's and topic's own limit."""
    timeout_s: float = 30.0
    """How long an alert is tried before it counts as not delivered, seconds."""
    settle_s: float = 1.0
    """After a crash, how long nothing may come in before the topic is read back, seconds."""
    security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """Kafka's security.protocol."""
    mechanism: Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"] = "SCRAM-SHA-512"
    """For the SASL protocols."""
    ca_file: str = ""
    """PEM file of the authority that signed the broker's certificate; empty: the system's."""
    user: str = ""
    """For SASL; better from the environment, see ``with_environment``."""
    password: str = field(default="", repr=False)

    def with_environment(self, environ: Mapping[str, str]) -> "BrokerSettings":
        """With user and password from PROMPTDIA_KAFKA_USER and PROMPTDIA_KAFKA_PASSWORD."""
        return replace(
            self,
            user=environ.get(USER_VARIABLE, self.user),
            password=environ.get(PASSWORD_VARIABLE, self.password),
        )


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


class AlertSender:
    """Sends batches of wire messages to one topic."""

    def __init__(self, broker: str, topic: str, settings: BrokerSettings) -> None:
        self._link = _Link(broker, topic, settings)
        self._producer: Any = None
        self._reader: Any = None

    def check(self) -> None:
        """Reach the topic, creating it if the settings say so.

        TransientError when the broker does not answer within 10 seconds, ConfigError
        when it refuses: wrong credentials, no such topic, no permission.
        """
        if self._producer is not None:
            return
        settings = self._link.settings
        self._link.errors.clear()
        producer = _client(
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
        self._link.reach(producer, create=True)
        self._producer = producer

    def ends(self) -> dict[int, int]:
        """Offset after the last message of each partition; one question to the broker.

        Raises as ``check`` does.
        """
        self.check()
        if self._reader is None:
            self._reader = _client(ck.Consumer, self._link.config() | _READER)
        partitions = self._link.reach(self._producer)
        return _offsets(self._link, self._reader, partitions, ck.OFFSET_END)

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
                f"and left {len(answers.pending)} unanswered for {link.settings.timeout_s:g} s: "
                f"{answers.last_error or link.last_error() or 'it is silent'}",
                answers.delivery,
            )
        return answers.delivery

    def close(self) -> None:
        """Drop the connection and what is still queued; the next batch connects again."""
        if self._producer is not None:
            self._producer.purge()
            self._producer.flush(1.0)
            self._producer = None
        if self._reader is not None:
            self._reader.close()
            self._reader = None

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
    link = _Link(broker, topic, settings)
    consumer = _client(ck.Consumer, link.config() | _READER)
    try:
        partitions = link.reach(consumer)
        ends = _offsets(link, consumer, partitions, ck.OFFSET_END)
        starts = _offsets(link, consumer, partitions, ck.OFFSET_BEGINNING)
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


def follow_topic(
    broker: str,
    topic: str,
    group: str,
    settings: BrokerSettings,
    idle_s: float = float("inf"),
) -> Iterator[list[Received]]:
    """Batches of messages as member of a consumer group, until none came for ``idle_s``.

    A new group starts at the oldest message. A batch counts as read for the group when
    the next one is asked for. Raises as ``AlertSender.check`` does.
    """
    link = _Link(broker, topic, settings)
    config = {
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "session.timeout.ms": 10_000,
    }
    consumer = _client(ck.Consumer, link.config() | config)
    idle_since = time.monotonic() + _JOIN_S

    def joined(*_: Any) -> None:  # the group has dealt out its partitions; may take seconds
        nonlocal idle_since
        idle_since = time.monotonic()

    try:
        link.reach(consumer)
        consumer.subscribe([topic], on_assign=joined)
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


class _Link:
    """One topic of one broker, and the errors that its background threads reported."""

    def __init__(self, broker: str, topic: str, settings: BrokerSettings) -> None:
        self.broker, self.topic, self.settings = broker, topic, settings
        self.errors: list[Any] = []

    def config(self) -> dict[str, Any]:
        """What every client needs."""
        settings = self.settings
        config: dict[str, Any] = {
            "bootstrap.servers": self.broker,
            "security.protocol": settings.security,
            "error_cb": self.errors.append,
            "log_level": 0,
            "socket.keepalive.enable": True,
        }
        if settings.security.startswith("SASL"):
            if not (settings.user and settings.password):
                raise ConfigError(
                    f"broker {self.broker} wants {settings.security}: set {USER_VARIABLE} "
                    f"and {PASSWORD_VARIABLE}"
                )
            config |= {
                "sasl.mechanism": settings.mechanism,
                "sasl.username": settings.user,
                "sasl.password": settings.password,
            }
        if settings.ca_file:
            config["ssl.ca.location"] = settings.ca_file
        return config

    def reach(self, client: Any, create: bool = False) -> list[int]:
        """The topic's partitions, once the broker answers."""
        give_up = time.monotonic() + _CONTACT_S
        while True:
            error = None
            try:
                found = client.list_topics(self.topic, timeout=1.0).topics[self.topic]
                if found.error is None:
                    return list(found.partitions)
                error = found.error
            except ck.KafkaException as raised:
                error = raised.args[0]
            client.poll(0.05)
            for seen in (error, *self.errors):
                self.raise_for(seen)
            if error.code() == ck.KafkaError.UNKNOWN_TOPIC_OR_PART:
                self._create_topic(create)
            if time.monotonic() > give_up:
                raise TransientError(
                    f"broker {self.broker} does not answer within {_CONTACT_S:g} s: "
                    f"{self.last_error() or error.str()}"
                )

    def raise_for(self, error: Any) -> None:
        """ConfigError when the error will not go away by itself."""
        if error.code() in _REFUSALS:
            raise ConfigError(
                f"broker {self.broker} refuses user {self.settings.user or '(none)'} on topic "
                f"{self.topic}: {error.str()}"
            )

    def last_error(self) -> str:
        """What the client last complained about."""
        return str(self.errors[-1].str()) if self.errors else ""

    def _create_topic(self, allowed: bool) -> None:
        if not (allowed and self.settings.partitions):
            raise ConfigError(
                f"broker {self.broker} has no topic {self.topic}; create it, or set partitions "
                "in the broker's settings so that it is created"
            )
        topic = NewTopic(self.topic, num_partitions=self.settings.partitions)
        admin = _client(AdminClient, self.config())
        try:
            admin.create_topics([topic], operation_timeout=_CONTACT_S)[self.topic].result(
                _CONTACT_S
            )
        except ck.KafkaException as raised:
            if raised.args[0].code() != ck.KafkaError.TOPIC_ALREADY_EXISTS:
                raise ConfigError(
                    f"broker {self.broker} does not create topic {self.topic}: "
                    f"{raised.args[0].str()}"
                ) from raised


def _offsets(link: _Link, reader: Any, partitions: list[int], which: int) -> dict[int, int]:
    """The first or the next offset of each partition, in one question."""
    # the two logical offsets stand where a time would
    asked = [ck.TopicPartition(link.topic, p, which) for p in partitions]
    give_up = time.monotonic() + _CONTACT_S
    while True:
        try:
            answer = reader.offsets_for_times(asked, timeout=_CONTACT_S)
            errors = [p.error for p in answer if p.error is not None]
        except ck.KafkaException as raised:
            errors = [raised.args[0]]
        if not errors:
            return {p.partition: p.offset for p in answer}
        link.raise_for(errors[0])
        # a topic just made may lack its leader for a moment
        if time.monotonic() > give_up:
            raise TransientError(
                f"broker {link.broker} does not tell the offsets of topic {link.topic}: "
                f"{errors[0].str()}"
            )
        time.sleep(0.1)


def _client(kind: Any, config: dict[str, Any]) -> Any:
    try:
        return kind(config)
    except (ck.KafkaException, ValueError) as error:
        raise ConfigError(f"the broker's settings are unusable: {error}") from error


def _received(message: Any) -> Received:
    return Received(message.partition(), message.offset(), message.key(), message.value())
