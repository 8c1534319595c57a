"""Time of a detector's preload and commit in databases of 1e6 and 1e7 sources.

A year of a synthetic survey is written to SQLite and PostgreSQL; then random detectors are
preloaded (1,200 objects, 6,000 sources, 6,000 forced sources) and committed to. The same is
done with plain SQLAlchemy ORM objects on the same tables. Milliseconds are medians. The times
of association and summaries (scripts/bench/association) stand beside them.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from association import speed_rows
from lib.apdb_fill import fill
from lib.apdb_orm import OrmApdb
from lib.apdb_sky import NOW_MJD, Sky, night_batch
from lib.results import check, parser, publish

from promptdia.apdb.pixels import Region
from promptdia.apdb.sql import SqlApdb

SIZES, QUICK_SIZES = (1_000_000, 10_000_000), (10_000, 100_000)
COMMITS = (200, 1000)
_SCRIPTS = Path(__file__).parents[1]
_NEEDED = {"preload": "<= 150", "commit 200": "<= 60"}

Table = list[dict[str, Any]]


def databases(folder: Path, server: str, name: str) -> dict[str, str]:
    """The URL of the database of each kind: a file and a schema of that name."""
    found = {"sqlite": f"sqlite:///{folder / name}.sqlite"}
    if server:
        on_server(server, f"CREATE SCHEMA IF NOT EXISTS {name}")
        url = sa.make_url(server).update_query_dict({"options": f"-c search_path={name}"})
        found["postgresql"] = url.render_as_string(hide_password=False)
    return found


def on_server(server: str, statement: str) -> None:
    """Run one statement outside any transaction."""
    engine = sa.create_engine(server, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(statement)


def opened(url: str, sky: Sky, seed: int) -> tuple[SqlApdb, dict[str, Any]]:
    """The database, filled unless an earlier run did that, and how long it took."""
    store, start = SqlApdb.create(url), time.perf_counter()
    [region] = sky.detectors(1, np.random.default_rng(seed))
    if store.preload(region, NOW_MJD).objects.size:
        return store, {"seconds": 0}
    store.close()
    fill(store, sky, seed)
    return store, {"seconds": round(time.perf_counter() - start, 1)}


@dataclass
class Place:
    """A database, and the milliseconds that were taken there: ours and the ORM's."""

    at: dict[str, Any]
    store: SqlApdb
    orm: OrmApdb
    regions: list[Region]
    times: dict[str, tuple[list[float], list[float]]] = field(
        default_factory=lambda: defaultdict(lambda: ([], []))
    )

    def preload(self, k: int) -> None:
        """Read the k-th detector; what was cold is warm for the ORM."""
        ours, theirs = self.times["preload"]
        ours.append(milliseconds(self.store.preload, self.regions[k], NOW_MJD))
        theirs.append(milliseconds(self.orm.preload, self.regions[k], NOW_MJD))

    def commit(self, k: int, size: int, rng: np.random.Generator) -> None:
        """Write to the k-th detector twice."""
        ours, theirs = self.times[f"commit {size}"]
        visit = 2 + max((v.visit for v in self.store.outcomes()), default=20270101_00000)
        past = self.store.preload(self.regions[k], NOW_MJD)
        mine, other = (
            night_batch(past, self.regions[k], v, NOW_MJD + (v % 100_000) / 1e4, size, rng)
            for v in (visit, visit + 1)
        )
        ours.append(milliseconds(self.store.commit, mine))
        theirs.append(milliseconds(self.orm.commit, other))

    def rows(self) -> Table:
        """What was measured."""
        past = self.store.preload(self.regions[0], NOW_MJD)
        held = (
            f"{past.objects.size} objects, {past.sources.size} sources, {past.forced.size} forced"
        )
        rows = [{**self.at, "what": what, **compared(*ms)} for what, ms in self.times.items()]
        return [*rows, {**self.at, "what": "a detector at the end", "holds": held}]


def measure(places: list[Place], n: int, seed: int) -> Table:
    """All databases in turns, so that what else the machine does hits them alike."""
    rng = np.random.default_rng(seed)
    for place in places:
        place.preload(0)  # connects and compiles
        place.times.clear()
    for k in range(n):
        for place in places:
            place.preload(k)
    for size in COMMITS:
        for k in range(n):
            for place in places:
                place.commit(k, size, rng)
    return [row for place in places for row in place.rows()]


