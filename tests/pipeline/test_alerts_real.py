"""Seven alerts that the Rubin Observatory sent, taken apart and put together again."""

import io
from typing import Any

import fastavro
import numpy as np
import pytest
from support.data import data_dir

from promptdia.apdb.schema.lsst import (
    DIA_FORCED_SOURCE,
    DIA_OBJECT,
    DIA_SOURCE,
    MPC_ORBITS,
    SS_SOURCE,
)
from promptdia.apdb.schema.table import TableSchema
from promptdia.pipeline.io.alert_files import read_container
from promptdia.pipeline.io.avro import HEADER, bundled_schema, decode, encode_alerts
from promptdia.pipeline.io.cutouts import cutouts_fits, read_cutout
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.package import Alert

Record = dict[str, Any]
CUTOUTS = ("cutoutDifference", "cutoutScience", "cutoutTemplate")


@pytest.fixture(scope="module")
def real() -> list[Record]:
    return list(read_container(data_dir("alerts_lsst") / "fink_lsst_v10_0_7alerts.avro"))


def rows(schema: TableSchema, records: list[Record | None] | None) -> Catalog:
    """Records as our table; of what is missing, numbers are nan or 0 and texts empty."""
    given = [r for r in records or () if r is not None]
    table = schema.empty(len(given))
    for i, record in enumerate(given):
        for name, value in record.items():
            if value is not None:
                table[name][i] = value
    return table


def ours(real: Record) -> Alert:
    """A real alert in our own types."""
    difference, science, template = (read_cutout(real[name]) for name in CUTOUTS)
    return Alert(
        source=rows(DIA_SOURCE, [real["diaSource"]]),
        prv_sources=rows(DIA_SOURCE, real["prvDiaSources"]),
        prv_forced=rows(DIA_FORCED_SOURCE, real["prvDiaForcedSources"]),
        object=rows(DIA_OBJECT, [real["diaObject"]]),
        ss_source=rows(SS_SOURCE, [real["ssSource"]]),
        orbit=rows(MPC_ORBITS, [real["mpc_orbits"]]),
        difference=difference,
        science=science,
        template=template,
        observation_reason=real["observation_reason"] or "",
        target_name=real["target_name"] or "",
    )


def as_sent(value: Any, kind: Any, named: dict[str, Any]) -> Any:
    """A value as the wire has it: the file, which went through Spark, has null for nan and 0."""
    kind = named.get(kind, kind) if isinstance(kind, str) else kind
    match kind:
        case {"type": "array", "items": items}:
            return [as_sent(v, items, named) for v in value]
        case {"type": "record", "name": name, "fields": fields}:
            named[name] = kind
            return {f["name"]: as_sent(value[f["name"]], f["type"], named) for f in fields}
        case ["null", some] if value is None:
            missing = {"float": np.nan, "double": np.nan, "int": 0, "long": 0, "boolean": False}
            return missing.get(some if isinstance(some, str) else "")
        case ["null", some]:
            return as_sent(value, some, named)
    return value


def without_orbit_times(alert: Record) -> Record:
    """The file has 0 for times of an orbit that are not known; ours are null."""
    orbit = alert["mpc_orbits"]
    times = ("created_at", "updated_at", "fitting_datetime")
    return alert | {"mpc_orbits": orbit and orbit | dict.fromkeys(times)}


def test_they_decode(real: list[Record]) -> None:
    assert len(real) == 7
    assert [a["diaObject"] is None for a in real] == [False] * 4 + [True, False, True]
    assert len(real[0]["prvDiaSources"]) == 345
    for alert in real:
        source = alert["diaSource"]
        for cutout in (read_cutout(alert[name]) for name in CUTOUTS):
            assert cutout.image.shape == cutout.variance.shape == (30, 30)
            assert cutout.psf.sum() == pytest.approx(1, abs=1e-5)
            assert (cutout.frame.x, cutout.frame.y) == pytest.approx((source["x"], source["y"]))
            assert cutout.frame.ra == pytest.approx(source["ra"], abs=1e-9)


def test_their_cutouts_are_made_again_to_the_byte(real: list[Record]) -> None:
    for alert in real:
        assert cutouts_fits(ours(alert), look_alike=True) == tuple(alert[n] for n in CUTOUTS)


def test_they_are_packed_again_as_fastavro_packs_them(real: list[Record]) -> None:
    schema = bundled_schema(1000)
    messages = encode_alerts([ours(alert) for alert in real], "10.0", look_alike=True)
    for message, alert in zip(messages, real):
        wire = as_sent(alert, schema, {})
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, schema, without_orbit_times(wire))
        assert message == HEADER.pack(0, 1000) + stream.getvalue()


@pytest.mark.parametrize(("version", "number"), [("11.0", 1100), ("11.1", 1101)])
def test_they_can_leave_in_a_newer_schema(real: list[Record], version: str, number: int) -> None:
    for message, alert in zip(encode_alerts([ours(a) for a in real], version), real):
        assert message[:5] == HEADER.pack(0, number)
        decoded = decode(message)
        for name in ("diaSourceId", "observation_reason", "target_name"):
            assert decoded[name] == alert[name]
        known = {k: v for k, v in alert["diaSource"].items() if v is not None}
        assert {k: decoded["diaSource"][k] for k in known} == known


def test_they_keep_the_rules_we_hold_our_own_to(real: list[Record]) -> None:
    for alert in real:
        source = alert["diaSource"]
        static = source["diaObjectId"] != 0
        assert static != (source["ssObjectId"] != 0)
        assert (alert["diaObject"] is not None) == static
        assert (alert["ssSource"] is not None) == (not static)
        assert not [k for k, v in source.items() if v is None and k.endswith("_flag")]
        # one of them names a visit twice in its history, which ours never do
        history = [s["diaSourceId"] for s in alert["prvDiaSources"] or ()]
        assert source["diaSourceId"] not in history
