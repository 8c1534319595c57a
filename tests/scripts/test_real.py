"""Real frames of an asteroid, from the files as delivered to alerts."""

import sys
from pathlib import Path

import pytest
from support.data import data_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from real_frames import CAMPAIGNS, draw_rubin, prepare, report, run

from promptdia.pipeline.console import Progress
from promptdia.pipeline.errors import ConfigError


@pytest.mark.slow
def test_an_asteroid_is_alerted_where_it_was(tmp_path: Path) -> None:
    folder = data_dir("lux2713_n1")
    campaign = CAMPAIGNS["lux2713"]
    frames = (*campaign.template, campaign.sky, 33)
    with Progress(quiet=True) as progress:
        repository = prepare(campaign, folder.parent, tmp_path / "root", progress, 1, only=frames)
        outcomes = run(campaign, repository, progress, 1)
    found = report(campaign, folder.parent, repository, outcomes, quiet=True)
    assert [o.status for o in outcomes] == ["done", "done"]
    assert found["usable"] == found["found"] == 2
    assert found["offset_px_max"] <= 0.5
    assert found["other_alerts_max"] <= 10
    assert (repository.root / "report" / "known.png").stat().st_size > 10_000


def test_real_rubin_alerts_are_decoded_and_drawn(tmp_path: Path) -> None:
    folder = data_dir("alerts_lsst")
    drawn = draw_rubin(folder.parent, tmp_path)
    assert drawn["decoded"] == 7
    assert all(Path(page).stat().st_size > 10_000 for page in drawn["pictures"])


def test_absent_data_and_an_existing_repository_are_named(tmp_path: Path) -> None:
    campaign = CAMPAIGNS["lux2713"]
    with (
        Progress(quiet=True) as progress,
        pytest.raises(ConfigError, match=r"no real data in .*lux2713_n1; name the folder above it"),
    ):
        prepare(campaign, tmp_path, tmp_path / "root", progress)
    (tmp_path / "lux2713_n1").mkdir()
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "mine").write_text("")
    with (
        Progress(quiet=True) as progress,
        pytest.raises(ConfigError, match="exists and is not empty; give another --root"),
    ):
        prepare(campaign, tmp_path, tmp_path / "root", progress)
