"""The real Kafka for tests, where one runs."""

import os

import pytest


def real_kafka() -> str:
    """host:port of its plain listener; the calling test is skipped when there is none."""
    address = os.environ.get("PROMPTDIA_TEST_KAFKA")
    if not address:
        pytest.skip("no Kafka: run scripts/kafka up and set PROMPTDIA_TEST_KAFKA to what it prints")
    return address


def certificate() -> str:
    """The file with the certificate of its TLS listener; skips when it is not said."""
    path = os.environ.get("PROMPTDIA_TEST_KAFKA_CA")
    if not path:
        pytest.skip("no certificate: set PROMPTDIA_TEST_KAFKA_CA to what scripts/kafka ca prints")
    return path
