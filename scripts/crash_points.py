"""Crash a small night at random moments and at every named step; print what was lost or doubled.

Each night is started, killed with -9, started again and so on, then run to its end and
compared with the topic, the database's invariants and a night that nothing disturbed.
"""

import argparse
import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from crash_night import Night, Steps, process, verdict

from promptdia.pipeline.errors import TransientError

KILLS_PER_NIGHT = 8
MOST_ATTEMPTS = 20
"""A night that meets so many disturbances in a row without ending has failed."""
QUICK = {"n_visits": 2, "n_stars": 6, "settle_s": 0.2}
QUICK_POINTS = 6
_TRY_LATER = 75
_FORK = multiprocessing.get_context("fork")
_BROKER = """
import sys
from promptdia.pipeline.broker import EmbeddedBroker
with EmbeddedBroker() as broker:
    print(broker.url, flush=True)
    sys.stdin.read()
"""


def main() -> int:
    """Run, print, and fail when anything was lost, doubled or broken."""
    arguments = _arguments()
    points = QUICK_POINTS if arguments.quick else arguments.points
    settings: dict[str, Any] = QUICK if arguments.quick else {}
    with tempfile.TemporaryDirectory() as folder, open_broker(arguments.broker) as broker:
        result = run(
            Path(folder), broker, arguments.database, points, arguments.seed,
            arguments.disturb, None if arguments.json else _say, **settings,
        )  # fmt: skip
    if arguments.json:
        print(json.dumps(result))
    else:
        for name, value in result.items():
            print(f"{name:<22} {value}")
    bad = ("lost", "duplicated", "strange", "broken_invariants", "different_skies", "unfinished")
    return int(any(result[name] for name in bad))


