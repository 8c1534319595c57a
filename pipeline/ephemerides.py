"""Predicted Solar System positions, one Parquet file per visit, where there are any."""

from pathlib import Path

from promptdia.pipeline.io.parquet import read_catalog, write_catalog
from promptdia.tasks.associate import SS_POSITION
from promptdia.tasks.model.arrays import Catalog


def load_ephemerides(root: Path, visit: int) -> Catalog:
    """SS_POSITION rows of ``ROOT/ephemerides/VISIT.parquet``; empty without that file."""
    path = root / "ephemerides" / f"{visit}.parquet"
    return read_catalog(path, SS_POSITION) if path.exists() else SS_POSITION.empty()


def store_ephemerides(root: Path, visit: int, rows: Catalog) -> None:
    """Write the predictions for a visit."""
    write_catalog(root / "ephemerides" / f"{visit}.parquet", rows, SS_POSITION)
