"""Visits in time order: image phases in parallel, catalogue phases one after the other."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import partial

from astropy.time import Time

from promptdia.apdb.store import Apdb, Region, Status
from promptdia.pipeline.delivery import archive_alerts
from promptdia.pipeline.ephemerides import load_ephemerides, load_orbits
from promptdia.pipeline.errors import ApdbError, NoWork, TaskError
from promptdia.pipeline.factory import make_tasks
from promptdia.pipeline.pool import Executor, ordered
from promptdia.pipeline.precovery import Precovery
from promptdia.pipeline.repository import Repository, in_time_order
from promptdia.pipeline.retry import with_retries
from promptdia.pipeline.timing import Stopwatch
from promptdia.pipeline.visit import Delivery, update_sky
from promptdia.pipeline.worker import (
    Outcome,
    load_changes,
    load_outcome,
    process_images,
    save_outcome,
)
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.visit import Visit

Job = tuple[Visit, int]
"""A visit and one of its detectors."""


def jobs_of(
    repository: Repository, visits: Iterable[Visit], detectors: list[int] | None = None
) -> list[Job]:
    """Visit-detectors in the order in which the database must see them: time, then detector."""
    return [
        (visit, number)
        for visit in in_time_order(visits)
        for number in repository.detectors(visit.id)
        if detectors is None or number in detectors
    ]


def process(
    repository: Repository,
    jobs: list[Job],
    store: Apdb,
    executor: Executor,
    topic: str,
    *,
    out_of_order: bool = False,
) -> Iterator[Outcome]:
    """Process visit-detectors and yield what became of each, in order.

    A visit-detector that the database already holds is not computed again: its alerts are
    what was committed then. After a crash anywhere the same call goes on where it stopped.
    """
    done = {(v.id, d) for v, d in jobs if store.status(v.id, d) == "done"}
    fresh = [(repository.root, v.id, d) for v, d in jobs if (v.id, d) not in done]
    images = ordered(executor, process_images, fresh)
    for visit, number in jobs:
        if (visit.id, number) in done:
            yield _as_stored(repository, store, visit, number)
        else:
            yield _into_database(repository, store, next(images), visit, topic, out_of_order)


def _into_database(
    repository: Repository,
    store: Apdb,
    outcome: Outcome,
    visit: Visit,
    topic: str,
    out_of_order: bool,
) -> Outcome:
    """Bring one image result into the database; a failure is recorded, never swallowed."""
    timed, number = Stopwatch(outcome.seconds), outcome.detector
    if outcome.status == "done":
        try:
            where = (visit.id, number)
            changes = timed("read_back", load_changes, repository, *where, outcome.metrics)
            tasks = make_tasks(repository.config)
            precovery = Precovery(repository, store, tasks.force)
            with_retries(
                lambda: update_sky(
                    changes,
                    store,
                    tasks,
                    _delivery(repository, topic),
                    timed,
                    ss_objects=load_ephemerides(repository.root, visit.id),
                    load_orbits=partial(load_orbits, repository.root),
                    precover=lambda *new: _precovered(precovery, outcome, *new),
                    now_mjd_tai=_now(),
                    out_of_order=out_of_order,
                )
            )
            timed("archive", archive_alerts, repository, store, visit.id, number)
            _count(outcome, store)
        except (TaskError, ApdbError) as failure:
            outcome.status, outcome.reason = "failed", str(failure)
        except NoWork as nothing:
            outcome.status, outcome.reason = "no_work", str(nothing)
    if outcome.status != "done":
        status: Status = "failed" if outcome.status == "failed" else "no_work"
        store.record_status(
            visit.id, number, status, outcome.reason, mjd_tai=visit.mjd_tai, now_mjd_tai=_now()
        )
    save_outcome(repository, outcome)
    return outcome


def _precovered(
    precovery: Precovery, outcome: Outcome, objects: Catalog, region: Region, visit: Visit
) -> Catalog:
    """Early points of new objects; what could not be measured is noted in the outcome."""
    found = precovery.run(objects, region, visit)
    outcome.precovery_missing = list(found.missing)
    return found.rows


def _as_stored(repository: Repository, store: Apdb, visit: Visit, number: int) -> Outcome:
    """The outcome of an earlier run; what that run did not get to, files, is made up for."""
    known = load_outcome(repository, visit.id, number)
    outcome = replace(known) if known else Outcome(visit.id, number, "done")
    try:
        archive_alerts(repository, store, visit.id, number)
        _count(outcome, store)
    except ApdbError as failure:
        outcome.status, outcome.reason = "failed", str(failure)
    if outcome != known:
        save_outcome(repository, outcome)
    return outcome


def _delivery(repository: Repository, topic: str) -> Delivery:
    config, broker = repository.config, repository.settings.broker
    return Delivery(topic, config.alert_schema, broker.max_message_bytes, config.strict_cutouts)


def _count(outcome: Outcome, store: Apdb) -> None:
    for row in store.outcomes(outcome.visit):
        if row.detector == outcome.detector:
            outcome.status, outcome.reason = row.status, row.reason
            outcome.n_dia_sources = row.n_dia_sources
            outcome.n_new_dia_objects = row.n_new_dia_objects
    outcome.n_alerts = len(store.outbox(outcome.visit, outcome.detector))


def _now() -> float:
    return float(Time.now().tai.mjd)
