"""The page of calibrated real frames and its pictures."""

import html
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from astropy.visualization import ZScaleInterval
from matplotlib.figure import Figure

from promptdia.pipeline.io.files import whole_file, write_text
from promptdia.tasks.astrometry import Astrometry
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.exposure import ScienceExposure


def draw_matches(solved: Mapping[str, Astrometry], references: Catalog, path: Path) -> Path:
    """Where the matched stars lie on the sky, and how far from the catalogue they come out."""
    figure = Figure(figsize=(11, 5), layout="constrained")
    sky: Any
    counts: Any
    sky, counts = figure.subplots(1, 2)
    apart = []
    for match in solved.values():
        stars = references[match.reference_index[match.used]]
        sky.plot(stars["ra"], stars["dec"], ".", ms=3)
        apart.append(1000 * match.separation_arcsec[match.used])
    sky.set_xlabel("ra [deg]")
    sky.set_ylabel("dec [deg]")
    sky.set_title("stars the WCSs rest on, a colour per detector")
    sky.invert_xaxis()
    medians = [float(np.median(a)) for a in apart]
    counts.hist(np.concatenate(apart), bins=np.arange(0, 80, 2), label="stars")
    for value in medians:
        counts.axvline(value, color="#CC6600", lw=0.5)
    counts.axvline(30, color="black", lw=1, ls="--", label="goal for the medians (orange)")
    counts.set_xlabel("source from Gaia [mas]")
    counts.legend()
    return _save(figure, path)


def draw_field(frame: tuple[ScienceExposure, Catalog], path: Path) -> Path:
    """The image with its PSF stars (orange) and reference stars (blue)."""
    exposure, sources = frame
    figure = Figure(figsize=(8, 8), layout="constrained")
    axis: Any = figure.subplots()
    low, high = ZScaleInterval().get_limits(exposure.image)
    axis.imshow(exposure.image, origin="lower", cmap="gray", vmin=low, vmax=high)
    for name, colour, size in (
        ("calib_astrometry_used", "#3377CC", 90),
        ("calib_psf_used", "#EE8800", 40),
    ):
        rows = sources[sources[name]]
        axis.scatter(rows["x"], rows["y"], s=size, facecolor="none", edgecolor=colour, label=name)
    axis.set_title(f"visit {exposure.visit.id}, {sources.size} sources")
    axis.legend(loc="upper right")
    return _save(figure, path)


def draw_repeats(stars: Any, path: Path) -> Path:
    """Scatter of position and flux over brightness, and each frame's deviations."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes: Any = figure.subplots(1, 3)
    typical = np.nanmedian(stars.flux, axis=1)
    axes[0].semilogx(typical, stars.position_rms, ".")
    axes[0].set_ylabel("position rms per axis [px]")
    axes[0].set_ylim(0, max(0.2, float(np.nanpercentile(stars.position_rms, 95))))
    axes[1].semilogx(typical, 100 * stars.scatter, ".")
    axes[1].set_ylabel("flux scatter [%]")
    axes[1].set_ylim(0, max(5.0, 100 * float(np.nanpercentile(stars.scatter, 95))))
    for axis in axes[:2]:
        axis.set_xlabel("flux [nJy, relative zero point]")
        axis.xaxis.set_minor_formatter("")
    off = 100 * (stars.flux / typical[:, None] - 1)
    for row in off:
        axes[2].plot(stars.fwhm, row, ".", color="#3377CC", ms=2, alpha=0.5)
    axes[2].plot(stars.fwhm, np.nanmedian(off, axis=0), "o", color="#EE8800", ms=4)
    axes[2].set_ylim(-10, 10)
    axes[2].set_xlabel("FWHM of the frame [px]")
    axes[2].set_ylabel("deviation of each star [%]")
    return _save(figure, path)


def write_page(
    path: Path, checks: Sequence[dict[str, Any]], sections: Sequence[tuple[str, list[Path]]]
) -> Path:
    """One HTML page: the verdicts, then the pictures that lie beside it."""
    rows = "".join(
        f"<tr><td>{html.escape(c['name'])}</td><td>{c['value']:g}</td>"
        f"<td>{html.escape(c['needed'])}</td><td>{'ok' if c['ok'] else 'missed'}</td></tr>"
        for c in checks
    )
    body = "".join(
        f"<h2>{html.escape(title)}</h2>" + "".join(f'<img src="{p.name}" alt="">' for p in pictures)
        for title, pictures in sections
    )
    style = (
        "body{font:15px sans-serif;max-width:75em;margin:2em}td{padding:.2em 1em}img{width:100%}"
    )
    write_text(
        path,
        f'<!doctype html><meta charset="utf-8"><title>Calibrated real frames</title>'
        f"<style>{style}</style><h1>Calibrated real frames</h1><table><tr><th>quantity</th>"
        f"<th>measured</th><th>needed</th><th></th></tr>{rows}</table>{body}\n",
    )
    return path


def _save(figure: Figure, path: Path) -> Path:
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=100)
    return path
