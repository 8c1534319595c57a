"""The figures of the truth report, each drawn from a Comparison."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from promptdia.pipeline.io.files import whole_file
from promptdia.pipeline.report.completeness import binned_completeness
from promptdia.pipeline.report.evidence import POINTS, STATIONARY
from promptdia.pipeline.report.latency import task_times
from promptdia.pipeline.report.truth import Comparison
from promptdia.tasks.model.arrays import Bools, Floats

Draw: TypeAlias = Callable[[Comparison], Figure]

INK, BLUE, ORANGE, GREEN, GREY = "#22303c", "#2166ac", "#d95f02", "#1b9e77", "#9aa5b1"
COLOURS = {"supernova": BLUE, "variable": ORANGE, "asteroid": GREEN}
BRIGHTEST = 250.0
"""Where S/N axes end; what is brighter is drawn there."""
STYLE: dict[str, Any] = {"color": INK, "fontsize": 9}


def draw_figures(comparison: Comparison, folder: Path) -> dict[str, Path]:
    """Write every figure as PNG into ``folder``; title: path, in the order to show them."""
    paths = {}
    for title, (name, draw) in FIGURES.items():
        paths[title] = folder / f"{name}.png"
        with whole_file(paths[title]) as part:
            draw(comparison).savefig(part, dpi=130, format="png")
    return paths


def completeness(c: Comparison) -> Figure:
    """Found fraction against true S/N: bins with 68 % intervals, and the fitted curve."""
    figure, (axes,) = _panels(1)
    chosen = c.counted & (c.snr >= c.config.faintest_snr)
    snr, found = c.snr[chosen], c.found[chosen] >= 0
    edges = np.geomspace(1.0, BRIGHTEST, 23)
    bins = binned_completeness(np.minimum(snr, BRIGHTEST), found, edges)
    middle = np.sqrt(edges[1:] * edges[:-1])
    full = bins.number > 0
    error = np.abs(np.stack([bins.fraction - bins.low, bins.high - bins.fraction]))
    axes.errorbar(
        middle[full],
        bins.fraction[full],
        yerr=error[:, full],
        fmt="o",
        ms=4,
        color=BLUE,
        ecolor=GREY,
        label=f"{len(snr)} true epochs",
    )
    if c.curve is not None:
        line = np.geomspace(1.0, BRIGHTEST, 400)
        label = f"fit: half are found at S/N {c.curve.snr50:.1f}"
        axes.plot(line, c.curve(line), color=ORANGE, lw=1.5, label=label)
    axes.axvline(c.config.complete_snr, color=GREY, lw=0.8, ls=":")
    axes.axhline(0.9, color=GREY, lw=0.8, ls=":")
    _snr_axis(axes, 1.0)
    axes.set_ylim(-0.03, 1.05)
    _label(axes, "true S/N on the difference image", "fraction alerted")
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


def flux(c: Comparison) -> Figure:
    """Flux pulls against a unit normal, and relative residuals against S/N."""
    figure, (left, right) = _panels(2)
    pulls = c.flux_pulls()
    grid = np.linspace(-5, 5, 41)
    left.hist(np.clip(pulls, -5, 5), grid.tolist(), color=BLUE, alpha=0.85)
    normal = np.exp(-0.5 * grid**2) / np.sqrt(2 * np.pi) * pulls.size * (grid[1] - grid[0])
    left.plot(grid, normal, color=ORANGE, lw=1.5, label="unit normal")
    _label(left, "(measured − true flux) / error", "alerts")
    left.legend(frameon=False, fontsize=8)
    for kind in STATIONARY:
        i, j = c.pairs((kind,), c.config.real_snr)
        excess = c.evidence.alerts["psfFlux"][i] / c.true_flux[j] - 1.0
        right.plot(
            np.minimum(c.snr[j], BRIGHTEST),
            np.clip(excess, -1, 1),
            ".",
            ms=4,
            color=COLOURS[kind],
            label=kind,
        )
    right.axhline(0.0, color=GREY, lw=0.8)
    right.set_ylim(-1.05, 1.05)
    _snr_axis(right, 3.0)
    _label(right, "true S/N", "measured / true flux − 1")
    right.legend(frameon=False, fontsize=8)
    return figure


def astrometry(c: Comparison) -> Figure:
    """Offsets of the alerts from the truth on the sky, and their size against S/N."""
    figure, (left, right) = _panels(2)
    limit = 0.3
    for kind in POINTS:
        i, j = c.pairs((kind,), c.config.real_snr)
        east, north = c.offsets_arcsec(i, j)
        bright = c.snr[j] >= c.config.bright_snr
        left.plot(
            np.clip(east[bright], -limit, limit),
            np.clip(north[bright], -limit, limit),
            ".",
            ms=4,
            color=COLOURS[kind],
            label=f"{kind} ({bright.sum()})",
        )
        distance = np.maximum(np.hypot(east, north), 1e-3)
        right.plot(np.minimum(c.snr[j], BRIGHTEST), distance, ".", ms=4, color=COLOURS[kind])
    left.set_aspect("equal")
    left.set_xlim(limit, -limit)
    left.set_ylim(-limit, limit)
    left.axhline(0, color=GREY, lw=0.6)
    left.axvline(0, color=GREY, lw=0.6)
    _label(left, "east (arcsec)", "north (arcsec)", f"S/N ≥ {c.config.bright_snr:g}")
    left.legend(frameon=False, fontsize=8, loc="upper left")
    right.set_ylim(8e-4, 1.5)
    right.set_yscale("log")
    _snr_axis(right, 3.0)
    _label(right, "true S/N", "distance from the truth (arcsec)")
    return figure


def reliability(c: Comparison) -> Figure:
    """Reliability of alerts and of rejected detections, real against false; then by S/N."""
    figure, (left, right) = _panels(2)
    alerts, rejected = c.evidence.alerts, c.evidence.rejected
    score = np.concatenate([alerts["reliability"], rejected["reliability"]]).astype(float)
    snr = np.concatenate([alerts["snr"], rejected["snr"]]).astype(float)
    real = np.concatenate([c.real, c.rejected_real])
    for values, axes, edges, label in (
        (score, left, np.linspace(0, 1, 41), "reliability"),
        (np.abs(snr), right, np.geomspace(4, BRIGHTEST, 31), "|S/N| of the detection"),
    ):
        chosen = np.isfinite(score) & np.isfinite(values)
        _real_and_false(axes, np.clip(values, edges[0], edges[-1]), real, chosen, edges)
        _label(axes, label, "detections scored")
    _snr_axis(right, 4.0)
    return figure


def latency(c: Comparison) -> Figure:
    """Seconds of each task per visit-detector: median bar, 98th percentile tick."""
    rows = task_times(c.evidence.outcomes)
    figure = Figure(figsize=(8.0, 0.6 + 0.27 * max(len(rows), 3)), layout="constrained")
    axes = figure.subplots()
    place = np.arange(len(rows))
    axes.barh(place, [r.p50 for r in rows], color=BLUE, height=0.65, label="median")
    axes.plot([r.p98 for r in rows], place, "|", ms=12, mew=2, color=ORANGE, label="98 %")
    for i, row in enumerate(rows):
        axes.annotate(
            f"{row.share:.0%}",
            (max(row.p50, row.p98), i),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8,
            color=INK,
        )
    axes.set_yticks(place, [r.task for r in rows])
    axes.invert_yaxis()
    axes.margins(x=0.08)
    _label(axes, "seconds per visit-detector (share of all time beside each bar)", "")
    if rows:
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    return figure


FIGURES: dict[str, tuple[str, Draw]] = {
    "Completeness": ("completeness", completeness),
    "Flux": ("flux", flux),
    "Astrometry": ("astrometry", astrometry),
    "Reliability": ("reliability", reliability),
    "Time per task": ("latency", latency),
}
"""Title: file name and the function that draws it."""


def _panels(number: int) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(8.0, 3.4 if number > 1 else 3.8), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, number)))


def _snr_axis(axes: Axes, lowest: float) -> None:
    axes.set_xlim(lowest, BRIGHTEST)
    axes.set_xscale("log")
    ticks = [t for t in (1, 2, 5, 10, 20, 50, 100, 200) if t >= lowest]
    axes.set_xticks(ticks, [str(t) for t in ticks])
    axes.minorticks_off()


def _label(axes: Axes, x: str, y: str, title: str = "") -> None:
    axes.set_xlabel(x, **STYLE)
    axes.set_ylabel(y, **STYLE)
    if title:
        axes.set_title(title, **STYLE)
    axes.tick_params(labelsize=8, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)


def _real_and_false(axes: Axes, values: Floats, real: Bools, chosen: Bools, edges: Floats) -> None:
    for is_real, colour, label in ((True, BLUE, "real"), (False, ORANGE, "false")):
        rows = values[chosen & (real == is_real)]
        axes.hist(
            rows,
            edges.tolist(),
            histtype="stepfilled",
            alpha=0.55,
            color=colour,
            label=f"{label} ({rows.size})",
        )
    axes.set_yscale("symlog", linthresh=1.0)
    axes.legend(frameon=False, fontsize=8)
