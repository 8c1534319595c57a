import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import fastavro
import pytest
from confluent_kafka.schema_registry import SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer
from confluent_kafka.serialization import MessageField, SerializationContext
from support.alerts import make_alerts

from promptdia.apdb.schema.lsst import VERSIONS
from promptdia.pipeline.errors import ConfigError, TransientError
from promptdia.pipeline.io.avro import (
    BadMessage,
    bundled_schema,
    canonical_schema,
    decode,
    encode_alerts,
)
from promptdia.pipeline.io.registry import RegistrySchemas, SchemaRegistry, register


@pytest.fixture(scope="module")
def registry() -> Iterator[SchemaRegistry]:
    with SchemaRegistry() as server:
        register(server.url, ["alerts"])
        yield server


def get(registry: SchemaRegistry, path: str) -> Any:
    with urllib.request.urlopen(f"{registry.url}/{path}", timeout=5) as answer:
        return json.load(answer)


def post(registry: SchemaRegistry, path: str, body: Any) -> Any:
    request = urllib.request.Request(f"{registry.url}/{path}", json.dumps(body).encode())
    with urllib.request.urlopen(request, timeout=5) as answer:
        return json.load(answer)


@pytest.mark.parametrize("version", VERSIONS)
def test_confluents_own_deserializer_decodes_through_the_registry(
    registry: SchemaRegistry, version: str
) -> None:
    context = SerializationContext("alerts", MessageField.VALUE)
    with SchemaRegistryClient({"url": registry.url}) as client:
        deserialize = AvroDeserializer(client)
        for message in encode_alerts(make_alerts(2, 2, n_sso=1), version):
            alert = deserialize(message, context)
            assert alert["diaSourceId"] == decode(message)["diaSourceId"]
            orbit = alert["mpc_orbits"]
            assert orbit is None or isinstance(orbit["created_at"], int)


def test_the_answers_that_boom_asks_for(registry: SchemaRegistry) -> None:
    assert "alert-packet" in get(registry, "subjects")
    assert get(registry, "subjects/alert-packet/versions") == [1000, 1100, 1101]
    answer = get(registry, "subjects/alert-packet/versions/1100")
    assert (answer["subject"], answer["version"], answer["id"]) == ("alert-packet", 1100, 1100)
    assert answer["schema"] == canonical_schema("11.0")


def test_the_answers_that_confluents_client_asks_for(registry: SchemaRegistry) -> None:
    assert get(registry, "schemas/ids/1101?subject=alerts-value")["schema"] == canonical_schema(
        "11.1"
    )
    assert get(registry, "subjects") == ["alert-packet", "alerts-value"]
    assert get(registry, "subjects/alerts-value/versions/latest")["id"] == 1101
    assert get(registry, "schemas/ids/1000/versions") == [
        {"subject": "alert-packet", "version": 1000},
        {"subject": "alerts-value", "version": 1000},
    ]
    assert get(registry, "schemas/types") == ["AVRO"]
    assert get(registry, "config") == {"compatibilityLevel": "NONE"}
    with SchemaRegistryClient({"url": registry.url}) as client:
        assert client.get_latest_version("alerts-value").schema_id == 1101


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("subjects/none/versions", 40401),
        ("subjects/alert-packet/versions/7", 40402),
        ("schemas/ids/7", 40403),
        ("associations/resources/x", 404),
    ],
)
def test_what_is_not_there_is_not_found(registry: SchemaRegistry, path: str, code: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        get(registry, path)
    with raised.value as error:
        assert error.code == 404
        assert json.load(error)["error_code"] == code


def test_registering_twice_changes_nothing(registry: SchemaRegistry) -> None:
    assert register(registry.url, ["alerts"])["alerts-value"] == [1000, 1100, 1101]
    assert get(registry, "subjects/alerts-value/versions") == [1000, 1100, 1101]
    assert get(registry, "mode/alert-packet") == {"mode": "READWRITE"}


def test_other_schemas_register_the_usual_way() -> None:
    with SchemaRegistry() as registry:
        schema = json.dumps({"type": "record", "name": "x", "fields": [], "doc": "y"})
        first = post(registry, "subjects/x-value/versions", {"schema": schema})
        assert post(registry, "subjects/x-value/versions", {"schema": schema}) == first
        found = post(registry, "subjects/x-value", {"schema": schema})
        assert (found["version"], found["id"]) == (1, first["id"])
        assert "doc" not in found["schema"]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({}, 42201),
        ({"schema": "{"}, 42201),
        ({"schema": '{"type": "nothing"}'}, 42201),
        ({"schema": '"int"', "id": 5}, 42205),
        ([], 42201),
    ],
)
def test_unusable_registrations_are_refused(registry: SchemaRegistry, body: Any, code: int) -> None:
    with pytest.raises(urllib.error.HTTPError) as raised:
        post(registry, "subjects/bad/versions", body)
    with raised.value:
        assert json.load(raised.value)["error_code"] == code
    assert "bad" not in get(registry, "subjects")


def test_an_identifier_keeps_its_schema() -> None:
    with SchemaRegistry() as registry:
        register(registry.url)
        host = registry.url.removeprefix("http://")
        connection = http.client.HTTPConnection(host, timeout=5)
        connection.request("PUT", "/mode/alert-packet", json.dumps({"mode": "IMPORT"}))
        connection.getresponse().read()
        connection.close()
        body = {"schema": '"int"', "id": 1100, "version": 1100}
        with pytest.raises(urllib.error.HTTPError) as raised:
            post(registry, "subjects/alert-packet/versions", body)
        with raised.value:
            assert json.load(raised.value)["error_code"] == 42207


def test_our_reader_asks_for_each_schema_once(registry: SchemaRegistry) -> None:
    schemas = RegistrySchemas(registry.url)
    message = encode_alerts(make_alerts(1))[0]
    assert str(decode(message, schemas)) == str(decode(message))
    assert schemas(1100) is schemas(1100)
    canonical = fastavro.schema.to_parsing_canonical_form
    assert canonical(schemas(1100)) == canonical(bundled_schema(1100))
    with pytest.raises(BadMessage, match="unknown schema: 704"):
        schemas(704)


def test_a_registry_that_is_away_or_is_something_else_is_said_so() -> None:
    with SchemaRegistry() as registry:
        url = registry.url
        with pytest.raises(ConfigError, match="404"):
            register(f"{url}/somewhere/else")
        port = int(url.rsplit(":", 1)[1])
        with (
            pytest.raises(ConfigError, match=f"cannot listen on port {port}"),
            SchemaRegistry(port),
        ):
            pass
    with pytest.raises(TransientError, match="does not answer"):
        register(url)
