"""Alerts as Avro wire messages, and back.

A wire message is a zero byte, the schema's identifier (major x 100 + minor, four
bytes, big-endian) and the Avro record. Readers decode it by the schema that a
registry gives for the identifier, or by the schemas known here.
"""

import io
import json
import math
import struct
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import chain
from typing import Any, NamedTuple

import fastavro
import numpy as np

from promptdia.apdb.schema.lsst import VERSIONS, avro_schema
from promptdia.pipeline.errors import PromptdiaError
from promptdia.pipeline.io.cutouts import cutout_parts
from promptdia.pipeline.io.records import Encoded, RecordEncoder, long_bytes
from promptdia.tasks.package import Alert

HEADER = struct.Struct(">bI")
_SOME = b"\x02"
_NULL = b"\x00"
_EMPTY = _SOME + b"\x00"
_ARRAY_BYTES = 2 * (len(_SOME) + 10 + 1)
"""At most, of the two histories without their records."""
ENVELOPE_BYTES = 512
"""More than what Kafka adds to a message: key, header, record and batch framing."""
_AT_ONCE = 256
"""Alerts encoded together."""

# What fastavro raises on bytes that are not what the schema says.
DECODING_ERRORS = (
    EOFError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    StopIteration,
    TypeError,
    ValueError,
    struct.error,
)

Schema = dict[str, Any]
SchemaSource = Callable[[int], Schema]


class BadMessage(PromptdiaError):
    """Bytes that are no alert, or not one of the schema they name."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        """One of a few, to count by."""


def schema_id(version: str) -> int:
    """11.0 is 1100, 11.1 is 1101."""
    major, minor = version.split(".")
    return 100 * int(major) + int(minor)


@cache
def canonical_schema(version: str) -> str:
    """The schema in Avro's parsing canonical form, which is what a registry must serve.

    It has no logical types: with them, readers turn the times of ``mpc_orbits`` into
    datetimes that the brokers' code does not expect.
    """
    return str(fastavro.schema.to_parsing_canonical_form(avro_schema(version)))


def bundled_version(identifier: int) -> str:
    """The version of a schema's identifier; BadMessage when it is not one of ours."""
    known = {schema_id(version): version for version in VERSIONS}
    if identifier not in known:
        raise BadMessage(
            "unknown schema",
            f"{identifier}; known are {', '.join(map(str, known))}, others need a registry",
        )
    return known[identifier]


def bundled_schema(identifier: int) -> Schema:
    """The parsed schema of an identifier; BadMessage when it is not one of ours."""
    return _parsed_schema(bundled_version(identifier))


class Packet(NamedTuple):
    """An alert ready to leave."""

    message: bytes
    n_left_out: int
    """Earlier and forced sources that are not in it, because it would have been too large."""


def encode_alerts(
    alerts: Sequence[Alert], version: str = "11.0", look_alike: bool = False
) -> list[bytes]:
    """One wire message per alert, in order, with its whole history; see ``packets``."""
    return [packet.message for packet in packets(alerts, version, look_alike)]


def packets(
    alerts: Sequence[Alert],
    version: str = "11.0",
    look_alike: bool = False,
    max_bytes: float = math.inf,
) -> Iterator[Packet]:
    """One packet per alert, in order; made a few hundred at a time.

    Missing floats are nan and missing identifiers 0 on the wire, as Rubin writes them.
    ``look_alike`` is handed to ``cutout_parts``. What would be larger than ``max_bytes``
    leaves out the oldest of its earlier and forced sources; an alert is never left out, so
    one that is too large without any history keeps its size.
    """
    encoders = _encoders(version)
    header = HEADER.pack(0, schema_id(version))
    for first in range(0, len(alerts), _AT_ONCE):
        yield from _packets(
            alerts[first : first + _AT_ONCE], encoders, header, look_alike, max_bytes
        )


