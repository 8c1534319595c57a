"""Regions of the sky and the pixel ranges that cover them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from promptdia.apdb.errors import ApdbError
from promptdia.apdb.pixels import MAX_RANGES, Region, sky_pixel
from promptdia.tasks.model.wcs import separation_arcsec, tan_wcs

POINTINGS = [(150.1, 2.2), (0.0001, -30.0), (359.999, 45.0), (33.0, 89.95), (200.0, -89.99)]


def around(ra: float, dec: float, radius_deg: float, n: int, seed: int) -> tuple[np.ndarray, ...]:
    """Positions uniform over a tangent-plane disc about a point, poles included."""
    rng = np.random.default_rng(seed)
    wcs = tan_wcs(ra, dec, 0, 0, np.eye(2), (1, 1))
    r, t = radius_deg * np.sqrt(rng.uniform(size=n)), rng.uniform(0, 2 * np.pi, n)
    return wcs.pixel_to_sky(r * np.cos(t), r * np.sin(t))


def covered(region: Region, ra: np.ndarray, dec: np.ndarray) -> np.ndarray:
    """Which positions fall into the region's pixel ranges."""
    pixel = sky_pixel(ra, dec)[:, None]
    first, last = region.ranges().T
    return ((pixel >= first) & (pixel <= last)).any(axis=1)


def detector(ra: float, dec: float, rotation: float = 0.3) -> Region:
    c, s = np.cos(rotation), np.sin(rotation)
    wcs = tan_wcs(ra, dec, 2000, 2000, np.array([[-c, s], [s, c]]) * 0.2 / 3600, (4000, 4000))
    return Region.of(wcs, (4000, 4000), pad_arcsec=20.0)


@pytest.mark.parametrize(("ra", "dec"), POINTINGS)
def test_ranges_cover_the_whole_region_and_little_else(ra: float, dec: float) -> None:
    region = detector(ra, dec)
    where = around(ra, dec, 0.4, 20_000, seed=1)
    inside, touched = region.contains(*where), covered(region, *where)
    assert inside.sum() > 1000
    assert touched[inside].all()
    assert touched.sum() < 1.5 * inside.sum()
    assert len(region.ranges()) <= MAX_RANGES


@pytest.mark.parametrize(("ra", "dec"), POINTINGS)
def test_a_circle_is_all_that_is_close_enough(ra: float, dec: float) -> None:
    region = Region.circle(ra, dec, 0.1)
    where = around(ra, dec, 0.2, 5000, seed=2)
    near = separation_arcsec(ra, dec, *where) <= 360.0
    np.testing.assert_array_equal(region.contains(*where), near)
    assert covered(region, *where)[near].all()


@settings(max_examples=60, deadline=None)
@given(st.floats(0, 360), st.floats(-90, 90), st.floats(1e-4, 30.0), st.integers(0, 2**31))
def test_any_circle_is_covered(ra: float, dec: float, radius: float, seed: int) -> None:
    region = Region.circle(ra, dec, radius)
    where = around(ra, dec, np.rad2deg(np.tan(np.deg2rad(radius))), 300, seed)
    inside = region.contains(*where)
    assert covered(region, *where)[inside].all()
    assert len(region.ranges()) <= MAX_RANGES


def test_the_pad_moves_each_side_out_by_its_width() -> None:
    ra, dec = np.array([10.0, 10.2, 10.2, 10.0]), np.array([-0.1, -0.1, 0.1, 0.1])
    region = Region.polygon(ra, dec, pad_arcsec=20.0)
    out = np.array([19.9, 20.1]) / 3600
    assert region.contains(10.2 + out, np.zeros(2)).tolist() == [True, False]
    assert region.contains(np.full(2, 10.1), -0.1 - out).tolist() == [True, False]


def test_the_sense_of_the_corners_does_not_matter() -> None:
    ra, dec = np.array([359.9, 0.1, 0.1, 359.9]), np.array([-0.1, -0.1, 0.1, 0.1])
    there, back = Region.polygon(ra, dec), Region.polygon(ra[::-1], dec[::-1])
    where = around(0.0, 0.0, 0.3, 2000, seed=3)
    np.testing.assert_array_equal(there.contains(*where), back.contains(*where))
    assert 0 < there.contains(*where).sum() < 2000


def test_the_opposite_side_of_the_sky_is_outside() -> None:
    region = detector(150.0, 2.0)
    assert not region.contains(np.array([330.0]), np.array([-2.0])).any()


@pytest.mark.parametrize(
    "corners",
    [
        ([1.0, 2.0], [0.0, 0.0]),
        ([1.0, 1.0, 2.0], [0.0, 0.0, 1.0]),
        ([1.0, np.nan, 2.0], [0.0, 0.0, 1.0]),
        ([0.0, 1.0, 0.2, 1.0], [0.0, 0.0, 0.5, 1.0]),
    ],
)
def test_corners_that_make_no_convex_polygon_are_refused(corners: tuple[list, list]) -> None:
    with pytest.raises(ApdbError, match="corners"):
        Region.polygon(*(np.array(c) for c in corners))


@pytest.mark.parametrize("circle", [(np.nan, 0.0, 1.0), (0.0, 0.0, 0.0), (0.0, 0.0, 120.0)])
def test_a_circle_without_centre_or_size_is_refused(circle: tuple[float, float, float]) -> None:
    with pytest.raises(ApdbError, match="circle"):
        Region.circle(*circle)
