"""What ``promptdia alerts`` does: list, show, export, send and listen."""

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from promptdia.apdb.errors import ApdbError
from promptdia.apdb.ids import unpack
from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.io.alert_files import read_container, read_messages, write_container
from promptdia.pipeline.io.alert_table import write_table
from promptdia.pipeline.io.avro import (
    BadMessage,
    SchemaSource,
    alert_id,
    bundled_schema,
    decode,
    identifier,
)
from promptdia.pipeline.io.kafka import (
    AlertSender,
    BrokerSettings,
    Delivery,
    Received,
    follow_topic,
)

Packet = dict[str, Any]
"""A decoded alert, or a line about one."""
_COLUMNS = {
    "diaSourceId": "d",
    "visit": "d",
    "detector": "d",
    "band": "s",
    "ra": ".5f",
    "dec": ".5f",
    "psfFlux": ".0f",
    "psfFluxErr": ".0f",
    "snr": ".1f",
    "reliability": ".2f",
}


def alert_files(root: Path, visit: int | None = None) -> list[Path]:
    """The files of a repository's alerts, by visit and detector."""
    found = (root / "alerts").glob(f"{visit or '*'}/*.avro")
    return sorted(found, key=lambda path: (int(path.parent.name), int(path.stem)))


def list_alerts(root: Path, visit: int | None = None) -> Iterator[Packet]:
    """One line of facts for each alert kept: its main columns, its object, its history."""
    for path in alert_files(root, visit):
        for alert in read_container(path):
            yield summary(alert)


def summary(alert: Packet) -> Packet:
    """The facts of an alert that fit a line."""
    source = alert["diaSource"]
    return {
        **{name: source.get(name) for name in _COLUMNS},
        "object": source.get("diaObjectId") or source.get("ssObjectId"),
        "history": len(alert.get("prvDiaSources") or ()),
    }


def table(lines: Iterable[Packet], title: str | None = None) -> Table:
    """Summaries as a table for people."""
    result = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for name in (*_COLUMNS, "object", "history"):
        result.add_column(name, justify="left" if name == "band" else "right", no_wrap=True)
    for line in lines:
        result.add_row(
            *(Text(_format(line[name], style)) for name, style in _COLUMNS.items()),
            str(line["object"]),
            str(line["history"]),
        )
    return result


def find_alert(root: Path, id_: int) -> Packet:
    """The alert of a diaSourceId; ConfigError when the repository does not keep it."""
    try:
        made = unpack(id_)
    except ApdbError as error:
        raise ConfigError(str(error)) from error
    path = root / "alerts" / str(made.visit) / f"{made.detector}.avro"
    if path.exists():
        for alert in read_container(path):
            if alert["diaSourceId"] == id_:
                return alert
    raise ConfigError(
        f"{root} keeps no alert {id_} (visit {made.visit}, detector {made.detector}); "
        "promptdia explain says what became of a detection"
    )


def describe(alert: Packet) -> Iterator[str]:
    """The fields of an alert, a line each; what is unknown is left out."""
    for name, value in alert.items():
        if isinstance(value, dict):
            yield f"{name}:"
            for column, number in value.items():
                if _is_known(number):
                    yield f"  {column:<32} {number}"
        elif isinstance(value, list):
            yield f"{name + ':':<34} {len(value)} rows"
        elif isinstance(value, bytes):
            yield f"{name + ':':<34} {len(value)} bytes of FITS"
        elif value is not None:
            yield f"{name + ':':<34} {value}"


def show_alert(root: Path, id_: int, png: Path) -> Iterator[str]:
    """Draw an alert's triplet and light curve to ``png`` and give its description."""
    from promptdia.pipeline.report.triplets import draw_alert

    alert = find_alert(root, id_)
    draw_alert(alert, png)
    return describe(alert)


