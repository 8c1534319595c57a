"""The rules that real brokers hold alerts to, and readers that we did not write."""

import io
import json
import math
import struct
from pathlib import Path
from typing import Any

import fastavro
import lsst.alert.packet
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.alerts import exposures, filled, make_alerts, tables
from support.data import data_dir

from promptdia.apdb.schema.lsst import DIA_SOURCE, VERSIONS, avro_schema
from promptdia.pipeline.errors import InputError
from promptdia.pipeline.io.alert_files import read_container, read_messages, write_container
from promptdia.pipeline.io.avro import (
    ENVELOPE_BYTES,
    BadMessage,
    alert_id,
    canonical_schema,
    decode,
    encode_alerts,
    identifier,
)
from promptdia.pipeline.io.cutouts import read_cutout
from promptdia.pipeline.io.records import RecordEncoder, long_bytes
from promptdia.tasks.package import PackageAlerts, PackageConfig

BOOM_NEEDS = ("psfFlux", "psfFluxErr", "apFlux", "apFluxErr", "band", "snr", "reliability")


def lsst_schema(version: str) -> lsst.alert.packet.Schema:
    major, minor = version.split(".")
    path = Path(lsst.alert.packet.get_schema_path(int(major), int(minor)))
    return lsst.alert.packet.Schema.from_file(str(path / f"lsst.v{major}_{minor}.alert.avsc"))


@pytest.fixture(scope="module")
def messages() -> list[bytes]:
    return encode_alerts(make_alerts(4, 5, n_sso=1))


@pytest.fixture(scope="module")
def alerts(messages: list[bytes]) -> list[dict[str, Any]]:
    return [decode(m) for m in messages]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_canonical_schema_is_the_public_one(version: str) -> None:
    public = fastavro.schema.to_parsing_canonical_form(lsst_schema(version).definition)
    assert canonical_schema(version) == public
    assert "logicalType" not in public


@pytest.mark.parametrize("version", VERSIONS)
def test_lsst_alert_packet_decodes_validates_and_encodes_the_same_bytes(version: str) -> None:
    schema = lsst_schema(version)
    for message in encode_alerts(make_alerts(4, 3, n_sso=1), version):
        decoded = schema.deserialize(message[5:])
        assert schema.validate(decoded)
        assert schema.serialize(decoded) == message[5:]


@pytest.mark.parametrize("version", VERSIONS)
def test_the_bytes_are_those_of_fastavro(version: str) -> None:
    for message in encode_alerts(make_alerts(4, 3, n_sso=2), version):
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, avro_schema(version), decode(message))
        assert stream.getvalue() == message[5:]


@pytest.mark.parametrize(("version", "number"), [("10.0", 1000), ("11.0", 1100), ("11.1", 1101)])
def test_a_message_starts_with_zero_and_the_schema_number_big_endian(
    version: str, number: int
) -> None:
    (message,) = encode_alerts(make_alerts(1), version)
    assert message[:5] == struct.pack(">bI", 0, number)
    assert identifier(message) == number


