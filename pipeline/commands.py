"""One function per command: reads arguments, calls the pipeline, prints what came out."""

import os
import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from promptdia.pipeline.console import Progress, outcome_table, page, print_json
from promptdia.pipeline.errors import ApdbError, ConfigError, PromptdiaError, TransientError
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings
from promptdia.pipeline.pool import open_executor
from promptdia.pipeline.repository import Repository

if TYPE_CHECKING:
    from promptdia.apdb.sql import SqlApdb

OK, FAILED = 0, 1


# ---- setting up


def demo(args: Namespace) -> int:
    """Simulate a survey, process it, and report the truth."""
    from promptdia.pipeline.demo import run_demo
    from promptdia.pipeline.report.page import number_table

    root = args.root or Path("demo")
    with Progress() as progress:
        report = run_demo(root, args.survey, args.seed, progress.stage, args.workers, args.broker)
    if args.json:
        print_json(report.to_json())
    else:
        page().print(number_table(report))
        print(f"the report with figures: {root / 'report' / 'report.html'}")
    return OK if report.numbers["n_failed"] == 0 else FAILED


def init(args: Namespace) -> int:
    """Make a repository."""
    repository = Repository.create(args.root, args.instrument, args.apdb)
    print(f"{repository.root} is ready for {repository.instrument.name}")
    return OK


