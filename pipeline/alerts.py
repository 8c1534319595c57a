"""What ``promptdia alerts`` does with the alerts of a repository: list, show, export, send."""

import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from promptdia.apdb.errors import ApdbError
from promptdia.apdb.ids import unpack
from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.io.alert_files import read_container, read_messages, write_container
from promptdia.pipeline.io.alert_table import write_table
from promptdia.pipeline.io.avro import alert_id, decode
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings, Delivery

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
    messages: Iterable[tuple[int, bytes]], broker: str, topic: str, settings: BrokerSettings
) -> Delivery:
    """Send alerts, as fast as they come; raises as ``AlertSender.send`` does."""
    sender = AlertSender(broker, topic, settings)
    try:
        return sender.send(messages)
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


def as_taken(messages: Iterable[tuple[int, bytes]], speed: float) -> Iterator[tuple[int, bytes]]:
    """The same items with the pauses that lay between their exposures, ``speed`` times as fast."""
    if not speed > 0:
        raise ConfigError(f"speed is {speed} times real time, must be positive")
    start = time.monotonic()
    first = None
    for id_, message in messages:
        taken = float(decode(message)["diaSource"]["midpointMjdTai"]) * 86400
        first = taken if first is None else first
        time.sleep(max(0.0, start + (taken - first) / speed - time.monotonic()))
        yield id_, message


def _is_known(value: Any) -> bool:
    return value is not None and value == value


def _format(value: Any, style: str) -> str:
    return format(value, style) if _is_known(value) else ""
