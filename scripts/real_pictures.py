"""Pictures of what was found on real frames."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from real_curve import LightCurve, draw_light_curve
from real_truth import Frame

from promptdia.pipeline.io.files import whole_file
from promptdia.pipeline.report.triplets import draw_alert, draw_triplets
from promptdia.pipeline.repository import Repository

MOST = 12
"""Alerts drawn of one frame besides the known source."""


def draw_campaign(
    repository: Repository, frames: Sequence[Frame], curve: LightCurve | None
) -> Path:
    """Triplets of the known source, of all else, and its curve; the folder they are in."""
    folder = repository.root / "report"
    known = [f.alert for f in frames if f.alert]
    if known:
        draw_triplets(known, folder / "known.png", across=3)
        draw_alert(known[-1], folder / "last-alert.png")
    for frame in frames:
        if frame.others:
            draw_triplets(frame.others[:MOST], folder / f"others-{frame.visit}.png", across=3)
    if curve is None:
        _draw_offsets(frames, folder / "offsets.png")
    else:
        save(draw_light_curve(curve), folder / "light-curve.png")
    return folder


def draw_packets(packets: Sequence[dict[str, Any]], folder: Path) -> list[Path]:
    """The triplets of alerts on one page, and a page with the light curve of each."""
    together = folder / "triplets.png"
    draw_triplets(packets, together)
    pages = [folder / f"{packet['diaSourceId']}.png" for packet in packets]
    for packet, page in zip(packets, pages):
        draw_alert(packet, page)
    return [together, *pages]


def _draw_offsets(frames: Sequence[Frame], path: Path) -> None:
    """Alert less truth, in x and y over time."""
    found = [f for f in frames if f.alert and f.known]
    sources = [f.alert["diaSource"] for f in found if f.alert]
    time = [s["midpointMjdTai"] for s in sources]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axis: Any = figure.subplots()
    for name, marker in (("x", "o"), ("y", "s")):
        off = [s[name] - getattr(f.known, name) for s, f in zip(sources, found)]
        axis.errorbar(time, off, [s[f"{name}Err"] for s in sources], fmt=marker, label=name)
    axis.axhline(0, color="#999999", lw=0.7)
    axis.set_xlabel("MJD TAI")
    axis.set_ylabel("alert less truth [px]")
    axis.ticklabel_format(useOffset=False)
    axis.legend()
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure as PNG, whole or not at all."""
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=110)