def simulate(args: Namespace) -> int:
    """Fill a new repository with a simulated survey."""
    from promptdia.pipeline.sim import SURVEYS
    from promptdia.pipeline.simulate import simulate as render

    repository = Repository.create(args.root, SURVEYS[args.survey].instrument, args.apdb)
    with open_executor(args.workers) as executor:
        sim = render(repository, SURVEYS[args.survey], args.seed, executor)
    print(f"{len(sim.visits)} visits of survey {args.survey}, seed {args.seed}")
    print("for templates:", *sim.template_visits)
    for day in sorted({v // 100_000 for v in sim.science_visits}):
        print(f"night {day}:", *(v for v in sim.science_visits if v // 100_000 == day))
    return OK


def ingest(args: Namespace) -> int:
    """Bring in frames or a reference catalogue."""
    from promptdia.pipeline.ingest import ingest as store

    new = args.instrument and not (args.root / "promptdia.yaml").exists()
    repository = Repository.create(args.root, args.instrument) if new else Repository(args.root)
    result = store(repository, args.paths, args.kind, args.combined)
    for source, reason in result.refused:
        where = "" if str(source) in reason else f"{source}: "
        print(f"promptdia: {where}{reason}", file=sys.stderr)
    kinds = [kind for _, kind, _ in result.stored]
    counted = ", ".join(f"{kinds.count(k)} {k}" for k in sorted(set(kinds))) or "nothing"
    print(f"stored {counted}" + (f", refused {len(result.refused)}" if result.refused else ""))
    return FAILED if result.refused or not result.stored else OK


def bootstrap(args: Namespace) -> int:
    """Make a reference catalogue from the stars of one frame."""
    from promptdia.pipeline.bootstrap import bootstrap as make

    n_stars = make(_configured(args.root), args.visit, args.detector, args.zero_point)
    print(f"{n_stars} reference stars; positions and fluxes are relative to visit {args.visit}")
    return OK


# ---- processing


def calib(args: Namespace) -> int:
    """Build master calibrations."""
    from promptdia.pipeline.calib import build_calibrations

    with open_executor(args.workers) as executor:
        built = build_calibrations(_configured(args.root), executor)
    for made in built:
        what = f"{made.kind} {made.band}".strip()
        count = "bad pixels" if made.kind == "defects" else "frames"
        print(f"{what} of detector {made.detector} from {made.n_inputs} {count}: {made.path}")
    return OK


def template(args: Namespace) -> int:
    """Build templates from earlier visits."""
    from promptdia.pipeline.templates import build_templates, default_visits

    repository = _configured(args.root)
    visits, select = [repository.visit(v) for v in args.visit or ()], None
    if not visits:
        visits, select = default_visits(repository, args.before), repository.config.select_template
    with open_executor(args.workers) as executor:
        made = build_templates(repository, visits, executor, args.band, select)
    for patch in made.built:
        print(f"{patch.band} patch {patch.patch} from {patch.n_inputs} frames: {patch.path}")
    for visit_id, detector, reason in made.refused:
        print(f"promptdia: visit {visit_id} detector {detector}: {reason}", file=sys.stderr)
    return FAILED if made.refused else OK


def visit(args: Namespace) -> int:
    """Process one visit."""
    repository = _configured(args.root)
    chosen = repository.visit(args.visit)
    known = repository.detectors(args.visit)
    for number in args.detector or ():
        if number not in known:
            raise ConfigError(
                f"visit {args.visit} has no detector {number}; it has {', '.join(map(str, known))}"
            )
    return _process(repository, [chosen], args, {"visit": args.visit})


def night(args: Namespace) -> int:
    """Process the visits of a night in time order; write the table of their summaries."""
    from promptdia.pipeline.report.night_table import write_night_table

    repository = _configured(args.root)
    visits = repository.visits(args.day_obs)
    if not visits:
        days = sorted({v.day_obs for v in repository.visits()})
        raise ConfigError(
            f"{args.root} has no visit of night {args.day_obs}; nights: "
            + (", ".join(map(str, days)) or "none")
        )
    try:
        return _process(repository, visits, args, {"day_obs": args.day_obs})
    finally:
        write_night_table(repository, args.day_obs)


def _process(
    repository: Repository, visits: list[Any], args: Namespace, head: dict[str, Any]
) -> int:
    from promptdia.pipeline.delivery import send_alerts
    from promptdia.pipeline.night import jobs_of, process

    settings = broker_settings(repository, args)
    jobs = jobs_of(repository, visits, getattr(args, "detector", None))
    store = database(repository, create=True)
    sender = AlertSender(settings.url, settings.topic, settings) if settings.url else None
    unsent = _reach(sender)
    workers = 1 if args.workers is None and len(jobs) == 1 else args.workers
    outcomes = []
    with (
        open_executor(workers, getattr(args, "scheduler", None)) as executor,
        Progress(quiet=args.json) as progress,
    ):
        results = process(
            repository, jobs, store, executor, settings.topic, out_of_order=args.out_of_order
        )
        for outcome in results:
            outcomes.append(outcome)
            progress.stage("detectors", len(outcomes), len(jobs))
            if sender and not unsent:
                try:
                    send_alerts(repository, store, sender, settings.topic)
                except TransientError as away:
                    unsent = str(away)  # the outbox keeps them; the night goes on
    if args.json:
        print_json({**head, "detectors": [_brief(o, head) for o in outcomes]})
    else:
        page().print(outcome_table(outcomes))
    for o in outcomes:
        if o.status == "failed":
            where = f"visit {o.visit} detector {o.detector}"
            print(f"promptdia: {where} failed: {o.reason}", file=sys.stderr)
    if sender:
        sender.close()
    if unsent:
        raise PromptdiaError(f"{unsent}; the alerts are kept, run the same command again to send")
    return FAILED if any(o.status == "failed" for o in outcomes) else OK


def _reach(sender: AlertSender | None) -> str | None:
    """Why nothing can be sent now; settings that the broker refuses end the command here."""
    try:
        if sender:
            sender.check()
    except TransientError as away:
        return str(away)
    return None


def _configured(root: Path) -> Repository:
    """A repository whose settings and camera were read: what is wrong with them ends it here."""
    repository = Repository(root)
    _ = repository.config
    return repository


def database(repository: Repository, create: bool = False) -> "SqlApdb":
    """The repository's database; one that cannot be used is a matter of configuration."""
    from promptdia.apdb.sql import SqlApdb

    try:
        url = repository.apdb_url
        return SqlApdb.create(url) if create else SqlApdb.open(url)
    except ApdbError as error:
        raise ConfigError(str(error)) from error


def broker_settings(
    repository: Repository, args: Namespace, required: bool = False
) -> BrokerSettings:
    """The repository's broker, as the environment and the arguments change it."""
    return named_broker(repository.settings.broker.with_environment(os.environ), args, required)


def named_broker(settings: BrokerSettings, args: Namespace, required: bool) -> BrokerSettings:
    """Settings with the broker and topic of the arguments."""
    if args.broker:
        settings = replace(settings, url=args.broker)
    if args.topic:
        settings = replace(settings, topic=args.topic)
    if required and not settings.url:
        raise ConfigError("name a broker with --broker HOST:PORT or broker.url in promptdia.yaml")
    return settings


def _brief(outcome: Any, head: dict[str, Any]) -> dict[str, Any]:
    names = (
        "detector", "status", "reason", "n_dia_sources", "n_alerts", "n_new_dia_objects", "seconds"
    )  # fmt: skip
    brief = {name: getattr(outcome, name) for name in names}
    return brief if "visit" in head else {"visit": outcome.visit, **brief}


# ---- looking


def apdb_create(args: Namespace) -> int:
    """Make the database's tables."""
    repository = Repository(args.root)
    database(repository, create=True)
    print(f"created {repository.apdb_url}")
    return OK


def apdb_check(args: Namespace) -> int:
    """Count rows and test what must always hold."""
    store = _store(args)
    broken = store.check()
    _counts(store.countings())
    for sentence in broken:
        print(f"promptdia: {sentence}", file=sys.stderr)
    print("the database is sound" if not broken else f"{len(broken)} broken invariants")
    return FAILED if broken else OK


def apdb_dedup(args: Namespace) -> int:
    """Make one of objects that are one."""
    from astropy.time import Time

    from promptdia.pipeline.dedup import merge_duplicates
    from promptdia.pipeline.factory import make_tasks

    config = Repository(args.root).config
    now = float(Time.now().tai.mjd)
    radius = config.associate.radius_arcsec
    done = merge_duplicates(_store(args), radius, make_tasks(config).summarize, now)
    for merger in done.mergers:
        print(
            f"object {merger.gone} with {merger.n_sources} sources is part of {merger.kept} now, "
            f'{merger.separation_arcsec:.2f}" away'
        )
    print(
        f"{len(done.mergers)} objects merged, {done.n_forced_dropped} double forced sources "
        f"dropped, {done.n_seen_apart} pairs seen side by side stay two"
    )
    return OK


def apdb_export(args: Namespace) -> int:
    """Objects and sources as HATS catalogues."""
    from promptdia.pipeline.io.hats import MAX_ROWS, write_hats

    written = write_hats(args.destination, _store(args).partitions(MAX_ROWS))
    for name, n in written.items():
        print(f"{n} rows in {args.destination / name}")
    if not written:
        print("the database is empty: nothing was written")
    return OK


def explain(args: Namespace) -> int:
    """Where a source came from, or why it was not alerted; or what happened at a place."""
    from promptdia.pipeline.place import explain_place

    store = _store(args)
    if args.at:
        try:
            ra, dec, visit_id = float(args.at[0]), float(args.at[1]), int(args.at[2])
        except ValueError as error:
            raise ConfigError(f"--at needs RA and DEC in degrees and a visit: {error}") from error
        story = explain_place(Repository(args.root), store, ra, dec, visit_id)
    else:
        story = iter(store.explain(args.id).story)
    for sentence in story:
        print(sentence)
    return OK


def _store(args: Namespace) -> "SqlApdb":
    return database(Repository(args.root))


def report(args: Namespace) -> int:
    """Compare what was found with the simulated truth."""
    from promptdia.pipeline.report.collect import make_report
    from promptdia.pipeline.report.page import number_table

    repository = Repository(args.root)
    if not (repository.root / "truth" / "epochs.parquet").exists():
        raise ConfigError(
            f"{repository.root} has no truth to compare with; only simulated surveys have"
        )
    store = database(repository)
    committed = [
        e.dia_source_id for r in store.outcomes() for e in store.outbox(r.visit, r.detector)
    ]
    made = make_report(repository, store.countings()["DiaObject"], np.array(committed, np.int64))
    if args.json:
        print_json(made.to_json())
    else:
        page().print(number_table(made))
        print(f"the report with figures: {repository.root / 'report' / 'report.html'}")
    return OK


def _counts(counts: dict[str, int]) -> None:
    shown = Table(show_header=False)
    for name, n in counts.items():
        shown.add_row(name, str(n))
    page().print(shown)