def test_pittgoogle_decodes_our_messages(
    messages: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GOOGLE_CLOUD_PROJECT", "none")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "none")
    import pittgoogle

    for message in messages:
        decoded = pittgoogle.Schemas.get("lsst", alert_bytes=message).deserialize(message)
        assert decoded["diaSourceId"] == alert_id(message)
        alert = pittgoogle.Alert.from_dict(decoded, schema_name="lsst")
        source = decoded["diaSource"]
        assert alert.objectid in (source["diaObjectId"], source["ssObjectId"])
        assert alert.sourceid == source["diaSourceId"]


def test_every_alert_has_exactly_one_owner_and_the_records_that_go_with_it(
    alerts: list[dict[str, Any]],
) -> None:
    owners = []
    for alert in alerts:
        source = alert["diaSource"]
        static = source["diaObjectId"] != 0
        assert static != (source["ssObjectId"] != 0)
        assert (alert["diaObject"] is not None) == static
        assert (alert["ssSource"] is not None) == (not static)
        assert (alert["mpc_orbits"] is not None) == (not static)
        if static:
            assert alert["diaObject"]["firstDiaSourceMjdTai"] is not None
            assert alert["diaObject"]["lastDiaSourceMjdTai"] is not None
        else:
            assert alert["prvDiaSources"] is None
            assert alert["prvDiaForcedSources"] is None
        owners.append(static)
    assert set(owners) == {True, False}


def test_what_readers_need_is_never_null(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        for source in (alert["diaSource"], *(alert["prvDiaSources"] or ())):
            assert [n for n in BOOM_NEEDS if source[n] is None] == []
            assert [k for k, v in source.items() if k.endswith("_flag") and v is None] == []
            assert [k for k, v in source.items() if k.startswith("pixelFlags") and v is None] == []
            ids = ("diaObjectId", "ssObjectId", "parentDiaSourceId")
            assert [n for n in ids if source[n] is None] == []
        for forced in alert["prvDiaForcedSources"] or ():
            assert None not in (forced["psfFlux"], forced["psfFluxErr"], forced["band"])
        assert all(alert[f"cutout{kind}"] for kind in ("Difference", "Science", "Template"))


def test_a_missing_float_is_nan_on_the_wire() -> None:
    made = make_alerts(1, 1)
    made[0].source["psfFlux"] = np.nan
    made[0].object["firstDiaSourceMjdTai"] = np.nan
    alert = decode(encode_alerts(made)[0])
    assert math.isnan(alert["diaSource"]["psfFlux"])
    assert math.isnan(alert["diaObject"]["firstDiaSourceMjdTai"])


def test_times_of_an_orbit_are_null_or_microseconds(alerts: list[dict[str, Any]]) -> None:
    orbit = alerts[-1]["mpc_orbits"]
    assert orbit["created_at"] == 1_790_000_000_123_456
    assert orbit["fitting_datetime"] is None


def test_the_history_leaves_out_the_source_and_names_each_visit_once(
    alerts: list[dict[str, Any]],
) -> None:
    for alert in alerts[:-1]:
        history = alert["prvDiaSources"]
        assert len(history) == 5
        assert alert["diaSourceId"] not in [s["diaSourceId"] for s in history]
        for rows in (history, alert["prvDiaForcedSources"]):
            assert len({r["visit"] for r in rows}) == len(rows)
            times = [r["midpointMjdTai"] for r in rows]
            assert times == sorted(set(times))


def test_a_first_detection_has_null_sources_and_an_empty_list_of_forced_ones() -> None:
    alert = decode(encode_alerts(make_alerts(1, 0))[0])
    assert alert["prvDiaSources"] is None
    assert alert["prvDiaForcedSources"] == []


@pytest.mark.parametrize("n", [0, 1, 64, 400])
def test_histories_of_any_length_are_carried(n: int) -> None:
    (message,) = encode_alerts(make_alerts(1, n))
    alert = decode(message)
    assert len(alert["prvDiaSources"] or ()) == len(alert["prvDiaForcedSources"]) == n
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, avro_schema(), alert)
    assert stream.getvalue() == message[5:]


def test_a_source_that_faded_is_carried_with_its_sign() -> None:
    made = make_alerts(1, 1)
    made[0].source["psfFlux"], made[0].source["isNegative"] = -321.5, True
    made[0].prv_sources["psfFlux"], made[0].prv_sources["isNegative"] = 99.25, False
    alert = decode(encode_alerts(made)[0])
    assert (alert["diaSource"]["psfFlux"], alert["diaSource"]["isNegative"]) == (-321.5, True)
    earlier = alert["prvDiaSources"][0]
    assert (earlier["psfFlux"], earlier["isNegative"]) == (99.25, False)


def test_a_source_at_the_edge_leaves_with_three_whole_cutouts() -> None:
    sources, objects, prv, forced, _, _ = tables(2, 1)
    sources["x"], sources["y"] = [0.0, 239.4], [100.0, 199.4]
    made = PackageAlerts(PackageConfig()).run(sources, objects, prv, forced, *exposures())
    for message, side in zip(encode_alerts(made), sources["bboxSize"]):
        alert = decode(message)
        for name in ("cutoutDifference", "cutoutScience", "cutoutTemplate"):
            image = read_cutout(alert[name]).image
            assert image.shape == (max(30, side), max(30, side))
            assert 0 < np.isnan(image).sum() < image.size


def test_the_widest_cutouts_and_the_longest_history_fit_a_broker_s_usual_limit() -> None:
    sources, objects, prv, forced, _, _ = tables(1, 400)
    sources["bboxSize"] = 500
    made = PackageAlerts(PackageConfig()).run(sources, objects, prv, forced, *exposures())
    (message,) = encode_alerts(made)
    assert read_cutout(decode(message)["cutoutScience"]).image.shape == (102, 102)
    assert 400_000 < len(message) < 1_000_000 - ENVELOPE_BYTES


def test_cutouts_point_at_the_source(alerts: list[dict[str, Any]]) -> None:
    for alert in alerts:
        source = alert["diaSource"]
        side = max(30, min(source["bboxSize"], 102))
        for name in ("cutoutDifference", "cutoutScience", "cutoutTemplate"):
            cutout = read_cutout(alert[name])
            assert cutout.image.shape == (side, side)
            assert cutout.psf.sum() == pytest.approx(1, abs=1e-5)
            assert (cutout.frame.x, cutout.frame.y) == pytest.approx((source["x"], source["y"]))
            assert cutout.frame.ra == pytest.approx(source["ra"], abs=1e-12)
            assert cutout.frame.dec == pytest.approx(source["dec"], abs=1e-12)


def test_a_column_of_another_kind_is_refused() -> None:
    schema = avro_schema()["fields"][3]["type"]
    rows = filled(DIA_SOURCE, 2, np.random.default_rng(1))
    wrong = rows.astype([(n, "f8" if n == "psfFlux" else rows.dtype[n]) for n in rows.dtype.names])
    with pytest.raises(TypeError, match="psfFlux is float64, which is no Avro float"):
        list(RecordEncoder(schema).encode([wrong]))


def test_texts_of_the_visit_are_carried_and_empty_ones_are_null() -> None:
    (made,) = make_alerts(1)
    assert decode(encode_alerts([made])[0])["target_name"] == "test field, déjà vu"
    bare = type(made)(**{n: getattr(made, n) for n in made.__slots__} | {"target_name": ""})
    assert decode(encode_alerts([bare])[0])["target_name"] is None


def test_no_alerts_give_no_messages() -> None:
    assert encode_alerts([]) == []


@given(st.integers(-(2**63), 2**63 - 1))
def test_integers_are_written_as_avro_writes_them(value: int) -> None:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, "long", value)
    assert long_bytes(value) == stream.getvalue()


