"""What is known of the real frames, and how the alerts compare with it."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from rich.console import Console
from rich.table import Table

from promptdia.pipeline.io.alert_files import read_container
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.worker import Outcome
from promptdia.tasks.model.arrays import Floats

MATCH_PX = 3.0
"""An alert this near the known position is the known source."""
TABLE_ERROR = 0.2
"""A change smaller than this part of the event's light in the template is within twice what the
table's own photometry is good for (5 to 10 %, worse in bad seeing): not usable."""
SAME_DAYS = 0.1
"""Points less than this apart should agree."""
GOOD_SEEING_PX = 7.0
"""The light curve is compared where the header's FWHM is less."""


@dataclass(frozen=True)
class Truth:
    """A table with the known source's place in each frame."""

    file: str
    moves: bool
    """An asteroid, with its place only; else an event, with its light too."""


@dataclass(frozen=True)
class Known:
    """The known source in one frame."""

    x: float
    y: float
    change: float
    """Light less that in the template, in the table's unit; nan for an asteroid."""
    usable: bool
    """Whether it must be alerted."""


@dataclass(frozen=True)
class Frame:
    """One processed frame beside the truth."""

    visit: int
    status: str
    reason: str
    seeing_px: float
    """FWHM from the camera's header; nan where it does not say."""
    known: Known | None
    alert: dict[str, Any] | None
    """The known source's alert."""
    offset_px: float
    others: tuple[dict[str, Any], ...]
    """All other alerts, brightest first."""

    def as_json(self) -> dict[str, Any]:
        """Plain numbers."""
        source = self.alert["diaSource"] if self.alert else {}
        return {
            "visit": self.visit,
            "status": self.status,
            "reason": self.reason,
            "usable": bool(self.known and self.known.usable),
            "found": self.alert is not None,
            "offset_px": self.offset_px,
            "snr": source.get("snr"),
            "flux": source.get("psfFlux"),
            "flux_error": source.get("psfFluxErr"),
            "change_in_table": self.known.change if self.known else None,
            "dia_object": source.get("diaObjectId"),
            "other_alerts": len(self.others),
        }


def compare(
    repository: Repository,
    outcomes: Sequence[Outcome],
    truth: Truth,
    folder: Path,
    template: Sequence[int],
) -> list[Frame]:
    """Every processed frame beside the truth, in time order."""
    known = read_truth(folder / truth.file, truth, template)
    return [_frame(repository, o, known.get(o.visit % 100_000)) for o in outcomes]


def read_truth(path: Path, truth: Truth, template: Sequence[int]) -> dict[int, Known]:
    """The known source by the frames' sequence numbers."""
    with path.open(newline="") as file:
        rows = {_sequence(r.get("file") or r["f"]): r for r in csv.DictReader(file)}
    if truth.moves:
        return {n: Known(float(r["x"]), float(r["y"]), np.nan, True) for n, r in rows.items()}
    light = {n: float(r["flux_refcounts"]) for n, r in rows.items()}
    base = float(np.mean([light[n] for n in template if n in light]))
    return {
        n: Known(
            float(r["x"]), float(r["y"]), light[n] - base, abs(light[n] - base) > TABLE_ERROR * base
        )
        for n, r in rows.items()
    }


def summarize(frames: Sequence[Frame], truth: Truth) -> dict[str, Any]:
    """The numbers asked for."""
    wanted = [f for f in frames if f.known and f.known.usable]
    found = [f for f in wanted if f.alert]
    offsets = [f.offset_px for f in found]
    others = [len(f.others) for f in frames if f.status == "done"]
    numbers: dict[str, Any] = {
        "frames": len(frames),
        "failed": sum(f.status == "failed" for f in frames),
        "usable": len(wanted),
        "found": len(found),
        "offset_px_median": float(np.median(offsets)) if offsets else None,
        "offset_px_max": max(offsets, default=None),
        "other_alerts_median": float(np.median(others)) if others else None,
        "other_alerts_max": max(others, default=None),
    }
    return numbers if truth.moves else {**numbers, **_light_curve_numbers(frames)}


