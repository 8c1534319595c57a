"""A night of simulated alerts into a topic, visit by visit at the telescope's pace."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.io.avro import alert_id, encode_alerts
from promptdia.pipeline.io.kafka import AlertSender
from promptdia.pipeline.sim.stream_alerts import NightStream


@dataclass(frozen=True, slots=True)
class VisitSent:
    """How a visit of the stream went."""

    index: int
    visit: int
    n_alerts: int
    """Acknowledged by the broker."""
    n_bytes: int
    seconds: float
    """From its first alert to the last acknowledgement."""
    late_s: float
    """How long after its time it began, because the one before took too long."""

    def __str__(self) -> str:
        return (
            f"visit {self.visit}: {self.n_alerts} alerts, {self.n_bytes / 1e6:.0f} MB in "
            f"{self.seconds:.1f} s, {self.n_alerts / self.seconds:.0f} per second, "
            f"{self.late_s:.1f} s late"
        )


def stream_night(
    stream: NightStream,
    sender: AlertSender,
    n_visits: int,
    say: Callable[[VisitSent], None],
    every_s: float | None = None,
    version: str = "11.0",
) -> None:
    """Send the first visits of a night, one every ``every_s`` seconds (the stream's cadence).

    The alerts of a detector are made, handed over and forgotten, and the sender's queue is
    bounded, so memory does not grow with the visit. A visit that takes too long makes the next
    one late; none is left out. Raises as ``AlertSender.send`` does.
    """
    every_s = stream.cadence_s if every_s is None else every_s
    if stream.alerts_per_visit < 1 or n_visits < 1 or not every_s >= 0:
        raise ConfigError(
            f"{n_visits} visits of {stream.alerts_per_visit} alerts every {every_s:g} s cannot be "
            "sent; the numbers must be positive"
        )
    sender.check()
    start = time.monotonic()
    for index in range(n_visits):
        due = start + index * every_s
        time.sleep(max(0.0, due - time.monotonic()))
        began = time.monotonic()
        made = _Messages(stream, index, version)
        delivery = sender.send(made)
        for id_, reason in delivery.refused.items():
            raise ConfigError(f"alert {id_} was refused: {reason}")
        took = time.monotonic() - began
        n = len(delivery.acknowledged)
        say(VisitSent(index, made.visit, n, made.n_bytes, took, began - due))


class _Messages:
    """The messages of a visit, counted while they pass."""

    def __init__(self, stream: NightStream, index: int, version: str) -> None:
        self._stream, self._index, self._version = stream, index, version
        self.visit = self.n_bytes = 0

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for alerts in self._stream.visit(self._index):
            self.visit = int(alerts[0].source["visit"][0])
            for message in encode_alerts(alerts, self._version):
                self.n_bytes += len(message)
                yield alert_id(message), message
