"""Measurement of detections on simulated differences: values, errors, flags."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from support.dia_scene import SCALE_ARCSEC, VISIT, DiaScene, grid_positions, moffat_psf

from promptdia.apdb.ids import unpack
from promptdia.tasks.detect import DetectConfig, DetectDiaSources
from promptdia.tasks.filter import FilterConfig, FilterDiaSources
from promptdia.tasks.measure import MEASURED, MeasureConfig, MeasureDiaSources
from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.mask import MaskPlane


def measured(scene: DiaScene) -> Catalog:
    """Every change; no star of these scenes stands still to tell how well frames fit."""
    difference, science, matched = scene.exposures()
    config = DetectConfig(streaks=None, max_doubt=1.0)
    found = DetectDiaSources(config).run(difference, science, matched)
    return MeasureDiaSources(MeasureConfig()).run(found, science, matched)


def scatter(pull: Floats) -> float:
    return float(1.4826 * np.nanmedian(np.abs(pull - np.nanmedian(pull))))


def at(sources: Catalog, x: Floats, y: Floats, radius: float = 3.0) -> Catalog:
    """The row nearest to each position; all must be there."""
    distance = np.hypot(
        sources["x"] - np.atleast_1d(x)[:, None], sources["y"] - np.atleast_1d(y)[:, None]
    )
    assert np.all(distance.min(axis=1) < radius)
    return sources[distance.argmin(axis=1)]


@pytest.fixture(scope="module")
def field() -> tuple[DiaScene, Floats, Floats, Floats, Catalog]:
    """Stars on a grid; a third fades, a third has a constant part."""
    scene = DiaScene(shape=(960, 960), seed=21)
    x, y = grid_positions(20, 48, seed=22)
    snr = np.linspace(8, 60, x.size)
    flux = np.array([scene.flux_of(s) for s in snr]) * np.where(np.arange(x.size) % 3 == 0, -1, 1)
    for k in range(x.size):
        constant = 200.0 if k % 3 == 1 else 0.0
        scene.add_star(x[k], y[k], max(flux[k], 0) + constant, max(-flux[k], 0) + constant)
    return scene, x, y, flux, measured(scene)


def test_fluxes_and_their_errors_are_right(
    field: tuple[DiaScene, Floats, Floats, Floats, Catalog],
) -> None:
    scene, x, y, flux, sources = field
    rows = at(sources, x, y)
    constant = np.where(np.arange(x.size) % 3 == 1, 200.0, 0.0)
    for name, truth in (
        ("psfFlux", flux),
        ("scienceFlux", np.maximum(flux, 0) + constant),
        ("templateFlux", np.maximum(-flux, 0) + constant),
    ):
        pull = (rows[name] - truth) / rows[f"{name}Err"]
        assert abs(np.median(pull)) < 0.2, name
        assert 0.88 < scatter(pull) < 1.12, name
    assert abs(np.median(rows["psfFlux"][200:] / flux[200:]) - 1) < 0.005
    alpha2 = (scene.fwhm / 2) ** 2 / (2 ** (1 / 3) - 1)
    inside = 1 - (1 + 12.0**2 / alpha2) ** -2
    pull = (rows["apFlux"] - inside * flux) / rows["apFluxErr"]
    # one star per 48 x 48 pixels biases the background, which the aperture sums up
    assert abs(np.median(pull)) < 0.7
    assert 0.88 < scatter(pull) < 1.15
    assert np.array_equal(rows["isNegative"], flux < 0)
    reduced = rows["psfChi2"] / rows["psfNdata"]
    assert_allclose(np.median(reduced), 1.0, atol=0.03)
    noise = scene.noise**2 + scene.template_noise**2
    expected = -0.5 * (rows["psfChi2"] + rows["psfNdata"] * np.log(2 * np.pi * noise))
    assert_allclose(rows["psfLnL"], expected, rtol=1e-5)


def test_the_likelihood_is_of_the_pixels_that_were_fitted() -> None:
    scene = DiaScene(shape=(128, 128), seed=37)
    scene.add_star(64.2, 63.7, scene.flux_of(40.0))
    difference, science, matched = scene.exposures()
    # its stamp ends before the radius of the fit does
    difference = difference.replace(psf=moffat_psf(scene.fwhm, 9))
    config = DetectConfig(streaks=None, rescale_noise=False)
    found = DetectDiaSources(config).run(difference, science, matched)
    (row,) = MeasureDiaSources(MeasureConfig()).run(found, science, matched)
    logs = row["psfNdata"] * np.log(2 * np.pi * (scene.noise**2 + scene.template_noise**2))
    assert row["psfNdata"] == 81
    assert_allclose(row["psfLnL"], -0.5 * (row["psfChi2"] + logs), rtol=1e-5)


def test_positions_and_their_errors_are_right(
    field: tuple[DiaScene, Floats, Floats, Floats, Catalog],
) -> None:
    scene, x, y, _, sources = field
    rows = at(sources, x, y)
    for name, truth in (("x", x), ("y", y)):
        pull = (rows[name] - truth) / rows[f"{name}Err"]
        assert abs(np.median(pull)) < 0.2
        assert 0.88 < scatter(pull) < 1.12
    ra, dec = scene.wcs.pixel_to_sky(x, y)
    pull = (rows["ra"] - ra) * np.cos(np.deg2rad(dec)) / rows["raErr"]
    assert 0.88 < scatter(pull) < 1.12
    assert 0.88 < scatter((rows["dec"] - dec) / rows["decErr"]) < 1.12
    assert not rows["centroid_flag"].any()


def test_stars_look_like_the_psf(field: tuple[DiaScene, Floats, Floats, Floats, Catalog]) -> None:
    scene, x, y, flux, sources = field
    rows = at(sources, x, y)
    bright = np.abs(flux) > scene.flux_of(30.0)
    assert rows["shape_flag"].mean() < 0.02
    assert_allclose(np.nanmedian((rows["ixx"] / rows["ixxPSF"])[bright]), 1.0, atol=0.03)
    assert np.nanmedian(rows["extendedness"][bright]) < 0.05
    assert (rows["trailAlgorithm"] == 3).mean() < 0.01
    known = ~rows["trail_flag"]
    assert np.mean(rows["trailLength"][known] > 2 * scene.fwhm * SCALE_ARCSEC) < 0.02
    assert np.mean((rows["trailLength"] > 8 * rows["trailLengthErr"])[known]) < 0.03
    assert np.percentile(rows["sharpness"], 99) < 1.5
    # the positions are a grid, full of rows
    kept, rejected = FilterDiaSources(FilterConfig(glint=False)).run(sources, 30.0)
    assert len(rejected) <= 0.03 * len(sources)
    assert len(kept) + len(rejected) == len(sources)


def test_every_row_knows_where_it_comes_from(
    field: tuple[DiaScene, Floats, Floats, Floats, Catalog],
) -> None:
    sources = field[-1]
    assert sources.dtype == MEASURED.dtype
    assert np.unique(sources["diaSourceId"]).size == len(sources)
    assert unpack(int(sources["diaSourceId"][7])) == (VISIT.id, 4, 7, 0)
    assert set(sources["band"]) == {"r"}
    assert np.all(sources["midpointMjdTai"] == VISIT.mjd_tai)
    assert np.all(sources["bboxSize"] > 4)
    assert np.all(sources["snr"] >= 5)
    for name in ("diaObjectId", "ssObjectId", "parentDiaSourceId", "dipoleNdata"):
        assert not sources[name].any()


def test_a_dipole_is_called_one_and_measured() -> None:
    scene = DiaScene(shape=(384, 384), seed=31)
    x, y = grid_positions(5, 76, seed=32)
    angle = np.linspace(0, 2 * np.pi, x.size, endpoint=False)
    length = np.linspace(1.0, 4.0, x.size)
    flux = np.linspace(80, 200, x.size) * scene.flux_of(1.0)
    for k in range(x.size):
        scene.add_dipole(
            x[k], y[k], length[k] * np.cos(angle[k]), length[k] * np.sin(angle[k]), flux[k]
        )
    rows = at(measured(scene), x, y)
    assert rows["dipoleFitAttempted"].all()
    assert rows["isDipole"].all()
    assert not rows["isNegative"].any()
    assert_allclose(rows["dipoleLength"], length * 0.201, atol=0.04)
    assert np.all(np.abs(rows["dipoleMeanFlux"] - flux) < 5 * rows["dipoleMeanFluxErr"])
    assert np.all(np.abs(rows["dipoleFluxDiff"]) < 5 * rows["dipoleFluxDiffErr"])
    assert np.all(np.hypot(rows["x"] - x, rows["y"] - y) < 0.3)
    # the lobe on science lies at angle + bearing of the pixel axes
    ends = scene.wcs.pixel_to_sky(x + np.cos(angle), y + np.sin(angle))
    here = scene.wcs.pixel_to_sky(x, y)
    east, north = (ends[0] - here[0]) * np.cos(np.deg2rad(here[1])), ends[1] - here[1]
    turn = (rows["dipoleAngle"] - np.rad2deg(np.arctan2(east, north)) + 180) % 360 - 180
    assert np.abs(turn).max() < 12


def test_errors_of_dipoles_know_that_the_images_share_their_noise() -> None:
    scene = DiaScene(shape=(768, 768), seed=35)
    x, y = grid_positions(14, 54, seed=36)
    angle, length = np.linspace(0, 40, x.size), np.linspace(1.2, 4.2, x.size)
    flux = scene.flux_of(60.0)
    for k in range(x.size):
        scene.add_dipole(
            x[k], y[k], length[k] * np.cos(angle[k]), length[k] * np.sin(angle[k]), flux
        )
    rows = at(measured(scene), x, y)
    rows = rows[rows["isDipole"]]
    assert rows.size > 190
    assert 0.88 < np.std(rows["dipoleFluxDiff"] / rows["dipoleFluxDiffErr"]) < 1.12
    off = rows["dipoleMeanFlux"] - flux * scene.stamp_light
    assert 0.88 < np.std(off / rows["dipoleMeanFluxErr"]) < 1.12


def test_a_variable_star_is_no_dipole() -> None:
    scene = DiaScene(seed=33)
    scene.add_star(128.0, 128.0, scene.flux_of(80.0), scene.flux_of(40.0))
    (row,) = at(measured(scene), 128.0, 128.0)
    assert not row["isDipole"]
    assert np.isnan(row["dipoleLength"]) == (not row["dipoleFitAttempted"])


def test_a_mover_beside_its_place_in_the_template_is_no_dipole() -> None:
    scene = DiaScene(seed=34)
    apart = 2.4 * scene.fwhm
    scene.add_star(128.0 + apart, 128.0, scene.flux_of(60.0), 0.0)
    scene.add_star(128.0, 128.0, 0.0, scene.flux_of(60.0))
    rows = measured(scene)
    assert not rows["isDipole"].any()


def test_trails_have_the_right_length_direction_and_errors() -> None:
    scene = DiaScene(shape=(768, 768), seed=41)
    x, y = grid_positions(8, 96, seed=42)
    random = np.random.default_rng(43)
    length, angle = random.uniform(8, 30, x.size), random.uniform(0, np.pi, x.size)
    flux = scene.flux_of(60.0) * random.uniform(0.8, 1.5, x.size)
    for k in range(x.size):
        scene.add_trail(
            x[k], y[k], length[k] * np.cos(angle[k]), length[k] * np.sin(angle[k]), flux[k]
        )
    rows = at(measured(scene), x, y)
    assert (rows["trailAlgorithm"] == 3).all()
    ends = scene.wcs.pixel_to_sky(x + length * np.cos(angle), y + length * np.sin(angle))
    here = scene.wcs.pixel_to_sky(x, y)
    east, north = (ends[0] - here[0]) * np.cos(np.deg2rad(here[1])), ends[1] - here[1]
    true_length = np.hypot(east, north) * 3600
    assert 0.75 < scatter((rows["trailLength"] - true_length) / rows["trailLengthErr"]) < 1.3
    turn = (rows["trailAngle"] - np.rad2deg(np.arctan2(east, north)) + 90) % 180 - 90
    assert 0.75 < scatter(turn / rows["trailAngleErr"]) < 1.3
    pull = (rows["trailFlux"] - flux) / rows["trailFluxErr"]
    assert abs(np.median(pull)) < 0.4
    assert 0.75 < scatter(pull) < 1.3
    assert 0.75 < scatter((rows["x"] - x) / rows["xErr"]) < 1.3
    assert_allclose(rows["trailRa"], here[0], atol=0.5 / 3600)


def test_planes_under_a_source_become_its_flags() -> None:
    scene = DiaScene(seed=51)
    names = {
        MaskPlane.CR: "pixelFlags_crCenter",
        MaskPlane.INTRP: "pixelFlags_interpolatedCenter",
        MaskPlane.STREAK: "pixelFlags_streakCenter",
        MaskPlane.INJECTED: "pixelFlags_injectedCenter",
        MaskPlane.BAD: "badCenter",
    }
    for k, plane in enumerate(names):
        at_x = 30.0 + 45 * k
        scene.add_star(at_x, 60.0, scene.flux_of(40.0))
        scene.mask[61, int(at_x) + 1] = plane.value
        scene.add_star(at_x, 180.0, scene.flux_of(40.0))
        scene.mask[182, int(at_x) + 3] = plane.value
    sources = measured(scene)
    for k, (plane, name) in enumerate(names.items()):
        (centre,) = at(sources, 30.0 + 45 * k, 60.0)
        (beside,) = at(sources, 30.0 + 45 * k, 180.0)
        assert centre[name], plane
        assert not beside[name], plane
        everywhere = name.replace("Center", "")
        if everywhere in sources.dtype.names:
            assert centre[everywhere], plane
            assert beside[everywhere], plane


def test_a_source_at_the_border_says_so() -> None:
    scene = DiaScene(seed=52)
    scene.add_star(3.0, 128.0, scene.flux_of(40.0))
    (row,) = at(measured(scene), 3.0, 128.0)
    assert row["psfFlux_flag_edge"]
    assert row["psfFlux_flag"]
    assert row["apFlux_flag_apertureTruncated"]
    assert abs(row["psfFlux"] / scene.flux_of(40.0) - 1) < 0.15


def test_a_single_hot_pixel_is_sharper_than_any_star() -> None:
    scene = DiaScene(seed=53)
    scene.science[100, 100] += 300.0
    scene.add_star(180.0, 180.0, scene.flux_of(12.0))
    sources = measured(scene)
    (hot,), (star,) = at(sources, 100.0, 100.0), at(sources, 180.0, 180.0)
    assert hot["sharpness"] > 2
    assert star["sharpness"] < 1.2


def test_no_detection_is_an_empty_table() -> None:
    sources = measured(DiaScene(shape=(128, 128), seed=54))
    assert sources.dtype == MEASURED.dtype
    assert len(sources) == 0


def test_two_sources_in_one_footprint_are_no_trail() -> None:
    scene = DiaScene(shape=(256, 256), seed=41)
    scene.add_star(100.0, 128.0, scene.flux_of(40.0))
    # a faint ridge joins the bright star to its neighbour
    scene.add_trail(125.0, 128.0, 60.0, 0.0, scene.flux_of(60.0))
    rows = at(measured(scene), np.array([100.0]), np.array([128.0]))
    assert rows["trailNdata"][0] <= 0 or not np.isfinite(rows["trailNdata"][0])


def test_an_even_trail_stays_one() -> None:
    scene = DiaScene(shape=(256, 256), seed=42)
    scene.add_trail(125.0, 128.0, 60.0, 0.0, scene.flux_of(120.0))
    rows = at(measured(scene), np.array([125.0]), np.array([128.0]))
    assert rows["trailNdata"][0] > 0
