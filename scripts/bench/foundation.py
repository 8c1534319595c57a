"""Time and memory of the demo and of one 4k x 4k visit, as whole processes.

The demo is `promptdia demo`; the visit is `promptdia visit` on a simulated raw frame of survey
ccd4k with compiled kernels warm (another visit was processed before). Wall seconds and the
sum of the processes' peak memory, worker processes included.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lib.results import Checks, Rows, check, parser, publish

PROMPTDIA = [sys.executable, "-m", "promptdia.pipeline.cli"]
DEMO_CHECKS = {
    "n_failed": "== 0",
    "completeness_snr_ge_6": ">= 0.90",
    "purity": ">= 0.90",
    "astrometry_rms_arcsec_snr20": "<= 0.05",
    "flux_pull_std": "0.85 to 1.25",
    "association_correct": ">= 0.98",
    "lost_alerts": "== 0",
    "duplicate_alerts": "== 0",
}


@dataclass
class Run:
    """A finished command."""

    wall_s: float
    peak_gb: float
    output: str


def run(*words: str) -> Run:
    """Run promptdia with these words; the largest memory of all its processes together."""
    start, peak, stop = time.perf_counter(), 0, threading.Event()
    process = subprocess.Popen([*PROMPTDIA, *words], stdout=subprocess.PIPE, text=True)

    def watch() -> None:
        nonlocal peak
        while not stop.wait(0.1):
            peak = max(peak, sum(resident_bytes(p) for p in family(process.pid)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    output = process.communicate()[0]
    stop.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"promptdia {' '.join(words)} ended with status {process.returncode}")
    return Run(time.perf_counter() - start, peak / 1e9, output)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    below: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            except OSError:
                continue  # it ended meanwhile
            below.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found += below.get(parent, [])
    return found


def resident_bytes(pid: int) -> int:
    """Memory of its own (shared pages divided among their users)."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("Pss:")) * 1024


def demo(folder: Path, survey: str, seed: int) -> tuple[Checks, Rows]:
    """The demo's time, memory and truth report."""
    done = run("demo", "--survey", survey, "--seed", str(seed), "--root", str(folder), "--json")
    report = json.loads(done.output)
    limits = {"demo wall_s": ("<= 180", done.wall_s), "demo peak_gb": ("<= 3", done.peak_gb)}
    limits |= {f"demo {name}": (text, report[name]) for name, text in DEMO_CHECKS.items()}
    checks = [check(name, value, needed) for name, (needed, value) in limits.items()]
    rows = [{"what": f"demo {survey}", **{k: report[k] for k in report if is_number(report[k])}}]
    return checks, rows


def big_visit(folder: Path, survey: str, seed: int) -> tuple[Checks, Rows]:
    """One raw frame of a large detector, kernels warm."""
    root = str(folder)
    run("simulate", root, "--survey", survey, "--seed", str(seed))
    run("calib", root)
    run("template", root)
    visits = sorted(int(p.name) for p in (folder / "raw").iterdir())
    first, second = (str(v) for v in visits[-2:])
    run("visit", root, first, "--json")
    done = run("visit", root, second, "--json")
    detector = json.loads(done.output)["detectors"][0]
    checks = [
        check("visit wall_s", done.wall_s, "<= 30"),
        check("visit peak_gb", done.peak_gb, "<= 4"),
    ]
    rows = [{"what": f"visit {survey}: {k}", "seconds": v} for k, v in detector["seconds"].items()]
    return checks, rows


def is_number(value: Any) -> bool:
    return isinstance(value, int | float)


def main() -> None:
    """Print a table, or one JSON object."""
    arguments = parser(__doc__, "survey tiny for both")
    args = arguments.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checks, rows = demo(Path(folder) / "demo", "tiny" if args.quick else "small", args.seed)
        more = big_visit(Path(folder) / "big", "tiny" if args.quick else "ccd4k", args.seed)
    checks, rows = checks + more[0], rows + more[1]
    packages = ("promptdia", "numpy", "numba", "astropy", "galsim")
    publish("foundation", checks, rows, packages, args.json)


if __name__ == "__main__":
    main()
