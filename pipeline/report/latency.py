"""Where the time goes: seconds per task over all visit-detectors."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from promptdia.pipeline.report.evidence import Outcome


class TaskTime(NamedTuple):
    """Seconds one task takes on one visit-detector."""

    task: str
    p50: float
    p98: float
    share: float
    """Its part of all seconds spent, 0 to 1."""


def task_times(outcomes: Iterable[Outcome]) -> list[TaskTime]:
    """One row per task in the order of execution, over the visit-detectors that are done."""
    spent: dict[str, list[float]] = {}
    for outcome in outcomes:
        if outcome.status == "done":
            for task, seconds in outcome.seconds.items():
                spent.setdefault(task, []).append(seconds)
    total = sum(sum(values) for values in spent.values())
    rows = []
    for task, values in spent.items():
        p50, p98 = np.percentile(values, [50, 98])
        rows.append(TaskTime(task, float(p50), float(p98), sum(values) / total if total else 0.0))
    return rows
