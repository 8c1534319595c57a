"""Solar System sources: offsets from the prediction, and what the ephemeris passes on."""

import numpy as np
import pytest
from astropy.coordinates import SkyCoord
from numpy.testing import assert_allclose

from promptdia.apdb.schema.lsst import DIA_SOURCE, EPHEMERIS, SS_SOURCE
from promptdia.tasks.associate import SS_POSITION
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.solar_system import designation, solar_system_sources, ss_object_id

ID = ss_object_id("K26S01A")


def seen_at(*offsets_arcsec: tuple[float, float], ra: float = 10.0, dec: float = 60.0) -> Catalog:
    """Sources (east, north) of a place; the first is of the object, the others of none."""
    rows = DIA_SOURCE.empty(len(offsets_arcsec))
    rows["diaSourceId"] = np.arange(rows.size) + 1
    rows["diaObjectId"][1:] = 5
    rows["ssObjectId"][0] = ID
    for row, (east, north) in zip(rows, offsets_arcsec):
        row["ra"] = (ra + east / 3600 / np.cos(np.deg2rad(dec))) % 360
        row["dec"] = dec + north / 3600
    return rows


def predicted(ra: float = 10.0, dec: float = 60.0, **more: float) -> Catalog:
    rows = EPHEMERIS.empty(1)
    rows["ssObjectId"], rows["ra"], rows["dec"] = ID, ra, dec
    for name, value in more.items():
        rows[name] = value
    return rows


@pytest.mark.parametrize("ra", [10.0, 0.0, 359.99999])
def test_offsets_are_observed_minus_predicted(ra: float) -> None:
    row = solar_system_sources(seen_at((0.3, -0.4), ra=ra), predicted(ra))[0]
    assert_allclose(row["ephOffsetRa"], 0.3, atol=1e-4)
    assert_allclose(row["ephOffsetDec"], -0.4, atol=1e-4)
    assert_allclose(row["ephOffset"], 0.5, atol=1e-4)
    assert np.isnan(row["ephOffsetAlongTrack"])


def test_along_and_across_the_motion_are_known_where_the_motion_is() -> None:
    moving = predicted(ephRateRa=0.3, ephRateDec=0.4)
    row = solar_system_sources(seen_at((0.6, 0.8)), moving)[0]
    assert_allclose(row["ephRate"], 0.5, rtol=1e-6)
    assert_allclose(row["ephOffsetAlongTrack"], 1.0, atol=1e-4)
    assert_allclose(row["ephOffsetCrossTrack"], 0.0, atol=1e-4)
    row = solar_system_sources(seen_at((-0.8, 0.6)), moving)[0]
    assert_allclose(row["ephOffsetCrossTrack"], 1.0, atol=1e-4)


def test_what_the_ephemeris_knows_is_passed_on() -> None:
    known = predicted(
        helioRange=2.5, topoRange=1.6, phaseAngle=12.0, ephVmag=20.5, helio_vx=3.0, helio_vy=4.0,
        helio_vz=12.0,
    )  # fmt: skip
    row = solar_system_sources(seen_at((0.0, 0.0)), known)[0]
    assert [row[n] for n in ("helioRange", "phaseAngle", "ephVmag")] == [2.5, 12.0, 20.5]
    assert row["helio_vtot"] == 13.0
    assert np.isnan(row["topo_vtot"])


def test_positions_alone_are_enough() -> None:
    bare = SS_POSITION.empty(1)
    bare["ssObjectId"], bare["ra"], bare["dec"] = ID, 10.0, 60.0
    row = solar_system_sources(seen_at((0.1, 0.0)), bare)[0]
    assert np.isnan(row["helioRange"])
    assert row["designation"] == "2026 SA1"
    sky = SkyCoord(row["ephRa"], row["ephDec"], unit="deg")
    assert_allclose(row["galLat"], sky.galactic.b.deg, atol=1e-3)


def test_the_rank_counts_the_sources_that_are_closer() -> None:
    sources = seen_at((0.5, 0.0), (0.1, 0.0), (0.0, 0.3), (2.0, 0.0))
    assert solar_system_sources(sources, predicted())["diaDistanceRank"].tolist() == [3]
    assert solar_system_sources(sources[:1], predicted())["diaDistanceRank"].tolist() == [1]


def test_no_solar_system_source_gives_no_row() -> None:
    sources = seen_at((0.0, 0.0))
    sources["ssObjectId"] = 0
    found = solar_system_sources(sources, predicted())
    assert (found.size, found.dtype) == (0, SS_SOURCE.dtype)


@pytest.mark.parametrize(
    ("packed", "unpacked"),
    [
        ("J95X00A", "1995 XA"), ("J95X01L", "1995 XL1"), ("J98SA8Q", "1998 SQ108"),
        ("K07Tf8A", "2007 TA418"), ("K99AJ3Z", "2099 AZ193"), ("00433", "00433"),
    ],
)  # fmt: skip
def test_designations_are_unpacked_as_the_minor_planet_center_does(
    packed: str, unpacked: str
) -> None:
    assert designation(ss_object_id(packed)) == unpacked
