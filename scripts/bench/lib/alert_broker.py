"""A broker to send alerts to that can be taken away for a while."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from promptdia.pipeline.broker import EmbeddedBroker

_SCRIPT = Path(__file__).parents[2] / "kafka"


class Broker(Protocol):
    """What the benchmark asks of a broker."""

    name: str
    url: str

    def stop(self) -> None:
        """Take it away; its topics stay."""
        ...

    def start(self) -> None:
        """Bring it back under the same address."""
        ...


class Kafka(NamedTuple):
    """An Apache Kafka of the benchmark's own."""

    url: str
    environment: dict[str, str]
    name: str = "Apache Kafka"

    def stop(self) -> None:
        self.run("down")

    def start(self) -> None:
        self.run("up", self.url.rsplit(":", 1)[1])

    def run(self, *command: str) -> str:
        return _kafka(self.environment, *command)


class Embedded(NamedTuple):
    """The broker inside this process."""

    url: str
    broker: EmbeddedBroker
    name: str = "embedded broker"

    def stop(self) -> None:
        self.broker.stop_answering()

    def start(self) -> None:
        self.broker.answer_again()


@contextmanager
def kafka(folder: Path) -> Iterator[Broker]:
    """Apache Kafka with its data in ``folder``; CalledProcessError when it cannot be had."""
    environment = {**os.environ, "PROMPTDIA_KAFKA_DIR": str(folder)}
    server = Kafka(_kafka(environment, "up").strip(), environment)
    try:
        yield server
    finally:
        server.run("wipe")


@contextmanager
def embedded(topics: Sequence[str]) -> Iterator[Broker]:
    """The broker that promptdia brings along, with its topics."""
    with EmbeddedBroker(topics) as broker:
        yield Embedded(broker.url, broker)


def _kafka(environment: dict[str, str], *command: str) -> str:
    # to a file, because the server inherits what the script writes to
    done = subprocess.run(
        [str(_SCRIPT), *command], env=environment, check=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return done.stdout
