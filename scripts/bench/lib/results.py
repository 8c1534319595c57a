"""Checks, rows and what a benchmark prints of them."""

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


def met(value: float, needed: str) -> bool:
    """Whether a value fulfils ``<= x``, ``>= x``, ``== x`` or ``a to b``; nan never does."""
    if " to " in needed:
        low, high = (float(part) for part in needed.split(" to "))
        return low <= value <= high
    sign, limit = needed.split()
    return {"<=": value <= float(limit), ">=": value >= float(limit), "==": value == float(limit)}[
        sign
    ]
