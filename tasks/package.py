"""Alerts: each source with its object, its history and three cutouts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from promptdia.apdb.schema.lsst import MPC_ORBITS, SS_SOURCE
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Image, Ints
from promptdia.tasks.model.exposure import (
    DifferenceExposure,
    Exposure,
    ScienceExposure,
    TemplateExposure,
)
from promptdia.tasks.model.wcs import local_cd

_NO_SS_SOURCE = SS_SOURCE.empty()
_NO_ORBIT = MPC_ORBITS.empty()
_STAMPS_AT_ONCE = 32


@dataclass(frozen=True, slots=True, eq=False)
class CutoutFrame:
    """Where a cutout lies on the detector and on the sky."""

    x0: int
    """Column of the detector under the cutout's first column, 0-based; may be negative."""
    y0: int
    x: float
    """The source on the detector, 0-based pixels."""
    y: float
    ra: float
    """The source on the sky, ICRS degrees."""
    dec: float
    cd: Floats
    """(2, 2) d(east, north)/d(x, y) at the source, degrees per pixel."""
    rotation_deg: float
    """Position angle of the focal plane's +y, north through east."""


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """A square of one image around a source."""

    frame: CutoutFrame
    image: Image
    """(side, side) nJy; nan off the detector."""
    variance: Image
    """(side, side) nJy squared; inf off the detector."""
    psf: Floats
    """(m, m) of unit sum, at the position of the source."""


@dataclass(frozen=True, slots=True, eq=False)
class Alert:
    """One source and all that leaves with it; a table without rows stands for nothing known."""

    source: Catalog
    """(1,) DIA_SOURCE."""
    prv_sources: Catalog
    """(n,) DIA_SOURCE, oldest first, without ``source``."""
    prv_forced: Catalog
    """(n,) DIA_FORCED_SOURCE, oldest first, this visit included."""
    object: Catalog
    """(1,) DIA_OBJECT, or (0,) for a Solar System object."""
    ss_source: Catalog
    """(1,) SS_SOURCE for a Solar System object, else (0,)."""
    orbit: Catalog
    """(1,) MPC_ORBITS where the orbit is known, else (0,)."""
    difference: Cutout
    science: Cutout
    template: Cutout
    observation_reason: str = ""
    target_name: str = ""

    @property
    def id(self) -> int:
        """diaSourceId of the source alerted."""
        return int(self.source["diaSourceId"][0])


@dataclass(frozen=True, slots=True)
class PackageConfig:
    min_side_px: int = 30
    """Side of the smallest cutout, pixels."""
    max_side_px: int = 102
    """Side of the largest cutout, pixels."""
    history_days: float = 365.0
    """How far back the history reaches, days before the source."""


@dataclass(frozen=True, slots=True)
class PackageAlerts:
    """Gather, for each source, what its alert carries."""

    config: PackageConfig

    def run(
        self,
        sources: Catalog,
        objects: Catalog,
        prv_sources: Catalog,
        prv_forced: Catalog,
        science: ScienceExposure,
        template: TemplateExposure,
        difference: DifferenceExposure,
        ss_sources: Catalog = _NO_SS_SOURCE,
        orbits: Catalog = _NO_ORBIT,
    ) -> list[Alert]:
        """One alert per row of ``sources``, in their order.

        ``objects`` holds the updated objects, ``prv_sources`` their history (rows of
        this visit are ignored) and ``prv_forced`` theirs, this visit included; all
        may hold rows of other objects. ``template`` is the one before PSF matching.
        ``ss_sources`` belong to ``sources`` by diaSourceId and ``orbits`` to them by
        designation. ValueError when a source has both an object and a Solar System
        object or neither, or when its row is missing.
        """
        static = _is_static(sources)
        object_row = _rows_by_id(objects, "diaObjectId", sources["diaObjectId"][static])
        ss_row = _rows_by_id(ss_sources, "diaSourceId", sources["diaSourceId"][~static])
        row = np.empty(sources.size, np.int64)
        row[static], row[~static] = object_row, ss_row
        cutouts = self._cutouts(sources, (difference, science, template))
        history = _History(prv_sources, "diaSourceId", without_visit=science.visit.id)
        forced = _History(prv_forced, "diaForcedSourceId")
        orbit_row = {name: i for i, name in enumerate(orbits["designation"].tolist())}
        time, object_ids = sources["midpointMjdTai"].tolist(), sources["diaObjectId"].tolist()
        alerts = []
        for i, (now, object_id) in enumerate(zip(time, object_ids)):
            since = now - self.config.history_days
            ss_source = ss_sources[:0] if static[i] else ss_sources[row[i] : row[i] + 1]
            orbit = orbit_row.get(ss_source["designation"][0], -1) if ss_source.size else -1
            alerts.append(
                Alert(
                    source=sources[i : i + 1],
                    prv_sources=history.of(object_id, since, now),
                    prv_forced=forced.of(object_id, since, np.nextafter(now, np.inf)),
                    object=objects[row[i] : row[i] + 1] if static[i] else objects[:0],
                    ss_source=ss_source,
                    orbit=orbits[orbit : orbit + 1] if orbit >= 0 else orbits[:0],
                    difference=cutouts[0][i],
                    science=cutouts[1][i],
                    template=cutouts[2][i],
                    observation_reason=science.visit.observation_reason,
                    target_name=science.visit.target_name,
                )
            )
        return alerts

    def _cutouts(self, sources: Catalog, exposures: Sequence[Exposure]) -> list[list[Cutout]]:
        side = np.clip(sources["bboxSize"], self.config.min_side_px, self.config.max_side_px)
        science = exposures[1]
        x, y = sources["x"].astype(float), sources["y"].astype(float)
        cd = local_cd(science.wcs, x, y)
        frames = [
            CutoutFrame(*_corner(x[i], y[i], int(side[i])), x[i], y[i], float(sources["ra"][i]),
                        float(sources["dec"][i]), cd[i], science.visit.rotation_deg)
            for i in range(sources.size)
        ]  # fmt: skip
        return [
            [
                _cut(exposure, frame, int(n), stamp)
                for frame, n, stamp in zip(frames, side, _stamps(exposure, x, y))
            ]
            for exposure in exposures
        ]


