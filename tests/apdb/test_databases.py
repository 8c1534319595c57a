"""Opening, creating, several processes, crashes, and databases that refuse."""

import multiprocessing
import re
import sqlite3
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy as sa
from support.apdb import (
    DEC,
    FIELD,
    RA,
    commit_here,
    die_as_sender,
    die_before_the_commit,
    mjd_of,
    observe,
    random_batch,
)
from support.databases import BACKENDS, fresh_database, run_on_server, with_option

from promptdia.apdb.errors import ApdbError, TransientError
from promptdia.apdb.queries import join_region, valid_since
from promptdia.apdb.sql import SqlApdb


def test_an_apdb_is_made_once_and_opened_again(url: str) -> None:
    with pytest.raises(ApdbError, match="make one with `promptdia apdb ROOT create`"):
        SqlApdb.open(url)
    SqlApdb.create(url).commit(random_batch(3, seed=1))
    assert SqlApdb.create(url).countings()["DiaSource"] == 3
    assert SqlApdb.open(url).countings()["DiaSource"] == 3


@pytest.mark.parametrize("version", ["0", "99"])
def test_another_schema_version_is_refused_with_what_to_do(url: str, version: str) -> None:
    with SqlApdb.create(url)._transaction(write=True) as connection:
        connection.exec_driver_sql(
            f"UPDATE \"Metadata\" SET value = '{version}' WHERE name = 'schema_version'"
        )
    for opening in (SqlApdb.open, SqlApdb.create):
        with pytest.raises(ApdbError, match=rf"schema version {version}, .* apdb ROOT create"):
            opening(url)


def test_two_that_create_at_once_both_succeed(url: str) -> None:
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(SqlApdb.create, [url] * 4))
    assert [s.countings()["DiaSource"] for s in stores] == [0] * 4


