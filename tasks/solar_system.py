"""What an alert says of a known Solar System object: its prediction and where it was seen."""

import re

import numpy as np
from astropy.coordinates import BarycentricTrueEcliptic, SkyCoord

from promptdia.apdb.schema.lsst import EPHEMERIS, SS_SOURCE
from promptdia.tasks.kernels.lookup import rows_of
from promptdia.tasks.model.arrays import Catalog, Floats, Ints
from promptdia.tasks.model.wcs import separation_arcsec

_GIVEN = [c.name for c in EPHEMERIS.columns if c.name not in ("ssObjectId", "ra", "dec")]


def solar_system_sources(sources: Catalog, ss_objects: Catalog) -> Catalog:
    """SS_SOURCE rows, one per DiaSource with an ssObjectId.

    ``ss_objects`` has ssObjectId, ra and dec of EPHEMERIS and whatever else is known.
    Computed here are the observed ecliptic and galactic coordinates, the offsets from the
    prediction (along and across the motion where that is given), speeds where velocities
    are, and the rank by distance among all of ``sources``; the rest is passed on.
    """
    mine = sources[sources["ssObjectId"] != 0]
    rows = SS_SOURCE.empty(mine.size)
    if not mine.size:
        return rows
    predicted = ss_objects[_place(ss_objects["ssObjectId"], mine["ssObjectId"])]
    for name in _GIVEN:
        if name in (ss_objects.dtype.names or ()):
            rows[name] = predicted[name]
    rows["diaSourceId"], rows["ssObjectId"] = mine["diaSourceId"], mine["ssObjectId"]
    own_names = [designation(int(number)) for number in mine["ssObjectId"]]
    rows["designation"] = np.where(rows["designation"] == "", own_names, rows["designation"])
    sky = SkyCoord(mine["ra"], mine["dec"], unit="deg")
    ecliptic = sky.transform_to(BarycentricTrueEcliptic())
    rows["eclLambda"], rows["eclBeta"] = ecliptic.lon.deg, ecliptic.lat.deg
    rows["galLon"], rows["galLat"] = sky.galactic.l.deg, sky.galactic.b.deg
    rows["ephRa"], rows["ephDec"] = predicted["ra"], predicted["dec"]
    _fill_offsets(rows, mine, predicted)
    _fill_speeds(rows)
    away = separation_arcsec(
        predicted["ra"][:, None], predicted["dec"][:, None], sources["ra"], sources["dec"]
    )
    rows["diaDistanceRank"] = 1 + (away < rows["ephOffset"][:, None].astype(float) - 1e-4).sum(1)
    return rows


def ss_object_id(packed: str) -> int:
    """The integer of a packed MPC designation: its ASCII bytes, big-endian (LSST's rule)."""
    return int.from_bytes(packed.encode("ascii"), "big")


def designation(number: int) -> str:
    """The unpacked provisional designation of an ssObjectId, or what its bytes spell.

    The packing is the Minor Planet Center's: K26S01A is 2026 SA1.
    """
    packed = number.to_bytes(8, "big").lstrip(b"\0").decode("ascii", "replace")
    parts = re.fullmatch(r"([I-L])(\d\d)([A-HJ-Y])([0-9A-Za-z])(\d)([A-HJ-Z])", packed)
    if not parts:
        return packed
    century, year, half_month, tens, units, letter = parts.groups()
    cycle = int(tens, 36) if not tens.islower() else ord(tens) - ord("a") + 36
    number_of_cycle = str(10 * cycle + int(units))
    return (
        f"{ord(century) - ord('I') + 18}{year} {half_month}{letter}"
        f"{number_of_cycle if number_of_cycle != '0' else ''}"
    )


def _place(ids: Ints, wanted: Ints) -> Ints:
    return rows_of(np.ascontiguousarray(ids), np.ascontiguousarray(wanted))


def _fill_offsets(rows: Catalog, seen: Catalog, predicted: Catalog) -> None:
    """Observed minus predicted, arcsec; along and across the motion where it is known."""
    d_ra = (seen["ra"] - predicted["ra"] + 180.0) % 360.0 - 180.0
    east = d_ra * np.cos(np.deg2rad(predicted["dec"])) * 3600
    north = (seen["dec"] - predicted["dec"]) * 3600
    rows["ephOffsetRa"], rows["ephOffsetDec"] = east, north
    rows["ephOffset"] = separation_arcsec(
        seen["ra"], seen["dec"], predicted["ra"], predicted["dec"]
    )
    v_east, v_north = rows["ephRateRa"].astype(float), rows["ephRateDec"].astype(float)
    rate = np.hypot(v_east, v_north)
    moving = np.where(rate > 0, rate, np.nan)
    rows["ephRate"] = np.where(np.isfinite(rate), rate, rows["ephRate"])
    rows["ephOffsetAlongTrack"] = (east * v_east + north * v_north) / moving
    rows["ephOffsetCrossTrack"] = (north * v_east - east * v_north) / moving


def _fill_speeds(rows: Catalog) -> None:
    for origin in ("helio", "topo"):
        velocity: list[Floats] = [rows[f"{origin}_v{axis}"].astype(float) for axis in "xyz"]
        rows[f"{origin}_vtot"] = np.sqrt(sum(v**2 for v in velocity))
