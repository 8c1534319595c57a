"""The simulated survey ``tiny`` in a repository, and the command line run in this process."""

import io
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import sqlalchemy as sa
import yaml

from promptdia.pipeline.cli import main
from promptdia.pipeline.io.alert_files import read_container
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.worker import Outcome, load_outcome
from promptdia.tasks.reliability import MODEL_FILE

SEED = 3
NIGHT = 20261110
VISITS = (2026111000001, 2026111000002, 2026111000003)
TEMPLATE_NIGHT = 20260930
DETECTORS = (0, 1)
JOBS = [(visit, detector) for visit in VISITS for detector in DETECTORS]


@dataclass(frozen=True)
class Ran:
    """What a command left: its exit status and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one object on standard output."""
        return json.loads(self.out, parse_constant=_refuse)

    @property
    def complaint(self) -> str:
        """The one line on standard error, which is no traceback."""
        [line] = self.err.splitlines()
        assert line.startswith("promptdia: "), self.err
        return line.removeprefix("promptdia: ")


def promptdia(*arguments: object) -> Ran:
    """Run a command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as exit_:  # argparse leaves this way
            status = int(exit_.code or 0)
    return Ran(status, out.getvalue(), err.getvalue())


@contextmanager
def outside(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A command in a process of its own, killed when the block ends before it does."""
    code = "import sys; from promptdia.pipeline.cli import main; sys.exit(main())"
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            yield running
        finally:
            running.kill()


def build_prepared(root: Path) -> Path:
    """A repository of ``tiny`` with calibrations and templates, its night not yet processed."""
    assert (
        promptdia("simulate", root, "--survey", "tiny", "--seed", SEED, "--workers", 1).status == 0
    )
    if not has_model():
        change_settings(root, pipeline={"reliability": {"enabled": False}})
    assert promptdia("calib", root, "--workers", 1).status == 0
    assert promptdia("template", root, "--workers", 1).status == 0
    return root


def has_model() -> bool:
    """Whether promptdia ships a reliability model."""
    return (files("promptdia.tasks.data") / MODEL_FILE).is_file()


def change_settings(root: Path, **settings: object) -> None:
    """Set keys of promptdia.yaml; ``pipeline`` is added to what stands there."""
    path = root / "promptdia.yaml"
    content = yaml.safe_load(path.read_text())
    pipeline = {**content.get("pipeline", {}), **settings.pop("pipeline", {})}  # type: ignore[dict-item]
    path.write_text(yaml.safe_dump({**content, "pipeline": pipeline, **settings}))


def copy_repository(source: Path, target: Path) -> Path:
    """A copy to change at will: promptdia replaces files whole, so links are as good as copies."""
    shutil.copytree(source, target, copy_function=os.link)
    for path in [*target.glob("apdb.sqlite*"), target / "promptdia.yaml"]:  # changed in place
        path.unlink()
        shutil.copy(source / path.name, path)
    return target


def stored_images(root: Path, visit: int, detector: int) -> Outcome:
    """In the place of ``process_images`` where its products lie in the repository already."""
    found = load_outcome(Repository(root), visit, detector)
    assert found is not None
    return Outcome(
        visit,
        detector,
        "done",
        seconds=found.seconds,
        metrics=found.metrics,
        n_dia_sources=found.n_dia_sources,
    )


def alerts_of(root: Path) -> list[dict[str, Any]]:
    """All alerts of a repository by visit and detector, without times of processing."""
    paths = sorted((root / "alerts").glob("*/*.avro"))
    return [without_times(alert) for path in paths for alert in read_container(path)]


def differences(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> dict[int, list[str]]:
    """What differs between two lists of alerts: ids, and the fields in which each differs."""
    one, two = ({alert["diaSourceId"]: alert for alert in alerts} for alerts in (some, others))
    found = {
        number: [name for name in one[number] if one[number][name] != two[number][name]]
        for number in one.keys() & two.keys()
    }
    alone = {number: ["only in one of them"] for number in one.keys() ^ two.keys()}
    return {number: fields for number, fields in (found | alone).items() if fields}


def without_times(record: Any) -> Any:
    """The same record without any ``timeProcessedMjdTai``; nan is replaced by a word."""
    if isinstance(record, dict):
        return {k: without_times(v) for k, v in record.items() if k != "timeProcessedMjdTai"}
    if isinstance(record, list):
        return [without_times(item) for item in record]
    return "nan" if isinstance(record, float) and record != record else record


def rows(root: Path) -> dict[str, list[dict[str, Any]]]:
    """All that the database holds, times of processing apart."""
    engine = sa.create_engine(Repository(root).apdb_url)
    content = {}
    with engine.connect() as connection:
        for name in ("DiaSource", "DiaObject", "DiaForcedSource", "Ledger", "VisitDetector"):
            found = connection.exec_driver_sql(f'SELECT * FROM "{name}" ORDER BY 1, 2').mappings()
            content[name] = [without_times(dict(row)) for row in found]
    engine.dispose()
    return content


def tree(root: Path) -> dict[str, list[str]]:
    """The names in each folder."""
    folders: dict[str, list[str]] = {}
    for path in sorted(root.rglob("*")):
        if path.is_file():
            folders.setdefault(str(path.parent.relative_to(root)), []).append(path.name)
    return folders


def leftovers(root: Path) -> list[Path]:
    """Files that were not finished."""
    return list(root.rglob("*.part"))


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")
