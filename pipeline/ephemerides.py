"""Predicted Solar System positions and orbits, as Parquet files, where there are any.

``ROOT/ephemerides/VISIT.parquet`` has ssObjectId, ra and dec of each object near a visit and,
where known, other columns of EPHEMERIS; ``ROOT/ephemerides/orbits.parquet`` has columns of
MPC_ORBITS, found by designation.
"""

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from promptdia.apdb.schema.lsst import EPHEMERIS, MPC_ORBITS
from promptdia.pipeline.errors import InputError
from promptdia.pipeline.io.parquet import catalog, read_table, write_catalog
from promptdia.tasks.model.arrays import Catalog


def load_ephemerides(root: Path, visit: int) -> Catalog:
    """EPHEMERIS rows for a visit; empty without its file."""
    path = root / "ephemerides" / f"{visit}.parquet"
    if not path.exists():
        return EPHEMERIS.empty()
    table = read_table(path)
    lost = {"ssObjectId", "ra", "dec"} - set(table.column_names)
    if lost:
        raise InputError(f"{path} has no column {sorted(lost)[0]}; it needs ssObjectId, ra, dec")
    return catalog(table, EPHEMERIS)


def load_orbits(root: Path, designations: Iterable[str]) -> Catalog:
    """MPC_ORBITS rows of these objects; empty without the file."""
    path, wanted = root / "ephemerides" / "orbits.parquet", sorted(set(designations))
    if not (wanted and path.exists()):
        return MPC_ORBITS.empty()
    table = read_table(path)
    if "designation" not in table.column_names:
        raise InputError(f"{path} has no column designation, by which orbits are found")
    return catalog(table.filter(pc.is_in(table["designation"], pa.array(wanted))), MPC_ORBITS)


def store_ephemerides(root: Path, visit: int, rows: Catalog) -> None:
    """Write the predictions for a visit: columns of EPHEMERIS."""
    write_catalog(root / "ephemerides" / f"{visit}.parquet", rows, EPHEMERIS)
