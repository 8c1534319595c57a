"""Whole alerts as one Parquet table, nested as their Avro record is."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from promptdia.apdb.schema.lsst import avro_schema
from promptdia.pipeline.io.files import whole_file

_PRIMITIVES = {
    "long": pa.int64(),
    "int": pa.int32(),
    "float": pa.float32(),
    "double": pa.float64(),
    "boolean": pa.bool_(),
    "string": pa.string(),
    "bytes": pa.binary(),
}


def write_table(path: Path, groups: Iterable[list[dict[str, Any]]]) -> int:
    """Write decoded alerts, one row group per group; how many. Whole or not at all.

    The columns are those of schema 11.1, which has all that the others have; what an
    alert lacks is null.
    """
    schema = pa.schema(list(_arrow_type(avro_schema("11.1"), {})))
    n = 0
    with whole_file(path) as part, pq.ParquetWriter(part, schema, compression="zstd") as writer:
        for alerts in groups:
            if alerts:
                writer.write_table(pa.Table.from_pylist(alerts, schema))
                n += len(alerts)
    return n


def _arrow_type(kind: Any, records: dict[str, pa.DataType]) -> Any:
    """The Arrow type of an Avro type; ``records`` collects those that have names."""
    match kind:
        case ["null", some]:
            return _arrow_type(some, records)
        case {"type": "record", "name": name, "namespace": namespace, "fields": fields}:
            struct = pa.struct([(f["name"], _arrow_type(f["type"], records)) for f in fields])
            records[f"{namespace}.{name}"] = struct
            return struct
        case {"type": "array", "items": items}:
            return pa.list_(_arrow_type(items, records))
        case {"logicalType": "timestamp-micros"}:
            return pa.timestamp("us", tz="UTC")
    return records[kind] if kind in records else _PRIMITIVES[kind]
