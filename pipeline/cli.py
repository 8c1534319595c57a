"""The command line: parses, delegates, and turns errors into one sentence and a status.

Exit status 0 all done, 1 some detector or file failed, 2 unusable arguments or config.
Heavy imports happen inside the commands, so that ``--help`` is immediate.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

OK, FAILED, UNUSABLE = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    arguments = parser().parse_args(argv)
    # our own threads and processes fill the cores; the linear algebra's would only spin
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO if arguments.log else logging.WARNING,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    from promptdia.pipeline import alert_commands, commands
    from promptdia.pipeline.errors import ConfigError, PromptdiaError

    try:
        status: int = {**vars(commands), **vars(alert_commands)}[arguments.run](arguments)
    except ConfigError as error:
        print(f"promptdia: {error}", file=sys.stderr)
        return UNUSABLE
    except PromptdiaError as error:
        print(f"promptdia: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("promptdia: interrupted; run the same command again to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return FAILED
    return status


def parser() -> argparse.ArgumentParser:
    """All commands with their arguments."""
    top = argparse.ArgumentParser(
        prog="promptdia",
        description="Alert production for any telescope: raw CCD frames in, LSST alerts out.",
        epilog="Start with: promptdia demo",
    )
    top.add_argument("--version", action="version", version=f"promptdia {version('promptdia')}")
    top.add_argument("--log", action="store_true", help="say on standard error what is being done")
    commands = top.add_subparsers(metavar="COMMAND", required=True)
    for add in (_setting_up, _processing, _alerts, _looking):
        add(commands)
    return top


def _command(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:  # type: ignore[type-arg]
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.set_defaults(run=name)
    return command


def _rooted(commands: argparse._SubParsersAction, name: str, text: str) -> argparse.ArgumentParser:  # type: ignore[type-arg]
    command = _command(commands, name, text)
    command.add_argument("root", type=Path, metavar="ROOT", help="repository directory")
    return command


def _workers(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=int, help="worker processes (default: one per core)")


def _broker(command: argparse.ArgumentParser) -> None:
    command.add_argument("--broker", metavar="HOST:PORT", help="send alerts to this Kafka broker")
    command.add_argument("--topic", help="Kafka topic (default: as in promptdia.yaml)")


def _json(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object and no more")


def _setting_up(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    c = _command(commands, "demo", "simulate a survey, process its nights, and report the truth")
    c.add_argument("--root", type=Path, help="where (default: ./demo; must not exist)")
    c.add_argument("--survey", default="small", choices=("tiny", "small", "ccd4k"))
    c.add_argument("--seed", type=int, default=1)
    c.add_argument("--broker", metavar="HOST:PORT", help="Kafka (default: the embedded broker)")
    _workers(c)
    _json(c)
    c = _rooted(commands, "init", "make a repository")
    c.add_argument("--instrument", required=True, help="a camera by name, or its YAML file")
    c.add_argument("--apdb", metavar="URL", help="database (default: SQLite in the repository)")
    c = _rooted(commands, "simulate", "fill a new repository with a simulated survey")
    c.add_argument("--survey", required=True, choices=("tiny", "small", "ccd4k"))
    c.add_argument("--seed", type=int, default=1)
    c.add_argument("--apdb", metavar="URL", help="database (default: SQLite in the repository)")
    _workers(c)
    c = _rooted(commands, "ingest", "bring in frames or a reference catalogue")
    c.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders")
    c.add_argument("--instrument", help="make the repository first, for this camera")
    c.add_argument("--as", dest="kind", help="raw, calexp, bias, dark, flat, template or refcat")
    c.add_argument(
        "--combined", action="store_true", help="bias, dark or flat files are masters already"
    )
    c = _rooted(commands, "bootstrap", "make a reference catalogue from the stars of one frame")
    c.add_argument("--visit", type=int, required=True, help="the frame that defines the sky")
    c.add_argument("--detector", type=int, default=0)
    c.add_argument("--zero-point", type=float, default=25.0, help="AB magnitude of one electron")


def _processing(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    c = _rooted(commands, "calib", "build master calibrations")
    _workers(c)
    c = _rooted(commands, "template", "build templates from earlier visits")
    c.add_argument("--band", help="only this band")
    c.add_argument(
        "--visit", type=int, nargs="+", help="exactly these (default: the first night's best)"
    )
    c.add_argument(
        "--before", type=int, metavar="DAY_OBS", help="the best of all nights before this one"
    )
    _workers(c)
    c = _rooted(commands, "visit", "process one visit")
    c.add_argument("visit", type=int, metavar="VISIT")
    c.add_argument("--detector", type=int, nargs="+", help="only these")
    _running(c)
    c = _rooted(commands, "night", "process the visits of a night in time order")
    c.add_argument("day_obs", type=int, metavar="DAY_OBS", help="yyyymmdd")
    c.add_argument("--scheduler", metavar="ADDRESS", help="run image tasks on this Dask cluster")
    _running(c)


def _running(command: argparse.ArgumentParser) -> None:
    _workers(command)
    _broker(command)
    command.add_argument(
        "--out-of-order", action="store_true", help="accept a visit older than what is stored"
    )
    _json(command)


def _alerts(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    top = _rooted(commands, "alerts", "list, show, export, send or listen to alerts")
    verbs = top.add_subparsers(metavar="list|show|export|send|listen", required=True)
    c = _verb(verbs, "list", "a line for each alert kept")
    c.add_argument("--visit", type=int, help="only of this visit")
    _json(c)
    c = _verb(verbs, "show", "print one alert and draw its triplet and light curve")
    c.add_argument("id", type=int, metavar="ID", help="diaSourceId")
    c.add_argument("--png", type=Path, help="where to draw (default: ID.png in ROOT/report)")
    c = _verb(verbs, "export", "all alerts as one Parquet table, or as packets")
    c.add_argument("destination", type=Path, metavar="PATH", help="a .parquet file or a folder")
    c = _verb(verbs, "send", "send alerts that were not sent, or replay all")
    _broker(c)
    c.add_argument("--replay", action="store_true", help="also those already sent")
    pace = c.add_mutually_exclusive_group()
    pace.add_argument(
        "--rate", type=float, help="replay so many per second (default: as fast as possible)"
    )
    pace.add_argument(
        "--as-taken",
        type=float,
        nargs="?",
        const=1.0,
        metavar="SPEED",
        help="replay with the pauses between the exposures, SPEED (1) times as fast",
    )
    c = _verb(verbs, "listen", "read topics; keep, filter and hand on what comes in")
    _broker(c)
    c.add_argument("--registry", metavar="URL", help="schema registry (default: bundled schemas)")
    c.add_argument("--group", default="promptdia", help="consumer group")
    c.add_argument("--timeout", type=float, help="stop after so many seconds without an alert")
    chosen = c.add_mutually_exclusive_group()
    chosen.add_argument(
        "--where", metavar="SQL", help="keep these: snr > 10 AND diaObject.nDiaSources > 3"
    )
    chosen.add_argument(
        "--python", metavar="EXPR", help="keep these: diaSource['snr'] > 10 and not ssSource"
    )
    c.add_argument("--call", metavar="MODULE:FUNCTION", help="call it with each alert kept")
    c.add_argument("--archive", type=Path, metavar="DIR", help="default: ROOT/received")
    c.add_argument("--as", dest="form", choices=("avro", "parquet", "none"), default="avro")
    c = _command(commands, "stream", "send a simulated night of alerts, for load tests of brokers")
    _broker(c)
    c.add_argument("--root", type=Path, help="repository with the broker's settings")
    c.add_argument("--alerts", type=int, default=10_000, help="per visit (default: 10000)")
    c.add_argument("--every", type=float, default=37.0, help="seconds from visit to visit (37)")
    c.add_argument("--visits", type=int, default=1000, help="default: 1000, a night")
    c.add_argument("--night", type=int, default=20261120, metavar="DAY_OBS")
    c.add_argument("--seed", type=int, default=1)
    c = _command(commands, "broker", "run a local test broker with schema registry")
    c.add_argument("--port", type=int, default=0)
    c.add_argument("--registry-port", type=int, default=0)
    c = _command(commands, "schema", "register the alert schemas with a registry")
    c.add_argument("verb", choices=("register",))
    c.add_argument("url", metavar="URL")
    c.add_argument("--topic", default="lsst-alerts", help="also under TOPIC-value")


def _verb(
    verbs: argparse._SubParsersAction,  # type: ignore[type-arg]
    name: str,
    text: str,
    of: str = "alerts",
) -> argparse.ArgumentParser:
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text)
    verb.set_defaults(run=f"{of}_{name}")
    return verb


def _looking(commands: argparse._SubParsersAction) -> None:  # type: ignore[type-arg]
    top = _rooted(commands, "apdb", "look after the database")
    verbs = top.add_subparsers(metavar="create|check|dedup|export", required=True)
    for verb, text in (
        ("create", "make the tables, unless they are there"),
        ("check", "count rows and test what must always hold"),
        ("dedup", "make one of objects closer than the association radius"),
        ("export", "write objects and sources as HATS catalogues (Parquet by sky pixel)"),
    ):
        c = _verb(verbs, verb, text, of="apdb")
        if verb == "export":
            c.add_argument("destination", type=Path, metavar="DIR", help="a new folder")
    c = _rooted(commands, "explain", "where a source came from, or why it was not alerted")
    what = c.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "id", type=int, nargs="?", metavar="ID", help="diaSourceId, of an alert or a rejection"
    )
    what.add_argument(
        "--at", nargs=3, metavar=("RA", "DEC", "VISIT"), help="what happened at a place (degrees)"
    )
    c = _rooted(commands, "report", "compare what was found with the simulated truth")
    _json(c)


if __name__ == "__main__":
    sys.exit(main())