def test_extreme_rows_are_encoded_as_fastavro_does() -> None:
    schema = avro_schema()["fields"][3]["type"]
    rows = filled(DIA_SOURCE, 40, np.random.default_rng(5))
    rows["band"] = ["é", "g", "€", "🜨", ""] * 8  # one to four bytes, and none
    rows["diaSourceId"][:4] = [0, -1, 2**63 - 1, -(2**63)]
    tables = rows[:13], rows[:0], rows[13:]
    encoded = [
        bytes(table.bytes(i))[: np.diff(table.ends)[i]]
        for table in RecordEncoder(schema).encode(tables)
        for i in range(table.size)
    ]
    names = [f["name"] for f in schema["fields"]]
    for i, row in enumerate(rows):
        stream = io.BytesIO()
        record = {n: row[n].item() for n in names}
        record["band"] = record["band"] or None
        fastavro.schemaless_writer(stream, schema, record)
        assert encoded[i] == stream.getvalue()


def test_a_container_gives_back_alerts_and_messages(tmp_path: Path) -> None:
    sent = encode_alerts(make_alerts(20, 2, n_sso=1), "11.1")
    path = tmp_path / "7.avro"
    write_container(path, sent)
    assert list(read_messages(path)) == sent
    assert [a["diaSourceId"] for a in read_container(path)] == [alert_id(m) for m in sent]
    assert [p.name for p in tmp_path.iterdir()] == ["7.avro"]
    first = path.read_bytes()
    write_container(path, sent)
    assert path.read_bytes() == first


def test_a_container_with_many_alerts_in_a_block_gives_back_the_messages(tmp_path: Path) -> None:
    sent = encode_alerts(make_alerts(9, 2))
    with (tmp_path / "foreign.avro").open("wb") as file:
        fastavro.writer(file, avro_schema(), [decode(m) for m in sent], codec="deflate")
    assert list(read_messages(tmp_path / "foreign.avro")) == sent


