"""The reference catalogue: read from common formats, stored by sky pixel, queried by region."""

from pathlib import Path
from typing import Any

import hpgeom
import numpy as np
import pyarrow as pa
from astropy.table import Table

from promptdia.pipeline.errors import InputError
from promptdia.pipeline.io.parquet import read_catalog, read_table, write_catalog
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.catalogs import BANDS, REFERENCE
from promptdia.tasks.model.photo_calib import mag_to_njy
from promptdia.tasks.model.wcs import separation_arcsec

_KNOWN = {*(REFERENCE.dtype.names or ()), *(f"{band}_mag" for band in BANDS)}
NSIDE = 2**5
"""HEALPix cells of 1.8 degrees, one file each."""
MARGIN_ARCSEC = 150.0
"""How far beyond the detector stars are fetched: pointing errors of a minute must fit."""


def store_references(folder: Path, rows: Catalog) -> None:
    """Add rows to the catalogue; a row with an id already there replaces it."""
    cells = hpgeom.angle_to_pixel(NSIDE, rows["ra"], rows["dec"])
    for cell in np.unique(cells):
        path = folder / f"{cell}.parquet"
        new = rows[cells == cell]
        if path.exists():
            old = read_catalog(path, REFERENCE)
            new = np.concatenate([old[~np.isin(old["id"], new["id"])], new])
        write_catalog(path, new[np.argsort(new["id"], kind="stable")], REFERENCE)


def load_references(folder: Path, ra: float, dec: float, radius_arcsec: float) -> Catalog:
    """The stars within a radius of a position; an empty table when there are none."""
    cells = hpgeom.query_circle(NSIDE, ra, dec, radius_arcsec / 3600, inclusive=True)
    paths = [folder / f"{cell}.parquet" for cell in cells]
    found = [read_catalog(path, REFERENCE) for path in paths if path.exists()]
    rows = np.concatenate([REFERENCE.empty(0), *found])
    near: Catalog = rows[separation_arcsec(rows["ra"], rows["dec"], ra, dec) <= radius_arcsec]
    return near


def read_references(path: Path) -> Catalog:
    """A catalogue file (Parquet, FITS, CSV, ECSV) in our columns.

    Read are the columns of REFERENCE, magnitudes ``<band>_mag`` instead of fluxes, and
    LSST's own reference catalogues (``coord_ra``, ``coord_dec``, ``pm_ra``... in radians).
    """
    columns = _columns(path)
    if "coord_ra" in columns:
        columns = _from_lsst(columns)
    missing = [name for name in ("ra", "dec") if name not in columns]
    if missing:
        raise InputError(
            f"{path} has no column {missing[0]}; a reference catalogue needs ra and dec in "
            f"degrees and fluxes <band>_flux in nJy or magnitudes <band>_mag"
        )
    columns = {name: _numbers(columns[name], name, path) for name in columns if name in _KNOWN}
    ra, dec = columns["ra"], columns["dec"]
    good = np.isfinite(ra) & np.isfinite(dec)
    bad = np.flatnonzero(good & ((np.abs(dec) > 90) | (ra < -360) | (ra > 360)))
    if bad.size:
        raise InputError(
            f"{path} row {bad[0]}: ra {ra[bad[0]]}, dec {dec[bad[0]]} is no position in degrees"
        )
    rows = REFERENCE.empty(int(good.sum()))
    rows["id"] = np.flatnonzero(good) + 1
    for name in REFERENCE.dtype.names or ():
        if name in columns:
            rows[name] = columns[name][good]
    for band in BANDS:
        if f"{band}_mag" in columns and f"{band}_flux" not in columns:
            rows[f"{band}_flux"] = mag_to_njy(columns[f"{band}_mag"][good])
    rows["ra"] %= 360.0
    return rows


def _columns(path: Path) -> dict[str, Any]:
    if path.suffix == ".parquet":
        table: pa.Table = read_table(path)
        return {name: table[name].to_numpy() for name in table.column_names}
    try:
        read = Table.read(path)
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is not a readable table: {error}") from error
    return {name: read[name] for name in read.colnames}


def _numbers(column: Any, name: str, path: Path) -> np.ndarray:
    """A column as numbers, nan where a value is missing; ids stay whole."""
    try:
        if name == "id" and not np.ma.is_masked(column):
            return np.asarray(column, np.int64)
        return np.ma.filled(np.ma.asarray(column).astype(float), np.nan)
    except (TypeError, ValueError):
        raise InputError(f"{path}: column {name} holds text, must hold numbers") from None


def _from_lsst(columns: dict[str, Any]) -> dict[str, Any]:
    own = dict(columns)
    own["ra"] = np.rad2deg(np.asarray(columns["coord_ra"], float))
    own["dec"] = np.rad2deg(np.asarray(columns["coord_dec"], float))
    milliarcsec = np.rad2deg(1.0) * 3.6e6
    for name, ours, scale in (
        ("coord_raErr", "raErr", milliarcsec / 1000),
        ("coord_decErr", "decErr", milliarcsec / 1000),
        ("pm_ra", "pmRa", milliarcsec),
        ("pm_dec", "pmDec", milliarcsec),
        ("epoch", "epochMjdTai", 1.0),
    ):
        if name in columns:
            own[ours] = np.asarray(columns[name], float) * scale
    return own
