"""The alerts of a simulated night: what Rubin would send, made fast enough to keep its pace.

For people who build brokers: 10,000 alerts per visit of real form (ids, history, objects,
cutouts), of which an object that is seen again has the history that was sent before. The
light curves are invented, see ``stream_sky``; no image is processed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from promptdia.apdb.ids import dia_source_id, visit_id
from promptdia.apdb.schema.lsst import (
    DIA_FORCED_SOURCE,
    DIA_OBJECT,
    DIA_SOURCE,
    MPC_ORBITS,
    SS_SOURCE,
)
from promptdia.pipeline.sim.seeds import generator
from promptdia.pipeline.sim.stream_pixels import CELL_PX, exposures, sources_layout
from promptdia.pipeline.sim.stream_sky import (
    DEPTH,
    Field,
    LightCurves,
    field_of_visit,
    light_curves,
)
from promptdia.tasks.model.arrays import Catalog, Floats, Ints
from promptdia.tasks.model.visit import Amplifier, Box, Detector, Visit
from promptdia.tasks.model.wcs import FitsWcs, nominal_wcs
from promptdia.tasks.package import Alert, PackageAlerts, PackageConfig
from promptdia.tasks.summarize import SummarizeObjects

_POOL, _MOVING = 0.7, 0.1
"""Of a detector's alerts: objects that last (some of which are not detected now), asteroids."""
_RAFT_CORNERS = (0, 4)
_PLACES = [
    (i, j)
    for j in range(15)
    for i in range(15)
    if not (i // 3 in _RAFT_CORNERS and j // 3 in _RAFT_CORNERS)
]
"""189 detectors: five by five rafts of three by three without the corners."""
_PITCH_ARCSEC = 0.2 * 4200
_PROCESSING_D = 100.0 / 86400
_TEMPLATE_DEPTH = 0.3
_FEWEST = 20
"""A small visit uses fewer detectors, so that each has some of everything."""
_COUNTERS = 2**19


@dataclass(frozen=True, slots=True)
class NightStream:
    """A night of visits with a fixed number of alerts each; the same seed, the same bytes."""

    seed: int = 1
    day_obs: int = 20261120
    alerts_per_visit: int = 10_000
    cadence_s: float = 37.0
    """Seconds from one visit to the next, for the times that the alerts carry."""

    def visit(self, index: int) -> Iterator[list[Alert]]:
        """The alerts of the night's visit ``index``, detector by detector.

        ApdbError when ``day_obs`` is no date or a night has no so many visits.
        """
        visit_id(self.day_obs, index + 1)
        field, epoch = field_of_visit(self.seed, self.day_obs, index, self.cadence_s)
        visit = Visit(
            int(field.visits[epoch]), str(field.bands[epoch]), float(field.mjd[epoch]), 30.0,
            field.ra, field.dec, field.rotation_deg,
            observation_reason=field.reason, target_name=field.name,
        )  # fmt: skip
        n_detectors = min(-(-self.alerts_per_visit // _FEWEST), len(_PLACES))
        share, more = divmod(self.alerts_per_visit, n_detectors)
        for number in range(n_detectors):
            yield _alerts(self.seed, field, epoch, visit, number, share + (number < more))


class _Rows(NamedTuple):
    """Tables that fit together, as ``PackageAlerts`` wants them."""

    sources: Catalog
    objects: Catalog
    prv_sources: Catalog
    prv_forced: Catalog
    ss_sources: Catalog
    orbits: Catalog


def _alerts(seed: int, field: Field, epoch: int, visit: Visit, number: int, n: int) -> list[Alert]:
    n_cells, detector = _detector(number, n)
    wcs = nominal_wcs(visit, detector)
    lasting = generator(seed, "stream objects", field.number, number)
    passing = generator(seed, "stream visit", visit.id, number)
    x, y = sources_layout(n, n_cells, lasting)
    n_pool = int(_POOL * n)
    curves = light_curves(field, n_pool, lasting)
    scatter = lasting.standard_normal((4, n_pool, field.mjd.size))
    history = _pool_sources(field, epoch, curves, number, wcs, x[:n_pool], y[:n_pool], scatter)
    now = history["visit"] == visit.id
    cell = np.flatnonzero(~curves.detected[:, epoch])
    free = np.concatenate([cell, np.arange(n_pool, n)])
    fresh = _fresh_sources(visit, number, wcs, x[free], y[free], n, int(_MOVING * n), passing)
    sources = np.concatenate([history[now], fresh])
    forced = _forced(field, epoch, curves, number, wcs, x[:n_pool], y[:n_pool])
    objects = _objects(sources, history, forced, visit)
    ss_sources, orbits = _solar_system(sources, visit, passing)
    frames = exposures(visit, detector, wcs, sources, passing)
    return PackageAlerts(PackageConfig()).run(
        sources, objects, history[~now], forced, *frames, ss_sources, orbits
    )


def _detector(number: int, n: int) -> tuple[int, Detector]:
    """A detector that is no larger than its n sources need, where Rubin's would be."""
    n_cells = max(2, int(np.ceil(np.sqrt(n))))
    side = n_cells * CELL_PX
    i, j = _PLACES[number]
    whole = Box(0, side, 0, side)
    amplifier = Amplifier(whole, whole, None, 1.6, 7.0, 150_000.0)
    return n_cells, Detector(
        number, f"R{i // 3}{j // 3}_S{i % 3}{j % 3}", side, side, 0.2, (amplifier,),
        offset_x_arcsec=(i - 7) * _PITCH_ARCSEC, offset_y_arcsec=(j - 7) * _PITCH_ARCSEC,
    )  # fmt: skip


def _pool_sources(
    field: Field, epoch: int, curves: LightCurves, number: int, wcs: FitsWcs, x: Floats, y: Floats,
    scatter: Floats,
) -> Catalog:  # fmt: skip
    """Every detection of the lasting objects until now."""
    which, when = np.nonzero(curves.detected[:, : epoch + 1])
    flux, err = curves.flux[which, when], curves.err[which, when]
    rows = _measured(flux, err, x[which], y[which], wcs, field.bands[when], scatter[:, which, when])
    rows["diaSourceId"] = _first_ids(field, number, x.size)[when] + which
    rows["diaObjectId"] = _object_ids(field, curves, number)[which]
    rows["visit"], rows["detector"] = field.visits[when], number
    rows["midpointMjdTai"] = field.mjd[when]
    rows["timeProcessedMjdTai"] = field.mjd[when] + _PROCESSING_D
    rows["templateFlux"] = _steady_flux(curves)[which]
    rows["scienceFlux"] = rows["templateFlux"] + rows["psfFlux"]
    rows["reliability"] = 1.0 - 0.4 * np.exp(-(rows["snr"] - 5.0) / 3.0)
    return rows


def _fresh_sources(
    visit: Visit, number: int, wcs: FitsWcs, x: Floats, y: Floats, n: int, n_moving: int,
    rng: np.random.Generator,
) -> Catalog:  # fmt: skip
    """Sources seen for the first time: asteroids, then faint ones, mostly artefacts."""
    size = x.size
    moving = np.arange(size) < n_moving
    snr = np.where(moving, 5 + rng.exponential(12.0, size), 5 + rng.exponential(1.5, size))
    sign = np.where(~moving & (rng.random(size) < 0.3), -1.0, 1.0)
    err = DEPTH[visit.band] * np.exp(rng.normal(0, 0.1, size))
    scatter = rng.standard_normal((4, size))
    band = np.full(size, visit.band)
    rows = _measured(sign * snr * err, err, x, y, wcs, band, scatter)
    rows["diaSourceId"] = dia_source_id(visit.id, number, _COUNTERS - 1 - n) + np.arange(size)
    rows["diaObjectId"] = np.where(moving, 0, rows["diaSourceId"])
    rows["ssObjectId"][moving] = rng.integers(2**54, 2**55, n_moving)
    rows["visit"], rows["detector"] = visit.id, number
    rows["midpointMjdTai"] = visit.mjd_tai
    rows["timeProcessedMjdTai"] = visit.mjd_tai + _PROCESSING_D
    rows["isDipole"] = ~moving & (rng.random(size) < 0.1)
    faded = np.maximum(-rows["psfFlux"], 0.0)
    rows["templateFlux"] = np.where(moving, 0.0, faded + rng.exponential(3.0, size) * err)
    rows["scienceFlux"] = rows["templateFlux"] + rows["psfFlux"]
    rows["reliability"] = np.where(moving, rng.uniform(0.6, 1.0, size), rng.beta(1.0, 2.0, size))
    return rows


def _measured(
    flux: Floats, err: Floats, x: Floats, y: Floats, wcs: FitsWcs, band: np.ndarray, scatter: Floats
) -> Catalog:
    """DIA_SOURCE rows with everything that follows from a flux and a place."""
    rows = DIA_SOURCE.empty(flux.size)
    snr = np.abs(flux / err)
    place_err = 2.0 / snr  # pixels: about a PSF's sigma over the S/N
    rows["x"], rows["y"] = x + scatter[0] * place_err, y + scatter[1] * place_err
    rows["xErr"] = rows["yErr"] = place_err
    rows["ra"], rows["dec"] = wcs.pixel_to_sky(rows["x"].astype(float), rows["y"].astype(float))
    rows["raErr"] = rows["decErr"] = place_err * 0.2 / 3600
    rows["ra_dec_Cov"] = 0.0
    rows["psfFlux"], rows["psfFluxErr"], rows["snr"] = flux, err, snr
    rows["apFlux"], rows["apFluxErr"] = flux + scatter[2] * 1.5 * err, 1.8 * err
    rows["psfChi2"], rows["psfNdata"] = 1681 + 58 * scatter[3], 1681
    rows["isNegative"] = flux < 0
    rows["scienceFluxErr"], rows["templateFluxErr"] = err, _TEMPLATE_DEPTH * err
    for name in ("ixx", "iyy", "ixxPSF", "iyyPSF"):
        rows[name] = 0.16
    rows["ixy"] = rows["ixyPSF"] = 0.0
    rows["trailLength"], rows["trailFlux"] = 0.1, flux
    rows["extendedness"] = (scatter[3] > 1.5).astype(np.float32)
    rows["band"] = band
    rows["exposureTime"], rows["reliabilityVersion"] = 30.0, "simulated"
    rows["bboxSize"] = np.clip(6.0 * np.sqrt(snr), 9, 120)
    return rows


def _forced(
    field: Field, epoch: int, curves: LightCurves, number: int, wcs: FitsWcs, x: Floats, y: Floats
) -> Catalog:
    """Forced photometry of the objects detected now, from their first detection on."""
    seen, epochs = curves.detected, np.arange(field.mjd.size)
    first = np.argmax(seen, axis=1)
    wanted = seen[:, epoch, None] & (epochs >= first[:, None]) & (epochs <= epoch)
    which, when = np.nonzero(wanted)
    rows = DIA_FORCED_SOURCE.empty(which.size)
    rows["diaForcedSourceId"] = _first_ids(field, number, x.size)[when] + which
    rows["diaObjectId"] = _object_ids(field, curves, number)[which]
    ra, dec = wcs.pixel_to_sky(x, y)
    rows["ra"], rows["dec"] = ra[which], dec[which]
    rows["visit"], rows["detector"] = field.visits[when], number
    rows["psfFlux"], rows["psfFluxErr"] = curves.flux[which, when], curves.err[which, when]
    rows["scienceFlux"] = rows["psfFlux"] + _steady_flux(curves)[which]
    rows["scienceFluxErr"] = rows["psfFluxErr"]
    rows["midpointMjdTai"], rows["band"] = field.mjd[when], field.bands[when]
    rows["timeProcessedMjdTai"] = field.mjd[when] + _PROCESSING_D
    return rows


def _objects(sources: Catalog, history: Catalog, forced: Catalog, visit: Visit) -> Catalog:
    owned = sources[sources["diaObjectId"] != 0]
    objects = DIA_OBJECT.empty(owned.size)
    objects["diaObjectId"] = owned["diaObjectId"]
    objects["validityStartMjdTai"] = visit.mjd_tai + _PROCESSING_D
    fresh = owned[~np.isin(owned["diaSourceId"], history["diaSourceId"])]
    return SummarizeObjects().run(objects, np.concatenate([history, fresh]), forced)


def _solar_system(
    sources: Catalog, visit: Visit, rng: np.random.Generator
) -> tuple[Catalog, Catalog]:
    """Ephemerides and orbits of main-belt asteroids near opposition, one to each."""
    moving = sources[sources["ssObjectId"] != 0]
    n = moving.size
    rows, orbits = SS_SOURCE.empty(n), MPC_ORBITS.empty(n)
    for name in ("diaSourceId", "ssObjectId"):
        rows[name] = moving[name]
    number = moving["ssObjectId"] % 1_000_000
    rows["designation"] = orbits["designation"] = [f"2026 S{k}" for k in number]
    for name in (
        "packed_primary_provisional_designation",
        "unpacked_primary_provisional_designation",
    ):
        orbits[name] = [f"S{k:06d}" for k in number]
    a = rng.uniform(2.1, 3.3, n)
    orbits["id"], orbits["a"], orbits["epoch_mjd"] = np.arange(1, n + 1), a, 61200.0
    orbits["e"], orbits["i"] = rng.uniform(0, 0.25, n), rng.rayleigh(8.0, n)
    orbits["q"] = a * (1 - orbits["e"])
    for name in ("node", "argperi", "mean_anomaly"):
        orbits[name] = rng.uniform(0, 360, n)
    orbits["h"], orbits["g"] = rng.uniform(14, 20, n), 0.15
    rows["eclLambda"], rows["eclBeta"] = (
        moving["ra"],
        moving["dec"] + 23.4 * np.sin(np.deg2rad(-moving["ra"])),
    )
    rows["galLon"], rows["galLat"] = rng.uniform(0, 360, n), rng.uniform(-60, 60, n)
    rows["helioRange"], rows["topoRange"] = a, a - 1.0
    rows["ephRa"], rows["ephDec"] = moving["ra"], moving["dec"]
    rows["ephOffset"], rows["ephRate"] = rng.rayleigh(0.1, n), rng.uniform(0.1, 0.4, n)
    rows["ephVmag"], rows["phaseAngle"] = (
        31.4 - 2.5 * np.log10(moving["psfFlux"]),
        rng.uniform(0, 20, n),
    )
    rows["diaDistanceRank"] = 1
    return rows, orbits


def _steady_flux(curves: LightCurves) -> Floats:
    """(n,) flux in the template, nJy: never less than what the object loses."""
    steady: Floats = 20.0 * DEPTH["r"] + 1.2 * np.maximum(-curves.flux.min(axis=1), 0.0)
    return steady


def _first_ids(field: Field, number: int, n: int) -> Ints:
    """(m,) id of the first source of each epoch; counters of one field are apart from others'."""
    counter = n * (field.number % (_COUNTERS // (2 * max(n, 1))))
    return np.array([dia_source_id(int(v), number, counter) for v in field.visits], np.int64)


def _object_ids(field: Field, curves: LightCurves, number: int) -> Ints:
    """(n,) an object has the id of its first source."""
    n = curves.flux.shape[0]
    first = np.argmax(curves.detected, axis=1)
    ids: Ints = _first_ids(field, number, n)[first] + np.arange(n)
    return ids
