"""What is known of each object from all its measurements: place, times, fluxes per band."""

from dataclasses import dataclass

import numpy as np

from promptdia.apdb.schema.lsst import BANDS
from promptdia.tasks.errors import TaskError
from promptdia.tasks.kernels.lookup import rows_of
from promptdia.tasks.kernels.summaries import FLUX_COLUMNS, flux_summaries, places
from promptdia.tasks.model.arrays import Catalog, Floats, Ints, copied

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
        result = copied(objects)
        seen = _History.of(sources, objects)
        _count(result, seen)
        _place(result, seen, self.config)
        for name in ("psfFlux", "scienceFlux"):
            _store(result, name, seen.fluxes(name))
        _store(result, "fpFlux", _History.of(forced, objects).fluxes("psfFlux"))
        return result


@dataclass(frozen=True, slots=True, eq=False)
class _History:
    """Measurements in time order, and whose they are."""

    rows: Catalog
    order: Ints | None
    """Sorts the rows by time; None when they are."""
    owner: Ints
    """(n,) index of the object of each, -1 for a stranger."""
    n_objects: int

    @classmethod
    def of(cls, rows: Catalog, objects: Catalog) -> "_History":
        times, order = rows["midpointMjdTai"], None
        if (np.diff(times) < 0).any():
            order = np.argsort(times, kind="stable")
        ids = np.ascontiguousarray(
            rows["diaObjectId"] if order is None else rows["diaObjectId"][order]
        )
        owner = rows_of(np.ascontiguousarray(objects["diaObjectId"]), ids)
        return cls(rows, order, owner, objects.size)

    def __getitem__(self, name: str) -> Floats:
        """(n,) values of a column, in time order."""
        values = self.rows[name] if self.order is None else self.rows[name][self.order]
        return values.astype(float)

    def fluxes(self, name: str) -> Floats:
        """``flux_summaries`` of a flux."""
        codes = self.rows["band"].astype("U1").view(np.uint32)
        band = _BAND_OF_CODE[np.minimum(codes, _BAND_OF_CODE.size - 1)]
        if self.order is not None:
            band = band[self.order]
        time, flux, err = (self[column] for column in ("midpointMjdTai", name, f"{name}Err"))
        return flux_summaries(self.owner, band, time, flux, err, len(BANDS), self.n_objects)


def _count(result: Catalog, sources: _History) -> None:
    mine = sources.owner >= 0
    owner, times = sources.owner[mine], sources["midpointMjdTai"][mine]
    n = np.bincount(owner, minlength=result.size)
    result["nDiaSources"] = np.maximum(result["nDiaSources"], n)
    first, last = np.full(result.size, np.nan), np.full(result.size, np.nan)
    last[owner] = times  # in time order the latest is written last
    first[owner[::-1]] = times[::-1]
    for name, value, pick in (
        ("firstDiaSourceMjdTai", first, np.fmin),
        ("lastDiaSourceMjdTai", last, np.fmax),
    ):
        result[name] = pick(result[name], value)


def _place(result: Catalog, sources: _History, config: SummarizeConfig) -> None:
    """Weighted mean position, and its covariance propagated from those of the sources."""
    names = ("ra", "dec", "raErr", "decErr", "ra_dec_Cov")
    ra, dec, ra_err, dec_err, cov = (sources[name] for name in names)
    found = places(
        sources.owner,
        ra,
        dec,
        ra_err,
        dec_err,
        cov,
        config.unknown_error_arcsec / 3600,
        config.error_floor_arcsec / 3600,
        result.size,
    )
    for name, values in zip(names, found[1:]):
        result[name] = np.where(found[0] > 0, values, result[name])


def _store(result: Catalog, name: str, found: Floats) -> None:
    """Write the columns of a flux that the schema has."""
    columns = {**dict(zip(FLUX_COLUMNS, found)), "Ndata": found[-1]}
    for suffix, values in columns.items():
        for band, row in zip(BANDS, values):
            if f"{band}_{name}{suffix}" in (result.dtype.names or ()):
                result[f"{band}_{name}{suffix}"] = row
