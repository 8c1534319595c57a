"""A processed night of the simulated survey ``tiny``, made once."""

import shutil
from pathlib import Path

import pytest
from support.processed import NIGHT, Ran, build_prepared, copy_repository, promptdia, stored_images


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibrations and templates are there, nothing is processed. Not to be changed."""
    return build_prepared(tmp_path_factory.mktemp("tiny") / "prepared")


@pytest.fixture(scope="session")
def first_night(prepared: Path) -> tuple[Path, Ran]:
    """The processed repository and what ``night --json`` printed. Not to be changed."""
    root = copy_repository(prepared, prepared.parent / "processed")
    return root, promptdia("night", root, NIGHT, "--workers", 1, "--json")


@pytest.fixture(scope="session")
def processed(first_night: tuple[Path, Ran]) -> Path:
    """The repository after its night. Not to be changed."""
    return first_night[0]


@pytest.fixture
def fresh(prepared: Path, tmp_path: Path) -> Path:
    """A prepared repository of one's own."""
    return copy_repository(prepared, tmp_path / "fresh")


@pytest.fixture
def night(processed: Path, tmp_path: Path) -> Path:
    """A processed repository of one's own."""
    return copy_repository(processed, tmp_path / "night")


@pytest.fixture
def imaged(night: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Image products lie there and are taken as they are; nothing is in the database yet."""
    for path in night.glob("apdb.sqlite*"):
        path.unlink()
    shutil.rmtree(night / "alerts")
    monkeypatch.setattr("promptdia.pipeline.night.process_images", stored_images)
    return night
