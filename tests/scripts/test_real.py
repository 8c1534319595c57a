"""Real frames of an asteroid, from the files as delivered to alerts."""

import sys
from pathlib import Path

import numpy as np
import pytest
from support.data import data_dir

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))

from real_curve import LightCurve, light_curve_numbers
from real_frames import CAMPAIGNS, draw_rubin, prepare, report, run
from real_page import cut_stamp
from real_repeats import find_repeats
from real_truth import Frame

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
    assert found["other_alerts_max"] <= 5
    assert (repository.root / "report" / "known.png").stat().st_size > 10_000


@pytest.mark.slow
def test_a_transient_is_found_beside_a_galaxy_half_a_pixel_off_and_nothing_else(
    tmp_path: Path,
) -> None:
    folder = data_dir("decam_mini_transient")
    campaign = CAMPAIGNS["decam"]
    with Progress(quiet=True) as progress:
        repository = prepare(campaign, folder.parent, tmp_path / "root", progress, 1)
        outcomes = run(campaign, repository, progress, 1)
    found = report(campaign, folder.parent, repository, outcomes, quiet=True)
    assert found["usable"] == found["found"] == 5
    assert found["offset_px_max"] <= 0.5
    assert found["other_alerts_max"] == 0
    assert found["dia_objects"] == 1
    page = repository.root / "report" / "real.html"
    assert page.read_text().count("<img") >= 4


def test_a_light_curve_is_compared_in_a_unit_of_its_own_and_seeing_terms_are_taken_off() -> None:
    random = np.random.default_rng(5)
    n = 40
    seeing = random.uniform(4.5, 6.9, n)
    light = random.uniform(40_000, 90_000, n)
    # a neighbour's light, the more of it the worse the seeing
    table = light + 4000 * (seeing - 5.7) + 1500 * (seeing - 5.7) ** 2
    table[0] = np.nan
    flux = 800 * light - 3e7 + random.normal(0, 4e5, n)
    curve = LightCurve(
        mjd=np.arange(n) + 56_000.0,
        seeing_px=seeing,
        table=table,
        flux=flux,
        error=np.full(n, 4e5),
        detected=np.ones(n, bool),
    )
    compared = curve.compared()
    assert compared is not None
    assert compared.used.sum() == n - 1
    assert abs(compared.njy_per_unit / 800 - 1) < 0.01
    numbers = light_curve_numbers(curve)
    assert 0.02 < numbers["light_curve_scatter"] < 0.06
    assert numbers["light_curve_scatter_without_seeing"] < 0.01
    assert numbers["light_curve_measured"] == n


def alerted(visit: int, ra: float, flux: float, chi2: float) -> dict[str, dict[str, float]]:
    source = {"visit": visit, "ra": ra, "dec": -25.0, "psfFlux": flux, "snr": 9.0}
    return {"diaSource": {**source, "psfChi2": chi2 * 100, "psfNdata": 100}}


def test_positions_that_repeat_on_three_nights_are_named() -> None:
    frames = [
        Frame(
            visit=2013070000000 + 100_000 * night,
            status="done",
            reason="",
            seeing_px=5.0,
            known=None,
            alert=None,
            offset_px=np.nan,
            others=tuple(
                alerted(2013070000000 + 100_000 * night, ra, 1000.0, chi2)
                for ra, chi2, nights in ((10.0, 0.9, 4), (10.1, 5.0, 3), (10.2, 1.0, 2))
                if night <= nights
            ),
            metrics={},
        )
        for night in range(1, 6)
    ]
    found = find_repeats(frames)
    assert [(r.n_nights, r.kind) for r in found] == [(4, "variable"), (3, "artefact")]


def test_stamps_of_what_lies_on_the_border_or_beyond_have_pixels() -> None:
    image = np.ones((60, 80), np.float32)
    for x, y, seen in ((40.0, 30.0, 51 * 51), (-1.4, 30.2, 26 * 51), (90.0, 59.7, 26 * 26)):
        stamp = cut_stamp(image, x, y)
        assert stamp.shape == (51, 51)
        assert np.isfinite(stamp).sum() == seen


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
