"""The command that calibrates real frames."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from support.data import data_dir

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture(scope="module")
def command() -> ModuleType:
    sys.path.insert(0, str(SCRIPTS))
    try:
        spec = importlib.util.spec_from_file_location(
            "real_calibrated", SCRIPTS / "real_calibrated.py"
        )
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(SCRIPTS))
    return module


def test_absent_data_are_named(
    command: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command.main(["--data", str(tmp_path), "--root", str(tmp_path / "root")]) == 2
    assert "no real data in" in capsys.readouterr().err


def test_the_brightest_stars_are_taken_by_their_typical_flux(command: ModuleType) -> None:
    flux = np.array([[1.0, np.nan, 3.0], [9.0, 9.0, 9.0], [5.0, 0.1, 6.0]])
    rows = np.arange(3.0)
    stars = command.Repeats(rows, rows, rows, flux, rows, np.array([4.0, 5.0, 6.0]))
    best = stars.brightest(2)
    np.testing.assert_array_equal(best.x, [1.0, 2.0])
    assert best.flux.shape == (2, 3)
    assert best.fwhm.size == 3


@pytest.mark.slow
def test_a_real_star_repeats_from_frame_to_frame(command: ModuleType, tmp_path: Path) -> None:
    base = data_dir("lux2713_n1").parent
    numbers, title, pictures = command.lux(base, tmp_path)
    assert numbers["lux2713 position rms per axis, px"] < 0.1
    assert numbers["lux2713 flux scatter of bright stars"] < 0.02
    assert "11 frames" in title
    assert all(picture.stat().st_size > 10_000 for picture in pictures)