def light_curve(frames: Sequence[Frame]) -> tuple[list[Frame], Floats, Floats, float]:
    """Found frames of usable change, the table's change, ours, and nJy per unit of the table.

    The unit is the one free number: the median ratio over frames of good seeing.
    """
    used = [f for f in frames if f.alert and f.known and f.known.usable]
    table = np.array([f.known.change for f in used if f.known], float)
    ours = np.array([f.alert["diaSource"]["psfFlux"] for f in used if f.alert], float)
    good = np.array([f.seeing_px < GOOD_SEEING_PX for f in used], bool)
    unit = float(np.median(ours[good] / table[good])) if good.any() else np.nan
    return used, table, ours, unit


def _light_curve_numbers(frames: Sequence[Frame]) -> dict[str, Any]:
    used, table, ours, unit = light_curve(frames)
    off = np.abs(ours / unit / table - 1)[[f.seeing_px < GOOD_SEEING_PX for f in used]]
    objects = {f.alert["diaSource"]["diaObjectId"] for f in frames if f.alert}
    time = np.array([f.alert["diaSource"]["midpointMjdTai"] for f in used if f.alert], float)
    return {
        "dia_objects": len(objects),
        "njy_per_table_unit": unit,
        "light_curve_points": len(off),
        "light_curve_within_15_percent": int((off <= 0.15).sum()),
        "light_curve_deviation_median": float(np.median(off)) if len(off) else None,
        "light_curve_deviation_max": float(off.max()) if len(off) else None,
        "scatter_within_hours": _scatter_within_hours(time, ours),
        "scatter_within_hours_of_the_table": _scatter_within_hours(time, table),
    }


def _scatter_within_hours(time: Floats, flux: Floats) -> float | None:
    """Rms relative difference of neighbours in time less than SAME_DAYS apart, over root two.

    The event changes by a few percent in that time: this tells whose points are to be trusted.
    """
    pairs = np.flatnonzero(np.diff(time) < SAME_DAYS)
    if pairs.size == 0:
        return None
    step = 2 * (flux[pairs + 1] - flux[pairs]) / (flux[pairs + 1] + flux[pairs])
    return float(np.sqrt(np.mean(step**2) / 2))


def print_comparison(frames: Sequence[Frame], numbers: dict[str, Any], truth: Truth) -> None:
    """A line per frame, and the numbers."""
    table = Table(box=None, pad_edge=False)
    for name in ("visit", "status", "seeing", "known source", "S/N", "offset px", "others"):
        table.add_column(name, justify="left" if name in ("status", "known source") else "right")
    for frame in frames:
        source = frame.alert["diaSource"] if frame.alert else None
        state = "found" if source else "missed" if frame.known else "not in the table"
        if frame.known and not frame.known.usable:
            state += ", too small a change"
        table.add_row(
            str(frame.visit),
            frame.status,
            f"{frame.seeing_px:.1f}" if np.isfinite(frame.seeing_px) else "",
            state,
            f"{source['snr']:.1f}" if source else "",
            f"{frame.offset_px:.2f}" if source else "",
            str(len(frame.others)),
        )
    console = Console()
    console.print(table)
    for frame in frames:
        if frame.reason:
            console.print(f"{frame.visit}: {frame.reason}")
    for name, value in numbers.items():
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        console.print(f"{name.replace('_', ' ')}: {shown}")


def _frame(repository: Repository, outcome: Outcome, known: Known | None) -> Frame:
    path = repository.alerts_path(outcome.visit, outcome.detector)
    alerts = list(read_container(path)) if path.exists() else []
    distance = [_distance(alert, known) for alert in alerts]
    nearest = int(np.argmin(distance)) if alerts else -1
    found = bool(alerts) and distance[nearest] <= MATCH_PX
    others = [a for i, a in enumerate(alerts) if not (found and i == nearest)]
    with fits.open(repository.raw_path(outcome.visit, outcome.detector)) as hdus:
        seeing = float(hdus[0].header.get("PFWHM", np.nan))
    return Frame(
        visit=outcome.visit,
        status=outcome.status,
        reason=outcome.reason,
        seeing_px=seeing,
        known=known,
        alert=alerts[nearest] if found else None,
        offset_px=distance[nearest] if found else np.nan,
        others=tuple(sorted(others, key=lambda a: -a["diaSource"]["snr"])),
    )


def _distance(alert: dict[str, Any], known: Known | None) -> float:
    if known is None:
        return np.inf
    source = alert["diaSource"]
    return float(np.hypot(source["x"] - known.x, source["y"] - known.y))


def _sequence(name: str) -> int:
    """light_015.fits.fz is 15, AKB13475I0021.fits is 21."""
    return int(name.split(".")[0][-3:])