def _packets(
    alerts: Sequence[Alert],
    encoders: dict[str, RecordEncoder],
    header: bytes,
    look_alike: bool,
    max_bytes: float,
) -> Iterator[Packet]:
    records = zip(
        encoders["diaSource"].encode([a.source for a in alerts]),
        encoders["diaSource"].encode([a.prv_sources for a in alerts]),
        encoders["diaForcedSource"].encode([a.prv_forced for a in alerts]),
        encoders["diaObject"].encode([a.object for a in alerts]),
        encoders["ssSource"].encode([a.ss_source for a in alerts]),
        encoders["mpc_orbits"].encode([a.orbit for a in alerts]),
    )
    for alert, (source, prv_sources, prv_forced, object_, ss_source, orbit) in zip(alerts, records):
        before = (
            header,
            long_bytes(alert.id),
            _optional_bytes(alert.observation_reason.encode()),
            _optional_bytes(alert.target_name.encode()),
            source.bytes(),
        )
        after = (
            _optional_record(object_),
            _optional_record(ss_source),
            _optional_record(orbit),
            *chain.from_iterable(map(_cutout, cutout_parts(alert, look_alike))),
        )
        room = max_bytes - sum(map(len, (*before, *after))) - _ARRAY_BYTES
        n_sources, n_forced = _too_old(alert, prv_sources, prv_forced, room)
        # A static object without forced photometry has an empty list of it.
        history = (
            _array(prv_sources, n_sources, no_rows=_NULL),
            _array(prv_forced, n_forced, no_rows=_EMPTY if alert.object.size else _NULL),
        )
        yield Packet(b"".join((*before, *history, *after)), n_sources + n_forced)


def identifier(message: bytes) -> int:
    """The schema a wire message names; BadMessage when it does not start like one."""
    if len(message) < HEADER.size or message[0] != 0:
        raise BadMessage("no alert", f"{len(message)} bytes that do not start as a message does")
    return int(HEADER.unpack_from(message)[1])


def alert_id(message: bytes) -> int:
    """The diaSourceId of a wire message, without decoding the rest."""
    identifier(message)
    try:
        return int(fastavro.schemaless_reader(io.BytesIO(message[5:15]), "long"))
    except DECODING_ERRORS as error:
        raise BadMessage("does not decode", f"{len(message)} bytes end in the id") from error


def decode(message: bytes, schemas: SchemaSource = bundled_schema) -> dict[str, Any]:
    """The alert in a wire message as nested dicts; BadMessage when it does not hold together."""
    schema = schemas(identifier(message))
    stream = io.BytesIO(message[HEADER.size :])
    try:
        alert = fastavro.schemaless_reader(stream, schema)
    except DECODING_ERRORS as error:
        raise BadMessage("does not decode", f"{len(message)} bytes: {error!r}") from error
    left = len(message) - HEADER.size - stream.tell()
    if left:
        raise BadMessage("does not decode", f"{left} of {len(message)} bytes are left over")
    try:
        consistent = alert["diaSourceId"] == alert["diaSource"]["diaSourceId"]
    except (KeyError, TypeError) as error:
        raise BadMessage("no alert", f"schema {identifier(message)} is another") from error
    if not consistent:
        raise BadMessage("contradicts itself", f"alert {alert['diaSourceId']} has another source")
    return dict(alert)


def _too_old(alert: Alert, sources: Encoded, forced: Encoded, room: float) -> tuple[int, int]:
    """How many of the oldest earlier and forced sources must go for the rest to fit."""
    if len(sources.bytes()) + len(forced.bytes()) <= room:
        return 0, 0
    sizes = np.concatenate([np.diff(sources.ends), np.diff(forced.ends)])
    tables = alert.prv_sources, alert.prv_forced
    newest_first = np.argsort(-np.concatenate([t["midpointMjdTai"] for t in tables]), kind="stable")
    n_kept = np.searchsorted(np.cumsum(sizes[newest_first]), room, side="right")
    is_source = newest_first[:n_kept] < tables[0].size
    n_sources = int(is_source.sum())
    return tables[0].size - n_sources, tables[1].size - (int(n_kept) - n_sources)


def _optional_record(record: Encoded) -> bytes:
    return b"".join((_SOME, record.bytes())) if record.size else _NULL


def _optional_bytes(data: bytes) -> bytes:
    return b"".join((_SOME, long_bytes(len(data)), data)) if data else _NULL


def _cutout(parts: list[bytes]) -> list[bytes]:
    return [_SOME, long_bytes(sum(map(len, parts))), *parts]


def _array(records: Encoded, first: int, no_rows: bytes) -> bytes:
    n = records.size - first
    return b"".join((_SOME, long_bytes(n), records.bytes(first), b"\x00")) if n else no_rows


@cache
def _parsed_schema(version: str) -> Schema:
    schema: Schema = fastavro.parse_schema(json.loads(canonical_schema(version)))
    return schema


@cache
def _encoders(version: str) -> dict[str, RecordEncoder]:
    """By short record name."""
    encoders = {}
    for field in avro_schema(version)["fields"]:
        kind = field["type"][1] if isinstance(field["type"], list) else field["type"]
        kind = kind.get("items", kind) if isinstance(kind, dict) else kind
        if isinstance(kind, dict):
            encoders[kind["name"]] = RecordEncoder(kind)
    return encoders
