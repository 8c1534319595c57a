"""The files of the truth report."""

import json
import struct
from dataclasses import replace
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from support.truth_table import pretended_night

from promptdia.pipeline.report.evidence import Evidence, TruthConfig
from promptdia.pipeline.report.figures import FIGURES
from promptdia.pipeline.report.gallery import choose
from promptdia.pipeline.report.latency import task_times
from promptdia.pipeline.report.numbers import DEFINITIONS, evaluate
from promptdia.pipeline.report.page import number_table, show, write_report


@pytest.fixture
def evidence() -> Evidence:
    return pretended_night(np.random.default_rng(3))


class Outline(HTMLParser):
    """Counts open tags and collects pictures and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.pictures: list[str] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "img":
            self.pictures.append(dict(attrs)["src"] or "")
        elif tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_a_report_is_one_page_that_stands_alone_beside_its_numbers(
    evidence: Evidence, tmp_path: Path
) -> None:
    report = evaluate(evidence, TruthConfig(), {"detect": {"threshold": 5.0}}, {"numpy": "2"})
    page = write_report(report, tmp_path / "report")
    numbers = json.loads((tmp_path / "report" / "report.json").read_text())
    assert set(DEFINITIONS) <= set(numbers)
    assert numbers["completeness_snr_ge_6"] == report.numbers["completeness_snr_ge_6"]
    assert numbers["settings"] == {"detect": {"threshold": 5.0}}
    outline = Outline()
    outline.feed(page.read_text())
    assert outline.open == []
    assert len(outline.pictures) == len(FIGURES)
    assert all(src.startswith("data:image/png;base64,") for src in outline.pictures)
    assert "found 2 <PSF> stars, needs 8" in outline.words
    for name, _ in FIGURES.values():
        head = (tmp_path / "report" / f"{name}.png").read_bytes()[:24]
        width, height = struct.unpack(">II", head[16:24])
        assert width > 600
        assert height > 100


def test_an_empty_night_still_makes_a_page(evidence: Evidence, tmp_path: Path) -> None:
    empty = replace(
        evidence,
        epochs=evidence.epochs[:0],
        sigma_njy=evidence.sigma_njy[:0],
        usable=evidence.usable[:0],
        alerts=evidence.alerts[:0],
        rejected=evidence.rejected[:0],
        outcomes=[],
    )
    report = evaluate(empty, TruthConfig())
    assert "None." in write_report(report, tmp_path).read_text()
    assert json.loads((tmp_path / "report.json").read_text())["purity"] is None


def test_the_number_table_names_every_number(evidence: Evidence) -> None:
    console = Console(width=100, record=True, file=StringIO())
    report = evaluate(evidence, TruthConfig())
    console.print(number_table(report))
    text = console.export_text()
    for key in DEFINITIONS:
        line = next(line for line in text.splitlines() if key in line)
        assert show(report.numbers[key]) in line


def test_numbers_are_shown_as_people_read_them() -> None:
    assert [show(v) for v in (None, 12345, 0.98765432, 0.0)] == ["–", "12345", "0.9877", "0"]


def test_task_times_keep_the_order_of_execution_and_share_out_all_time(evidence: Evidence) -> None:
    rows = task_times(evidence.outcomes)
    assert [row.task for row in rows] == ["isr", "calibrate", "subtract", "detect", "measure"]
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    assert all(0 < row.p50 <= row.p98 for row in rows)


def test_the_gallery_takes_turns_among_kinds_and_false_alerts(evidence: Evidence) -> None:
    comparison = evaluate(evidence, TruthConfig()).comparison
    chosen = choose(comparison, 12)
    assert len(set(chosen)) == 12
    rows = np.searchsorted(evidence.alerts["diaSourceId"], chosen)
    assert (~comparison.real[rows]).sum() == 3
    kinds = evidence.epochs["kind"][comparison.truth[rows[comparison.real[rows]]]]
    assert sorted(kinds.tolist()) == ["asteroid"] * 3 + ["supernova"] * 3 + ["variable"] * 3
    supernovae = np.abs(evidence.alerts["snr"][rows[0::4]])
    assert supernovae.max() > 3 * supernovae.min()
