"""What all its sources say of each Solar System object; orbits and phase curves stay unknown."""

import numpy as np

from promptdia.apdb.rows import Rows
from promptdia.apdb.schema.lsst import BANDS, DIA_SOURCE, SS_OBJECT, SS_SOURCE
from promptdia.apdb.schema.table import TableSchema

SEEN = TableSchema(
    "DiaSource",
    tuple(
        DIA_SOURCE[name]
        for name in ("diaSourceId", "ssObjectId", "midpointMjdTai", "band", "extendedness")
    ),
)
"""What is needed of the sources."""
CIRCUMSTANCES = TableSchema(
    "SSSource", tuple(SS_SOURCE[name] for name in ("diaSourceId", "designation", "phaseAngle"))
)
"""What is needed of their circumstances."""


def summarize_ss_objects(sources: Rows, circumstances: Rows) -> Rows:
    """SS_OBJECT rows, by id, of SEEN rows and the CIRCUMSTANCES of the same sources."""
    sources = sources[np.argsort(sources["diaSourceId"])]
    known = circumstances[np.argsort(circumstances["diaSourceId"])]
    ids = np.unique(sources["ssObjectId"])
    rows = SS_OBJECT.empty(ids.size)
    for row, id in zip(rows, ids):
        mine = sources[sources["ssObjectId"] == id]
        theirs = known[np.isin(known["diaSourceId"], mine["diaSourceId"])]
        row["ssObjectId"], row["nObs"] = id, mine.size
        times = mine["midpointMjdTai"]
        row["firstObservationMjdTai"], row["arc"] = times.min(), np.ptp(times)
        named = theirs["designation"][theirs["designation"] != ""]
        row["designation"] = named[-1] if named.size else ""
        _limits(row, "extendedness", mine["extendedness"])
        if np.isfinite(mine["extendedness"]).any():
            row["extendednessMedian"] = np.nanmedian(mine["extendedness"])
        for band in BANDS:
            here = mine["diaSourceId"][mine["band"] == band]
            row[f"{band}_nObs"] = here.size
            in_band = np.isin(theirs["diaSourceId"], here)
            _limits(row, f"{band}_phaseAngle", theirs["phaseAngle"][in_band])
    return rows


def _limits(row: Rows, name: str, values: Rows) -> None:
    known = values[np.isfinite(values)]
    if known.size:
        row[f"{name}Min"], row[f"{name}Max"] = known.min(), known.max()