def compared(ours: list[float], theirs: list[float]) -> dict[str, float]:
    """Medians, and how many times faster ours is."""
    a, b = np.median(ours), np.median(theirs)
    return {
        "ms": round(float(a), 1), "min_ms": round(min(ours), 1),
        "orm_ms": round(float(b), 1), "orm_over_ours": round(float(b / a), 1),
    }  # fmt: skip


def milliseconds(function: Callable[..., Any], *arguments: Any) -> float:
    start = time.perf_counter()
    function(*arguments)
    return 1e3 * (time.perf_counter() - start)


def verdict(rows: Table, sizes: tuple[int, ...]) -> Table:
    """The checks of the rows; limits are for PostgreSQL, growth for both databases."""
    ms = {(r.get("database"), r.get("sources"), r["what"]): r["ms"] for r in rows if "ms" in r}
    checks = []
    for what, needed in _NEEDED.items():
        for size in sizes:
            if ("postgresql", size, what) in ms:
                value = ms["postgresql", size, what]
                checks.append(check(f"{what} ms, postgresql, {size:.0e}", value, needed))
    for name in ("postgresql", "sqlite"):
        for what in ("preload", *(f"commit {n}" for n in COMMITS)):
            times = [ms.get((name, size, what)) for size in sizes]
            if all(times):
                growth = times[-1] / times[0]  # type: ignore[operator]
                checks.append(check(f"{what} growth, {name}", growth, "<= 1.3"))
    return checks


@contextmanager
def open_server(named: str) -> Iterator[str]:
    """The PostgreSQL named or one of its own; '' where there can be none."""
    if named:
        yield named
        return
    script = _SCRIPTS / "postgres"
    was_up = subprocess.run([script, "url"], capture_output=True, check=False).returncode == 0
    up = subprocess.run([script, "up"], capture_output=True, text=True, check=False)
    if up.returncode:
        print(up.stderr.strip(), file=sys.stderr)
    try:
        yield up.stdout.strip()
    finally:
        if not (was_up or up.returncode):
            subprocess.run([script, "down"], check=False)


def run(args: argparse.Namespace) -> tuple[Table, Table]:
    """Checks and rows."""
    sizes = QUICK_SIZES if args.quick else SIZES
    rows: Table = []
    with ExitStack() as stack:
        server = stack.enter_context(open_server(args.database))
        folder = Path(args.keep or stack.enter_context(tempfile.TemporaryDirectory()))
        if not server:
            rows.append({"what": "postgresql", "reason": "no server: see scripts/postgres"})
        places, n = [], 1 if args.quick else 7
        for size in sizes:
            sky, name = Sky.of(size, 1), f"apdb_bench_{size}"
            if not args.keep:
                name += f"_{os.getpid()}"
            if server and not args.keep:
                stack.callback(on_server, server, f"DROP SCHEMA IF EXISTS {name} CASCADE")
            for kind, url in databases(folder, server, name).items():
                store, filled = opened(url, sky, 1)
                at = {"database": kind, "sources": size}
                rows.append({**at, "what": "fill", **filled})
                regions = sky.detectors(n, np.random.default_rng(args.seed))
                places.append(Place(at, store, stack.enter_context(closing(OrmApdb(url))), regions))
                stack.callback(store.close)
        if not args.fill:
            rows += measure(places, n, args.seed)
    checks, more = speed_rows(args.seed, args.quick)
    return [*verdict(rows, sizes), *checks], [*rows, *more]


def main() -> None:
    """Print a table, or one JSON object."""
    arguments = parser(__doc__, "1e4 and 1e5 sources")
    arguments.add_argument(
        "--database",
        default=os.environ.get("PROMPTDIA_TEST_POSTGRES", ""),
        metavar="URL",
        help="PostgreSQL server (default: one of its own)",
    )
    arguments.add_argument("--keep", metavar="DIR", help="where databases stay for the next run")
    arguments.add_argument("--fill", action="store_true", help="only make the databases of --keep")
    args = arguments.parse_args()
    checks, rows = run(args)
    packages = ("promptdia", "numpy", "sqlalchemy", "psycopg")
    publish("apdb", checks, rows, packages, args.json)


if __name__ == "__main__":
    main()
