"""Alerts with random contents, made by the packager from small images."""

import numpy as np

from promptdia.apdb.schema.lsst import (
    DIA_FORCED_SOURCE,
    DIA_OBJECT,
    DIA_SOURCE,
    MPC_ORBITS,
    SS_SOURCE,
)
from promptdia.apdb.schema.table import TableSchema
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.exposure import (
    DifferenceExposure,
    Exposure,
    ScienceExposure,
    TemplateExposure,
)
from promptdia.tasks.model.psf import constant_psf, gaussian_stamp
from promptdia.tasks.model.visit import Amplifier, Box, Detector, Visit
from promptdia.tasks.model.wcs import tan_wcs
from promptdia.tasks.package import Alert, PackageAlerts, PackageConfig

NX, NY = 240, 200
VISIT = Visit(
    2026111200042, "r", 61356.123456, 30.0, 150.1, -31.7, 41.5,
    observation_reason="ddf_test", target_name="test field, déjà vu",
)  # fmt: skip
DETECTOR = Detector(
    7, "R01_S21", NX, NY, 0.2,
    (Amplifier(Box(0, NX, 0, NY), Box(0, NX, 0, NY), None, 1.6, 7.0, 150_000.0),),
)  # fmt: skip


def filled(schema: TableSchema, n: int, rng: np.random.Generator) -> Catalog:
    """n rows of random numbers, some floats missing."""
    rows = schema.empty(n)
    for column in schema.columns:
        kind = column.dtype.kind
        if kind == "f":
            values = rng.normal(0.0, 10.0 ** rng.integers(-5, 6), n)
            rows[column.name] = np.where(rng.random(n) < 0.2, np.nan, values)
        elif kind == "i":
            bits = 8 * column.dtype.itemsize - 1
            rows[column.name] = rng.integers(-(2 ** (bits - 1)), 2 ** (bits - 1), n)
        elif kind == "b":
            rows[column.name] = rng.random(n) < 0.3
        else:
            rows[column.name] = rng.choice(["", "K26A01B", "2026 AB", "naïve"], n)
    return rows


def exposures(
    seed: int = 1,
) -> tuple[ScienceExposure, TemplateExposure, DifferenceExposure]:
    """Noise on one pixel grid, with three different PSFs."""
    rng = np.random.default_rng(seed)
    cd = np.array([[-4.17e-5, 3.67e-5], [3.67e-5, 4.17e-5]])
    wcs = tan_wcs(VISIT.ra_deg, VISIT.dec_deg, NX / 2, NY / 2, cd, (NY, NX))

    def noise(sigma_px: float, size: int) -> Exposure:
        return Exposure(
            rng.normal(0, 30, (NY, NX)).astype(np.float32),
            np.zeros((NY, NX), np.int32),
            rng.uniform(800, 1000, (NY, NX)).astype(np.float32),
            wcs,
            VISIT,
            DETECTOR,
            constant_psf(gaussian_stamp(sigma_px, size)),
        )

    return (
        ScienceExposure.of(noise(1.8, 41)),
        TemplateExposure.of(noise(1.5, 51)),
        DifferenceExposure.of(noise(1.9, 41)),
    )


def tables(
    n: int, history: int, seed: int = 1, n_sso: int = 0
) -> tuple[Catalog, Catalog, Catalog, Catalog, Catalog, Catalog]:
    """Sources, objects, earlier sources, forced sources, ssSources and orbits that fit together.

    The last ``n_sso`` sources are Solar System objects.
    """
    rng = np.random.default_rng(seed)
    sources = filled(DIA_SOURCE, n, rng)
    sources["diaSourceId"] = 170_094_456_272_000_000 + rng.permutation(n)
    sources["diaObjectId"] = 170_028_485_706_000_000 + np.arange(n)
    sources["ssObjectId"] = 0
    if n_sso:
        sources["ssObjectId"][-n_sso:] = 21_163_624_394_000_000 + np.arange(n_sso)
        sources["diaObjectId"][-n_sso:] = 0
    sources["visit"], sources["detector"] = VISIT.id, DETECTOR.id
    sources["midpointMjdTai"], sources["band"] = VISIT.mjd_tai, VISIT.band
    sources["x"], sources["y"] = rng.uniform(60, NX - 60, n), rng.uniform(60, NY - 60, n)
    science = exposures()[0]
    ra, dec = science.wcs.pixel_to_sky(sources["x"], sources["y"])
    sources["ra"], sources["dec"] = ra, dec
    sources["bboxSize"] = rng.integers(5, 50, n)
    static = sources[: n - n_sso]

    objects = filled(DIA_OBJECT, static.size, rng)
    objects["diaObjectId"] = static["diaObjectId"]
    objects = objects[rng.permutation(objects.size)]
    prv = _history(DIA_SOURCE, "diaSourceId", static, history, rng)
    forced = _history(DIA_FORCED_SOURCE, "diaForcedSourceId", static, history, rng)

    ss_sources = filled(SS_SOURCE, n_sso, rng)
    ss_sources["diaSourceId"] = sources["diaSourceId"][n - n_sso :]
    ss_sources["ssObjectId"] = sources["ssObjectId"][n - n_sso :]
    ss_sources["designation"] = [f"2026 A{i}" for i in range(n_sso)]
    orbits = filled(MPC_ORBITS, n_sso, rng)
    orbits["designation"] = ss_sources["designation"]
    for name in ("created_at", "updated_at"):
        orbits[name] = 1_790_000_000_123_456
    orbits["fitting_datetime"] = 0
    return sources, objects, prv, forced, ss_sources, orbits


def make_alerts(n: int = 3, history: int = 4, seed: int = 1, n_sso: int = 0) -> list[Alert]:
    """n alerts, the last ``n_sso`` of them of Solar System objects."""
    sources, objects, prv, forced, ss_sources, orbits = tables(n, history, seed, n_sso)
    return PackageAlerts(PackageConfig()).run(
        sources, objects, prv, forced, *exposures(seed), ss_sources, orbits
    )


def _history(
    schema: TableSchema, id_name: str, sources: Catalog, each: int, rng: np.random.Generator
) -> Catalog:
    rows = filled(schema, sources.size * each, rng)
    rows[id_name] = 160_000_000_000_000_000 + rng.permutation(rows.size)
    rows["diaObjectId"] = np.repeat(sources["diaObjectId"], each)
    days = np.tile(np.arange(1, each + 1), sources.size)
    rows["midpointMjdTai"] = VISIT.mjd_tai - 0.5 * days
    rows["visit"] = VISIT.id - days
    rows["band"] = rng.choice(list("ugrizy"), rows.size)
    return rows[rng.permutation(rows.size)]
