"""Differencing on simulated pairs: against the truth, the noise-limited ideal, and peers.

Pairs of one detector (4096 x 4096; --size, and smaller with --quick) of the kinds in
lib/differencing_pair.py; one scorer (lib/differencing_score.py) for every method. CPU and
wall seconds and memory are those of the subtraction alone, kernels compiled before.
"""

import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from lib.differencing_methods import (
    PEERS,
    Absent,
    find,
    oracle,
    reproject_template,
    sfft_numpy,
    subtract,
    warp_template,
)
from lib.differencing_pair import KINDS, Kind, Pair, make_pair
from lib.differencing_score import Result, judge, score, true_snr
from lib.results import Checks, Rows, check, parser, publish

OURS, CHAIN, ORACLE = "promptdia", "promptdia, detected and filtered", "ideal"
NEEDED = {
    ("sparse", OURS, "cpu_s"): "<= 2.0",
    ("sparse", OURS, "wall_s"): "<= 1.5",
    ("sparse", OURS, "peak_gb"): "<= 1.5",
    ("sparse", OURS, "S_norm"): "0.98 to 1.02",
    ("worse", OURS, "S_norm"): "<= 1.03",
    ("crowded", OURS, "S_norm"): "<= 1.05",
    ("sparse", CHAIN, "false"): "<= 12",
    ("crowded", CHAIN, "false"): "<= 60",
    ("sparse", OURS, "lost"): "<= 0.01",
    ("sparse", OURS, "chi2"): "<= 1.03",
    ("sparse", OURS, "chi2_90"): "<= 1.20",
    ("worse", OURS, "chi2"): "<= 1.30",
    ("worse", OURS, "chi2_90"): "<= 2.0",
    ("sparse", OURS, "pull_over_ideal"): "0.95 to 1.05",
    ("worse", OURS, "pull_over_ideal"): "0.95 to 1.05",
    ("sparse", OURS, "pull_sky"): "0.95 to 1.05",
    ("worse", OURS, "pull_sky"): "0.95 to 1.05",
    ("sparse", OURS, "flux_over_ideal"): "0.995 to 1.005",
    ("worse", OURS, "flux_over_ideal"): "0.995 to 1.005",
    ("crowded", OURS, "flux_over_ideal"): "0.995 to 1.005",
    ("sparse", CHAIN, "complete"): ">= 0.97",
    ("sparse", CHAIN, "complete_host"): ">= 0.95",
    ("warp", OURS, "cpu_s"): "<= 0.5",
}
"""(kind, method, figure): what it must be; mean over the seeds, times their least.

Pulls and fluxes of the 220 transients of a pair are judged against the ideal difference's, which
has the same noise: by chance alone they scatter by 0.08 and 0.004.
"""
SFFT_SIDE = 1024
PACKAGES = ("promptdia", "numpy", "scipy", "numba", "photutils", "sfft", "reproject")


class Spent(NamedTuple):
    """Of one call."""

    cpu_s: float
    wall_s: float
    peak_gb: float
    """Resident memory at its highest, of the whole process less what it held before."""


def spent(call: Callable[[], Any]) -> tuple[Any, Spent]:
    """The call's result, and what it took."""
    before, stop, highest = resident_gb(), threading.Event(), [0.0]

    def watch() -> None:
        while not stop.wait(0.02):
            highest[0] = max(highest[0], resident_gb())

    watcher = threading.Thread(target=watch)
    watcher.start()
    cpu, wall = time.process_time(), time.perf_counter()
    try:
        result = call()
    finally:
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        stop.set()
        watcher.join()
    return result, Spent(cpu, wall, max(highest[0] - before, 0.0))


