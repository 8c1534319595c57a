"""A schema registry for LSST alerts: the few calls that alert readers make.

Speaks the part of Confluent's HTTP interface that confluent-kafka, BOOM and LSST's
own registration use, and keeps everything in memory. Schema identifiers and versions
are LSST's numbers: 1100 for 11.0.
"""

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

import fastavro

from promptdia.apdb.schema.lsst import VERSIONS
from promptdia.pipeline.errors import ConfigError, TransientError
from promptdia.pipeline.io.avro import BadMessage, Schema, canonical_schema, schema_id

SUBJECT = "alert-packet"
_MEDIA_TYPE = "application/vnd.schemaregistry.v1+json"


class _Refusal(Exception):
    """An answer other than success: HTTP status, Confluent's error code, text."""


class SchemaTable:
    """Schemas by subject and version; safe between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._subjects: dict[str, dict[int, int]] = {}
        self._schemas: dict[int, str] = {}
        self._modes: dict[str, str] = {}

    def add(self, subject: str, schema: str, id_: int | None, version: int | None) -> int:
        """Register a schema and return its identifier."""
        with self._lock:
            versions = self._subjects.get(subject, {})
            known = next((n for n, text in self._schemas.items() if text == schema), None)
            if id_ is None:
                id_ = known if known is not None else max(self._schemas, default=0) + 1
            elif self._modes.get(subject) != "IMPORT":
                raise _Refusal(422, 42205, f"Subject {subject} is not in import mode")
            if self._schemas.setdefault(id_, schema) != schema:
                raise _Refusal(422, 42207, f"Schema id {id_} belongs to another schema")
            if id_ not in versions.values():
                versions[version or max(versions, default=0) + 1] = id_
            self._subjects[subject] = versions
            return id_

    def answer(self, path: list[str]) -> Any:
        """What a GET of the path gives."""
        with self._lock:
            match path:
                case []:
                    return {}
                case ["subjects"]:
                    return sorted(self._subjects)
                case ["subjects", subject, "versions"]:
                    return sorted(self._versions(subject))
                case ["subjects", subject, "versions", version]:
                    return self._version(subject, version)
                case ["subjects", subject, "versions", version, "schema"]:
                    return json.loads(self._version(subject, version)["schema"])
                case ["schemas", "types"]:
                    return ["AVRO"]
                case ["schemas", "ids", id_, *rest]:
                    return self._by_id(id_, rest)
                case ["config", *_]:
                    return {"compatibilityLevel": "NONE"}
                case ["mode", *subject]:
                    return {"mode": self._modes.get("/".join(subject), "READWRITE")}
        raise _Refusal(404, 404, "HTTP 404 Not Found")

    def set_mode(self, subject: str, mode: str) -> None:
        """IMPORT lets a subject take identifiers from outside; READWRITE is normal."""
        with self._lock:
            self._modes[subject] = mode

    def look_up(self, subject: str, schema: str) -> dict[str, Any]:
        """The registered form of a schema."""
        with self._lock:
            for version, id_ in self._versions(subject).items():
                if self._schemas[id_] == schema:
                    return self._version(subject, str(version))
        raise _Refusal(404, 40403, "Schema not found")

    def _versions(self, subject: str) -> dict[int, int]:
        if subject not in self._subjects:
            raise _Refusal(404, 40401, f"Subject '{subject}' not found.")
        return self._subjects[subject]

    def _version(self, subject: str, version: str) -> dict[str, Any]:
        versions = self._versions(subject)
        number = max(versions) if version in ("latest", "-1") else _number(version)
        if number not in versions:
            raise _Refusal(404, 40402, f"Version {version} not found.")
        id_ = versions[number]
        return {
            "subject": subject,
            "version": number,
            "id": id_,
            "schemaType": "AVRO",
            "schema": self._schemas[id_],
        }

    def _by_id(self, text: str, rest: list[str]) -> Any:
        id_ = _number(text)
        if id_ not in self._schemas:
            raise _Refusal(404, 40403, f"Schema {text} not found")
        match rest:
            case []:
                return {"schemaType": "AVRO", "schema": self._schemas[id_]}
            case ["schema"]:
                return json.loads(self._schemas[id_])
            case ["versions" | "subjects" as what]:
                found = [
                    {"subject": subject, "version": version}
                    for subject, versions in sorted(self._subjects.items())
                    for version, number in versions.items()
                    if number == id_
                ]
                return found if what == "versions" else [f["subject"] for f in found]
        raise _Refusal(404, 404, "HTTP 404 Not Found")


class SchemaRegistry:
    """The registry as a server on 127.0.0.1, for as long as the ``with`` block lasts."""

    def __init__(self, port: int = 0) -> None:
        self._port = port
        self._server: ThreadingHTTPServer
        self._thread: threading.Thread

    @property
    def url(self) -> str:
        """http://host:port."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"table": SchemaTable()})
        try:
            self._server = ThreadingHTTPServer(("127.0.0.1", self._port), handler)
        except OSError as error:
            raise ConfigError(f"cannot listen on port {self._port}: {error.strerror}") from error
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def register(
    url: str, topics: Sequence[str] = (), versions: Sequence[str] = VERSIONS
) -> dict[str, list[int]]:
    """Put the alert schemas into a registry under LSST's identifiers; identifiers by subject.

    Subjects are ``alert-packet`` and ``TOPIC-value`` of each topic. Running it again
    changes nothing. TransientError when the registry is away, ConfigError when it refuses.
    """
    registered: dict[str, list[int]] = {}
    for subject in (SUBJECT, *(f"{topic}-value" for topic in topics)):
        _request(url, f"mode/{subject}?force=true", "PUT", {"mode": "IMPORT"})
        for version in versions:
            id_ = schema_id(version)
            body = {"schema": canonical_schema(version), "id": id_, "version": id_}
            _request(url, f"subjects/{subject}/versions", "POST", body)
            registered.setdefault(subject, []).append(id_)
        _request(url, f"mode/{subject}?force=true", "PUT", {"mode": "READWRITE"})
    return registered


