"""The commands about alerts on their way out: list, show, send, listen, and test brokers."""

import os
import sys
from argparse import Namespace

from rich.console import Console

from promptdia.pipeline.commands import FAILED, OK, broker_settings, database, named_broker
from promptdia.pipeline.console import page, print_json, say
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings
from promptdia.pipeline.repository import Repository


def alerts_list(args: Namespace) -> int:
    """A line for each alert kept."""
    from promptdia.pipeline.alerts import list_alerts, table

    lines = list_alerts(Repository(args.root).root, args.visit)
    if args.json:
        print_json({"alerts": list(lines)})
    else:
        page().print(table(lines))
    return OK


def alerts_show(args: Namespace) -> int:
    """Print one alert and draw its triplet and light curve."""
    from promptdia.pipeline.alerts import show_alert

    root = Repository(args.root).root
    png = args.png or root / "report" / f"{args.id}.png"
    for line in show_alert(root, args.id, png):
        print(line)
    print(f"drawn to {png}")
    return OK


def alerts_export(args: Namespace) -> int:
    """All alerts as one Parquet table, or as packets."""
    from promptdia.pipeline.alerts import export_alerts

    n = export_alerts(Repository(args.root).root, args.destination)
    print(f"{n} alerts in {args.destination}")
    return OK


def alerts_send(args: Namespace) -> int:
    """Send alerts that were not sent, or replay all."""
    from promptdia.pipeline import alerts, delivery

    repository = Repository(args.root)
    settings = broker_settings(repository, args, required=True)
    if args.replay or args.rate is not None or args.as_taken is not None:
        messages = alerts.stored_messages(repository.root)
        if args.rate is not None:
            messages = alerts.paced(messages, args.rate)
        elif args.as_taken is not None:
            messages = alerts.as_taken(messages, args.as_taken)
        sent = alerts.send_alerts(messages, settings.url, settings.topic, settings)
        n = len(sent.acknowledged)
        for number, reason in sorted(sent.refused.items()):
            print(f"promptdia: alert {number}: {reason}", file=sys.stderr)
        status = FAILED if sent.refused else OK
    else:
        store = database(repository)
        sender = AlertSender(settings.url, settings.topic, settings)
        n, status = delivery.send_alerts(repository, store, sender, settings.topic), OK
        sender.close()
    print(f"{n} alerts sent to topic {settings.topic} at {settings.url}")
    return status


def alerts_listen(args: Namespace) -> int:
    """Read topics; keep, filter and hand on what comes in."""
    from rich.live import Live

    from promptdia.pipeline.alert_filter import load_function, python_filter, sql_filter
    from promptdia.pipeline.io.avro import bundled_schema
    from promptdia.pipeline.io.registry import RegistrySchemas
    from promptdia.pipeline.listening import Archive, Heard, listen

    repository = Repository(args.root)
    settings = broker_settings(repository, args, required=True)
    folder = args.archive or repository.root / "received"
    keep = sql_filter(args.where) if args.where else None
    if args.python:
        keep = python_filter(args.python)
    with Live(Heard().table(), console=Console(stderr=True), refresh_per_second=4) as live:
        heard = listen(
            settings.url,
            [topic.strip() for topic in settings.topic.split(",")],
            args.group,
            settings,
            RegistrySchemas(args.registry) if args.registry else bundled_schema,
            archive=None if args.form == "none" else Archive(folder, args.form),
            keep=keep,
            on_alert=load_function(args.call) if args.call else None,
            on_batch=lambda so_far: live.update(so_far.table()),
            idle_s=args.timeout if args.timeout is not None else float("inf"),
        )
    print(heard)
    for what, n in heard.errors.most_common():
        print(f"promptdia: {n} times {what}", file=sys.stderr)
    return OK


def stream(args: Namespace) -> int:
    """Send a simulated night."""
    from promptdia.pipeline.sim.stream_alerts import NightStream
    from promptdia.pipeline.streaming import stream_night

    made = NightStream(args.seed, args.night, args.alerts, args.every)
    if args.root is not None:
        settings = broker_settings(Repository(args.root), args, required=True)
    else:
        settings = named_broker(BrokerSettings().with_environment(os.environ), args, required=True)
    sender = AlertSender(settings.url, settings.topic, settings)
    stream_night(made, sender, args.visits, say)
    sender.close()
    return OK


def broker(args: Namespace) -> int:
    """Run a local test broker with schema registry."""
    from promptdia.pipeline.broker import serve

    serve([BrokerSettings().topic], say, args.port, args.registry_port)
    return OK


def schema(args: Namespace) -> int:
    """Register the alert schemas with a registry."""
    from promptdia.apdb.schema.lsst import VERSIONS
    from promptdia.pipeline.io.registry import register

    register(args.url, [args.topic])
    print(f"schemas {', '.join(VERSIONS)} are at {args.url} under their LSST ids")
    return OK
