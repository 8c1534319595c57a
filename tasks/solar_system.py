"""What an alert says of a known Solar System object: its prediction and where it was seen."""

import numpy as np
from astropy.coordinates import BarycentricTrueEcliptic, SkyCoord

from promptdia.apdb.schema.lsst import SS_SOURCE
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.wcs import separation_arcsec


def solar_system_sources(sources: Catalog, ss_objects: Catalog) -> Catalog:
    """SS_SOURCE rows, one per DiaSource with an ssObjectId.

    Filled are the observed ecliptic and galactic coordinates and the offsets from the
    prediction; distances and velocities need an orbit and stay unknown.
    """
    mine = sources[sources["ssObjectId"] != 0]
    rows = SS_SOURCE.empty(mine.size)
    if not mine.size:
        return rows
    order = np.argsort(ss_objects["ssObjectId"])
    place = order[np.searchsorted(ss_objects["ssObjectId"], mine["ssObjectId"], sorter=order)]
    predicted = ss_objects[place]
    rows["diaSourceId"], rows["ssObjectId"] = mine["diaSourceId"], mine["ssObjectId"]
    rows["designation"] = [_designation(int(number)) for number in mine["ssObjectId"]]
    sky = SkyCoord(mine["ra"], mine["dec"], unit="deg")
    ecliptic = sky.transform_to(BarycentricTrueEcliptic())
    rows["eclLambda"], rows["eclBeta"] = ecliptic.lon.deg, ecliptic.lat.deg
    rows["galLon"], rows["galLat"] = sky.galactic.l.deg, sky.galactic.b.deg
    rows["ephRa"], rows["ephDec"] = predicted["ra"], predicted["dec"]
    d_ra = (mine["ra"] - predicted["ra"] + 180.0) % 360.0 - 180.0
    rows["ephOffsetRa"] = d_ra * np.cos(np.deg2rad(predicted["dec"])) * 3600
    rows["ephOffsetDec"] = (mine["dec"] - predicted["dec"]) * 3600
    rows["ephOffset"] = separation_arcsec(
        mine["ra"], mine["dec"], predicted["ra"], predicted["dec"]
    )
    rows["diaDistanceRank"] = 1
    return rows


def ss_object_id(designation: str) -> int:
    """The integer of a packed MPC designation: its ASCII bytes, big-endian (LSST's rule)."""
    return int.from_bytes(designation.encode("ascii"), "big")


def _designation(number: int) -> str:
    return number.to_bytes(8, "big").lstrip(b"\0").decode("ascii", "replace")