def resident_gb() -> float:
    """Resident memory of this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e9


def inputs_gb(pair: Pair) -> float:
    """Image, variance and mask of both exposures."""
    planes = [p for e in (pair.science, pair.template) for p in (e.image, e.variance, e.mask)]
    return float(sum(p.nbytes for p in planes)) / 1e9


def compare(kind: Kind, side: int, seed: int, peers: bool, repeats: int) -> Rows:
    """One row per method on one pair."""
    pair = make_pair(kind, side, seed)
    what = {"kind": kind.name, "side": side, "seed": seed}
    ideal = oracle(pair)
    snr = true_snr(pair, ideal)
    best = score(pair, ideal, snr, seed)
    rows = [{**what, "method": ORACLE, **best}]
    takes = [spent(lambda: subtract(pair)) for _ in range(repeats)]
    made = takes[-1][0]
    least = [min(getattr(t[1], name) for t in takes) for name in ("cpu_s", "wall_s")]
    memory = max(t[1].peak_gb for t in takes) + inputs_gb(pair)
    del takes
    result = Result.of(made.difference)
    figures = score(pair, result, snr, seed)
    rows.append(
        {**what, "method": OURS, "cpu_s": least[0], "wall_s": least[1], "peak_gb": memory}
        | figures
        | {f"{name}_over_ideal": figures[name] / best[name] for name in ("pull", "flux")}
        | {"kernel_stars": made.metrics["kernel_stars"]}
    )
    found, time_taken = spent(lambda: find(pair, made))
    rows.append(
        {**what, "method": CHAIN, "cpu_s": time_taken.cpu_s, "wall_s": time_taken.wall_s}
        | judge(pair, found, result.bad, snr)
    )
    if peers:
        rows += [peer(name, run, pair, what, snr) for name, run in PEERS.items()]
    return rows


def peer(
    name: str, run: Callable[[Pair], Result], pair: Pair, what: dict[str, Any], snr: Any
) -> dict[str, Any]:
    """Its figures, or why there are none."""
    try:
        result, used = spent(lambda: run(pair))
    except Absent as absent:
        return {**what, "method": name, "reason": str(absent)}
    used = used._replace(peak_gb=used.peak_gb + inputs_gb(pair))
    return {**what, "method": name, **used._asdict()} | score(pair, result, snr, what["seed"])


def sfft_row(seed: int) -> dict[str, Any]:
    """SFFT at a size that its memory allows."""
    pair = make_pair(KINDS[0], SFFT_SIDE, seed)
    what = {"kind": KINDS[0].name, "side": SFFT_SIDE, "seed": seed}
    return peer("SFFT, numpy", sfft_numpy, pair, what, true_snr(pair, oracle(pair)))


def warp_rows(side: int, seed: int) -> Rows:
    """One plane with variance and mask onto another grid, and reproject's."""
    pair = make_pair(KINDS[0], side, seed)
    rows = []
    for name, call in ((OURS, warp_template), ("reproject_interp bicubic", reproject_template)):
        call(pair, 64)
        used = spent(lambda call=call: call(pair, side))[1]
        rows.append({"kind": "warp", "side": side, "seed": seed, "method": name, **used._asdict()})
    return rows


def verdicts(rows: Rows) -> Checks:
    """Every figure that has a limit; times and memory the least over the seeds."""
    checks = []
    for (kind, method, figure), needed in NEEDED.items():
        mine = [r for r in rows if (r["kind"], r["method"]) == (kind, method) and figure in r]
        if mine:
            least = figure in Spent._fields
            values = [r[figure] for r in mine if r["side"] == max(m["side"] for m in mine)]
            value = min(values) if least else statistics.fmean(values)
            checks.append(check(f"{kind}: {method}, {figure}", value, needed))
    return checks


def main() -> None:
    """Print a table, or one JSON object."""
    arguments = parser(__doc__, "640 pixels, no slow peer")
    arguments.add_argument("--seeds", type=int, default=1, help="how many")
    arguments.add_argument("--size", type=int, default=4096, help="pixels along a side")
    arguments.add_argument("--kinds", nargs="+", default=[k.name for k in KINDS])
    arguments.add_argument("--no-peers", action="store_true")
    args = arguments.parse_args()
    side = 640 if args.quick else args.size
    subtract(make_pair(KINDS[0], 512, 0))  # compiles what is not compiled yet
    rows: Rows = []
    for seed in range(args.seed, args.seed + args.seeds):
        for kind in KINDS:
            if kind.name in args.kinds:
                repeats = 2 if kind is KINDS[0] and not args.quick else 1
                rows += compare(kind, side, seed, not args.no_peers, repeats)
    rows += warp_rows(side, args.seed)
    if not args.quick and not args.no_peers:
        rows += [sfft_row(args.seed)]
    checks = verdicts(rows)
    publish("differencing", checks, rows, PACKAGES, args.json)


if __name__ == "__main__":
    main()