def export_alerts(root: Path, destination: Path) -> int:
    """Write all alerts as one Parquet table, or as one Avro file each into a folder; how many.

    ``destination`` ending in .parquet makes the table, whose columns are nested as the
    alert is.
    """
    if destination.suffix == ".parquet":
        return write_table(destination, (list(read_container(p)) for p in alert_files(root)))
    if destination.suffix or destination.is_file():
        raise ConfigError(f"{destination} must end in .parquet or be a folder")
    n = 0
    for id_, message in stored_messages(root):
        write_container(destination / f"{id_}.avro", [message])
        n += 1
    return n


def stored_messages(root: Path, visit: int | None = None) -> Iterator[tuple[int, bytes]]:
    """(diaSourceId, wire message) of every alert kept, by visit, detector and place."""
    for path in alert_files(root, visit):
        for message in read_messages(path):
            yield alert_id(message), message


def send_alerts(
    messages: Iterable[tuple[int, bytes]],
    broker: str,
    topic: str,
    settings: BrokerSettings,
    rate: float | None = None,
) -> Delivery:
    """Send alerts, at most ``rate`` per second; raises as ``AlertSender.send`` does."""
    sender = AlertSender(broker, topic, settings)
    try:
        return sender.send(messages if rate is None else paced(messages, rate))
    finally:
        sender.close()


def paced(messages: Iterable[tuple[int, bytes]], rate: float) -> Iterator[tuple[int, bytes]]:
    """The same items, ``rate`` per second; ConfigError when the rate is not positive."""
    if not rate > 0:
        raise ConfigError(f"rate is {rate} alerts per second, must be positive")
    start = time.monotonic()
    for n, message in enumerate(messages):
        time.sleep(max(0.0, start + n / rate - time.monotonic()))
        yield message


@dataclass
class Heard:
    """What a listener has got so far."""

    n_alerts: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """Messages that were no alerts, by what was wrong."""
    latest: deque[Packet] = field(default_factory=lambda: deque(maxlen=15))
    """Summaries, the newest last."""

    @property
    def n_errors(self) -> int:
        """Messages that were no alerts."""
        return self.errors.total()

    def table(self) -> Table:
        """For a terminal that is refreshed."""
        return table(self.latest, f"{self.n_alerts} alerts, {self.n_errors} unreadable messages")


def listen(
    broker: str,
    topic: str,
    group: str,
    settings: BrokerSettings,
    schemas: SchemaSource = bundled_schema,
    archive: Path | None = None,
    idle_s: float = float("inf"),
    on_batch: Callable[[Heard], None] = lambda _: None,
) -> Heard:
    """Read a topic, keep its alerts in ``archive``, until none came for ``idle_s``.

    A message that is no alert is counted, never fatal. Messages are committed for the
    group after they are in the archive, so none is lost; after a crash some may come
    again, into a file of the same name. ``on_batch`` is called after every batch.
    """
    heard = Heard()
    for batch in follow_topic(broker, topic, group, settings, idle_s):
        good = []
        for received in batch:
            try:
                alert = decode(received.value, schemas)
                heard.latest.append(summary(alert))
            except BadMessage as error:
                heard.errors[error.kind] += 1
                continue
            heard.n_alerts += 1
            good.append(received)
        if archive is not None:
            _archive(archive, good, schemas)
        on_batch(heard)
    return heard


def _archive(folder: Path, batch: list[Received], schemas: SchemaSource) -> None:
    """One file per schema, named after the first message in it."""
    by_schema: dict[int, list[Received]] = {}
    for received in batch:
        by_schema.setdefault(identifier(received.value), []).append(received)
    for id_, members in by_schema.items():
        name = f"{members[0].partition:04d}-{members[0].offset:012d}.avro"
        write_container(folder / name, [m.value for m in members], schemas(id_))


def _is_known(value: Any) -> bool:
    return value is not None and value == value


def _format(value: Any, style: str) -> str:
    return format(value, style) if _is_known(value) else ""
