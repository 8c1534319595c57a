"""Alerts in Avro object container files, schema included."""

import hashlib
import io
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fastavro

from promptdia.apdb.schema.lsst import avro_schema
from promptdia.pipeline.errors import InputError
from promptdia.pipeline.io.avro import (
    DECODING_ERRORS,
    HEADER,
    Schema,
    bundled_version,
    identifier,
    schema_id,
)
from promptdia.pipeline.io.files import whole_file
from promptdia.pipeline.io.records import long_bytes


def write_container(path: Path, messages: Sequence[bytes], schema: Schema | None = None) -> None:
    """Wire messages of one schema as an Avro object container; whole or not at all.

    The file carries the schema: the one given, or else ours of the messages' identifier.
    Each alert is a block of its own, so that ``read_messages`` need not decode it.
    """
    identifiers = {identifier(message) for message in messages} or {schema_id("11.0")}
    if len(identifiers) > 1:
        raise ValueError(f"messages of schemas {sorted(identifiers)} cannot share a file")
    text = json.dumps(schema or avro_schema(bundled_version(identifiers.pop()))).encode()
    # Between blocks Avro wants 16 bytes that do not occur by chance; hashed, not drawn,
    # so that the same alerts give the same file.
    marker = hashlib.blake2b(text + b"".join(messages[:1]), digest_size=16).digest()
    with whole_file(path) as part, part.open("wb") as file:
        file.write(b"Obj\x01" + long_bytes(2))
        for key, value in ((b"avro.schema", text), (b"avro.codec", b"null")):
            file.write(long_bytes(len(key)) + key + long_bytes(len(value)) + value)
        file.write(b"\x00" + marker)
        for message in messages:
            record = memoryview(message)[HEADER.size :]
            file.writelines((long_bytes(1), long_bytes(len(record)), record, marker))


def read_container(path: Path) -> Iterator[dict[str, Any]]:
    """The alerts of a container file one by one, whoever wrote it.

    Only the fields of an alert are kept, and a record of nothing but nulls, which
    Spark writes for a missing one, becomes None.
    """
    try:
        with path.open("rb") as file:
            for alert in fastavro.reader(file):
                yield _tidy(alert, path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, *DECODING_ERRORS) as error:
        raise InputError(f"{path} is not a whole Avro file of alerts: {error!r}") from error


def read_messages(path: Path) -> Iterator[bytes]:
    """The alerts of a container file as the wire messages they were, or would be."""
    try:
        with path.open("rb") as file:
            blocks = fastavro.block_reader(file)
            header = HEADER.pack(0, _identifier_of(str(blocks.writer_schema["name"]), path))
            for block in blocks:
                for record in _split(block, blocks.writer_schema):
                    yield header + record
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, *DECODING_ERRORS) as error:
        raise InputError(f"{path} is not a whole Avro file of alerts: {error!r}") from error


def _split(block: Any, schema: Any) -> Iterator[bytes]:
    data = block.bytes_.getvalue()
    if block.num_records == 1:
        yield data
        return
    stream, start = io.BytesIO(data), 0
    for _ in range(block.num_records):
        fastavro.schemaless_reader(stream, schema)
        yield data[start : stream.tell()]
        start = stream.tell()


def _identifier_of(name: str, path: Path) -> int:
    version = re.fullmatch(r"lsst\.v(\d+)_(\d+)\.alert", name)
    if version is None:
        raise InputError(f"{path} holds records {name}, no LSST alerts as they were sent")
    return schema_id(".".join(version.groups()))


def _tidy(record: Any, path: Path) -> dict[str, Any]:
    if "diaSourceId" not in record or "diaSource" not in record:
        raise InputError(f"{path} holds records that are no LSST alerts")
    alert = {field["name"]: record.get(field["name"]) for field in avro_schema()["fields"]}
    for name, value in alert.items():
        if isinstance(value, dict) and all(v is None for v in value.values()):
            alert[name] = None
    return alert
