"""Checks, rows and what a benchmark prints of them."""

import argparse
import json
import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

Checks = list[dict[str, Any]]
Rows = list[dict[str, Any]]


def check(name: str, value: float, needed: str) -> dict[str, Any]:
    """One line of the verdict; ``needed`` as in ``<= 2.0`` or ``0.85 to 1.25``."""
    return {
        "name": name,
        "value": float(f"{value:.4g}"),
        "needed": needed,
        "ok": bool(met(value, needed)),
    }


def verdict(
    name: str, value: float, needed: str, sample: int, enough: int, of: str = "stars"
) -> tuple[Checks, Rows]:
    """A check where the sample can tell, else a row that says why there is no verdict."""
    if sample >= enough:
        return [check(name, value, needed)], []
    reason = f"{sample} {of}, a verdict needs {enough}"
    return [], [{"what": f"no verdict on {name}", "value": value, "reason": reason}]


def met(value: float, needed: str) -> bool:
    """Whether a value fulfils ``<= x``, ``>= x``, ``== x`` or ``a to b``; nan never does."""
    if " to " in needed:
        low, high = (float(part) for part in needed.split(" to "))
        return low <= value <= high
    sign, limit = needed.split()
    return {"<=": value <= float(limit), ">=": value >= float(limit), "==": value == float(limit)}[
        sign
    ]


def parser(about: str | None, quick: str) -> argparse.ArgumentParser:
    """The arguments that all benchmarks have; ``quick`` says what --quick does."""
    arguments = argparse.ArgumentParser(description=about)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--quick", action="store_true", help=quick)
    arguments.add_argument("--json", action="store_true")
    return arguments


def publish(name: str, checks: Checks, rows: Rows, packages: Sequence[str], as_json: bool) -> None:
    """Print the verdicts and what was measured as tables, or all as one JSON object."""
    versions = {"python": platform.python_version(), **{p: found_version(p) for p in packages}}
    if as_json:
        result = {"name": name, "checks": checks, "rows": rows, "versions": versions}
        print(json.dumps(result, default=float))
        return
    for row in rows:
        print("  ".join(f"{key} {shown(value)}" for key, value in row.items()))
    width = max((len(row["name"]) for row in checks), default=0)
    for row in checks:
        verdict = "ok" if row["ok"] else "MISSED"
        print(f"{row['name']:<{width}} {row['value']:>10}  {row['needed']:<14} {verdict}")


def found_version(package: str) -> str:
    """Its version, or that it is absent."""
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def shown(value: Any) -> str:
    """Four digits of a number, else as it is."""
    return f"{value:.4g}" if isinstance(value, float) else str(value)
