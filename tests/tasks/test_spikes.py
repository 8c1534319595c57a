"""Spikes of bright stars: where they are, how long, and that detections on them are dropped."""

import numpy as np
from numpy.testing import assert_allclose
from support.dia_scene import DiaScene

from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.catalogs import REFERENCE
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.spikes import MarkSpikes, SpikeConfig, arms

CROSS = SpikeConfig(angles_deg=(0.0, 90.0), faintest_mag=14.0, length_px=20.0, width_px=3.0)


def stars(scene: DiaScene, places: list[tuple[float, float]], mags: list[float]) -> Catalog:
    rows = REFERENCE.empty(len(places))
    rows["ra"], rows["dec"] = scene.wcs.pixel_to_sky(*np.array(places).T)
    rows["r_flux"] = 10 ** (0.4 * (31.4 - np.array(mags)))
    return rows


def test_a_bar_has_its_length_width_and_direction() -> None:
    marked = arms((101, 101), np.array([50.0]), np.array([50.0]), np.array([30.0]), (30.0,), 5.0)
    y, x = np.nonzero(marked)
    assert_allclose(marked.sum(), 60 * 5, rtol=0.05)
    assert_allclose(np.polyfit(x, y, 1)[0], np.tan(np.deg2rad(30)), rtol=0.1)
    assert np.hypot(x - 50, y - 50).max() < 31.5


def test_brighter_stars_have_longer_arms_and_faint_ones_none() -> None:
    scene = DiaScene(shape=(256, 256))
    science = scene.exposures()[1]
    places = [(60.0, 60.0), (180.0, 180.0), (60.0, 200.0)]
    marked = MarkSpikes(CROSS).run(science, stars(scene, places, [13.99, 12.0, 15.0]))
    spike = has(marked.mask, MaskPlane.SPIKE)
    row = [int(spike[int(y), int(x) - 60 : int(x) + 60].sum()) for x, y in places]
    assert_allclose(row[0], 2 * 20 + 1, atol=2)
    assert_allclose(row[1], 2 * 20 * 10**0.4 + 1, atol=2)
    assert row[2] == 0
    assert not has(science.mask, MaskPlane.SPIKE).any()


def test_a_star_off_the_detector_reaches_in_and_an_unknown_flux_does_not_matter() -> None:
    scene = DiaScene(shape=(128, 128))
    science = scene.exposures()[1]
    table = stars(scene, [(-10.0, 64.0), (64.0, 64.0)], [12.0, 10.0])
    table["r_flux"][1] = np.nan
    spike = has(MarkSpikes(CROSS).run(science, table).mask, MaskPlane.SPIKE)
    assert spike[64, :30].all()
    assert not spike[:40].any()
    assert not spike[64, 60:].any()


def test_no_angles_change_nothing() -> None:
    scene = DiaScene(shape=(64, 64))
    science = scene.exposures()[1]
    table = stars(scene, [(32.0, 32.0)], [10.0])
    assert MarkSpikes(SpikeConfig()).run(science, table) is science
