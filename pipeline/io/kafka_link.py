"""The way to a Kafka broker: settings, a client that has reached its topic, clear refusals."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import confluent_kafka as ck
from confluent_kafka.admin import AdminClient, NewTopic

from promptdia.pipeline.errors import ConfigError, TransientError

USER_VARIABLE = "PROMPTDIA_KAFKA_USER"
PASSWORD_VARIABLE = "PROMPTDIA_KAFKA_PASSWORD"
_VARIABLES = {
    "PROMPTDIA_KAFKA_SECURITY": "security",
    "PROMPTDIA_KAFKA_MECHANISM": "mechanism",
    "PROMPTDIA_KAFKA_CA_FILE": "ca_file",
    USER_VARIABLE: "user",
    PASSWORD_VARIABLE: "password",
}
"""What the environment sets, and the field it goes to."""
_CONTACT_S = 10.0
_REFUSALS = {
    ck.KafkaError.TOPIC_AUTHORIZATION_FAILED,
    ck.KafkaError.CLUSTER_AUTHORIZATION_FAILED,
    ck.KafkaError.GROUP_AUTHORIZATION_FAILED,
    ck.KafkaError.SASL_AUTHENTICATION_FAILED,
    ck.KafkaError._AUTHENTICATION,
    ck.KafkaError._SSL,
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
        """With what PROMPTDIA_KAFKA_USER, _PASSWORD, _SECURITY, _MECHANISM and _CA_FILE say."""
        found: dict[str, Any] = {
            field: environ[name] for name, field in _VARIABLES.items() if environ.get(name)
        }
        return replace(self, **found)


class Link:
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
                    f"{self.last_error() or error.str()} (asked with {self.settings.security})"
                )

    def raise_for(self, error: Any) -> None:
        """ConfigError when the error will not go away by itself."""
        if error.code() == ck.KafkaError._SSL and "verif" in error.str():
            raise ConfigError(
                f"the certificate of broker {self.broker} is not trusted by ca_file "
                f"{self.settings.ca_file or '(the system)'}: {error.str()}"
            )
        if error.code() in _REFUSALS:
            raise ConfigError(
                f"broker {self.broker} refuses user {self.settings.user or '(none)'} on topic "
                f"{self.topic}: {error.str()}"
            )

    def last_error(self) -> str:
        """What the client last complained about, beyond that nobody answers."""
        said = [e for e in self.errors if e.code() != ck.KafkaError._ALL_BROKERS_DOWN]
        return str((said or self.errors)[-1].str()) if self.errors else ""

    def _create_topic(self, allowed: bool) -> None:
        if not (allowed and self.settings.partitions):
            raise ConfigError(
                f"broker {self.broker} has no topic {self.topic}; create it, or set partitions "
                "in the broker's settings so that it is created"
            )
        topic = NewTopic(self.topic, num_partitions=self.settings.partitions)
        admin = new_client(AdminClient, self.config())
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


def offsets(link: Link, reader: Any, partitions: list[int], which: int) -> dict[int, int]:
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


def new_client(kind: Any, config: dict[str, Any]) -> Any:
    try:
        return kind(config)
    except (ck.KafkaException, ValueError) as error:
        raise ConfigError(f"the broker's settings are unusable: {error}") from error
