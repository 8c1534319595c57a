"""Reference catalogues in the formats they come in."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from numpy.testing import assert_allclose, assert_array_equal

from promptdia.pipeline.errors import InputError
from promptdia.pipeline.refcat import load_references, read_references, store_references
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.catalogs import REFERENCE
from promptdia.tasks.model.wcs import separation_arcsec


def _stars(n: int = 50, ra: float = 150.0, dec: float = 2.0, first_id: int = 1) -> Catalog:
    rng = np.random.default_rng(n)
    rows = REFERENCE.empty(n)
    rows["id"] = np.arange(first_id, first_id + n)
    rows["ra"] = (ra + rng.uniform(-0.5, 0.5, n) / np.cos(np.deg2rad(dec))) % 360
    rows["dec"] = dec + rng.uniform(-0.5, 0.5, n)
    rows["r_flux"] = rng.uniform(1e3, 1e6, n)
    return rows


def _table(rows: Catalog) -> Table:
    return Table({name: rows[name] for name in ("id", "ra", "dec", "pmRa", "r_flux")})


@pytest.mark.parametrize("suffix", ["parquet", "fits", "csv", "ecsv"])
def test_a_catalogue_reads_the_same_from_every_format(tmp_path: Path, suffix: str) -> None:
    rows = _stars()
    rows["pmRa"] = np.linspace(-20, 20, rows.size)
    path = tmp_path / f"stars.{suffix}"
    if suffix == "parquet":
        pq.write_table(pa.table({n: rows[n] for n in ("id", "ra", "dec", "pmRa", "r_flux")}), path)
    else:
        _table(rows).write(path)
    read = read_references(path)
    assert_array_equal(read["id"], rows["id"])
    for name in ("ra", "dec", "pmRa", "r_flux"):
        assert_allclose(read[name], rows[name], rtol=1e-6)
    assert np.isnan(read["g_flux"]).all()


def test_magnitudes_become_nanojansky(tmp_path: Path) -> None:
    path = tmp_path / "stars.csv"
    path.write_text("ra,dec,g_mag,r_mag\n10,20,31.4,23.9\n11,21,16.4,\n")
    read = read_references(path)
    assert_allclose(read["g_flux"], [1.0, 1e6], rtol=1e-6)
    assert_allclose(read["r_flux"], [1e3, np.nan], rtol=1e-6)
    assert_array_equal(read["id"], [1, 2])


def test_radians_of_an_lsst_catalogue_become_degrees(tmp_path: Path) -> None:
    path = tmp_path / "lsst.parquet"
    milliarcsec = np.deg2rad(1 / 3.6e6)
    columns = {
        "id": [7, 8],
        "coord_ra": np.deg2rad([359.9, 0.1]),
        "coord_dec": np.deg2rad([-30.0, -30.1]),
        "coord_raErr": np.array([2.0, 3.0]) * milliarcsec,
        "pm_ra": np.array([5.0, -6.0]) * milliarcsec,
        "pm_dec": np.array([0.5, np.nan]) * milliarcsec,
        "epoch": [57388.0, 57388.0],
        "r_flux": [100.0, 200.0],
    }
    pq.write_table(pa.table(columns), path)
    read = read_references(path)
    assert_allclose(read["ra"], [359.9, 0.1])
    assert_allclose(read["dec"], [-30.0, -30.1])
    assert_allclose(read["raErr"], [0.002, 0.003], rtol=1e-6)
    assert_allclose(read["pmRa"], [5.0, -6.0], rtol=1e-6)
    assert_allclose(read["pmDec"], [0.5, np.nan], rtol=1e-6)
    assert_allclose(read["epochMjdTai"], 57388.0)


def test_rows_without_position_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "stars.csv"
    path.write_text("ra,dec,r_mag\n-1,20,18\n,21,18\n12,22,18\n")
    read = read_references(path)
    assert_allclose(read["ra"], [359, 12])
    assert_array_equal(read["id"], [1, 3])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("ra,decl\n1,2\n", r"stars\.csv has no column dec; a reference catalogue needs ra and dec"),
        ("ra,dec\n1,100\n", r"stars\.csv row 0: ra 1\.0, dec 100\.0 is no position in degrees"),
        ("ra,dec\nx,1\n", r"stars\.csv: column ra holds text"),
        ("ra,dec\n1,2,3\n4\n", r"stars\.csv is not a readable table"),
    ],
)
def test_an_unusable_catalogue_is_one_sentence(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "stars.csv"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as error:
        read_references(path)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "stars.parquet"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(InputError, match=r"stars\.parquet"):
        read_references(path)
    with pytest.raises(InputError, match=r"absent\.csv does not exist"):
        read_references(tmp_path / "absent.csv")


@pytest.mark.parametrize(("ra", "dec"), [(150.0, 2.0), (0.05, -45.0), (80.0, 89.2), (300.0, -89.0)])
def test_a_region_holds_exactly_its_stars(tmp_path: Path, ra: float, dec: float) -> None:
    rows = _stars(500, ra, dec)
    store_references(tmp_path, rows)
    for radius in (100.0, 900.0, 2500.0):
        near = separation_arcsec(rows["ra"], rows["dec"], ra, dec) <= radius
        found = load_references(tmp_path, ra, dec, radius)
        assert_array_equal(np.sort(found["id"]), rows["id"][near])


def test_a_star_stored_again_replaces_the_old(tmp_path: Path) -> None:
    rows = _stars(20)
    store_references(tmp_path, rows)
    changed = rows[:5].copy()
    changed["r_flux"] = 1.0
    store_references(tmp_path, changed)
    found = load_references(tmp_path, 150.0, 2.0, 7200.0)
    assert_array_equal(np.sort(found["id"]), rows["id"])
    assert_array_equal(np.sort(found["id"][found["r_flux"] == 1.0]), changed["id"])


def test_no_catalogue_is_an_empty_table(tmp_path: Path) -> None:
    found = load_references(tmp_path / "refcat", 10.0, 10.0, 600.0)
    assert found.dtype == REFERENCE.dtype
    assert found.size == 0