class RegistrySchemas:
    """Schemas by identifier from a registry, each asked for once; use it with ``decode``."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._known: dict[int, Schema] = {}

    def __call__(self, identifier: int) -> Schema:
        """The parsed schema; BadMessage when the registry has none of that number."""
        if identifier not in self._known:
            try:
                answer = _request(self._url, f"schemas/ids/{identifier}", "GET")
            except ConfigError as error:
                raise BadMessage("unknown schema", f"{identifier}: {error}") from error
            self._known[identifier] = fastavro.parse_schema(json.loads(answer["schema"]))
        return self._known[identifier]


def _request(url: str, path: str, method: str, body: Any = None) -> Any:
    request = urllib.request.Request(
        f"{url.rstrip('/')}/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": _MEDIA_TYPE, "Accept": _MEDIA_TYPE},
    )
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            text = error.read(500).decode(errors="replace")
        raise ConfigError(f"schema registry {url} answers {error.code} to {path}: {text}") from None
    except OSError as error:
        raise TransientError(f"schema registry {url} does not answer: {error}") from error
    except ValueError as error:
        raise ConfigError(f"{url} is no schema registry: {error}") from error


def _number(text: str) -> int:
    if not text.isdecimal():
        raise _Refusal(422, 42202, f"'{text}' is not a valid number")
    return int(text)


class _Handler(BaseHTTPRequestHandler):
    table: SchemaTable
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._reply(lambda path, _: self.table.answer(path))

    def do_PUT(self) -> None:
        self._reply(self._put)

    def do_POST(self) -> None:
        self._reply(self._post)

    def _put(self, path: list[str], body: dict[str, Any]) -> Any:
        match path:
            case ["mode", *subject]:
                self.table.set_mode("/".join(subject), str(body.get("mode")))
                return body
            case ["config", *_]:
                return {"compatibility": body.get("compatibility", "NONE")}
        raise _Refusal(404, 404, "HTTP 404 Not Found")

    def _post(self, path: list[str], body: dict[str, Any]) -> Any:
        schema = _canonical(body.get("schema"))
        match path:
            case ["subjects", subject]:
                return self.table.look_up(subject, schema)
            case ["subjects", subject, "versions"]:
                id_ = self.table.add(subject, schema, body.get("id"), body.get("version"))
                return {"id": id_}
            case ["compatibility", *_]:
                return {"is_compatible": True}
        raise _Refusal(404, 404, "HTTP 404 Not Found")

    def _reply(self, answer: Any) -> None:
        status = 200
        try:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            if not isinstance(body, dict):
                raise _Refusal(422, 42201, "the body must be a JSON object")
            path = [unquote(part) for part in urlsplit(self.path).path.split("/") if part]
            content = answer(path, body)
        except _Refusal as refusal:
            status, code, text = refusal.args
            content = {"error_code": code, "message": text}
        except ValueError as error:
            status, content = 422, {"error_code": 42201, "message": str(error)}
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", _MEDIA_TYPE)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing: requests are not events for the user."""


def _canonical(schema: Any) -> str:
    if not isinstance(schema, str):
        raise _Refusal(422, 42201, "the body must have a schema, as text")
    try:
        return str(fastavro.schema.to_parsing_canonical_form(json.loads(schema)))
    except fastavro.schema.SchemaParseException as error:
        raise _Refusal(422, 42201, f"invalid schema: {error}") from error