def run(
    folder: Path,
    broker: str,
    server: str,
    points: int,
    seed: int,
    disturb: str = "",
    say: Callable[[str], None] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Nights with ``points`` crashes in all: half at random moments, half at named steps."""
    rng = np.random.default_rng(seed)
    start = time.monotonic()
    reference, steps, seconds = undisturbed(folder, broker, server, seed, settings)
    names, crashes, total = sorted(steps), Counter[str](), Counter[str]()
    while sum(crashes.values()) < points:
        with fresh_night(folder, broker, server, seed, settings) as night:
            for _ in range(min(KILLS_PER_NIGHT, points - sum(crashes.values()))):
                if sum(crashes.values()) % 2:
                    # a step that was not hit yet goes first
                    name = min(names, key=lambda n: (crashes[n], rng.random()))
                    last = max(1, steps[name] // 4)
                    ended = attempt(night, Steps(name, int(rng.integers(1, last + 1))))
                else:
                    name = "a random moment"
                    ended = attempt(night, Steps(), kill_after_s=rng.uniform(0, seconds))
                if ended == -signal.SIGKILL:
                    crashes[name] += 1
                else:
                    break
            total["nights"] += 1
            total["disturbances"] += finish(night, disturb, rng, seconds)
            found = in_child(lambda: verdict(night))
        count(total, found, reference)
        if say:
            done = sum(crashes.values())
            say(f"{done} crashes, {total['lost']} lost, {total['duplicated']} twice")
    return {
        "crashes": sum(crashes.values()),
        "at_random_moments": crashes["a random moment"],
        "at_named_steps": sum(crashes.values()) - crashes["a random moment"],
        "different_steps": len(set(crashes) - {"a random moment"}),
        **{
            name: total[name]
            for name in (
                "nights", "disturbances", "alerts", "lost", "duplicated", "strange",
                "broken_invariants", "different_skies", "unfinished",
            )
        },
        "seconds": round(time.monotonic() - start, 1),
        "steps_not_reached": sorted(set(names) - set(crashes)),
    }  # fmt: skip


def undisturbed(
    folder: Path, broker: str, server: str, seed: int, settings: dict[str, Any]
) -> tuple[dict[str, Any], Counter[str], float]:
    """The verdict on a night that runs through, its steps and how long it takes."""
    with fresh_night(folder, broker, server, seed, settings) as night:
        start = time.monotonic()
        steps = in_child(lambda: _counted(night))
        seconds = time.monotonic() - start
        return in_child(lambda: verdict(night)), steps, seconds


def attempt(night: Night, steps: Steps, kill_after_s: float | None = None) -> int:
    """Process the night in a child; its exit status, negative for a signal."""
    child = _FORK.Process(target=_process, args=(night, steps))
    child.start()
    if kill_after_s is not None:
        time.sleep(kill_after_s)
        child.kill()
    child.join()
    return child.exitcode or 0


def _process(night: Night, steps: Steps) -> None:
    try:
        process(night, steps)
    except TransientError as away:
        print(f"(a run gave up: {away})", file=sys.stderr)
        sys.exit(_TRY_LATER)


def finish(night: Night, disturb: str, rng: np.random.Generator, seconds: float) -> int:
    """Run to the end, with one disturbance on the way if one is given; how many there were."""
    disturbed = None
    if disturb:
        delay = rng.uniform(0, seconds)
        command = ["sh", "-c", f"sleep {delay:.3f}; {disturb}"]
        disturbed = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(MOST_ATTEMPTS):
        ended = attempt(night, Steps())
        if ended != _TRY_LATER:
            break
        time.sleep(0.5)
    if disturbed:
        disturbed.wait()
        attempt(night, Steps())
    if ended not in (0, _TRY_LATER):
        raise SystemExit(f"a run ended with status {ended}: that is a bug, see above")
    return int(disturbed is not None)


def count(total: Counter[str], found: dict[str, Any], reference: dict[str, Any]) -> None:
    """Add one night's verdict."""
    for name in ("alerts", "lost", "duplicated", "strange"):
        total[name] += found[name]
    total["broken_invariants"] += len(found["broken"])
    total["different_skies"] += found["sky"] != reference["sky"]
    total["unfinished"] += found["alerts"] != reference["alerts"]
    for sentence in found["broken"]:
        print(f"broken: {sentence}", file=sys.stderr)


def in_child(work: Callable[[], Any]) -> Any:
    """What ``work`` returns, computed in a child, so that this process has no threads to fork."""
    ours, theirs = _FORK.Pipe(duplex=False)
    child = _FORK.Process(target=lambda: theirs.send(work()))
    child.start()
    theirs.close()
    try:
        return ours.recv()
    except EOFError:
        raise SystemExit("a child failed, see above") from None
    finally:
        child.join()


@contextmanager
def fresh_night(
    folder: Path, broker: str, server: str, seed: int, settings: dict[str, Any]
) -> Iterator[Night]:
    """A night with a database, a folder and a topic of its own."""
    name = f"crash_{uuid.uuid4().hex[:12]}"
    place = folder / name
    place.mkdir()
    if server:
        _on_server(server, f"CREATE SCHEMA {name}")
        options = f"-c search_path={name}"
        url = sa.make_url(server).update_query_dict({"options": options})
        database = url.render_as_string(hide_password=False)
    else:
        database = f"sqlite:///{place / 'apdb.sqlite'}"
    try:
        yield replace(Night(place, database, broker, name, seed), **settings)
    finally:
        shutil.rmtree(place)
        if server:
            _on_server(server, f"DROP SCHEMA {name} CASCADE")


@contextmanager
def open_broker(named: str) -> Iterator[str]:
    """The broker named, or an embedded one in a process of its own."""
    if named:
        yield named
        return
    with subprocess.Popen(
        [sys.executable, "-c", _BROKER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdin
        assert server.stdout
        try:
            yield server.stdout.readline().strip()
        finally:
            server.stdin.close()


def _counted(night: Night) -> Counter[str]:
    steps = Steps()
    process(night, steps)
    return steps.counts


def _on_server(server: str, statement: str) -> None:
    def run_statement() -> None:
        engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with engine.connect() as connection:
            connection.exec_driver_sql(statement)

    for _ in range(30):  # it may be starting again
        try:
            return run_statement()
        except sa.exc.OperationalError:
            time.sleep(1)
    return run_statement()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/crash", description=__doc__)
    parser.add_argument("--points", type=int, default=100, help="crashes in all")
    parser.add_argument(
        "--database", default="", metavar="URL", help="PostgreSQL server (default: SQLite files)"
    )
    parser.add_argument(
        "--broker", default="", metavar="HOST:PORT", help="Kafka (default: the embedded broker)"
    )
    parser.add_argument(
        "--disturb", default="", metavar="COMMAND",
        help="run once in every night, e.g. one that stops and starts a server",
    )  # fmt: skip
    parser.add_argument(
        "--quick", action="store_true", help="a shorter night and six crashes, for a test"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    assert threading.active_count() == 1
    raise SystemExit(main())
