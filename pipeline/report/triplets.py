"""Pictures of alerts: science, template and difference side by side, and light curves.

Alerts come as decoded packets (``avro.decode``, ``alert_files.read_container``).
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.visualization import ZScaleInterval
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from promptdia.pipeline.io.cutouts import read_cutout
from promptdia.pipeline.io.files import whole_file
from promptdia.tasks.model.arrays import Floats, Image
from promptdia.tasks.package import CutoutFrame
from promptdia.tasks.robust import MAD_TO_SIGMA

BAND_COLOURS = {
    "u": "#56B4E9",
    "g": "#009E73",
    "r": "#D55E00",
    "i": "#CC79A7",
    "z": "#8C6D31",
    "y": "#000000",
}
_PANELS = (("cutoutScience", "science"), ("cutoutTemplate", "template"))
_SIDE = 1.75
_MARK = "#FFB000"
_OUTLINE = [withStroke(linewidth=0.8, foreground="black")]


def draw_triplets(alerts: Sequence[Mapping[str, Any]], path: Path, across: int = 2) -> None:
    """One row of three pictures per alert, ``across`` alerts beside each other; a PNG.

    Science and template share one asinh scale, so what changed is seen; the difference
    is grey at zero, symmetric and in its own scale. Ticks point at the source, N and E
    show the sky's directions.
    """
    across = max(1, min(across, len(alerts)))
    down = max(1, -(-len(alerts) // across))
    figure = Figure(figsize=(across * (3 * _SIDE + 0.3), down * (_SIDE + 0.55)))
    cells: Any = figure.subfigures(down, across, squeeze=False)
    for alert, cell in zip(alerts, cells.ravel()):
        _triplet(cell, alert)
    _save(figure, path)


def draw_alert(alert: Mapping[str, Any], path: Path) -> None:
    """The triplet of an alert above its light curve; a PNG."""
    figure = Figure(figsize=(3 * 2.4, 2.9 + 3.4))
    parts: Any = figure.subfigures(2, 1, height_ratios=(2.9, 3.4))
    above, below = parts
    _triplet(above, alert)
    axes = below.add_axes((0.15, 0.16, 0.82, 0.76))
    _light_curve(axes, alert)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=110)


def _triplet(cell: SubFigure, alert: Mapping[str, Any]) -> None:
    axes = cell.subplots(1, 3, gridspec_kw={"wspace": 0.04})
    cell.subplots_adjust(left=0.02, right=0.98, bottom=0.01, top=0.81)
    cell.suptitle(_title(alert), fontsize=7, x=0.02, y=0.985, ha="left", linespacing=1.3)
    cutouts = [read_cutout(alert[name]) for name, _ in _PANELS]
    limits = _limits(*(c.image for c in cutouts))
    for axis, cutout, (_, name) in zip(axes, cutouts, _PANELS):
        _picture(axis, _asinh(cutout.image, *limits), (0.0, 1.0), "gray", name)
    difference = read_cutout(alert["cutoutDifference"])
    scale = _spread(difference.image)
    _picture(axes[2], np.arcsinh(difference.image / scale), (-3.0, 3.0), "RdBu_r", "difference")
    for axis in axes:
        _ticks(axis, difference.frame, difference.image.shape[0])
    _compass(axes[0], difference.frame, difference.image.shape[0])


def _title(alert: Mapping[str, Any]) -> str:
    source = alert["diaSource"]
    if source["ssObjectId"]:
        whose = f"Solar System object {source['ssObjectId']}"
    else:
        earlier = len(alert["prvDiaSources"] or ())
        whose = f"object {source['diaObjectId']}, {earlier} earlier"
    return (
        f"{alert['diaSourceId']}   visit {source['visit']} detector {source['detector']}\n"
        f"{source['band']}  {_number(source['psfFlux']):.0f} ± "
        f"{_number(source['psfFluxErr']):.0f} nJy   S/N {_number(source['snr']):.1f}   "
        f"reliability {_number(source['reliability']):.2f}   {whose}"
    )


def _picture(
    axis: Axes, image: Floats, limits: tuple[float, float], colours: str, name: str
) -> None:
    axis.imshow(image, origin="lower", cmap=colours, vmin=limits[0], vmax=limits[1])
    axis.set_facecolor("#D9D9D9")  # shows where there are no pixels
    axis.set_xticks([])
    axis.set_yticks([])
    axis.set_title(name, fontsize=7, pad=2)


def _limits(*images: Image) -> tuple[float, float]:
    """Black and white level: zscale's black; its white or the bright peak in the middle."""
    pixels = np.concatenate([image[np.isfinite(image)] for image in images])
    if pixels.size == 0:
        return 0.0, 1.0
    low, high = ZScaleInterval().get_limits(pixels)
    return float(low), float(max(high, np.quantile(pixels, 0.999), low + 1e-6))


