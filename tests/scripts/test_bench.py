"""Every benchmark runs; its values are not judged here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[2] / "scripts" / "bench"
NAMES = sorted(p.stem for p in BENCH.glob("*.py"))


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_quick_run_prints_its_checks_as_one_json_object(name: str) -> None:
    command = [sys.executable, str(BENCH / f"{name}.py"), "--quick", "--json", "--seed", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    printed = json.loads(done.stdout)
    assert set(printed) == {"name", "checks", "rows", "versions"}
    assert printed["name"] == name
    assert all(set(row) == {"name", "value", "needed", "ok"} for row in printed["checks"])
