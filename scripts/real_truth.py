"""What is known of the real frames, and how the alerts compare with it."""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from real_noise import away_noise
from rich.console import Console
from rich.table import Table

from promptdia.pipeline.io.alert_files import read_container
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.worker import Outcome
from promptdia.tasks.model.psf import FWHM_PER_SIGMA

MATCH_PX = 3.0
"""An alert this near the known position is the known source."""
TABLE_ERROR = 0.2
"""A change smaller than this part of the event's light in the template is within twice what the
table's own photometry is good for (5 to 10 %, worse in bad seeing): not usable."""
GOOD_SEEING_PX = 7.0
"""The light curve is compared where the header's FWHM is less."""


@dataclass(frozen=True)
class Truth:
    """What is known: a table with the source's place in each frame, or one place for all."""

    file: str | None = None
    has_light: bool = False
    """The table holds the source's light too: an event with a light curve."""
    at: tuple[float, float] = (np.nan, np.nan)
    """Pixel in every frame, where there is no table."""


@dataclass(frozen=True)
class Known:
    """The known source in one frame."""

    x: float
    y: float
    light: float
    """In the table's unit; nan where it has none."""
    change: float
    """Light less that in the template."""
    usable: bool
    """Whether it must be alerted."""


@dataclass(frozen=True)
class Frame:
    """One processed frame beside the truth."""

    visit: int
    status: str
    reason: str
    seeing_px: float
    """FWHM from the camera's header, or ours where it does not say; nan without either."""
    known: Known | None
    alert: dict[str, Any] | None
    """The known source's alert."""
    offset_px: float
    others: tuple[dict[str, Any], ...]
    """All other alerts, brightest first."""
    metrics: dict[str, float]
    """Of the pipeline, and of ``away_noise``."""

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
            "light_in_table": self.known.light if self.known else None,
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
    if truth.file is None:
        known = {o.visit % 100_000: Known(*truth.at, np.nan, np.nan, True) for o in outcomes}
    else:
        known = read_truth(folder / truth.file, truth.has_light, template)
    return [_frame(repository, o, known.get(o.visit % 100_000)) for o in outcomes]


def read_truth(path: Path, has_light: bool, template: Sequence[int]) -> dict[int, Known]:
    """The known source by the frames' sequence numbers."""
    with path.open(newline="") as file:
        rows = {_sequence(r.get("file") or r["f"]): r for r in csv.DictReader(file)}
    if not has_light:
        return {
            n: Known(float(r["x"]), float(r["y"]), np.nan, np.nan, True) for n, r in rows.items()
        }
    light = {n: float(r["flux_refcounts"]) for n, r in rows.items()}
    base = float(np.mean([light[n] for n in template if n in light]))
    return {
        n: Known(
            float(r["x"]),
            float(r["y"]),
            light[n],
            light[n] - base,
            abs(light[n] - base) > TABLE_ERROR * base,
        )
        for n, r in rows.items()
    }


def summarize(frames: Sequence[Frame], template: Sequence[int]) -> dict[str, Any]:
    """The numbers asked for; noise only of frames that are not in the template.

    Over all unmasked pixels, and away from bright stars.
    """
    wanted = [f for f in frames if f.known and f.known.usable]
    found = [f for f in wanted if f.alert]
    offsets = [f.offset_px for f in found]
    others = [len(f.others) for f in frames if f.status == "done"]
    numbers: dict[str, Any] = {
        "frames": len(frames),
        "failed": sum(f.status == "failed" for f in frames),
        "usable": len(wanted),
        "found": len(found),
        "dia_objects": len({f.alert["diaSource"]["diaObjectId"] for f in frames if f.alert}),
        "offset_px_median": float(np.median(offsets)) if offsets else None,
        "offset_px_max": max(offsets, default=None),
        "other_alerts_median": float(np.median(others)) if others else None,
        "other_alerts_max": max(others, default=None),
    }
    apart = [f for f in frames if f.status == "done" and f.visit % 100_000 not in template]
    for name, metric, tolerance in (
        ("pixel_noise_all", "noise", 0.10),
        ("snr_noise_all", "noise_matched", 0.05),
        ("pixel_noise_away", "noise_away", 0.10),
        ("snr_noise_away", "noise_matched_away", 0.05),
    ):
        noise = np.array([f.metrics[metric] for f in apart])
        if noise.size:
            numbers |= {
                f"{name}_over_expected_median": float(np.median(noise)),
                f"{name}_over_expected_range": [float(noise.min()), float(noise.max())],
                f"{name}_frames_within_{100 * tolerance:.0f}_percent": (
                    f"{np.sum(np.abs(noise - 1) <= tolerance)} of {noise.size}"
                ),
            }
    return numbers


def print_comparison(frames: Sequence[Frame], numbers: dict[str, Any]) -> None:
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
    away = away_noise(repository, outcome) if outcome.status == "done" else {}
    return Frame(
        visit=outcome.visit,
        status=outcome.status,
        reason=outcome.reason,
        seeing_px=_seeing(repository.raw_path(outcome.visit, outcome.detector), outcome),
        known=known,
        alert=alerts[nearest] if found else None,
        offset_px=distance[nearest] if found else np.nan,
        others=tuple(sorted(others, key=lambda a: -a["diaSource"]["snr"])),
        metrics={**outcome.metrics, **away},
    )


def _seeing(raw: Path, outcome: Outcome) -> float:
    own = FWHM_PER_SIGMA * outcome.metrics.get("psfSigma", np.nan)
    if not raw.exists():
        return own
    with fits.open(raw) as hdus:
        return float(hdus[0].header.get("PFWHM", own))


def _distance(alert: dict[str, Any], known: Known | None) -> float:
    if known is None:
        return np.inf
    source = alert["diaSource"]
    return float(np.hypot(source["x"] - known.x, source["y"] - known.y))


def _sequence(name: str) -> int:
    """light_015.fits.fz is 15, AKB13475I0021.fits is 21."""
    return int(name.split(".")[0][-3:])
