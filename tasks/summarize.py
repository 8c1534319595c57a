"""What is known of each object from all its measurements: place, times, fluxes per band."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from promptdia.apdb.schema.lsst import BANDS
from promptdia.tasks.errors import TaskError
from promptdia.tasks.model.arrays import Catalog, Floats, Ints
from promptdia.tasks.model.wcs import unit_vectors

_BAND_OF_CODE = np.full(128, -1)
"""Index of a band in BANDS by its letter's code."""
_BAND_OF_CODE[[ord(band) for band in BANDS]] = range(len(BANDS))


@dataclass(frozen=True, slots=True)
class SummarizeConfig:
    error_floor_arcsec: float = 0.1
    """Added in quadrature to a source's position error when it is weighted, because artefacts
    and blends scatter far more than their errors say."""
    unknown_error_arcsec: float = 0.1
    """Position error taken for a source that has none."""


@dataclass(frozen=True, slots=True)
class SummarizeObjects:
    """Renew the summary columns of objects from their history."""

    config: SummarizeConfig = SummarizeConfig()

    def run(self, objects: Catalog, sources: Catalog, forced: Catalog) -> Catalog:
        """DIA_OBJECT rows in the order of ``objects``.

        ``sources`` is the history with the new sources, ``forced`` that of forced
        photometry; rows of other objects are ignored. nDiaSources and the first and last
        times never go back behind those of ``objects``, so that a history window that has
        moved on loses nothing. An object without sources in the history keeps its place.
        Running it twice gives the same. TaskError when an id occurs twice.
        """
        for name, rows in (("diaSourceId", sources), ("diaForcedSourceId", forced)):
            if (np.diff(np.sort(rows[name])) == 0).any():
                raise TaskError(f"the history holds a {name} twice; each must be there once")
        result = objects.copy()
        seen = _History.of(sources, objects)
        _count(result, seen)
        _place(result, seen, self.config)
        _summarize_sources(result, seen)
        _summarize_forced(result, _History.of(forced, objects))
        return result


@dataclass(frozen=True, slots=True, eq=False)
class _History:
    """The measurements of known objects, in time order."""

    rows: Catalog
    at: Ints
    """(n,) which rows."""
    owner: Ints
    """(n,) index of the object of each."""

    @classmethod
    def of(cls, rows: Catalog, objects: Catalog) -> "_History":
        order = np.argsort(objects["diaObjectId"])
        ids, wanted = objects["diaObjectId"][order], np.ascontiguousarray(rows["diaObjectId"])
        place = np.searchsorted(ids, wanted)
        known = place < ids.size
        known[known] = ids[place[known]] == wanted[known]
        at = np.flatnonzero(known)
        times = rows["midpointMjdTai"][at]
        if (np.diff(times) < 0).any():
            at = at[np.argsort(times, kind="stable")]
        return cls(rows, at, order[place[at]])

    def __getitem__(self, name: str) -> Catalog:
        """(n,) values of a column."""
        return self.rows[name][self.at]

    def points(self, name: str, n_objects: int) -> "_Points":
        """Fluxes that can be used: finite, of positive error, in a band that has columns."""
        flux, err = self[name].astype(float), self[name + "Err"].astype(float)
        code = np.minimum(self["band"].astype("U1").view(np.uint32), _BAND_OF_CODE.size - 1)
        band = _BAND_OF_CODE[code]
        good = np.flatnonzero(np.isfinite(flux) & np.isfinite(err) & (err > 0) & (band >= 0))
        cell = band[good] * n_objects + self.owner[good]
        return _Points(flux[good], err[good], cell, good, len(BANDS) * n_objects)


class _Points(NamedTuple):
    """Usable fluxes of one kind, in time order."""

    flux: Floats
    err: Floats
    cell: Ints
    """Number of the point's object and band, band slowest."""
    at: Ints
    """Index into the history."""
    n_cells: int


def _count(result: Catalog, sources: _History) -> None:
    owner = sources.owner
    n = np.bincount(owner, minlength=result.size)
    result["nDiaSources"] = np.maximum(result["nDiaSources"], n)
    first, last = np.full(result.size, np.nan), np.full(result.size, np.nan)
    times = sources["midpointMjdTai"]
    last[owner] = times  # in time order the latest is written last
    first[owner[::-1]] = times[::-1]
    for name, value, pick in (
        ("firstDiaSourceMjdTai", first, np.fmin),
        ("lastDiaSourceMjdTai", last, np.fmax),
    ):
        result[name] = pick(result[name], value)


