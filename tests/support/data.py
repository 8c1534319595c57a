"""Where the real data for tests lies, if it is here at all."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def data_dir(name: str) -> Path:
    """The folder of one real data set; the calling test is skipped when it is absent.

    Looks below the directory in PROMPTDIA_DATA, or else in ../shared/data beside the
    repository.
    """
    base = Path(os.environ.get("PROMPTDIA_DATA") or ROOT.parent / "shared" / "data")
    folder = base / name
    if not folder.is_dir():
        pytest.skip(f"no real data in {folder}; set PROMPTDIA_DATA to the folder that holds {name}")
    return folder
