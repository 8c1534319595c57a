"""Fresh databases for the conformance suite: always SQLite, PostgreSQL when one is named."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

BACKENDS = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@contextmanager
def fresh_database(backend: str, folder: Path) -> Iterator[str]:
    """The URL of an empty database that is gone afterwards; skips without a server."""
    if backend == "sqlite":
        yield f"sqlite:///{folder / 'apdb.sqlite'}"
        return
    server = os.environ.get("PROMPTDIA_TEST_POSTGRES")
    if not server:
        pytest.skip(
            "PROMPTDIA_TEST_POSTGRES is not set: PROMPTDIA_TEST_POSTGRES=$(scripts/postgres up)"
        )
    name = f"promptdia_test_{uuid.uuid4().hex[:12]}"
    run_on_server(server, f"CREATE SCHEMA {name}")
    url = sa.make_url(server).update_query_dict({"application_name": name})
    try:
        yield with_option(url.render_as_string(hide_password=False), f"search_path={name}")
    finally:
        run_on_server(server, f"DROP SCHEMA {name} CASCADE")


def with_option(url: str, option: str) -> str:
    """The URL of the same PostgreSQL database with a server setting changed."""
    parsed = sa.make_url(url)
    options = f"{parsed.query.get('options', '')} -c {option}"
    changed = parsed.update_query_dict({"options": options})
    return changed.render_as_string(hide_password=False)


def run_on_server(url: str, statement: str) -> None:
    """Run one statement outside any transaction."""
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)