class _History:
    """Rows of many objects, found by object and time."""

    def __init__(self, rows: Catalog, id_name: str, without_visit: int = -1) -> None:
        # One row per object and visit: brokers key their light curves by visit.
        order = np.flatnonzero(rows["visit"] != without_visit)
        keys = (id_name, "visit", "midpointMjdTai", "diaObjectId")
        order = order[np.lexsort(tuple(rows[key][order] for key in keys))]
        objects, visits = rows["diaObjectId"][order], rows["visit"][order]
        first = np.ones(order.size, bool)
        first[1:] = (objects[1:] != objects[:-1]) | (visits[1:] != visits[:-1])
        self._rows = rows[order[first]]
        self._time = self._rows["midpointMjdTai"].copy()
        ids, begins, counts = np.unique(
            self._rows["diaObjectId"], return_index=True, return_counts=True
        )
        ends = begins + counts
        self._places = dict(zip(ids.tolist(), zip(begins.tolist(), ends.tolist())))

    def of(self, object_id: int, since: float, before: float) -> Catalog:
        """Rows of one object with ``since`` <= midpointMjdTai < ``before``, oldest first.

        Number 0, which a Solar System object has, is nobody's.
        """
        begin, end = self._places.get(object_id, (0, 0)) if object_id else (0, 0)
        a, b = begin + np.searchsorted(self._time[begin:end], (since, before))
        rows: Catalog = self._rows[a:b]
        return rows


def _is_static(sources: Catalog) -> Bools:
    static: Bools = sources["diaObjectId"] != 0
    wrong = static == (sources["ssObjectId"] != 0)
    if wrong.any():
        raise ValueError(
            f"DiaSource {sources['diaSourceId'][wrong][0]} must belong to either a DiaObject or "
            f"a Solar System object, has diaObjectId {sources['diaObjectId'][wrong][0]} and "
            f"ssObjectId {sources['ssObjectId'][wrong][0]}"
        )
    return static


def _rows_by_id(table: Catalog, name: str, wanted: Ints) -> Ints:
    order = np.argsort(table[name], kind="stable")
    place = np.searchsorted(table[name], wanted, sorter=order)
    found = np.isin(wanted, table[name])
    if not found.all():
        raise ValueError(f"no row with {name} {wanted[~found][0]} to put into the alert")
    rows: Ints = order[place]
    return rows


def _corner(x: float, y: float, side: int) -> tuple[int, int]:
    """First pixel of the square whose centre is nearest to (x, y)."""
    return int(np.floor(x - side / 2 + 1)), int(np.floor(y - side / 2 + 1))


def _stamps(exposure: Exposure, x: Floats, y: Floats) -> Iterator[Floats]:
    """The PSF, of unit sum, at each position; few at a time: what makes them fits the cache."""
    psf = exposure.require_psf()
    for i in range(0, x.size, _STAMPS_AT_ONCE):
        stamps = psf.stamps(x[i : i + _STAMPS_AT_ONCE], y[i : i + _STAMPS_AT_ONCE])
        yield from stamps / stamps.sum(axis=(1, 2), keepdims=True)


def _cut(exposure: Exposure, frame: CutoutFrame, side: int, psf: Floats) -> Cutout:
    ny, nx = exposure.shape
    x0, y0 = frame.x0, frame.y0
    if min(x0, y0) >= 0 and x0 + side <= nx and y0 + side <= ny:
        box = slice(y0, y0 + side), slice(x0, x0 + side)
        return Cutout(frame, exposure.image[box], exposure.variance[box], psf)
    xa, xb, ya, yb = max(x0, 0), min(x0 + side, nx), max(y0, 0), min(y0 + side, ny)
    image = np.full((side, side), np.nan, np.float32)
    variance = np.full((side, side), np.inf, np.float32)
    if xa < xb and ya < yb:
        inside = slice(ya - y0, yb - y0), slice(xa - x0, xb - x0)
        image[inside] = exposure.image[ya:yb, xa:xb]
        variance[inside] = exposure.variance[ya:yb, xa:xb]
    return Cutout(frame, image, variance, psf)
