"""The demonstration: a simulated survey from raw frames to alerts read back from a stream."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from promptdia.apdb.sql import SqlApdb
from promptdia.pipeline.broker import EmbeddedBroker
from promptdia.pipeline.calib import build_calibrations
from promptdia.pipeline.delivery import send_alerts
from promptdia.pipeline.errors import ConfigError, PromptdiaError
from promptdia.pipeline.io.avro import decode
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings, read_topic
from promptdia.pipeline.io.registry import RegistrySchemas
from promptdia.pipeline.night import jobs_of, process
from promptdia.pipeline.pool import open_executor
from promptdia.pipeline.report.collect import make_report
from promptdia.pipeline.report.truth import TruthReport
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.sim import SURVEYS
from promptdia.pipeline.simulate import simulate
from promptdia.pipeline.templates import build_templates
from promptdia.pipeline.worker import Outcome

TOPIC = "promptdia-demo"
Progress = Callable[[str, int, int], None]
"""Called with a stage, how much of it is done, and how much there is."""


def run_demo(
    root: Path,
    survey: str,
    seed: int,
    progress: Progress,
    workers: int | None = None,
    broker: str | None = None,
) -> TruthReport:
    """Simulate, calibrate, build templates, process the nights, send, read back, report."""
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} exists and is not empty; give another --root or remove it")
    repository = Repository.create(root, SURVEYS[survey].instrument)
    # a broker that stays keeps the topics of earlier demos: each has its own
    topic = f"{TOPIC}-{datetime.now(UTC):%Y%m%dT%H%M%S}" if broker else TOPIC
    with open_executor(workers) as executor:
        progress("simulate", 0, 1)
        sim = simulate(repository, SURVEYS[survey], seed, executor)
        progress("calibrate", 0, 1)
        build_calibrations(repository, executor)
        progress("template", 0, 1)
        made = build_templates(
            repository, [repository.visit(v) for v in sim.template_visits], executor
        )
        if made.refused:
            visit, detector, reason = made.refused[0]
            raise PromptdiaError(f"template visit {visit} detector {detector}: {reason}")
        store = SqlApdb.create(repository.apdb_url)
        jobs = jobs_of(repository, [repository.visit(v) for v in sim.science_visits])
        with stream(broker, topic) as (url, schemas):
            outcomes: list[Outcome] = []
            sender = AlertSender(url, topic, BrokerSettings(partitions=4))
            for outcome in process(repository, jobs, store, executor, topic):
                outcomes.append(outcome)
                send_alerts(repository, store, sender, topic)
                progress("night", len(outcomes), len(jobs))
            sender.close()
            delivered = [
                decode(message.value, schemas)["diaSourceId"]
                for message in read_topic(url, topic, BrokerSettings())
            ]
    progress("report", 0, 1)
    return make_report(
        repository,
        store.countings()["DiaObject"],
        _committed(store, outcomes),
        np.array(delivered, np.int64),
    )


@contextmanager
def stream(broker: str | None, topic: str) -> Iterator[tuple[str, Any]]:
    """Address of the broker named, or of an embedded one, and where its schemas come from."""
    if broker:
        from promptdia.pipeline.io.avro import bundled_schema

        yield broker, bundled_schema
        return
    with EmbeddedBroker([topic]) as embedded:
        yield embedded.url, RegistrySchemas(embedded.registry_url)


def _committed(store: SqlApdb, outcomes: list[Outcome]) -> Any:
    ids = [
        entry.dia_source_id
        for outcome in outcomes
        for entry in store.outbox(outcome.visit, outcome.detector)
    ]
    return np.array(ids, np.int64)
