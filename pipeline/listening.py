"""Listening to alerts: from topics to an archive, a filter, a callback, a table.

In a program of your own::

    for alert in follow_alerts("127.0.0.1:9092", ["lsst-alerts"], "my-group"):
        print(alert["diaSourceId"], alert["diaSource"]["snr"])

or, with filter, archive and the count of what was unreadable, ``listen``.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from promptdia.pipeline.alert_filter import Keep
from promptdia.pipeline.alerts import summary, table
from promptdia.pipeline.io.alert_files import write_container
from promptdia.pipeline.io.alert_table import write_table
from promptdia.pipeline.io.avro import BadMessage, SchemaSource, bundled_schema, decode, identifier
from promptdia.pipeline.io.kafka import BrokerSettings, Received, follow_topics

Packet = dict[str, Any]
"""A decoded alert."""
_FOREVER = float("inf")


@dataclass
class Heard:
    """What a listener has got so far."""

    n_alerts: int = 0
    n_kept: int = 0
    """Alerts that the filter let through; all, without one."""
    errors: Counter[str] = field(default_factory=Counter)
    """Messages that were no alerts, by what was wrong; and what the filter raised."""
    latest: deque[Packet] = field(default_factory=lambda: deque(maxlen=15))
    """Summaries of alerts kept, the newest last."""

    @property
    def n_errors(self) -> int:
        """Messages that were no alerts, and alerts that the filter failed on."""
        return self.errors.total()

    def __str__(self) -> str:
        kept = f", {self.n_kept} kept" if self.n_kept != self.n_alerts else ""
        return f"{self.n_alerts} alerts{kept}, {self.n_errors} unreadable messages"

    def table(self) -> Table:
        """For a terminal that is refreshed."""
        return table(self.latest, str(self))


@dataclass(frozen=True, slots=True)
class Archive:
    """A folder that keeps alerts, a file for each topic and schema of a batch.

    A file is named after the topic, partition and offset of its first message, and is
    written whole. What comes again after a crash replaces its file or leaves alerts twice,
    as the batches fall.
    """

    folder: Path
    form: Literal["avro", "parquet"] = "avro"

    def add(self, batch: Sequence[tuple[Received, Packet]], schemas: SchemaSource) -> None:
        """Keep the alerts of a batch."""
        files: dict[tuple[str, int], list[tuple[Received, Packet]]] = {}
        for received, alert in batch:
            key = received.topic, identifier(received.value)
            files.setdefault(key, []).append((received, alert))
        for (_, id_), members in files.items():
            first = members[0][0]
            name = f"{first.topic}-{first.partition:04d}-{first.offset:012d}.{self.form}"
            if self.form == "parquet":
                write_table(self.folder / name, [[alert for _, alert in members]])
            else:
                messages = [received.value for received, _ in members]
                write_container(self.folder / name, messages, schemas(id_))


def follow_alerts(
    broker: str,
    topics: Sequence[str],
    group: str,
    settings: BrokerSettings | None = None,
    schemas: SchemaSource = bundled_schema,
    idle_s: float = _FOREVER,
    heard: Heard | None = None,
) -> Iterator[Packet]:
    """The alerts of the topics as they come, until none came for ``idle_s``.

    The group goes on where it stopped: a batch counts as read once its last alert was taken
    and the next one is asked for. Messages that are no alerts are counted in ``heard``.
    """
    heard = Heard() if heard is None else heard
    for batch in follow_topics(broker, topics, group, settings or BrokerSettings(), idle_s):
        for _, alert in _decoded(batch, schemas, heard):
            yield alert


def listen(
    broker: str,
    topics: Sequence[str],
    group: str,
    settings: BrokerSettings,
    schemas: SchemaSource = bundled_schema,
    archive: Archive | None = None,
    keep: Keep | None = None,
    on_alert: Callable[[Packet], object] | None = None,
    on_batch: Callable[[Heard], None] = lambda _: None,
    idle_s: float = _FOREVER,
) -> Heard:
    """Read topics and hand on what ``keep`` lets through, until nothing came for ``idle_s``.

    A message that is no alert is counted, never fatal. A batch counts as read for the group
    after its alerts are in the archive and ``on_alert`` was called with each, so none is
    lost; after a crash some may come again. ``on_batch`` is called after every batch.
    """
    heard = Heard()
    for batch in follow_topics(broker, topics, group, settings, idle_s):
        good = _decoded(batch, schemas, heard)
        if keep is not None:
            good = _kept(good, keep, heard)
        heard.n_kept += len(good)
        heard.latest.extend(summary(alert) for _, alert in good[-15:])
        if archive is not None:
            archive.add(good, schemas)
        if on_alert is not None:
            for _, alert in good:
                on_alert(alert)
        on_batch(heard)
    return heard


def _decoded(
    batch: Sequence[Received], schemas: SchemaSource, heard: Heard
) -> list[tuple[Received, Packet]]:
    good = []
    for received in batch:
        try:
            good.append((received, decode(received.value, schemas)))
        except BadMessage as error:
            heard.errors[error.kind] += 1
    heard.n_alerts += len(good)
    return good


def _kept(
    batch: list[tuple[Received, Packet]], keep: Keep, heard: Heard
) -> list[tuple[Received, Packet]]:
    answers = keep([alert for _, alert in batch])
    heard.errors.update(answer for answer in answers if isinstance(answer, str))
    return [member for member, answer in zip(batch, answers) if answer is True]
