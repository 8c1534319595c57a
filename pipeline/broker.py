"""A Kafka broker for tests and demonstrations, inside this process, with a schema registry.

It is librdkafka's own mock cluster: real clients talk to it over TCP with the real
protocol, and nothing needs to be installed. It is not a Kafka: it lives in memory,
keeps about 5 MB per partition and then silently drops the oldest, listens on
127.0.0.1 only, has no users, no access rights and no administration, and lets ten
seconds pass before a group whose last reader left takes a new one. For anything else
there is ``scripts/kafka``.
"""

import ctypes
import ctypes.util
import select
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import confluent_kafka

from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.io.registry import SchemaRegistry, register

PARTITIONS = 128
"""Of each topic, because the mock keeps so little per partition: about 600 MB in all."""
_PRODUCER = 0
_P, _S, _I = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int
_FUNCTIONS: dict[str, tuple[Any, list[Any]]] = {
    "rd_kafka_conf_new": (_P, []),
    "rd_kafka_conf_set": (_I, [_P, _S, _S, _P, ctypes.c_size_t]),
    "rd_kafka_new": (_P, [_I, _P, _S, ctypes.c_size_t]),
    "rd_kafka_destroy": (None, [_P]),
    "rd_kafka_mock_cluster_new": (_P, [_P, _I]),
    "rd_kafka_mock_cluster_destroy": (None, [_P]),
    "rd_kafka_mock_cluster_bootstraps": (_S, [_P]),
    "rd_kafka_mock_topic_create": (_I, [_P, _S, _I, _I]),
    "rd_kafka_mock_broker_set_down": (_I, [_P, ctypes.c_int32]),
    "rd_kafka_mock_broker_set_up": (_I, [_P, ctypes.c_int32]),
    "rd_kafka_mock_group_initial_rebalance_delay_ms": (None, [_P, ctypes.c_int32]),
}


class EmbeddedBroker:
    """Broker and registry that live as long as the ``with`` block.

    ``topics`` exist from the start with PARTITIONS partitions and their schemas
    registered; any other topic comes to be when it is first used, with 4.
    """

    def __init__(self, topics: Sequence[str] = (), registry_port: int = 0) -> None:
        self.registry = SchemaRegistry(registry_port)
        self._topics = tuple(topics)
        self._kafka = _librdkafka()
        self._cluster: Any = None
        self._stack = ExitStack()

    @property
    def url(self) -> str:
        """host:port of the broker."""
        return str(self._kafka.rd_kafka_mock_cluster_bootstraps(self._cluster).decode())

    @property
    def registry_url(self) -> str:
        """http://host:port of the registry."""
        return self.registry.url

    def stop_answering(self) -> None:
        """Take the broker away; its topics stay."""
        self._kafka.rd_kafka_mock_broker_set_down(self._cluster, 1)

    def answer_again(self) -> None:
        """Bring the broker back."""
        self._kafka.rd_kafka_mock_broker_set_up(self._cluster, 1)

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.registry)
            client = self._kafka.rd_kafka_new(*_producer_arguments(self._kafka))
            stack.callback(self._kafka.rd_kafka_destroy, client)
            self._cluster = self._kafka.rd_kafka_mock_cluster_new(client, 1)
            stack.callback(self._kafka.rd_kafka_mock_cluster_destroy, self._cluster)
            self._kafka.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 100)
            for topic in self._topics:
                self._kafka.rd_kafka_mock_topic_create(self._cluster, topic.encode(), PARTITIONS, 1)
            register(self.registry.url, self._topics)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


def serve(
    topics: Sequence[str],
    say: Callable[[str], None],
    port: int = 0,
    registry_port: int = 0,
    until: threading.Event | None = None,
) -> None:
    """Run broker and registry until ``until`` is set or the user interrupts.

    ``say`` is called with the lines that tell the addresses. The mock chooses its own
    port; with ``port`` given, that port forwards to it, which is enough for clients on
    this machine: they learn the broker's own port on the first contact.
    """
    until = until or threading.Event()
    with EmbeddedBroker(topics, registry_port) as broker, forwarded(port, broker.url) as address:
        try:
            say(f"broker   {address}")
            say(f"registry {broker.registry_url}")
            say(f"topics   {', '.join(topics)} ({PARTITIONS} partitions, about 5 MB each)")
            until.wait()
        except KeyboardInterrupt:
            say("stopped")


@contextmanager
def forwarded(port: int, target: str) -> Iterator[str]:
    """The address of a listener on ``port`` that passes bytes on to ``target``; 0: none needed."""
    if port == 0:
        yield target
        return
    try:
        listener = socket.create_server(("127.0.0.1", port))
    except OSError as error:
        raise ConfigError(f"cannot listen on port {port}: {error.strerror}") from error
    host, target_port = target.rsplit(":", 1)
    with listener:
        threading.Thread(
            target=_accept, args=(listener, (host, int(target_port))), daemon=True
        ).start()
        try:
            yield f"127.0.0.1:{port}"
        finally:
            with suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread that waits in accept


def _accept(listener: socket.socket, target: tuple[str, int]) -> None:
    while True:
        try:
            client, _ = listener.accept()
        except OSError:
            return  # the listener was closed: the broker is going down
        threading.Thread(target=_forward, args=(client, target), daemon=True).start()


def _forward(client: socket.socket, target: tuple[str, int]) -> None:
    try:
        with client, socket.create_connection(target) as server:
            other = {client: server, server: client}
            while True:
                for ready in select.select(list(other), [], [])[0]:
                    data = ready.recv(65536)
                    if not data:
                        return
                    other[ready].sendall(data)
    except OSError:
        return  # one side hung up; the other is closed on the way out


def _producer_arguments(kafka: Any) -> tuple[Any, ...]:
    """A silent producer; the mock lives inside one, and the text would hold an error."""
    text = ctypes.create_string_buffer(256)
    conf = kafka.rd_kafka_conf_new()
    kafka.rd_kafka_conf_set(conf, b"log_level", b"0", text, len(text))
    return _PRODUCER, conf, text, len(text)


def _librdkafka() -> Any:
    """The library that confluent-kafka itself runs on, with the mock's functions declared."""
    library = ctypes.CDLL(_library_path())
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(library, name, None)
        if function is None:
            raise ConfigError(
                f"librdkafka {confluent_kafka.libversion()[0]} lacks {name}, which the embedded "
                "broker needs: install confluent-kafka 2.5 or newer as a wheel, or use "
                "scripts/kafka"
            )
        function.restype, function.argtypes = result, arguments
    return library


def _library_path() -> str:
    package = Path(confluent_kafka.__file__).parent
    for folder in (package.parent / "confluent_kafka.libs", package / ".dylibs"):
        for path in sorted(folder.glob("*rdkafka*")):
            if "rdkafka++" not in path.name:
                return str(path)
    found = ctypes.util.find_library("rdkafka")
    if found is None:
        raise ConfigError(
            "the embedded broker needs librdkafka, which this installation of confluent-kafka "
            "does not bring along; use scripts/kafka"
        )
    return found
