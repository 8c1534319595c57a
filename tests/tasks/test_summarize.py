"""Summaries of objects against plain numpy, one object and band at a time."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from promptdia.apdb.schema.lsst import BANDS, DIA_FORCED_SOURCE, DIA_OBJECT, DIA_SOURCE
from promptdia.tasks.errors import TaskError
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.wcs import separation_arcsec, tan_wcs
from promptdia.tasks.summarize import SummarizeObjects

ERRORS = ("raErr", "decErr", "ra_dec_Cov")


def survey(seed: int, n_objects: int = 40, n_points: int = 900) -> tuple[Catalog, ...]:
    """Objects with a history in random order, with nan fluxes and strangers among it."""
    rng = np.random.default_rng(seed)
    objects = DIA_OBJECT.empty(n_objects)
    objects["diaObjectId"] = rng.permutation(n_objects) * 3 + 10
    objects["ra"], objects["dec"] = rng.uniform(0, 360, n_objects), rng.uniform(-80, 80, n_objects)
    objects["nDiaSources"] = 1
    tables = []
    for schema, key in ((DIA_SOURCE, "diaSourceId"), (DIA_FORCED_SOURCE, "diaForcedSourceId")):
        rows = schema.empty(n_points)
        k = rng.integers(0, n_objects - 2, n_points)  # two objects without history
        rows[key] = rng.permutation(n_points) + 1
        rows["diaObjectId"] = objects["diaObjectId"][k]
        rows["ra"] = objects["ra"][k] + rng.normal(0, 2e-5, n_points)
        rows["dec"] = objects["dec"][k] + rng.normal(0, 2e-5, n_points)
        rows["midpointMjdTai"] = 60000 + rng.integers(0, 300, n_points) / 2  # with equal times
        rows["band"] = np.array([*BANDS, ""])[rng.integers(0, 7, n_points)]
        for name in ("psfFlux", "scienceFlux"):
            rows[name] = rng.normal(1000, 300, n_points)
            rows[name + "Err"] = rng.uniform(20, 80, n_points)
            rows[name][rng.random(n_points) < 0.05] = np.nan
            rows[name + "Err"][rng.random(n_points) < 0.05] = rng.choice([0.0, np.nan, np.inf])
        rows["diaObjectId"][rng.random(n_points) < 0.05] = 5  # of no object
        tables.append(rows)
    tables[0]["raErr"] = rng.uniform(1e-5, 4e-5, n_points)
    tables[0]["decErr"] = rng.uniform(1e-5, 4e-5, n_points)
    correlation = rng.uniform(-0.9, 0.9, n_points)
    tables[0]["ra_dec_Cov"] = correlation * tables[0]["raErr"] * tables[0]["decErr"]
    tables[0]["raErr"][rng.random(n_points) < 0.1] = np.nan
    return objects, *tables


def usable(rows: Catalog, name: str, band: str) -> tuple[np.ndarray, ...]:
    flux, err = rows[name].astype(float), rows[name + "Err"].astype(float)
    keep = (rows["band"] == band) & np.isfinite(flux) & np.isfinite(err) & (err > 0)
    order = np.argsort(rows["midpointMjdTai"][keep], kind="stable")
    return tuple(a[keep][order] for a in (flux, err, rows["midpointMjdTai"]))


def weighted(flux: np.ndarray, err: np.ndarray) -> tuple[float, float]:
    if not flux.size:
        return np.nan, np.nan
    return float(np.average(flux, weights=err**-2)), float(np.sum(err**-2) ** -0.5)


def plain_summary(sources: Catalog, forced: Catalog, band: str) -> dict[str, float]:
    """The columns of one object and band, as the textbook writes them."""
    f, e, t = usable(sources, "psfFlux", band)
    rises = [(f[i + 1] - f[i]) / (t[i + 1] - t[i]) for i in range(f.size - 1) if t[i + 1] > t[i]]
    mean, mean_err = weighted(f, e)
    science, science_err = weighted(*usable(sources, "scienceFlux", band)[:2])
    fp, fp_err = weighted(*usable(forced, "psfFlux", band)[:2])
    return {
        "psfFluxMean": mean,
        "psfFluxMeanErr": mean_err,
        "psfFluxSigma": np.std(f, ddof=1) if f.size > 1 else np.nan,
        "psfFluxNdata": f.size,
        "psfFluxMin": f.min() if f.size else np.nan,
        "psfFluxMax": f.max() if f.size else np.nan,
        "psfFluxMaxSlope": max(rises) if rises else np.nan,
        "psfFluxErrMean": e.mean() if f.size else np.nan,
        "scienceFluxMean": science,
        "scienceFluxMeanErr": science_err,
        "fpFluxMean": fp,
        "fpFluxMeanErr": fp_err,
    }


@pytest.mark.parametrize("seed", [1, 2])
def test_flux_columns_are_those_of_plain_numpy(seed: int) -> None:
    objects, sources, forced = survey(seed)
    result = SummarizeObjects().run(objects, sources, forced)
    filled = 0
    for row in result:
        mine = (t[t["diaObjectId"] == row["diaObjectId"]] for t in (sources, forced))
        own_sources, own_forced = mine
        for band in BANDS:
            for name, value in plain_summary(own_sources, own_forced, band).items():
                assert_allclose(row[f"{band}_{name}"], value, rtol=2e-6, atol=1e-3, err_msg=name)
                filled += np.isfinite(value)
    assert filled > 1000


def test_times_and_counts_are_those_of_the_sources() -> None:
    objects, sources, forced = survey(3)
    result = SummarizeObjects().run(objects, sources, forced)
    for row in result:
        times = sources["midpointMjdTai"][sources["diaObjectId"] == row["diaObjectId"]]
        if times.size:
            assert row["firstDiaSourceMjdTai"] == times.min()
            assert row["lastDiaSourceMjdTai"] == times.max()
            assert row["nDiaSources"] == times.size
        else:
            assert np.isnan(row["firstDiaSourceMjdTai"])
            assert row["nDiaSources"] == 1


def test_a_history_window_that_moved_on_loses_no_count_and_no_first_time() -> None:
    objects, sources, forced = survey(4)
    objects["nDiaSources"], objects["firstDiaSourceMjdTai"] = 500, 50000.0
    objects["lastDiaSourceMjdTai"] = 60001.0
    result = SummarizeObjects().run(objects, sources, forced)
    assert (result["nDiaSources"] == 500).all()
    assert (result["firstDiaSourceMjdTai"] == 50000.0).all()
    assert (result["lastDiaSourceMjdTai"] >= 60001.0).all()


def plain_position(sources: Catalog) -> tuple[np.ndarray, np.ndarray]:
    """Offset (arcsec) from the first source and its covariance, source by source."""
    wcs = tan_wcs(sources["ra"][0], sources["dec"][0], 0, 0, np.eye(2) / 3600, (1, 1))
    total, right, covariance = 0.0, np.zeros(2), np.zeros((2, 2))
    for row in sources:
        a, b, c = (float(row[n]) * f for n, f in zip(ERRORS, (3600, 3600, 3600**2)))
        if not np.isfinite(a):
            a, b, c = 0.1, 0.1, 0.0
        weight = 1 / ((a**2 + b**2) / 2 + 0.1**2)
        total += weight
        right += weight * np.array(wcs.sky_to_pixel(row["ra"], row["dec"]))
        covariance += weight**2 * np.array([[a**2, c], [c, b**2]])
    return right / total, covariance / total**2


def test_positions_are_weighted_means_with_propagated_errors() -> None:
    objects, sources, forced = survey(5)
    result = SummarizeObjects().run(objects, sources, forced)
    compared = 0
    for row in result:
        own = sources[sources["diaObjectId"] == row["diaObjectId"]]
        if own.size:
            offset, covariance = plain_position(own)
            wcs = tan_wcs(own["ra"][0], own["dec"][0], 0, 0, np.eye(2) / 3600, (1, 1))
            assert_allclose(wcs.sky_to_pixel(row["ra"], row["dec"]), offset, atol=1e-5)
            assert_allclose(row["raErr"] * 3600, covariance[0, 0] ** 0.5, rtol=1e-5)
            assert_allclose(row["decErr"] * 3600, covariance[1, 1] ** 0.5, rtol=1e-5)
            assert_allclose(row["ra_dec_Cov"] * 3600**2, covariance[0, 1], rtol=1e-4, atol=1e-9)
            compared += 1
    assert compared > 30


@pytest.mark.parametrize("pointing", [(0.0, 0.0), (359.99999, -45.0), (100.0, 90.0), (3.0, -90.0)])
def test_position_pulls_are_of_unit_width_everywhere(pointing: tuple[float, float]) -> None:
    """200 objects of 8 sources with errors of 0.02 to 0.2 arcsec, all at one place."""
    rng = np.random.default_rng(6)
    n, m = 200, 8
    wcs = tan_wcs(*pointing, 0, 0, np.eye(2) / 3600, (1, 1))
    err = rng.uniform(0.02, 0.2, n * m)
    sources = DIA_SOURCE.empty(n * m)
    sources["diaSourceId"] = np.arange(n * m) + 1
    sources["diaObjectId"] = np.repeat(np.arange(n) + 1, m)
    noise = rng.normal(0, 1, (2, n * m)) * err
    sources["ra"], sources["dec"] = wcs.pixel_to_sky(*noise)
    sources["raErr"] = sources["decErr"] = err / 3600
    sources["midpointMjdTai"] = np.arange(n * m)
    objects = DIA_OBJECT.empty(n)
    objects["diaObjectId"] = np.arange(n) + 1
    objects["ra"], objects["dec"] = sources["ra"][::m], sources["dec"][::m]
    result = SummarizeObjects().run(objects, sources, DIA_FORCED_SOURCE.empty())
    away = separation_arcsec(result["ra"], result["dec"], *pointing)
    pull = away / (result["decErr"].astype(float) * 3600)
    assert_allclose(np.mean(pull**2) / 2, 1.0, atol=0.25)  # two coordinates


def test_an_overconfident_source_does_not_take_the_mean_for_itself() -> None:
    """One of ten sources claims 1 mas and lies 0.3 arcsec off."""
    sources = DIA_SOURCE.empty(10)
    sources["diaSourceId"], sources["diaObjectId"] = np.arange(10) + 1, 9
    sources["ra"], sources["dec"] = 10.0, [0.3 / 3600] + [0.0] * 9
    sources["raErr"] = sources["decErr"] = np.array([0.001] + [0.1] * 9) / 3600
    sources["midpointMjdTai"] = np.arange(10)
    objects = DIA_OBJECT.empty(1)
    objects["diaObjectId"], objects["ra"], objects["dec"] = 9, 10.0, 0.0
    row = SummarizeObjects().run(objects, sources, DIA_FORCED_SOURCE.empty())[0]
    assert abs(row["dec"]) * 3600 < 0.06


def test_an_object_without_history_keeps_its_place() -> None:
    objects, sources, forced = survey(7)
    lonely = ~np.isin(objects["diaObjectId"], sources["diaObjectId"])
    assert lonely.sum() == 2
    result = SummarizeObjects().run(objects, sources, forced)
    for name in ("ra", "dec"):
        assert (result[name][lonely] == objects[name][lonely]).all()


def test_running_it_again_and_in_another_order_changes_nothing() -> None:
    objects, sources, forced = survey(8)
    once = SummarizeObjects().run(objects, sources, forced)
    twice = SummarizeObjects().run(once, sources, forced)
    other = SummarizeObjects().run(objects[::-1], sources, forced)[::-1]
    for name in once.dtype.names:
        assert_allclose(twice[name], once[name], rtol=1e-6, atol=1e-12)
        assert_allclose(other[name], once[name], rtol=1e-6, atol=1e-12)


def test_a_source_that_occurs_twice_is_refused() -> None:
    objects, sources, forced = survey(9)
    sources["diaSourceId"][1] = sources["diaSourceId"][0]
    with pytest.raises(TaskError, match="diaSourceId twice"):
        SummarizeObjects().run(objects, sources, forced)


def test_no_objects_give_no_objects() -> None:
    empty = DIA_OBJECT.empty(), DIA_SOURCE.empty(), DIA_FORCED_SOURCE.empty()
    assert SummarizeObjects().run(*empty).size == 0
