"""The tables of LSST alerts, and the Avro and Parquet schemas made from them."""

from importlib.resources import files
from typing import TYPE_CHECKING, Any

import yaml

from promptdia.apdb.errors import ApdbError
from promptdia.apdb.schema.table import Column, TableSchema

if TYPE_CHECKING:
    import pyarrow as pa

BANDS = "ugrizy"
VERSIONS = ("10.0", "11.0", "11.1")
"""Alert schema versions that can be written."""


def _columns(rows: list[Any]) -> tuple[Column, ...]:
    columns: list[Column] = []
    for row in rows:
        if isinstance(row, dict):
            for band in BANDS:
                columns += _columns([[text.format(b=band) for text in r] for r in row["bands"]])
        else:
            name, kind, unit, description = row
            columns.append(
                Column(name, kind.rstrip("!"), unit, description, nullable=not kind.endswith("!"))
            )
    return tuple(columns)


def _load() -> dict[str, TableSchema]:
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    text = files(__package__).joinpath("lsst.yaml").read_text(encoding="utf-8")
    tables = yaml.load(text, loader)
    return {name: TableSchema(name, _columns(rows)) for name, rows in tables.items()}


_TABLES = _load()
DIA_SOURCE = _TABLES["DiaSource"]
DIA_FORCED_SOURCE = _TABLES["DiaForcedSource"]
DIA_OBJECT = _TABLES["DiaObject"]
SS_SOURCE = _TABLES["SSSource"]
SS_OBJECT = _TABLES["SSObject"]
MPC_ORBITS = _TABLES["mpc_orbits"]
VISIT_DETECTOR = _TABLES["VisitDetector"]
"""What became of each detector of each visit, where it lay and how good it was."""
_PREDICTED = """ssObjectId designation elongation phaseAngle topoRange topoRangeRate helioRange
    helioRangeRate ephVmag ephRate ephRateRa ephRateDec helio_x helio_y helio_z helio_vx helio_vy
    helio_vz topo_x topo_y topo_z topo_vx topo_vy topo_vz"""
_PREDICTED_AT = tuple(
    Column(name, "double", "deg", "ICRS, predicted for the middle of the visit", nullable=False)
    for name in ("ra", "dec")
)
EPHEMERIS = TableSchema(
    "Ephemeris", tuple(SS_SOURCE[name] for name in _PREDICTED.split()) + _PREDICTED_AT
)
"""Where a known Solar System object is at the time of a visit, and what else is predicted."""
REJECTED = TableSchema("Rejected", DIA_SOURCE.columns + _TABLES["Rule"].columns)
"""A detection that was not alerted, and the rule that stopped it."""

_SINCE_11_1 = {"exposureTime", "trailAlgorithm", "trail_flag", "reliabilityVersion"}
_COUNTS = {"psfNdata", "trailNdata", "dipoleNdata", "bboxSize"} | {
    f"{band}_psfFluxNdata" for band in BANDS
}


def alert_columns(table: TableSchema, version: str) -> tuple[Column, ...]:
    """The columns of ``table`` that an alert of schema ``version`` carries, in order."""
    if version not in VERSIONS:
        raise ApdbError(f"alert schema version is {version}, must be one of {', '.join(VERSIONS)}")
    left_out = _SINCE_11_1 if version != "11.1" else set()
    return tuple(c for c in table.columns if c.name not in left_out)


def avro_schema(version: str = "11.0") -> dict[str, Any]:
    """The alert record of LSST schema ``version``, all records nested, not yet parsed.

    Same names, types, nullability and order as the public schema; descriptions are ours.
    """
    namespace = f"lsst.v{version.replace('.', '_')}"

    def record(name: str, table: TableSchema) -> dict[str, Any]:
        columns = alert_columns(table, version)
        fields = [_avro_field(c, c.nullable or _nullable_count(c, version)) for c in columns]
        return {"type": "record", "name": name, "namespace": namespace, "fields": fields}

    source = f"{namespace}.diaSource"
    return {
        "type": "record",
        "name": "alert",
        "namespace": namespace,
        "doc": f"One detection on a difference image, as LSST alert schema {version}",
        "fields": [
            {"name": "diaSourceId", "type": "long", "doc": "identifier of the source alerted"},
            _optional("observation_reason", "string", "why the scheduler took the visit"),
            _optional("target_name", "string", "what the scheduler pointed at"),
            {"name": "diaSource", "type": record("diaSource", DIA_SOURCE), "doc": "the source"},
            _optional("prvDiaSources", _array(source), "earlier sources of the object"),
            _optional(
                "prvDiaForcedSources",
                _array(record("diaForcedSource", DIA_FORCED_SOURCE)),
                "forced photometry of the object",
            ),
            _optional("diaObject", record("diaObject", DIA_OBJECT), "the object"),
            _optional("ssSource", record("ssSource", SS_SOURCE), "Solar System circumstances"),
            _optional("mpc_orbits", record("mpc_orbits", MPC_ORBITS), "orbit of the object"),
            _optional("cutoutDifference", "bytes", "FITS stamp of the difference"),
            _optional("cutoutScience", "bytes", "FITS stamp of the visit"),
            _optional("cutoutTemplate", "bytes", "FITS stamp of the template"),
        ],
    }


def arrow_schema(table: TableSchema) -> "pa.Schema":
    """Parquet columns of ``table``; unit and description stand in each field's metadata."""
    import pyarrow as pa

    return pa.schema(
        [
            pa.field(
                column.name,
                pa.string() if column.dtype.kind == "U" else pa.from_numpy_dtype(column.dtype),
                nullable=column.nullable,
                metadata={"unit": column.unit, "description": column.description},
            )
            for column in table.columns
        ],
        metadata={"table": table.name},
    )


def _nullable_count(column: Column, version: str) -> bool:
    return version == "10.0" and column.name in _COUNTS


def _avro_field(column: Column, nullable: bool) -> dict[str, Any]:
    doc = f"{column.description} [{column.unit}]" if column.unit else column.description
    if nullable:
        return _optional(column.name, _avro_type(column), doc)
    return {"name": column.name, "type": _avro_type(column), "doc": doc}


def _avro_type(column: Column) -> Any:
    if column.kind == "timestamp":
        return {"type": "long", "logicalType": "timestamp-micros"}
    return "string" if column.dtype.kind == "U" else column.kind


def _optional(name: str, kind: Any, doc: str) -> dict[str, Any]:
    return {"name": name, "type": ["null", kind], "default": None, "doc": doc}


def _array(items: Any) -> dict[str, Any]:
    return {"type": "array", "items": items}
