"""Small skies: sources, objects and batches for tests of the database."""

import os
from dataclasses import replace
from typing import Any

import numpy as np
import sqlalchemy as sa

from promptdia.apdb.ids import dia_source_ids
from promptdia.apdb.pixels import Region
from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE, DIA_OBJECT, DIA_SOURCE, REJECTED
from promptdia.apdb.schema.table import TableSchema
from promptdia.apdb.sql import SqlApdb
from promptdia.apdb.store import Apdb, Batch, History
from promptdia.tasks.associate import AssociateConfig, AssociateSources
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.summarize import SummarizeObjects

RA, DEC = 150.0, 2.0
FIELD = Region.circle(RA, DEC, 0.1)
NO_HISTORY = History(DIA_OBJECT.empty(), DIA_SOURCE.empty(), DIA_FORCED_SOURCE.empty())
TOPIC = "alerts"


def visit_number(n: int) -> int:
    """The n-th visit of the night of 2026-03-01."""
    return 20260301_00000 + n


def mjd_of(n: int) -> float:
    return 61100.0 + n / 1000


def random_rows(schema: TableSchema, n: int, rng: np.random.Generator) -> Catalog:
    """Rows with something plausible in every column and a tenth of the nullable values unknown."""
    rows = schema.empty(n)
    for column in schema.columns:
        kind = column.dtype.kind
        if kind == "f":
            values = rng.normal(0, 100, n)
            if column.nullable:
                values[rng.random(n) < 0.1] = np.nan
        elif kind == "b":
            values = rng.random(n) < 0.5
        elif kind == "U":
            values = rng.choice(["r", "g", ""] if column.nullable else ["r", "g"], n)
        else:
            values = rng.integers(0 if column.nullable else 1, 2**31, n)
        rows[column.name] = values
    return rows


def random_batch(n: int, seed: int, *, visit: int = 1, detector: int = 5) -> Batch:
    """n sources that each found an object, as many forced sources, half as many rejected."""
    rng = np.random.default_rng(seed)
    at = {"visit": visit_number(visit), "detector": detector}
    ids = dia_source_ids(at["visit"], detector, np.arange(n))
    times = {"midpointMjdTai": mjd_of(visit), "timeWithdrawnMjdTai": np.nan}
    ra, dec = RA + rng.uniform(-0.05, 0.05, n), DEC + rng.uniform(-0.05, 0.05, n)
    place = {"ra": ra, "dec": dec}
    sources = filled(
        random_rows(DIA_SOURCE, n, rng),
        diaSourceId=ids, diaObjectId=ids, ssObjectId=0, **at, **times, **place,
    )  # fmt: skip
    first_last = dict.fromkeys(("firstDiaSourceMjdTai", "lastDiaSourceMjdTai"), mjd_of(visit))
    objects = filled(
        random_rows(DIA_OBJECT, n, rng), diaObjectId=ids, nDiaSources=1, **place, **first_last
    )
    forced = filled(
        random_rows(DIA_FORCED_SOURCE, n, rng),
        diaForcedSourceId=ids, diaObjectId=ids, **at, **times, **place,
    )  # fmt: skip
    rejected = filled(
        random_rows(REJECTED, n // 2, rng),
        diaSourceId=dia_source_ids(at["visit"], detector, n + np.arange(n // 2)),
        rule="too_faint", ra=RA, dec=DEC, **at,
    )  # fmt: skip
    return Batch(
        visit=at["visit"], detector=detector, mjd_tai=mjd_of(visit), now_mjd_tai=mjd_of(visit) + 1,
        region=FIELD, history=NO_HISTORY, sources=sources, objects=objects, forced=forced,
        rejected=rejected, topic=TOPIC, payloads=[b"alert %d" % i for i in ids],
    )  # fmt: skip


def filled(rows: Catalog, **values: Any) -> Catalog:
    """The rows with some columns set."""
    for name, value in values.items():
        rows[name] = value
    return rows


def observe(
    apdb: Apdb, visit: int, ra: Any, dec: Any, *, detector: int = 5, region: Region = FIELD
) -> Batch:
    """What one visit that saw sources at these places adds: preload, associate, summarise."""
    mjd = mjd_of(visit)
    history = apdb.preload(region, mjd)
    n = np.size(ra)
    sources = filled(
        DIA_SOURCE.empty(n),
        diaSourceId=dia_source_ids(visit_number(visit), detector, np.arange(n)),
        visit=visit_number(visit), detector=detector, midpointMjdTai=mjd, ra=ra, dec=dec,
        raErr=1e-5, decErr=1e-5, x=1.0, y=1.0, psfFlux=100.0, psfFluxErr=10.0, snr=10.0, band="r",
        timeProcessedMjdTai=mjd + 1,
    )  # fmt: skip
    found = AssociateSources(AssociateConfig()).run(sources, history.objects)
    past = np.concatenate([history.sources, found.sources])
    touched = found.objects[np.isin(found.objects["diaObjectId"], found.sources["diaObjectId"])]
    objects = SummarizeObjects().run(touched, past, history.forced)
    return Batch(
        visit=visit_number(visit), detector=detector, mjd_tai=mjd, now_mjd_tai=mjd + 1,
        region=region, history=history, sources=found.sources, objects=objects,
        forced=DIA_FORCED_SOURCE.empty(), rejected=REJECTED.empty(), topic=TOPIC,
    )  # fmt: skip


def commit_here(apdb: SqlApdb, seed: int) -> bool:
    """Commit 20 sources of the first visit; to be called in another process."""
    return apdb.commit(random_batch(20, seed=seed))


def die_before_the_commit(apdb: SqlApdb) -> None:
    """Write everything and be killed where the transaction would end."""
    sa.event.listen(apdb._engine, "commit", lambda connection: os._exit(9))
    apdb.commit(random_batch(20, seed=1))


def die_as_sender(apdb: SqlApdb) -> None:
    """Be killed as the one that sends."""
    with apdb.sole_sender():
        os._exit(9)


def assert_same_rows(left: Catalog, right: Catalog) -> None:
    """Equal in every column, unknown equal to unknown."""
    assert left.dtype == right.dtype
    for name in left.dtype.names or ():
        np.testing.assert_array_equal(left[name], right[name], err_msg=name)


def without(batch: Batch, **changes: Any) -> Batch:
    """The batch with some fields changed."""
    return replace(batch, **changes)
