"""The simulated survey: determinism, positions, references, and what changes in the sky."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.simulated import digest_of_tiny

from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.sim import SURVEYS, SimulatedSurvey
from promptdia.pipeline.sim.epochs import sky_noise_njy
from promptdia.pipeline.sim.motion import fluxes, positions, supernova_shape, variable_shape
from promptdia.pipeline.sim.plates import star_plates
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.wcs import nominal_wcs, separation_arcsec

SEED = 20


@pytest.fixture(scope="module")
def tiny() -> SimulatedSurvey:
    return SimulatedSurvey(SURVEYS["tiny"], SEED)


@pytest.fixture(scope="module")
def small() -> SimulatedSurvey:
    return SimulatedSurvey(SURVEYS["small"], SEED)


def epochs(survey: SimulatedSurvey, visits: list[int]) -> Catalog:
    return np.concatenate(
        [survey.truth_epochs(v, d) for v in visits for d in survey.instrument.detectors]
    )


def test_another_process_gives_the_same_bytes() -> None:
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from support.simulated import digest_of_tiny\n"
        "print(digest_of_tiny(20))"
    )
    tests = str(Path(__file__).parents[1])
    other = subprocess.run(
        [sys.executable, "-c", program, tests], capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == digest_of_tiny(20)


def test_a_frame_does_not_depend_on_what_was_drawn_before(tiny: SimulatedSurvey) -> None:
    visit = tiny.science_visits[0]
    tiny.raw(tiny.template_visits[0], 0)
    again = SimulatedSurvey(SURVEYS["tiny"], SEED).raw(visit, 1)
    assert np.array_equal(tiny.raw(visit, 1).pixels, again.pixels)
    assert not np.array_equal(tiny.raw(tiny.science_visits[1], 1).pixels, again.pixels)


def test_another_seed_gives_another_survey(tiny: SimulatedSurvey) -> None:
    other = SimulatedSurvey(SURVEYS["tiny"], SEED + 1)
    assert other.truth_objects().size != tiny.truth_objects().size
    visit = tiny.science_visits[0]
    assert other.frame(visit, 0).sky_electrons != tiny.frame(visit, 0).sky_electrons


def test_visits_are_in_time_order_and_numbered_by_night(small: SimulatedSurvey) -> None:
    visits = small.visits
    assert np.all(np.diff([v.mjd_tai for v in visits]) > 0)
    assert np.all(np.diff([v.id for v in visits]) > 0)
    assert [v.id for v in visits] == small.template_visits + small.science_visits
    assert len(small.template_visits) == 5
    assert len(small.science_visits) == 12
    assert {v.day_obs for v in visits} == {20260930, 20261110, 20261112}


def test_the_header_promises_a_pointing_some_arcseconds_off(small: SimulatedSurvey) -> None:
    for visit in small.science_visits[:4]:
        frame = small.frame(visit, 0)
        promised = nominal_wcs(frame.conditions.visit, frame.detector)
        true = frame.wcs.pixel_to_sky(*frame.detector_centre)
        off = separation_arcsec(*true, *promised.pixel_to_sky(*frame.detector_centre))
        assert 0.05 < off[0] < 15.0


def test_stars_stand_where_the_true_wcs_puts_them(tiny: SimulatedSurvey) -> None:
    frame = tiny.frame(tiny.science_visits[0], 0)
    placed = frame.place(tiny.truth_objects())
    isolated = [
        n
        for n in np.flatnonzero((placed.objects["kind"] == "star") & (placed.flux_njy > 3e4))
        if 20 < placed.x[n] < 490
        and 20 < placed.y[n] < 490
        and np.sort(np.hypot(placed.x - placed.x[n], placed.y - placed.y[n]))[1] > 12.0
    ]
    assert len(isolated) >= 5
    image = tiny.light(frame) - frame.sky_electrons
    for n in isolated:
        x, y = round(placed.x[n]), round(placed.y[n])
        cut = image[y - 5 : y + 6, x - 5 : x + 6].astype(float)
        offset = np.arange(-5, 6)
        assert_allclose((cut.sum(axis=0) * offset).sum() / cut.sum(), placed.x[n] - x, atol=0.12)
        assert_allclose((cut.sum(axis=1) * offset).sum() / cut.sum(), placed.y[n] - y, atol=0.12)


def test_truth_rows_agree_with_the_sky_and_the_detector(tiny: SimulatedSurvey) -> None:
    visit = tiny.science_visits[1]
    frame = tiny.frame(visit, 1)
    rows = tiny.truth_epochs(visit, 1)
    assert rows.size > 4
    x, y = frame.wcs.sky_to_pixel(rows["ra"], rows["dec"])
    assert_allclose(x, rows["x"], atol=1e-3)
    assert_allclose(y, rows["y"], atol=1e-3)
    assert rows["x"].min() >= -0.5
    assert rows["x"].max() < 511.5
    objects = tiny.truth_objects()
    known = objects[np.searchsorted(objects["truth_id"], rows["truth_id"])]
    assert np.array_equal(known["kind"], rows["kind"])
    assert np.array_equal(known["host_id"], rows["host_id"])
    point = rows["kind"] != "satellite"
    assert_allclose(
        rows["flux_njy"][point], fluxes(known[point], "r", frame.conditions.visit.mjd_tai)
    )


def test_sky_noise_is_that_of_the_psf_drawn(tiny: SimulatedSurvey) -> None:
    frame = tiny.frame(tiny.science_visits[0], 0)
    image = np.zeros(frame.detector.shape, np.float32)
    centre = frame.detector_centre
    star_plates(tiny.psf(frame)).add(image, *centre, np.ones(1), np.zeros(1, np.int64))
    per_pixel = frame.sky_electrons + frame.detector.read_noise**2
    best = np.sqrt(per_pixel / (image.astype(float) ** 2).sum()) / frame.electrons_per_njy
    assert_allclose(sky_noise_njy(frame), best, rtol=0.03)


def test_small_has_enough_changes_of_both_signs(small: SimulatedSurvey) -> None:
    before, now = epochs(small, small.template_visits), epochs(small, small.science_visits)
    in_template = np.zeros(small.truth_objects().size + 1)
    for number in np.unique(before["truth_id"][before["kind"] != "asteroid"]):
        in_template[number] = before["flux_njy"][before["truth_id"] == number].mean()
    point = np.isin(now["kind"], ["supernova", "variable", "asteroid"])
    change = now["flux_njy"] - in_template[now["truth_id"]]
    snr = (change / now["sky_noise_njy"] / np.sqrt(1.2))[point]
    assert (np.abs(snr) >= 6).sum() >= 480  # masks may take a sixth and leave 400
    assert (snr <= -6).sum() >= 50
    assert ((np.abs(snr) > 3) & (np.abs(snr) < 6)).sum() >= 80
    assert (snr > 50).sum() >= 10


def test_asteroids_move_and_streaks_come_once(small: SimulatedSurvey) -> None:
    night = [v for v in small.science_visits if v // 100_000 == 20261110]
    rows = epochs(small, night)
    for number in np.unique(rows["truth_id"][rows["kind"] == "asteroid"]):
        seen = np.sort(rows[rows["truth_id"] == number], order="mjd_tai")
        moved = separation_arcsec(
            seen["ra"][:-1], seen["dec"][:-1], seen["ra"][1:], seen["dec"][1:]
        )
        assert np.all(moved > 2.0)
    for kind in ("trail", "satellite"):
        some = epochs(small, small.science_visits + small.template_visits)
        some = some[some["kind"] == kind]
        assert some.size > 0
        for number in np.unique(some["truth_id"]):
            assert np.unique(some["visit"][some["truth_id"] == number]).size == 1
        assert some["trail_length_arcsec"].min() > 2.0


def test_a_trail_lies_along_its_direction_on_the_sky(small: SimulatedSurvey) -> None:
    rows = epochs(small, small.template_visits + small.science_visits)
    rows = rows[(rows["kind"] == "trail") & (rows["trail_length_arcsec"] > 5.0)]
    assert rows.size > 0
    for row in rows:
        frame = small.frame(int(row["visit"]), int(row["detector"]))
        objects = small.truth_objects()
        placed = frame.place(objects[objects["truth_id"] == row["truth_id"]])
        ra, dec = frame.wcs.pixel_to_sky(
            np.array([placed.x - placed.dx, placed.x + placed.dx]).ravel(),
            np.array([placed.y - placed.dy, placed.y + placed.dy]).ravel(),
        )
        length = separation_arcsec(ra[0], dec[0], ra[1], dec[1])
        assert_allclose(length, row["trail_length_arcsec"], rtol=0.01)
        east, north = (ra[1] - ra[0]) * np.cos(np.deg2rad(dec[0])), dec[1] - dec[0]
        angle = np.rad2deg(np.arctan2(east, north)) % 360.0
        assert_allclose((angle - row["trail_angle_deg"] + 180.0) % 360.0, 180.0, atol=1.0)


def test_detectors_of_one_visit_see_sky_of_others(small: SimulatedSurvey) -> None:
    rows = epochs(small, small.science_visits)
    rows = rows[rows["kind"] == "supernova"]
    detectors = [np.unique(rows["detector"][rows["truth_id"] == n]) for n in set(rows["truth_id"])]
    assert sum(d.size > 1 for d in detectors) >= 2


def test_references_are_the_stars_within_their_errors(small: SimulatedSurvey) -> None:
    references, objects = small.references(), small.truth_objects()
    stars = objects[np.isin(objects["kind"], ["star", "variable"])]
    assert references.size > 300
    assert np.unique(references["id"]).size == references.size
    assert np.isnan(references["g_flux"]).all()
    nearest = np.array(
        [
            np.argmin(separation_arcsec(r["ra"], r["dec"], stars["ra"], stars["dec"]))
            for r in references[:300]
        ]
    )
    some, star = references[:300], stars[nearest]
    distance = separation_arcsec(some["ra"], some["dec"], star["ra"], star["dec"])
    assert np.mean(distance > 0.1) < 0.03
    good = distance < 0.1
    pull = (some["dec"] - star["dec"])[good] * 3600 / some["decErr"][good]
    assert_allclose(1.4826 * np.median(np.abs(pull)), 1.0, atol=0.2)
    bright = objects[(objects["kind"] == "star") & (objects["r_mag"] < 20.8)]
    assert references.size < bright.size + 20


def test_stars_move_by_their_proper_motion() -> None:
    star = SimulatedSurvey(SURVEYS["tiny"], 1).truth_objects()[:1]
    star["pm_ra"], star["pm_dec"] = 300.0, -400.0
    ra, dec = positions(star, star["reference_mjd"][0] + 365.25 * 10)
    assert_allclose(separation_arcsec(ra, dec, star["ra"], star["dec"]), 5.0, rtol=1e-4)
    assert ra[0] > star["ra"][0]
    assert dec[0] < star["dec"][0]


def test_a_supernova_rises_fast_and_falls_slowly() -> None:
    days = np.linspace(-60.0, 150.0, 2101)
    shape = supernova_shape(days, np.full(days.size, 4.0), np.full(days.size, 20.0))
    assert_allclose(days[np.argmax(shape)], 0.0, atol=0.06)
    assert_allclose(shape.max(), 1.0, atol=1e-6)
    assert shape[0] < 1e-4
    assert shape[days == 20.0] > 2 * shape[days == -20.0]


def test_a_variable_stays_within_its_amplitude() -> None:
    phase = np.linspace(0.0, 3.0, 3000)
    for sawtooth in (True, False):
        factor = variable_shape(phase, np.full(3000, 0.6), np.full(3000, sawtooth))
        mags = -2.5 * np.log10(factor)
        assert_allclose([mags.min(), mags.max()], [-0.3, 0.3], atol=0.002)


def test_a_visit_that_is_not_there_is_named(tiny: SimulatedSurvey) -> None:
    with pytest.raises(ConfigError, match="survey tiny has no visit 7"):
        tiny.raw(7, 0)
