"""The database as HATS catalogues."""

from pathlib import Path

import hpgeom
import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from support.apdb import random_batch

from promptdia.apdb.schema.lsst import DIA_SOURCE
from promptdia.apdb.sql import SqlApdb
from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.io.hats import healpix_29, write_hats


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    apdb = SqlApdb.create(f"sqlite:///{tmp_path / 'apdb.sqlite'}")
    apdb.commit(random_batch(300, seed=1))
    counts = write_hats(tmp_path / "sky", apdb.partitions(max_rows=50))
    assert counts == {"dia_object": 300, "dia_source": 300, "dia_forced_source": 300}
    return tmp_path / "sky"


def test_each_file_holds_the_rows_of_its_pixel_in_order(exported: Path) -> None:
    for name in ("dia_object", "dia_source", "dia_forced_source"):
        lines = (exported / name / "partition_info.csv").read_text().split()
        assert lines[0] == "Norder,Npix"
        pixels = [tuple(map(int, line.split(","))) for line in lines[1:]]
        assert len(pixels) > 5
        total = 0
        for order, pixel in pixels:
            folder = exported / name / "dataset" / f"Norder={order}"
            file = folder / f"Dir={pixel // 10000 * 10000}" / f"Npix={pixel}.parquet"
            table = pq.read_table(file, partitioning=None)
            index = table["_healpix_29"].to_numpy()
            assert (np.diff(index) >= 0).all()
            assert set(index >> 2 * (29 - order)) == {pixel}
            total += table.num_rows
        assert total == 300
        assert len(list((exported / name / "dataset").rglob("Npix=*"))) == len(pixels)


def test_the_index_is_healpix_of_order_29(exported: Path) -> None:
    ra, dec = np.array([0.0, 359.9999, 45.0, 10.0]), np.array([0.0, 90.0, -90.0, 41.8])
    back = hpgeom.pixel_to_angle(2**29, healpix_29(ra, dec))
    np.testing.assert_allclose(back[1], dec, atol=1e-6)
    np.testing.assert_allclose(np.cos(np.deg2rad(back[0] - ra))[[0, 3]], 1, atol=1e-12)


def test_values_units_and_gaps_survive(exported: Path) -> None:
    parquet = ds.parquet_dataset(exported / "dia_source" / "dataset" / "_metadata").to_table()
    assert parquet.num_rows == 300
    assert parquet.schema.names == ["_healpix_29", *(c.name for c in DIA_SOURCE.columns)]
    assert parquet.schema.field("psfFlux").metadata[b"unit"] == b"nJy"
    batch = random_batch(300, seed=1).sources
    order = np.argsort(parquet["diaSourceId"].to_numpy())
    rows = batch[np.argsort(batch["diaSourceId"])]
    for name in ("ra", "psfFlux", "visit"):
        values = np.array(parquet[name].to_pylist(), dtype=float)[order]
        np.testing.assert_array_equal(values, rows[name].astype(float))
    assert parquet["ssObjectId"].null_count == 300
    assert parquet["psfFlux"].null_count == np.isnan(batch["psfFlux"]).sum()


def test_the_properties_name_the_columns_a_reader_needs(exported: Path) -> None:
    text = (exported / "dia_object" / "hats.properties").read_text()
    properties = dict(line.split("=", 1) for line in text.splitlines())
    assert properties["dataproduct_type"] == "object"
    assert properties["hats_nrows"] == "300"
    assert (properties["hats_col_ra"], properties["hats_col_dec"]) == ("ra", "dec")
    assert properties["hats_npix_suffix"] == ".parquet"


def test_a_folder_with_something_in_it_is_refused(exported: Path) -> None:
    with pytest.raises(ConfigError, match="exists and is not empty"):
        write_hats(exported, [])


def test_an_empty_database_gives_no_catalogue(tmp_path: Path) -> None:
    apdb = SqlApdb.create(f"sqlite:///{tmp_path / 'apdb.sqlite'}")
    assert write_hats(tmp_path / "sky", apdb.partitions(100)) == {}