def _asinh(image: Image, low: float, high: float) -> Floats:
    scaled: Floats = np.arcsinh(10.0 * np.clip((image - low) / (high - low), 0, 1)) / np.arcsinh(
        10.0
    )
    return scaled


def _spread(image: Image) -> float:
    """Robust standard deviation; 1 where there is none."""
    pixels = image[np.isfinite(image)]
    if pixels.size == 0:
        return 1.0
    return float(MAD_TO_SIGMA * np.median(np.abs(pixels - np.median(pixels)))) or 1.0


def _ticks(axis: Axes, frame: CutoutFrame, side: int) -> None:
    x, y = frame.x - frame.x0, frame.y - frame.y0
    near, far = 0.1 * side, 0.2 * side
    axis.plot([x + near, x + far], [y, y], color=_MARK, lw=1.2)
    axis.plot([x, x], [y + near, y + far], color=_MARK, lw=1.2)


def _compass(axis: Axes, frame: CutoutFrame, side: int) -> None:
    try:
        pixels = np.linalg.inv(frame.cd)
    except np.linalg.LinAlgError:
        return
    for name, direction in (("E", pixels[:, 0]), ("N", pixels[:, 1])):
        dx, dy = 0.1 * side * direction / np.hypot(*direction)
        axis.annotate(
            name,
            (0.15 * side, 0.15 * side),
            (0.15 * side + 1.5 * dx, 0.15 * side + 1.5 * dy),
            color=_MARK,
            fontsize=7,
            path_effects=_OUTLINE,
            ha="center",
            va="center",
            arrowprops={
                "arrowstyle": "-",
                "color": _MARK,
                "lw": 1.0,
                "shrinkB": 0,
                "path_effects": _OUTLINE,
            },
        )


def _light_curve(axis: Axes, alert: Mapping[str, Any]) -> None:
    sources = [*(alert["prvDiaSources"] or ()), alert["diaSource"]]
    forced = alert["prvDiaForcedSources"] or ()
    styles: dict[str, tuple[Any, dict[str, Any]]] = {
        "forced": (forced, {"marker": "s", "mfc": "none", "alpha": 0.5, "ms": 4}),
        "detected": (sources, {"marker": "o", "ms": 4}),
    }
    for rows, style in styles.values():
        for band, colour in BAND_COLOURS.items():
            points = [r for r in rows if r["band"] == band]
            time, flux, err = (
                [_number(r[name]) for r in points]
                for name in ("midpointMjdTai", "psfFlux", "psfFluxErr")
            )
            axis.errorbar(time, flux, np.abs(err), color=colour, ls="none", lw=0.7, **style)
    axis.axhline(0, color="#999999", lw=0.7)
    axis.axvline(alert["diaSource"]["midpointMjdTai"], color=_MARK, lw=1, zorder=0)
    _frame(axis, sources, forced)
    axis.set_xlabel("MJD TAI")
    axis.set_ylabel("difference flux [nJy]")
    axis.ticklabel_format(useOffset=False, style="plain")
    axis.tick_params(labelsize=8)
    seen = {r["band"] for r in (*sources, *forced)}
    keys = [
        *(
            Line2D([], [], ls="none", marker="o", ms=4, color=c, label=b)
            for b, c in BAND_COLOURS.items()
            if b in seen
        ),
        *(
            Line2D([], [], ls="none", color="#444444", label=name, **style)
            for name, (rows, style) in styles.items()
            if rows
        ),
    ]
    axis.legend(
        handles=keys,
        fontsize=7,
        ncols=len(keys),
        frameon=False,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.0),
        borderpad=0,
        handletextpad=0.1,
        columnspacing=1.0,
    )


def _frame(
    axis: Axes, sources: Sequence[Mapping[str, Any]], forced: Sequence[Mapping[str, Any]]
) -> None:
    """Show all detections; a wild forced flux stays outside and is counted."""
    flux = np.array([_number(r["psfFlux"]) for r in sources] + [0.0])
    err = np.array([abs(_number(r["psfFluxErr"])) for r in sources])
    margin = np.nanmax([0.15 * np.ptp(flux[np.isfinite(flux)]), 2 * np.nanmedian(err), 1.0])
    low, high = np.nanmin(flux) - margin, np.nanmax(flux) + margin
    axis.set_ylim(low, high)
    values = np.array([_number(r["psfFlux"]) for r in forced])
    n_outside = int(((values < low) | (values > high)).sum())
    if n_outside:
        axis.set_title(f"{n_outside} forced outside", fontsize=7, loc="left", pad=4)
    times = np.array([r["midpointMjdTai"] for r in (*sources, *forced)])
    pad = max(0.03 * np.ptp(times), 1.0)
    axis.set_xlim(times.min() - pad, times.max() + pad)


def _number(value: float | None) -> float:
    return np.nan if value is None else float(value)