def _place(result: Catalog, sources: _History, config: SummarizeConfig) -> None:
    """Weighted mean position, and its covariance propagated from those of the sources."""
    n, owner = result.size, sources.owner
    var_x, var_y, cov = _covariances(sources, config.unknown_error_arcsec)
    weight = 1.0 / ((var_x + var_y) / 2 + (config.error_floor_arcsec / 3600) ** 2)
    total = np.bincount(owner, weight, n)
    seen = total > 0
    weight /= total[owner]
    directions = unit_vectors(sources["ra"], sources["dec"])
    x, y, z = (np.bincount(owner, weight * directions[:, axis], n) for axis in range(3))
    columns = {
        "ra": np.rad2deg(np.arctan2(y, x)) % 360.0,
        "dec": np.rad2deg(np.arctan2(z, np.hypot(x, y))),
        "raErr": np.sqrt(np.bincount(owner, weight**2 * var_x, n)),
        "decErr": np.sqrt(np.bincount(owner, weight**2 * var_y, n)),
        "ra_dec_Cov": np.bincount(owner, weight**2 * cov, n),
    }
    for name, values in columns.items():
        result[name] = np.where(seen, values, result[name])


def _covariances(sources: _History, unknown_error_arcsec: float) -> tuple[Floats, Floats, Floats]:
    """(n,) variances of ra (times cos dec) and dec, and their covariance, deg**2."""
    x_err, y_err = sources["raErr"].astype(float), sources["decErr"].astype(float)
    known = (x_err > 0) & (y_err > 0) & np.isfinite(x_err) & np.isfinite(y_err)
    var_x, var_y = (np.where(known, e, unknown_error_arcsec / 3600) ** 2 for e in (x_err, y_err))
    cov = sources["ra_dec_Cov"].astype(float)
    return var_x, var_y, np.where(known & (cov**2 <= var_x * var_y), cov, 0.0)


def _summarize_sources(result: Catalog, sources: _History) -> None:
    points = sources.points("psfFlux", result.size)
    flux, err, cell, at, n_cells = points
    mean, mean_err, n = _weighted_mean(points)
    low, high = np.full(n_cells, np.inf), np.full(n_cells, -np.inf)
    np.minimum.at(low, cell, flux)
    np.maximum.at(high, cell, flux)
    columns = {
        "psfFluxMean": mean,
        "psfFluxMeanErr": mean_err,
        "psfFluxSigma": _standard_deviation(points, mean, n),
        "psfFluxMin": np.where(n > 0, low, np.nan),
        "psfFluxMax": np.where(n > 0, high, np.nan),
        "psfFluxErrMean": np.bincount(cell, err, n_cells) / np.where(n > 0, n, np.nan),
        "psfFluxMaxSlope": _steepest_rise(points, sources["midpointMjdTai"][at]),
    }
    _store(result, columns)
    _store(result, {"psfFluxNdata": n})
    mean, mean_err, _ = _weighted_mean(sources.points("scienceFlux", result.size))
    _store(result, {"scienceFluxMean": mean, "scienceFluxMeanErr": mean_err})


def _summarize_forced(result: Catalog, forced: _History) -> None:
    mean, mean_err, _ = _weighted_mean(forced.points("psfFlux", result.size))
    _store(result, {"fpFluxMean": mean, "fpFluxMeanErr": mean_err})


def _weighted_mean(points: _Points) -> tuple[Floats, Floats, Ints]:
    """Mean of weight 1/err**2, its error, and the number of points; nan where there is none."""
    weight = points.err**-2
    total = np.bincount(points.cell, weight, points.n_cells)
    n = np.bincount(points.cell, minlength=points.n_cells)
    total = np.where(n > 0, total, np.nan)
    mean: Floats = np.bincount(points.cell, weight * points.flux, points.n_cells) / total
    return mean, 1.0 / np.sqrt(total), n.astype(np.int64)


def _standard_deviation(points: _Points, mean: Floats, n: Ints) -> Floats:
    """About the plain mean, of n - 1 degrees of freedom; nan for fewer than two points."""
    away = points.flux - mean[points.cell]  # from the weighted mean, which is near
    square = np.bincount(points.cell, away**2, points.n_cells)
    offset = np.bincount(points.cell, away, points.n_cells)
    variance = (square - offset**2 / np.maximum(n, 1)) / np.where(n > 1, n - 1, np.nan)
    return np.sqrt(np.maximum(variance, 0.0))


def _steepest_rise(points: _Points, time: Floats) -> Floats:
    """Largest (signed) flux difference per day between successive points of a cell."""
    order = np.argsort(points.cell, kind="stable")  # the points come in time order
    f, t, c = points.flux[order], time[order], points.cell[order]
    pair = (c[1:] == c[:-1]) & (t[1:] > t[:-1])
    slope = np.full(points.n_cells, -np.inf)
    np.maximum.at(slope, c[1:][pair], np.diff(f)[pair] / np.diff(t)[pair])
    return np.where(np.isfinite(slope), slope, np.nan)


def _store(result: Catalog, columns: Mapping[str, Floats | Ints]) -> None:
    for name, values in columns.items():
        for band, row in zip(BANDS, values.reshape(len(BANDS), result.size)):
            result[f"{band}_{name}"] = row