def test_lsst_alert_packet_reads_our_container(tmp_path: Path) -> None:
    sent = encode_alerts(make_alerts(3, 1))
    write_container(tmp_path / "1.avro", sent)
    with (tmp_path / "1.avro").open("rb") as file:
        schema, records = lsst.alert.packet.Schema.from_file(
            str(Path(lsst.alert.packet.get_schema_path(11, 0)) / "lsst.v11_0.alert.avsc")
        ).retrieve_alerts(file)
        assert schema.definition["name"] == "lsst.v11_0.alert"
        assert [r["diaSourceId"] for r in records] == [alert_id(m) for m in sent]


def test_an_empty_container_is_a_container(tmp_path: Path) -> None:
    write_container(tmp_path / "0.avro", [])
    assert list(read_container(tmp_path / "0.avro")) == []


def test_messages_of_two_schemas_do_not_share_a_file(tmp_path: Path) -> None:
    both = [encode_alerts(make_alerts(1), v)[0] for v in ("11.0", "10.0")]
    with pytest.raises(ValueError, match="1000, 1100"):
        write_container(tmp_path / "1.avro", both)
    assert list(tmp_path.iterdir()) == []


def test_broken_containers_are_named(tmp_path: Path, messages: list[bytes]) -> None:
    path = tmp_path / "x.avro"
    for read in (read_container, read_messages):
        with pytest.raises(InputError, match="does not exist"):
            list(read(path))
        write_container(tmp_path / "good.avro", messages)
        for content in (b"", b"no avro", (tmp_path / "good.avro").read_bytes()[:-900]):
            path.write_bytes(content)
            with pytest.raises(InputError, match=r"x\.avro is not a whole Avro file"):
                list(read(path))
        path.unlink()


def test_bytes_that_are_no_alert_are_refused_with_the_reason(messages: list[bytes]) -> None:
    good = messages[0]
    wrong = {
        b"": "no alert",
        b"\x01" + good[1:]: "no alert",
        struct.pack(">bI", 0, 704) + good[5:]: "unknown schema: 704",
        good[:-1]: "does not decode",
        good[:300]: "does not decode",
        good + b"x": "1 of .* bytes are left over",
        good[:5] + long_bytes(17) + good[5 + len(long_bytes(alert_id(good))) :]: "contradicts",
    }
    for message, reason in wrong.items():
        with pytest.raises(BadMessage, match=reason):
            decode(message)


def test_a_thousand_damaged_messages_never_raise_anything_else(messages: list[bytes]) -> None:
    rng = np.random.default_rng(11)
    refused = 0
    for i in range(1000):
        message = bytearray(messages[i % len(messages)])
        head = len(message) if i % 3 == 0 else 6000  # most of a message is pixels
        if i % 2:
            del message[rng.integers(head) :]
        for _ in range(rng.integers(1, 4)):
            if message:
                message[rng.integers(min(head, len(message)))] ^= 1 << rng.integers(8)
        try:
            decode(bytes(message))
        except BadMessage:
            refused += 1
    assert refused > 500


def test_a_message_of_an_older_schema_decodes_by_the_schema_it_is_given() -> None:
    message = (data_dir("alerts_lsst") / "boom_lsst_v9_0_confluent_wire.avro").read_bytes()
    schema = lsst_schema("9.0").definition
    asked = []

    def schemas(number: int) -> Any:
        asked.append(number)
        return schema

    assert decode(message, schemas)["diaSource"]["visit"] == 943296
    assert asked == [900]
    with pytest.raises(BadMessage, match="900"):
        decode(message)


def test_a_container_carries_the_schema_it_is_given(tmp_path: Path) -> None:
    message = (data_dir("alerts_lsst") / "boom_lsst_v9_0_confluent_wire.avro").read_bytes()
    write_container(tmp_path / "v9.avro", [message], lsst_schema("9.0").definition)
    (alert,) = read_container(tmp_path / "v9.avro")
    assert alert["diaSource"]["visit"] == 943296
    assert list(read_messages(tmp_path / "v9.avro")) == [message]
    json.dumps(alert["diaSource"])
