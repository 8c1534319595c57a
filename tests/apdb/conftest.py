"""Each test of a store runs on every database."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.databases import BACKENDS, fresh_database

from promptdia.apdb.sql import SqlApdb


@pytest.fixture(params=BACKENDS)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    with fresh_database(request.param, tmp_path) as fresh:
        yield fresh


@pytest.fixture
def apdb(url: str) -> Iterator[SqlApdb]:
    store = SqlApdb.create(url)
    yield store
    store.close()
