"""Alerts as Avro wire messages, and back.

A wire message is a zero byte, the schema's identifier (major x 100 + minor, four
bytes, big-endian) and the Avro record. Readers decode it by the schema that a
registry gives for the identifier, or by the schemas known here.
"""

import io
import json
import struct
from collections.abc import Callable, Sequence
from functools import cache, partial
from itertools import pairwise
from typing import Any

import fastavro
import numpy as np

from promptdia.apdb.schema.lsst import VERSIONS, avro_schema
from promptdia.pipeline.errors import PromptdiaError
from promptdia.pipeline.io.cutouts import cutouts_fits
from promptdia.pipeline.io.records import Encoded, RecordEncoder, long_bytes
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.package import Alert

HEADER = struct.Struct(">bI")
_SOME = b"\x02"
_NULL = b"\x00"
_EMPTY = _SOME + b"\x00"

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


def encode_alerts(
    alerts: Sequence[Alert], version: str = "11.0", look_alike: bool = False
) -> list[bytes]:
    """One wire message per alert, in order.

    Missing floats are nan and missing identifiers 0 on the wire, as Rubin writes them.
    ``look_alike`` is handed to ``cutouts_fits``.
    """
    if not alerts:
        return []
    encode = partial(_encode, _encoders(version))
    records = zip(
        encode("diaSource", [a.source for a in alerts]),
        encode("diaSource", [a.prv_sources for a in alerts]),
        encode("diaForcedSource", [a.prv_forced for a in alerts]),
        encode("diaObject", [a.object for a in alerts]),
        encode("ssSource", [a.ss_source for a in alerts]),
        encode("mpc_orbits", [a.orbit for a in alerts]),
    )
    header = HEADER.pack(0, schema_id(version))
    return [
        b"".join(
            (
                header,
                long_bytes(alert.id),
                _optional_bytes(alert.observation_reason.encode()),
                _optional_bytes(alert.target_name.encode()),
                source,
                _array(alert.prv_sources.size, prv_sources, no_rows=_NULL),
                # A static object without forced photometry has an empty list of it.
                _array(alert.prv_forced.size, prv_forced, _EMPTY if alert.object.size else _NULL),
                _optional_record(object_),
                _optional_record(ss_source),
                _optional_record(orbit),
                *map(_optional_bytes, cutouts_fits(alert, look_alike)),
            )
        )
        for alert, (source, prv_sources, prv_forced, object_, ss_source, orbit) in zip(
            alerts, records
        )
    ]


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


def _encode(encoders: dict[str, RecordEncoder], record: str, tables: list[Catalog]) -> list[bytes]:
    """The records of each table, all encoded in one go."""
    ends = np.cumsum([0, *(table.size for table in tables)])
    encoded: Encoded = encoders[record].encode(np.concatenate(tables, dtype=tables[0].dtype))
    return [encoded.rows(a, b) for a, b in pairwise(ends)]


def _optional_record(record: bytes) -> bytes:
    return _SOME + record if record else _NULL


def _optional_bytes(data: bytes) -> bytes:
    return b"".join((_SOME, long_bytes(len(data)), data)) if data else _NULL


def _array(n: int, records: bytes, no_rows: bytes) -> bytes:
    return b"".join((_SOME, long_bytes(n), records, b"\x00")) if n else no_rows


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
