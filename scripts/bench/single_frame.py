"""From raw frame to calibrated exposure, against the truth and against libraries.

Simulates raw frames of one 4k x 4k detector (survey ccd4k; a 1k detector with --quick),
calibrates them, and compares PSF, positions, fluxes, pixels and time with what was drawn.
"""

import argparse
import importlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

MODULES = ("psf", "astrometry", "photometry", "variants", "cosmic_rays", "background", "clock")
"""In ``lib``; each has ``checks(seed, quick)`` and returns (checks, rows)."""
PEERS = ("numpy", "numba", "astropy", "photutils", "astroscrappy", "Piff", "reproject", "galsim")


def main() -> None:
    """Print a table, or one JSON object."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--quick", action="store_true", help="a 1k detector, fewer trials")
    arguments.add_argument("--json", action="store_true")
    arguments.add_argument("--only", nargs="+", choices=MODULES, default=list(present()))
    args = arguments.parse_args()
    checks: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    for name in args.only:
        found = importlib.import_module(f"lib.{name}").checks(args.seed, args.quick)
        checks, rows = checks + found[0], rows + found[1]
    result = {
        "name": "single_frame",
        "checks": checks,
        "rows": rows,
        "versions": {"python": platform.python_version(), **{p: found_version(p) for p in PEERS}},
    }
    print(json.dumps(result, default=float)) if args.json else print_tables(checks, rows)


def present() -> list[str]:
    """The modules that this checkout has."""
    lib = Path(__file__).parent / "lib"
    return [name for name in MODULES if (lib / f"{name}.py").exists()]


def found_version(package: str) -> str:
    """Its version, or that it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def print_tables(checks: list[dict[str, Any]], rows: list[dict[str, Any]]) -> None:
    """Verdicts, then what was measured."""
    for row in checks:
        verdict = "ok" if row["ok"] else "MISSED"
        print(f"{row['name']:<44} {row['value']:>10}  {row['needed']:<14} {verdict}")
    print()
    for row in rows:
        numbers = (f"{name} {shown(value)}" for name, value in row.items() if name != "what")
        print(f"{row['what']:<44} {'  '.join(numbers)}")


def shown(value: Any) -> str:
    """Four digits of a number, else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    main()
