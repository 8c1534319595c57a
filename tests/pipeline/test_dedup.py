"""Objects that are one become one, once and completely."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.apdb import DEC, FIELD, RA, assert_same_rows, filled, mjd_of, observe
from support.databases import BACKENDS, fresh_database

from promptdia.apdb.errors import TransientError
from promptdia.apdb.ids import dia_source_ids
from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE
from promptdia.apdb.sql import SqlApdb
from promptdia.apdb.store import Batch
from promptdia.pipeline.dedup import Deduplication, merge_duplicates
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.summarize import SummarizeObjects

ARCSEC = 1 / 3600
LATER = mjd_of(100)


@pytest.fixture(params=BACKENDS)
def apdb(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SqlApdb]:
    with fresh_database(request.param, tmp_path) as url:
        store = SqlApdb.create(url)
        yield store
        store.close()


def dedup(apdb: SqlApdb) -> Deduplication:
    return merge_duplicates(apdb, 1.0, SummarizeObjects(), LATER)


def see(apdb: SqlApdb, visit: int, *offsets_arcsec: float, forced: bool = False) -> Batch:
    """Commit sources at these distances east of the field's centre."""
    ra = RA + np.array(offsets_arcsec) * ARCSEC
    batch = observe(apdb, visit, ra, np.full(ra.size, DEC))
    if forced:
        known = batch.history.objects
        rows = filled(
            DIA_FORCED_SOURCE.empty(known.size),
            diaForcedSourceId=dia_source_ids(batch.visit, 5, np.arange(known.size)),
            diaObjectId=known["diaObjectId"], ra=known["ra"], dec=known["dec"],
            visit=batch.visit, detector=5, midpointMjdTai=batch.mjd_tai, band="r",
            psfFlux=1.0, psfFluxErr=1.0, timeProcessedMjdTai=batch.mjd_tai,
        )  # fmt: skip
        batch = replace(batch, forced=rows)
    assert apdb.commit(batch)
    return batch


def objects(apdb: SqlApdb) -> Catalog:
    return apdb.preload(FIELD, LATER).objects


def drifted(apdb: SqlApdb) -> None:
    """Two objects 1.2" apart whose positions have since come within 0.6"."""
    see(apdb, 1, 0.0)
    see(apdb, 2, 1.2)
    see(apdb, 3, 0.55)  # joins the first
    see(apdb, 4, 0.65, forced=True)


def test_two_objects_that_are_one_become_the_older(apdb: SqlApdb) -> None:
    drifted(apdb)
    first, second = (int(i) for i in objects(apdb)["diaObjectId"])
    done = dedup(apdb)
    (merger,) = done.mergers
    assert (merger.gone, merger.kept) == (second, first)
    assert 0 < merger.separation_arcsec < 1
    assert (done.n_forced_dropped, done.n_seen_apart) == (1, 0)
    after = apdb.preload(FIELD, LATER)
    assert after.objects["diaObjectId"].tolist() == [first]
    assert after.objects["nDiaSources"].tolist() == [4]
    assert after.objects["r_psfFluxNdata"].tolist() == [4]
    assert after.objects["firstDiaSourceMjdTai"] == mjd_of(1)
    assert set(after.sources["diaObjectId"]) == {first}
    assert after.forced.size == 1
    assert apdb.check() == []
    assert f"turned out to be object {first}" in " ".join(apdb.explain(second).story)
    assert f"Object {first} has 4 sources" in " ".join(apdb.explain(second).story)


def test_a_second_run_finds_nothing_to_do(apdb: SqlApdb) -> None:
    drifted(apdb)
    dedup(apdb)
    before = objects(apdb)
    assert dedup(apdb) == Deduplication((), 0, 0)
    assert_same_rows(objects(apdb), before)


def test_sources_of_the_next_visit_join_the_survivor(apdb: SqlApdb) -> None:
    drifted(apdb)
    dedup(apdb)
    see(apdb, 5, 0.6)
    assert objects(apdb)["nDiaSources"].tolist() == [5]
    assert apdb.check() == []


def test_what_was_detected_side_by_side_stays_two(apdb: SqlApdb) -> None:
    see(apdb, 1, 0.0, 0.8)
    assert dedup(apdb) == Deduplication((), 0, 1)
    assert objects(apdb).size == 2


def test_three_become_one_and_the_others_names_lead_to_it(apdb: SqlApdb) -> None:
    for visit, place in enumerate((0.0, 1.1, 2.2), start=1):
        see(apdb, visit, place)
    # the middle one draws near both
    store_objects = objects(apdb)
    with apdb._transaction(write=True) as connection:
        for row, place in zip(store_objects, (0.9, 1.1, 1.4)):
            connection.exec_driver_sql(
                f'UPDATE "DiaObject" SET ra = {RA + place * ARCSEC} '
                f'WHERE "diaObjectId" = {row["diaObjectId"]}'
            )
    done = dedup(apdb)
    (only,) = objects(apdb)["diaObjectId"]
    for merger in done.mergers:
        assert f"turned out to be object {only}." in " ".join(apdb.explain(merger.gone).story)
    assert len(done.mergers) == 2
    assert apdb.check() == []


def test_far_apart_objects_are_left_alone(apdb: SqlApdb) -> None:
    see(apdb, 1, 0.0, 1.5, 30.0)
    assert dedup(apdb) == Deduplication((), 0, 0)
    assert objects(apdb).size == 3


def test_an_empty_database_has_nothing_to_merge(apdb: SqlApdb) -> None:
    assert dedup(apdb) == Deduplication((), 0, 0)


def test_objects_that_changed_meanwhile_are_not_merged(apdb: SqlApdb) -> None:
    drifted(apdb)
    history = apdb.history(objects(apdb)["diaObjectId"])
    kept, gone = history.objects
    see(apdb, 5, 0.6)
    into = {int(gone["diaObjectId"]): int(kept["diaObjectId"])}
    with pytest.raises(TransientError, match="was changed by another process"):
        apdb.merge(into, history.objects[:1], history.objects, LATER)
    assert objects(apdb).size == 2
    assert apdb.check() == []


def test_a_batch_made_before_a_merger_must_be_made_again(apdb: SqlApdb) -> None:
    drifted(apdb)
    late = observe(apdb, 5, [RA + 1.2 * ARCSEC], [DEC])
    dedup(apdb)
    with pytest.raises(TransientError, match="preload and associate again"):
        apdb.commit(late)
    assert apdb.check() == []
