"""Tables by sky pixel in the HATS layout, as LSDB reads them.

    DIR/dia_object/hats.properties, partition_info.csv
    DIR/dia_object/dataset/Norder=K/Dir=D/Npix=N.parquet, _metadata, _common_metadata

Each row carries ``_healpix_29``, its nested HEALPix pixel of order 29, by which a file is
sorted. What is not known is null.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import hpgeom
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from promptdia.apdb.schema.lsst import arrow_schema
from promptdia.apdb.schema.table import Column, TableSchema
from promptdia.apdb.store import Partition
from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.io.files import whole_file, write_text
from promptdia.tasks.model.arrays import Catalog, Floats, Ints

MAX_ROWS = 100_000
"""Of one file, unless its pixel cannot be split any more."""
_ORDER = 29
_INDEX = f"_healpix_{_ORDER}"
_CATALOGUES = {
    "DiaObject": ("dia_object", "object"),
    "DiaSource": ("dia_source", "source"),
    "DiaForcedSource": ("dia_forced_source", "source"),
}
"""Folder and HATS kind of each table."""


def write_hats(folder: Path, partitions: Iterable[Partition]) -> dict[str, int]:
    """Write one catalogue per table into a new folder; rows of each, by its folder's name.

    A table without rows gives no catalogue. ConfigError when the folder is not empty.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise ConfigError(f"{folder} exists and is not empty; name another folder")
    written: dict[str, _Catalogue] = {}
    for part in partitions:
        name, kind = _CATALOGUES[part.schema.name]
        if name not in written:
            written[name] = _Catalogue(folder / name, kind, part.schema)
        written[name].add(part)
    for catalogue in written.values():
        catalogue.finish()
    return {name: catalogue.n_rows for name, catalogue in written.items()}


@dataclass
class _Catalogue:
    """One catalogue while it is written."""

    folder: Path
    kind: str
    schema: TableSchema
    n_rows: int = 0
    n_bytes: int = 0
    largest: int = 0
    pixels: list[tuple[int, int]] = field(default_factory=list)
    footers: list[Any] = field(default_factory=list)

    def add(self, part: Partition) -> None:
        """Write the file of a partition."""
        index = healpix_29(part.rows["ra"], part.rows["dec"])
        order = np.argsort(index, kind="stable")
        table = to_arrow(self.schema, part.rows[order], index[order])
        directory = part.pixel // 10_000 * 10_000
        name = f"Norder={part.order}/Dir={directory}/Npix={part.pixel}.parquet"
        path = self.folder / "dataset" / name
        with whole_file(path) as unfinished:
            pq.write_table(table, unfinished, compression="zstd", metadata_collector=self.footers)
        self.footers[-1].set_file_path(name)
        self.n_bytes += path.stat().st_size
        self.n_rows += len(part.rows)
        self.largest = max(self.largest, len(part.rows))
        self.pixels.append((part.order, part.pixel))

    def finish(self) -> None:
        """Write what describes the whole."""
        schema = _with_index(self.schema)
        dataset = self.folder / "dataset"
        pq.write_metadata(schema, str(dataset / "_common_metadata"))
        pq.write_metadata(schema, str(dataset / "_metadata"), metadata_collector=self.footers)
        lines = ["Norder,Npix", *(f"{order},{pixel}" for order, pixel in self.pixels)]
        write_text(self.folder / "partition_info.csv", "\n".join(lines) + "\n")
        properties = {
            "obs_collection": self.folder.name,
            "dataproduct_type": self.kind,
            "hats_nrows": self.n_rows,
            "hats_col_ra": "ra",
            "hats_col_dec": "dec",
            "hats_col_healpix": _INDEX,
            "hats_col_healpix_order": _ORDER,
            "hats_npix_suffix": ".parquet",
            "hats_max_rows": self.largest,
            "hats_order": max(order for order, _ in self.pixels),
            "hats_estsize": self.n_bytes // 1024,
            "hats_builder": f"promptdia {version('promptdia')}",
            "hats_version": "v0.1",
        }
        text = "".join(f"{name}={value}\n" for name, value in properties.items())
        write_text(self.folder / "hats.properties", text)


def to_arrow(schema: TableSchema, rows: Catalog, index: Ints) -> pa.Table:
    """Rows behind their index column; unknown values are null."""
    columns = [pa.array(index), *(_to_arrow(c, rows[c.name]) for c in schema.columns)]
    return pa.Table.from_arrays(columns, schema=_with_index(schema))


def healpix_29(ra: Floats, dec: Floats) -> Ints:
    """(n,) nested HEALPix pixel of order 29."""
    pixels = hpgeom.angle_to_pixel(2**_ORDER, ra, dec, nest=True, lonlat=True, degrees=True)
    return np.asarray(pixels, np.int64)


def _with_index(schema: TableSchema) -> pa.Schema:
    described = arrow_schema(schema)
    index = pa.field(
        _INDEX,
        pa.int64(),
        nullable=False,
        metadata={"unit": "", "description": "nested HEALPix pixel of order 29"},
    )
    return described.insert(0, index)


def _to_arrow(column: Column, values: Catalog) -> "pa.Array[Any]":
    values = np.ascontiguousarray(values)
    kind = values.dtype.kind
    if kind == "U":
        return pa.array([text or None for text in values.tolist()], pa.string())
    if not column.nullable or kind == "b":
        return pa.array(values)
    if kind == "f":
        return pa.array(values, from_pandas=True)
    return pa.array(values, mask=values == 0)
