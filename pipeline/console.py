"""Progress and result tables for people at a terminal."""

import json
import sys
from collections.abc import Iterable
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.table import Table

from promptdia.pipeline.worker import Outcome


def page() -> Console:
    """Standard output, wide enough that no table is cut; a narrower terminal wraps its lines."""
    console = Console()
    return Console(width=max(console.width, 150))


def say(line: object) -> None:
    """A line on standard output, at once."""
    print(line, flush=True)


def print_json(content: dict[str, Any] | Iterable[Any]) -> None:
    """One JSON object on standard output."""
    json.dump(content, sys.stdout, default=float)
    print()


class Progress:
    """A bar per stage on standard error, when that is a terminal; else a line per stage."""

    def __init__(self, quiet: bool = False) -> None:
        self._console = Console(stderr=True)
        self._quiet = quiet
        self._tasks: dict[str, TaskID] = {}
        self._bars = RichProgress(
            TextColumn("{task.description:<10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=quiet or not sys.stderr.isatty(),
        )

    def __enter__(self) -> Self:
        self._bars.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        for task in self._tasks.values():
            total = self._bars.tasks[task].total
            self._bars.update(task, completed=total or 0)
        self._bars.__exit__(None, None, None)

    def stage(self, name: str, done: int, total: int) -> None:
        """How far a stage is; starting one ends the one before."""
        if name not in self._tasks:
            for task in self._tasks.values():
                self._bars.update(task, completed=self._bars.tasks[task].total or 0)
            self._tasks[name] = self._bars.add_task(name, total=total)
            if self._bars.disable and not self._quiet:
                print(f"{name} ...", file=sys.stderr, flush=True)
        self._bars.update(self._tasks[name], completed=done, total=total)


def outcome_table(outcomes: Iterable[Outcome]) -> Table:
    """A row per visit-detector, and where the time went."""
    table = Table(box=None, pad_edge=False)
    for name in ("visit", "det", "status", "sources", "alerts", "new", "s"):
        table.add_column(name, justify="left" if name == "status" else "right", no_wrap=True)
    table.add_column("slowest")
    for outcome in outcomes:
        spent = sorted(outcome.seconds.items(), key=lambda item: -item[1])
        table.add_row(
            str(outcome.visit),
            str(outcome.detector),
            outcome.status,
            str(outcome.n_dia_sources),
            str(outcome.n_alerts),
            str(outcome.n_new_dia_objects),
            f"{sum(outcome.seconds.values()):.2f}",
            ", ".join(f"{name} {seconds:.1f}" for name, seconds in spent[:3]),
        )
    return table
