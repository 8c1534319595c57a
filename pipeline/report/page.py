"""report.json, report.html and the figures, and the table for a terminal."""

import base64
import json
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
from rich.table import Table

from promptdia.pipeline.io.files import write_text
from promptdia.pipeline.report.figures import draw_figures
from promptdia.pipeline.report.numbers import stopped_by
from promptdia.pipeline.report.truth import TruthReport

LONGEST_LIST = 25
"""Rows shown of the false alerts and of the missed epochs."""

TILES = {
    "completeness_snr_ge_6": "complete at S/N ≥ 6",
    "purity": "of alerts are real",
    "snr50": "S/N where half are found",
    "astrometry_rms_arcsec_snr20": "arcsec rms per axis",
    "flux_pull_std": "width of flux pulls",
    "association_correct": "associated right",
    "n_alerts": "alerts",
    "seconds_per_detector_p50": "s per detector, median",
}


def write_report(report: TruthReport, folder: Path, gallery: Path | None = None) -> Path:
    """Write report.json, the figures and report.html into ``folder``; the page's path.

    The page stands alone: pictures are inside it. ``gallery`` is a PNG of alert triplets.
    """
    pictures = draw_figures(report.comparison, folder)
    if gallery is not None:
        pictures["Alerts: science, template, difference"] = gallery
    write_text(folder / "report.json", json.dumps(report.to_json(), indent=2) + "\n")
    page = folder / "report.html"
    write_text(page, html_page(report, pictures))
    return page


def number_table(report: TruthReport) -> Table:
    """Every number on one line with the start of its definition, for rich."""
    table = Table(title="Truth report", title_justify="left", pad_edge=False, expand=True)
    table.add_column("number", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("meaning", style="dim", no_wrap=True, overflow="ellipsis", ratio=1)
    for key, meaning in report.definitions.items():
        table.add_row(key, show(report.numbers[key]), meaning)
    return table


def show(value: float | int | None) -> str:
    """A number as people read it: counts whole, the rest with four significant digits."""
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def html_page(report: TruthReport, pictures: Mapping[str, Path]) -> str:
    """The page as text, with the pictures inside."""
    here = files(__package__)
    numbers, comparison = report.numbers, report.comparison
    return Template(here.joinpath("page.html").read_text(encoding="utf-8")).substitute(
        css=here.joinpath("page.css").read_text(encoding="utf-8"),
        lead=escape(
            f"{numbers['n_alerts']} alerts from {numbers['n_detectors']} detectors of "
            f"{numbers['n_visits']} visits against the simulated sky."
        ),
        tiles="\n".join(
            f'<div class="tile"><b>{show(numbers[key])}</b><span>{escape(label)}</span></div>'
            for key, label in TILES.items()
        ),
        numbers=_numbers_table(report),
        complete_snr=f"{comparison.config.complete_snr:g}",
        kinds=_table(
            ("kind", "epochs", "complete"),
            (
                (k, show(row["n_epochs"]), show(row["completeness"]))
                for k, row in numbers["by_kind"].items()
            ),
        ),
        figures="\n".join(_picture(title, path) for title, path in pictures.items()),
        false=_false_table(report),
        missed=_missed_table(report),
        failed=_table(
            ("visit", "detector", "status", "reason"),
            (
                (str(o.visit), str(o.detector), o.status, o.reason)
                for o in comparison.evidence.outcomes
                if o.status != "done"
            ),
        ),
        versions=_table(("what", "version"), report.versions.items()),
        settings=escape(json.dumps(report.settings, indent=2)),
    )


def _numbers_table(report: TruthReport) -> str:
    rows = "".join(
        f'<tr><td><code>{key}</code></td><td class="number">{show(report.numbers[key])}</td>'
        f'<td class="text">{escape(meaning)}</td></tr>'
        for key, meaning in report.definitions.items()
    )
    return f"<table><tr><th>key</th><th></th><th>meaning</th></tr>{rows}</table>"


def _false_table(report: TruthReport) -> str:
    comparison = report.comparison
    alerts = comparison.evidence.alerts[comparison.false()]
    brightest = np.argsort(-np.abs(alerts["snr"]), kind="stable")
    return _table(
        ("diaSourceId", "visit", "detector", "x", "y", "S/N", "reliability"),
        (
            (
                str(a["diaSourceId"]),
                str(a["visit"]),
                str(a["detector"]),
                f"{a['x']:.1f}",
                f"{a['y']:.1f}",
                f"{a['snr']:.1f}",
                f"{a['reliability']:.2f}",
            )
            for a in alerts[brightest]
        ),
    )


def _missed_table(report: TruthReport) -> str:
    comparison = report.comparison
    missed = comparison.missed()
    missed = missed[np.argsort(-comparison.snr[missed], kind="stable")]
    epochs = comparison.evidence.epochs
    return _table(
        ("truth_id", "kind", "visit", "detector", "x", "y", "S/N", "stopped by"),
        (
            (
                str(epochs["truth_id"][row]),
                str(epochs["kind"][row]),
                str(epochs["visit"][row]),
                str(epochs["detector"][row]),
                f"{epochs['x'][row]:.1f}",
                f"{epochs['y'][row]:.1f}",
                f"{comparison.snr[row]:.1f}",
                rule,
            )
            for row, rule in zip(missed, stopped_by(comparison, missed))
        ),
    )


def _picture(title: str, path: Path) -> str:
    data = base64.b64encode(path.read_bytes()).decode("ascii")
    alt = escape(title, quote=True)
    return (
        f"<h2>{escape(title)}</h2>"
        f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"></figure>'
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    shown = list(rows)
    if not shown:
        return "<p>None.</p>"
    body = "".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in shown[:LONGEST_LIST]
    )
    more = len(shown) - LONGEST_LIST
    rest = f"<p>and {more} more.</p>" if more > 0 else ""
    titles = "".join(f"<th>{escape(name)}</th>" for name in head)
    return f"<table><tr>{titles}</tr>{body}</table>{rest}"
