"""Forced photometry at the places of objects."""

import numpy as np
from support.dia_scene import VISIT, DiaScene, grid_positions

from promptdia.apdb.ids import unpack
from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE, DIA_OBJECT
from promptdia.tasks.forced import ForcedConfig, ForcedPhotometry
from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.mask import MaskPlane


def objects_at(scene: DiaScene, x: Floats, y: Floats) -> Catalog:
    objects = DIA_OBJECT.empty(x.size)
    objects["diaObjectId"] = np.arange(x.size) + 1000
    objects["ra"], objects["dec"] = scene.wcs.pixel_to_sky(x, y)
    return objects


def forced(scene: DiaScene, objects: Catalog, **settings: float) -> Catalog:
    difference, science, _ = scene.exposures()
    return ForcedPhotometry(ForcedConfig(**settings)).run(objects, difference, science)


def test_fluxes_are_right_also_where_there_is_nothing() -> None:
    scene = DiaScene(shape=(640, 640), seed=61)
    x, y = grid_positions(16, 40, seed=62)
    flux = np.where(np.arange(x.size) % 2, scene.flux_of(4.0), 0.0)
    constant = np.where(np.arange(x.size) % 4 == 1, 300.0, 0.0)
    for k in range(x.size):
        scene.add_star(x[k], y[k], flux[k] + constant[k], constant[k])
    rows = forced(scene, objects_at(scene, x, y))
    assert rows.dtype == DIA_FORCED_SOURCE.dtype
    for name, truth in (("psfFlux", flux), ("scienceFlux", flux + constant)):
        pull = (rows[name] - truth) / rows[f"{name}Err"]
        assert abs(pull.mean()) < 0.25
        assert 0.85 < pull.std() < 1.15


def test_rows_know_their_object_visit_and_id() -> None:
    scene = DiaScene(seed=63)
    objects = objects_at(scene, np.array([50.0, 100.0]), np.array([60.0, 120.0]))
    rows = forced(scene, objects)
    assert list(rows["diaObjectId"]) == [1000, 1001]
    assert np.array_equal(rows["ra"], objects["ra"])
    assert [unpack(int(i)) for i in rows["diaForcedSourceId"]] == [
        (VISIT.id, 4, 0, 0),
        (VISIT.id, 4, 1, 0),
    ]
    assert set(rows["band"]) == {"r"}
    assert np.all(rows["midpointMjdTai"] == VISIT.mjd_tai)


def test_objects_off_the_detector_on_its_border_or_without_data_have_no_row() -> None:
    scene = DiaScene(seed=64)
    scene.mark(200, 200, 3, MaskPlane.NO_DATA)
    scene.science[195:206, 195:206] = np.nan
    objects = objects_at(
        scene,
        np.array([128.0, -3.0, 128.0, 5.0, 200.0]),
        np.array([128.0, 10.0, 259.0, 99.0, 200.0]),
    )
    assert list(forced(scene, objects)["diaObjectId"]) == [1000, 1003]
    assert list(forced(scene, objects, border_px=10.0)["diaObjectId"]) == [1000]


def test_a_flux_without_any_usable_pixel_is_nan() -> None:
    scene = DiaScene(seed=65)
    scene.mark(100, 100, 25, MaskPlane.SAT)
    (row,) = forced(scene, objects_at(scene, np.array([100.0]), np.array([100.0])))
    assert np.isnan(row["psfFlux"])
    assert np.isnan(row["scienceFlux"])


def test_no_object_gives_no_row() -> None:
    assert len(forced(DiaScene(), DIA_OBJECT.empty(0))) == 0