def test_of_many_that_commit_one_visit_exactly_one_does(url: str) -> None:
    stores = [SqlApdb.create(url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        done = list(pool.map(commit_here, stores, [1, 1, 2, 2]))
    assert sorted(done) == [False, False, False, True]
    assert stores[0].countings()["DiaSource"] == 20
    assert stores[0].check() == []


def test_writers_of_different_detectors_do_not_disturb_each_other(url: str) -> None:
    apdb = SqlApdb.create(url)
    # each detector sees its own sky, all of one region; times agree, so none comes late
    with ThreadPoolExecutor(3) as pool:
        for visit in range(1, 6):
            batches = [
                observe(apdb, visit, [RA + 0.01 * d], [DEC], detector=5 + d) for d in range(3)
            ]
            assert all(pool.map(apdb.commit, batches))
    assert apdb.countings()["DiaObject"] == 3
    assert apdb.check() == []


def test_a_store_can_be_handed_to_another_process(apdb: SqlApdb) -> None:
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn) as pool:
        assert pool.submit(commit_here, apdb, 1).result()
    assert apdb.countings()["DiaSource"] == 20


def test_a_process_killed_before_the_commit_leaves_nothing(apdb: SqlApdb) -> None:
    child = multiprocessing.get_context("spawn").Process(target=die_before_the_commit, args=(apdb,))
    child.start()
    child.join(60)
    assert child.exitcode == 9
    assert sum(apdb.countings().values()) == 0
    assert apdb.commit(random_batch(20, seed=1))
    assert apdb.check() == []


def test_one_process_sends_at_a_time_and_its_end_lets_the_next_in(apdb: SqlApdb, url: str) -> None:
    hasty = with_option(url, "lock_timeout=100ms") if "postgres" in url else f"{url}?timeout=0.1"
    other = SqlApdb.open(hasty)
    with (
        apdb.sole_sender(),
        pytest.raises(TransientError, match="lock"),
        other.sole_sender(),
    ):
        pass
    with other.sole_sender():
        assert other.commit(random_batch(2, seed=1))  # others write meanwhile
        assert apdb.commit(random_batch(2, seed=2, visit=2))
    child = multiprocessing.get_context("spawn").Process(target=die_as_sender, args=(apdb,))
    child.start()
    child.join(60)
    assert child.exitcode == 9
    with apdb.sole_sender():
        pass


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_database_sends_for_itself(apdb: SqlApdb, backend: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    with fresh_database(backend, tmp_path / "other") as url:
        other = SqlApdb.create(url)
        with apdb.sole_sender(), other.sole_sender():
            pass
        other.close()


@pytest.mark.parametrize("backend", ["oracle://host/db", "nonsense"])
def test_a_url_of_another_kind_is_refused(backend: str) -> None:
    with pytest.raises(ApdbError, match=r"knows sqlite and postgresql|is no database URL"):
        SqlApdb.open(backend)


# ---- SQLite


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "apdb.sqlite"
    SqlApdb.create(f"sqlite:///{path}").close()
    return path


def test_a_missing_file_is_not_made_by_opening_it(tmp_path: Path) -> None:
    path = tmp_path / "none.sqlite"
    with pytest.raises(ApdbError, match=r"no APDB at .*none\.sqlite"):
        SqlApdb.open(f"sqlite:///{path}")
    assert not path.exists()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ApdbError, match="cannot be opened: check that its folder exists"):
        SqlApdb.create(f"sqlite:///{tmp_path}/none/apdb.sqlite")


def test_a_database_in_memory_is_refused() -> None:
    with pytest.raises(ApdbError, match="needs a file"):
        SqlApdb.create("sqlite://")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    path = tmp_path / "apdb.sqlite"
    path.write_bytes(b"not a database at all, but long enough to have a header" * 10)
    with pytest.raises(ApdbError, match="is no SQLite database"):
        SqlApdb.open(f"sqlite:///{path}")


def test_a_locked_file_is_a_passing_trouble(file: Path) -> None:
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    apdb = SqlApdb.open(f"sqlite:///{file}?timeout=0.05")
    assert apdb.preload(FIELD, mjd_of(1)).objects.size == 0  # readers go on
    with pytest.raises(TransientError, match="is locked by another process"):
        apdb.commit(random_batch(2, seed=1))
    other.execute("ROLLBACK")
    other.close()
    assert apdb.commit(random_batch(2, seed=1))


def test_a_read_only_file_refuses_writing_but_reads(file: Path) -> None:
    SqlApdb.open(f"sqlite:///{file}").commit(random_batch(2, seed=1))
    url = f"sqlite:///file:{file}?mode=ro&uri=true"
    with pytest.raises(ApdbError, match="is read-only"):  # before a night begins
        SqlApdb.create(url)
    apdb = SqlApdb.open(url)
    assert apdb.countings()["DiaSource"] == 2
    with pytest.raises(ApdbError, match="is read-only"):
        apdb.commit(random_batch(2, seed=2, visit=2))


def test_a_full_disk_leaves_the_database_as_it_was(file: Path) -> None:
    apdb = SqlApdb.open(f"sqlite:///{file}")
    apdb.commit(random_batch(2, seed=1))
    apdb.close()
    pages = "PRAGMA max_page_count = 1"  # not below the present size: no page more
    sa.event.listen(apdb._engine, "connect", lambda connection, _: connection.execute(pages))
    with pytest.raises(ApdbError, match="no space is left"):
        apdb.commit(random_batch(500, seed=2, visit=2))
    again = SqlApdb.open(f"sqlite:///{file}")
    assert again.countings()["DiaSource"] == 2
    assert again.check() == []
    assert again.commit(random_batch(500, seed=2, visit=2))


# ---- PostgreSQL


def test_a_server_that_is_away_is_a_passing_trouble() -> None:
    with pytest.raises(TransientError, match="is away or busy"):
        SqlApdb.open("postgresql://nobody@127.0.0.1:9/none")


@pytest.fixture
def server(url: str) -> str:
    if not url.startswith("postgresql"):
        pytest.skip("about servers, which SQLite has none of")
    return url


def test_a_database_that_does_not_exist_is_named(server: str) -> None:
    missing = sa.make_url(server).set(database="no_such_db").render_as_string(False)
    with pytest.raises(ApdbError, match=r'"no_such_db" does not exist'):
        SqlApdb.open(missing)


def test_a_server_that_lets_nobody_write_says_so(server: str) -> None:
    SqlApdb.create(server)
    apdb = SqlApdb.open(with_option(server, "default_transaction_read_only=on"))
    with pytest.raises(ApdbError, match="is read-only"):
        apdb.commit(random_batch(2, seed=1))
    assert apdb.countings()["DiaSource"] == 0
    with pytest.raises(ApdbError, match="is read-only"):  # before a night begins
        SqlApdb.create(with_option(server, "default_transaction_read_only=on"))


def cut_connections(server: str) -> None:
    name = sa.make_url(server).query["application_name"]
    run_on_server(
        server,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        f"WHERE application_name = '{name}' AND pid <> pg_backend_pid()",
    )


def test_lost_connections_are_made_again(server: str) -> None:
    apdb = SqlApdb.create(server)
    apdb.commit(random_batch(2, seed=1))
    cut_connections(server)
    assert apdb.countings()["DiaSource"] == 2


def test_a_sender_whose_connection_was_lost_while_it_sent_ends_well(server: str) -> None:
    apdb = SqlApdb.create(server)
    with apdb.sole_sender():
        cut_connections(server)
        assert apdb.commit(random_batch(2, seed=1))
    with SqlApdb.open(server).sole_sender():  # nobody holds the lock
        assert apdb.countings()["DiaSource"] == 2


def test_a_connection_lost_while_writing_is_a_passing_trouble(server: str) -> None:
    apdb = SqlApdb.create(server)

    def cut(connection: sa.Connection) -> None:
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")

    sa.event.listen(apdb._engine, "commit", cut)
    with pytest.raises(TransientError, match="is away or busy"):
        apdb.commit(random_batch(2, seed=1))
    again = SqlApdb.open(server)
    assert sum(again.countings().values()) == 0
    assert again.commit(random_batch(2, seed=1))


def children(server: str) -> set[str]:
    """The partitions there are."""
    engine = sa.create_engine(server)
    with engine.connect() as connection:
        found = set(connection.exec_driver_sql("SELECT relname FROM pg_inherits JOIN pg_class ON "
                    "pg_class.oid = inhrelid WHERE relkind = 'r' AND inhparent = "
                    "'\"DiaSource\"'::regclass").scalars())  # fmt: skip
    engine.dispose()
    return found


def test_months_are_made_when_they_are_needed(server: str) -> None:
    apdb = SqlApdb.create(server)
    assert children(server) == set()
    apdb.commit(random_batch(2, seed=1))
    assert children(server) == {"DiaSource_2026_03"}
    apdb._backend.prepare(apdb._engine, np.array([mjd_of(1), mjd_of(1) - 1, np.nan]))
    assert children(server) == {"DiaSource_2026_02", "DiaSource_2026_03"}


def test_many_that_need_a_month_at_once_all_get_it(server: str) -> None:
    stores = [SqlApdb.create(server) for _ in range(6)]
    months = 61000 + 31.0 * np.arange(4)
    with ThreadPoolExecutor(6) as pool:
        for store in stores:
            pool.submit(store._backend.prepare, store._engine, months)
        batches = [random_batch(3, seed=d, detector=d) for d in range(6)]
        assert all(pool.map(SqlApdb.commit, stores, batches))
    assert len(children(server)) == 5
    assert stores[0].countings()["DiaSource"] == 18


def test_a_new_month_keeps_no_reader_and_no_writer_waiting(server: str) -> None:
    apdb = SqlApdb.create(server)
    apdb.commit(random_batch(2, seed=1))
    with apdb._transaction(write=True) as connection:
        connection.exec_driver_sql('UPDATE "DiaSource" SET detector = 7')
        with apdb._transaction() as reader:
            reader.exec_driver_sql('SELECT count(*) FROM "DiaSource"')
            hasty = SqlApdb.open(with_option(server, "lock_timeout=1s"))
            hasty._backend.prepare(hasty._engine, np.array([62000.0]))
    assert "DiaSource_2028_08" in children(server)


def test_a_preload_looks_only_at_the_months_of_its_window(server: str) -> None:
    apdb = SqlApdb.create(server)
    apdb._backend.prepare(apdb._engine, 61000 + np.arange(0.0, 1500.0, 10.0))
    plan = f'EXPLAIN SELECT * FROM "DiaSource" {join_region(FIELD)} WHERE {valid_since(62000.0)}'
    with apdb._transaction() as connection:
        lines = [line for (line,) in connection.exec_driver_sql(plan)]
    scanned = {m for line in lines for m in re.findall(r'on "(DiaSource_\d+_\d+)"', line)}
    assert min(scanned) == "DiaSource_2028_08"
    assert len(children(server)) - len(scanned) == 33


def test_waiting_too_long_for_another_writer_is_a_passing_trouble(server: str) -> None:
    holder = SqlApdb.create(server)
    hasty = SqlApdb.open(with_option(server, "lock_timeout=100ms"))
    with holder._transaction(write=True) as connection:
        holder._backend.lock(connection, FIELD.cells(7))
        with pytest.raises(TransientError, match="lock timeout"):
            hasty.commit(random_batch(2, seed=1))
    assert hasty.commit(random_batch(2, seed=1))
