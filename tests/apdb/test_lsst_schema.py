"""The one schema definition against the public LSST alert schemas."""

import json
from importlib.resources import files
from typing import Any

import fastavro
import numpy as np
import pytest
from fastavro.schema import load_schema, to_parsing_canonical_form

from promptdia.apdb.errors import ApdbError
from promptdia.apdb.schema.lsst import (
    DIA_FORCED_SOURCE,
    DIA_OBJECT,
    DIA_SOURCE,
    MPC_ORBITS,
    REJECTED,
    SS_OBJECT,
    SS_SOURCE,
    VERSIONS,
    VISIT_DETECTOR,
    arrow_schema,
    avro_schema,
)

TABLES = (DIA_SOURCE, DIA_FORCED_SOURCE, DIA_OBJECT, SS_SOURCE, MPC_ORBITS)
OTHERS = (SS_OBJECT, VISIT_DETECTOR, REJECTED)


def public_file(version: str, record: str) -> Any:
    """Path of one public schema file, as lsst-alert-packet ships it."""
    major, minor = version.split(".")
    folder = files("lsst.alert.packet") / "schema" / major / minor
    return folder / f"lsst.v{major}_{minor}.{record}.avsc"


def bare(field: dict[str, Any]) -> tuple[Any, ...]:
    """Name, type and default of a field, without its words."""
    kind = field["type"]
    return field["name"], json.dumps(kind, sort_keys=True), "default" in field, field.get("default")


def nested_records(schema: Any) -> dict[str, dict[str, Any]]:
    """Every record defined inside ``schema``, by name."""
    if isinstance(schema, list):
        return {k: v for part in schema for k, v in nested_records(part).items()}
    if not isinstance(schema, dict):
        return {}
    if schema.get("type") == "array":
        return nested_records(schema["items"])
    if schema.get("type") != "record":
        return {}
    inner = [nested_records(field["type"]) for field in schema["fields"]]
    return {schema["name"]: schema} | {k: v for part in inner for k, v in part.items()}


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    "record", ["diaSource", "diaForcedSource", "diaObject", "ssSource", "mpc_orbits"]
)
def test_fields_are_those_of_the_public_schema_in_the_same_order(version: str, record: str) -> None:
    public = json.loads(public_file(version, record).read_text())
    ours = nested_records(avro_schema(version))[record]
    assert ours["namespace"] == public["namespace"]
    assert [bare(f) for f in ours["fields"]] == [bare(f) for f in public["fields"]]


@pytest.mark.parametrize("version", ["11.0", "11.1"])
def test_the_solar_system_object_that_no_alert_carries_has_the_public_fields(version: str) -> None:
    public = json.loads(public_file(version, "ssObject").read_text())
    expected = [
        (f["name"], f["type"][1] if isinstance(f["type"], list) else f["type"],
         isinstance(f["type"], list))
        for f in public["fields"]
    ]  # fmt: skip
    ours = [
        (c.name, "string" if c.dtype.kind == "U" else c.kind, c.nullable) for c in SS_OBJECT.columns
    ]
    assert ours == expected


@pytest.mark.parametrize("version", VERSIONS)
def test_the_alert_has_the_canonical_form_of_the_public_schema(version: str) -> None:
    public = load_schema(str(public_file(version, "alert")))
    assert to_parsing_canonical_form(avro_schema(version)) == to_parsing_canonical_form(public)


@pytest.mark.parametrize("version", VERSIONS)
def test_our_schema_parses_and_defaults_are_null_first(version: str) -> None:
    parsed = fastavro.parse_schema(avro_schema(version))
    assert parsed["name"] == f"lsst.v{version.replace('.', '_')}.alert"


def test_an_unknown_version_is_refused_by_name() -> None:
    with pytest.raises(ApdbError, match=r"9\.9, must be one of 10\.0, 11\.0, 11\.1"):
        avro_schema("9.9")


def test_the_sizes_are_those_of_schema_11_1() -> None:
    assert [len(t.columns) for t in TABLES] == [102, 14, 82, 39, 53]
    assert len(SS_OBJECT.columns) == 80
    assert [c.name for c in REJECTED.columns[102:]] == ["rule", "rule_value", "rule_limit"]


@pytest.mark.parametrize("table", [*TABLES, *OTHERS], ids=lambda t: t.name)
def test_every_column_is_described_once(table: Any) -> None:
    names = [c.name for c in table.columns]
    assert len(set(names)) == len(names)
    assert all(len(c.description) > 4 and "{" not in c.description for c in table.columns)


def test_our_descriptions_are_our_own() -> None:
    public = {
        f["doc"].split(" [")[0].strip(" .").lower()
        for record in (
            "diaSource",
            "diaForcedSource",
            "diaObject",
            "ssSource",
            "ssObject",
            "mpc_orbits",
        )
        for f in json.loads(public_file("11.1", record).read_text())["fields"]
    }
    short = {"inclination", "eccentricity", "mean anomaly", "orbital period"}  # just the names
    ours = {c.description.lower() for t in (*TABLES, SS_OBJECT) for c in t.columns}
    assert ours & public <= short


@pytest.mark.parametrize("table", [*TABLES, *OTHERS], ids=lambda t: t.name)
def test_parquet_columns_carry_unit_and_description(table: Any) -> None:
    schema = arrow_schema(table)
    assert schema.names == [c.name for c in table.columns]
    for column in table.columns:
        field = schema.field(column.name)
        assert field.nullable == column.nullable
        assert field.metadata[b"unit"].decode() == column.unit
        assert field.metadata[b"description"].decode() == column.description


def test_an_empty_row_knows_nothing() -> None:
    row = DIA_SOURCE.empty(1)
    assert np.isnan(row["psfFlux"][0])
    assert row["diaObjectId"][0] == 0
    assert row["band"][0] == ""
