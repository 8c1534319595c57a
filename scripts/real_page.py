"""A page of pictures: whole frames, the worst residuals, positions that alert again and again."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.visualization import ZScaleInterval
from matplotlib.figure import Figure
from real_pictures import save
from real_repeats import Repeat
from real_truth import Frame

from promptdia.apdb.schema.lsst import REJECTED
from promptdia.pipeline.io.files import whole_file
from promptdia.pipeline.io.fits import read_exposure
from promptdia.pipeline.io.parquet import read_catalog
from promptdia.pipeline.repository import Repository
from promptdia.tasks.model.arrays import Image
from promptdia.tasks.model.exposure import Exposure

SHOWN_FRAMES = 4
WORST = 20
HALF_PX = 25
"""Half side of a stamp."""
NAMES = ("science", "template", "difference")


class Residual(NamedTuple):
    """One detection to look at."""

    visit: int
    x: float
    y: float
    snr: float
    label: str


@dataclass
class _Pictures:
    """The three images of a frame; the last frame stays open."""

    repository: Repository
    visit: int = -1
    planes: tuple[Exposure, ...] = ()

    def of(self, visit: int) -> tuple[Exposure, ...]:
        if visit != self.visit:
            (number,) = self.repository.detectors(visit)
            camera = self.repository.detector(number)
            self.planes = tuple(
                read_exposure(
                    self.repository.product(visit, number, f"{name}.fits"), camera, Exposure
                )
                for name in ("calexp", "template", "difference")
            )
            self.visit = visit
        return self.planes


def write_page(
    repository: Repository,
    frames: Sequence[Frame],
    numbers: dict[str, Any],
    repeats: Sequence[Repeat],
) -> Path:
    """The page's path, in the repository's report folder beside its pictures."""
    folder = repository.root / "report"
    pictures = _Pictures(repository)
    done = [f for f in frames if f.status == "done"]
    parts = [
        f"<h1>{escape(repository.instrument.name)}</h1>",
        _table(numbers.items()),
        "<h2>Whole frames</h2>",
    ]
    for title, frame in _typical(done):
        path = folder / f"frame-{frame.visit}.png"
        save(_whole(pictures.of(frame.visit), frame), path)
        parts.append(_figure(path, f"{title}: visit {frame.visit}, {len(frame.others)} others"))
    parts.append(f"<h2>The {WORST} worst residuals</h2>")
    worst = worst_residuals(repository, done)
    if worst:
        save(_stamps(pictures, worst), folder / "residuals.png")
        parts.append(_figure(folder / "residuals.png", "strongest detections, known source apart"))
    if repeats:
        parts.append("<h2>Positions that repeat</h2>")
        rows = [
            (f"{r.ra:.5f} {r.dec:.5f}", f"{r.n_nights} nights, {r.kind}: {r.why}") for r in repeats
        ]
        save(_stamps(pictures, [_strongest(r) for r in repeats]), folder / "repeats.png")
        parts += [_table(rows), _figure(folder / "repeats.png", "the strongest alert of each")]
    for name, title in (("light-curve.png", "Light curve"), ("known.png", "The known source")):
        if (folder / name).exists():
            parts += [f"<h2>{title}</h2>", _figure(folder / name, title)]
    page = folder / "real.html"
    with whole_file(page) as part:
        part.write_text(_html(parts), encoding="utf-8")
    return page


def worst_residuals(repository: Repository, frames: Iterable[Frame]) -> list[Residual]:
    """The WORST strongest detections but the known source: alerts first, then what was dropped."""
    alerted = [_residual(a["diaSource"], "alert") for f in frames for a in f.others]
    dropped = []
    for frame in frames:
        (number,) = repository.detectors(frame.visit)
        rows = read_catalog(repository.product(frame.visit, number, "rejected.parquet"), REJECTED)
        dropped += [_residual(row, str(row["rule"])) for row in rows]
    strongest = [sorted(rows, key=lambda r: -r.snr) for rows in (alerted, dropped)]
    return (strongest[0] + strongest[1])[:WORST]


def _residual(source: Any, label: str) -> Residual:
    x, y, snr = (float(source[name]) for name in ("x", "y", "snr"))
    return Residual(int(source["visit"]), x, y, snr, label)


def _strongest(repeat: Repeat) -> Residual:
    source = max((a["diaSource"] for a in repeat.alerts), key=lambda s: s["snr"])
    return _residual(source, f"{repeat.kind}, {repeat.n_nights} nights")


def _typical(frames: Sequence[Frame]) -> list[tuple[str, Frame]]:
    """Frames of best, middle and worst seeing, and the one with most other alerts."""
    if not frames:
        return []
    order = sorted(frames, key=lambda f: f.seeing_px)
    chosen = {
        order[0].visit: ("best seeing", order[0]),
        order[len(order) // 2].visit: ("middle seeing", order[len(order) // 2]),
        order[-1].visit: ("worst seeing", order[-1]),
    }
    most = max(frames, key=lambda f: len(f.others))
    chosen.setdefault(most.visit, ("most other alerts", most))
    return list(chosen.values())[:SHOWN_FRAMES]


def _whole(planes: Sequence[Exposure], frame: Frame) -> Figure:
    """Science, template, difference; the known source circled, other alerts in squares."""
    figure = Figure(figsize=(15, 5.3), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    for axis, plane, name in zip(axes, planes, NAMES):
        _show(axis, plane.image, plane, name)
        axis.set_title(name)
        for alert in frame.others:
            source = alert["diaSource"]
            axis.plot(source["x"], source["y"], "s", mfc="none", mec="#FFB000", ms=10)
        if frame.alert:
            source = frame.alert["diaSource"]
            axis.plot(source["x"], source["y"], "o", mfc="none", mec="#00C0FF", ms=10)
    return figure


def _stamps(pictures: _Pictures, residuals: Sequence[Residual]) -> Figure:
    """Three stamps per residual, two residuals beside each other."""
    down = -(-len(residuals) // 2)
    figure = Figure(figsize=(11, 1.95 * down + 0.2), layout="constrained")
    axes: Any = figure.subplots(down, 6, squeeze=False)
    for axis in axes.ravel():
        axis.axis("off")
    for k in sorted(range(len(residuals)), key=lambda k: residuals[k].visit):
        residual = residuals[k]
        planes = pictures.of(residual.visit)
        for column, (plane, name) in enumerate(zip(planes, NAMES)):
            axis = axes[k // 2, 3 * (k % 2) + column]
            _show(axis, cut_stamp(plane.image, residual.x, residual.y), plane, name)
        axes[k // 2, 3 * (k % 2) + 1].set_title(
            f"{residual.visit} ({residual.x:.0f}, {residual.y:.0f}) "
            f"S/N {residual.snr:.0f} {residual.label}",
            fontsize=7,
        )
    return figure


def cut_stamp(image: Image, x: float, y: float) -> Image:
    """Around a place, or around the pixel of the image nearest to it."""
    px, py = (
        int(np.clip(round(v), 0, n - 1)) for v, n in ((x, image.shape[1]), (y, image.shape[0]))
    )
    padded = np.pad(image, HALF_PX, constant_values=np.nan)
    side = 2 * HALF_PX + 1
    return padded[py : py + side, px : px + side]


def _show(axis: Any, image: Image, plane: Exposure, name: str) -> None:
    """Science and template on their own scale, the difference symmetric at 8 sigma."""
    if name == "difference":
        sigma = float(np.sqrt(np.median(plane.variance[np.isfinite(plane.variance)])))
        low, high = -8 * sigma, 8 * sigma
    else:
        low, high = ZScaleInterval().get_limits(image[np.isfinite(image)])
    axis.imshow(image, origin="lower", cmap="gray", vmin=low, vmax=high, interpolation="nearest")
    axis.axis("off")


def _table(rows: Iterable[tuple[str, Any]]) -> str:
    cells = "".join(
        f"<tr><td>{escape(str(key).replace('_', ' '))}</td><td>{escape(_text(value))}</td></tr>"
        for key, value in rows
    )
    return f"<table>{cells}</table>"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _figure(path: Path, caption: str) -> str:
    return f'<figure><img src="{path.name}"><figcaption>{escape(caption)}</figcaption></figure>'


def _html(parts: Iterable[str]) -> str:
    style = (
        "body{font:15px sans-serif;max-width:80rem;margin:2rem auto}img{width:100%}"
        "td{padding:.15rem 1rem .15rem 0}"
    )
    body = "\n".join(parts)
    return f'<!doctype html><meta charset="utf-8"><style>{style}</style>\n{body}\n'
