"""Sky pixels and regions: where something lies, and which rows a region may hold.

Pixels are HEALPix, nested, order 20 (0.2 arcsec), so that every coarser pixel is a
range of them and a region becomes a few ranges of one indexed integer.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import hpgeom
import numpy as np
from numpy.typing import NDArray

from promptdia.apdb.errors import ApdbError

ORDER = 20
MAX_RANGES = 64
_PIXELS_ACROSS = 24
"""Aimed-at number of coarse pixels over a region's diameter."""

Floats = NDArray[np.float64]


class PixelToSky(Protocol):
    """The part of a WCS that a region needs."""

    def pixel_to_sky(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """(ra, dec) in degrees."""
        ...


def sky_pixel(ra: Floats, dec: Floats) -> NDArray[np.int64]:
    """Order-20 nested pixel of each position in degrees; ApdbError off the sky."""
    off = ~(np.isfinite(ra) & (np.abs(dec) <= 90))
    if np.any(off):
        where = np.argmax(off)
        raise ApdbError(f"ra {np.ravel(ra)[where]}, dec {np.ravel(dec)[where]} is no position")
    pixels = hpgeom.angle_to_pixel(2**ORDER, ra, dec, nest=True, lonlat=True, degrees=True)
    return np.asarray(pixels, np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Region:
    """A convex part of the sky: every direction v with ``normals @ v >= offsets``."""

    normals: Floats
    """(k, 3) unit vectors."""
    offsets: Floats
    """(k,)."""
    centre: Floats
    """(3,) middle of a circle around the region."""
    radius_deg: float
    """Radius of that circle, degrees."""

    @classmethod
    def circle(cls, ra: float, dec: float, radius_deg: float) -> "Region":
        """All positions at most ``radius_deg`` away from a point."""
        if not (np.isfinite([ra, dec]).all() and 0 < radius_deg < 90):
            raise ApdbError(
                f"circle at ({ra}, {dec}) with radius {radius_deg} deg: needs a finite centre "
                "and a radius between 0 and 90 deg"
            )
        centre = _unit(np.array(ra), np.array(dec))
        return cls(centre[None], np.cos(np.deg2rad([radius_deg])), centre, radius_deg)

    @classmethod
    def polygon(cls, ra: Floats, dec: Floats, pad_arcsec: float = 0.0) -> "Region":
        """A convex polygon with these corners, in either sense, each side moved out by a pad."""
        corners = _unit(np.asarray(ra, float), np.asarray(dec, float))
        normals = np.cross(corners, np.roll(corners, -1, axis=0))
        length = np.linalg.norm(normals, axis=1, keepdims=True)
        if not (np.isfinite(corners).all() and len(corners) > 2 and (length > 0).all()):
            raise ApdbError(
                "a region needs at least three different corners with finite ra and dec"
            )
        middle = corners.sum(axis=0)
        centre = middle / np.linalg.norm(middle)
        normals /= length * np.sign(normals @ centre)[:, None]
        if ((normals @ corners.T) < -1e-9).any():
            raise ApdbError("the corners of a region must make a convex polygon, in order")
        radius = float(np.rad2deg(np.arccos(np.clip(corners @ centre, -1, 1)).max()))
        pad = np.deg2rad(pad_arcsec / 3600)
        # a padded corner of a narrow angle reaches further out than the pad
        reach = radius + 4 * pad_arcsec / 3600
        keep = np.vstack([normals, centre])
        limits = np.append(np.full(len(normals), -np.sin(pad)), np.cos(np.deg2rad(reach)))
        return cls(keep, limits, centre, reach)

    @classmethod
    def of(cls, wcs: PixelToSky, shape: tuple[int, int], pad_arcsec: float = 20.0) -> "Region":
        """The sky under an image of ``shape`` (ny, nx), widened by a pad."""
        ny, nx = shape
        x = np.array([-0.5, nx - 0.5, nx - 0.5, -0.5])
        y = np.array([-0.5, -0.5, ny - 0.5, ny - 0.5])
        return cls.polygon(*wcs.pixel_to_sky(x, y), pad_arcsec=pad_arcsec)

    @property
    def centre_deg(self) -> tuple[float, float]:
        """(ra, dec) of the middle."""
        return _angles(self.centre)

    def touches(self, ra: float, dec: float, radius_deg: float) -> bool:
        """Whether the circle around the region and another one have a point in common."""
        away = np.arccos(np.clip(self.centre @ _unit(np.array(ra), np.array(dec)), -1, 1))
        return bool(np.rad2deg(away) <= self.radius_deg + radius_deg)

    def widened(self, pad_arcsec: float) -> "Region":
        """The region with each border moved out by a pad."""
        pad = pad_arcsec / 3600
        offsets = np.cos(np.arccos(np.clip(self.offsets, -1, 1)) + np.deg2rad(pad))
        return Region(self.normals, offsets, self.centre, self.radius_deg + 4 * pad)

    def contains(self, ra: Floats, dec: Floats) -> NDArray[np.bool_]:
        """(n,) which positions in degrees lie inside."""
        above = _unit(ra, dec) @ self.normals.T >= self.offsets
        return np.asarray(above.all(axis=-1))

    def ranges(self) -> NDArray[np.int64]:
        """(m, 2) first and last order-20 pixel of at most 64 ranges that cover the region."""
        order = self._order()
        pixels = self._covering(order)
        shift = 2 * (ORDER - order)
        breaks = np.flatnonzero(np.diff(pixels) > 1)
        first = pixels[np.concatenate([[0], breaks + 1])]
        last = pixels[np.concatenate([breaks, [-1]])]
        if first.size > MAX_RANGES:  # join over the narrowest gaps
            gaps = np.argsort(first[1:] - last[:-1], kind="stable")[-(MAX_RANGES - 1) :]
            keep = np.sort(gaps)
            first = np.concatenate([first[:1], first[keep + 1]])
            last = np.concatenate([last[keep], last[-1:]])
        return np.stack([first << shift, ((last + 1) << shift) - 1], axis=1)

    def cells(self, order: int) -> list[int]:
        """Nested pixels of a coarse ``order`` that may touch the region, ascending."""
        return [int(p) for p in self._covering(order)]

    def _order(self) -> int:
        """The order with about _PIXELS_ACROSS pixels over the diameter."""
        across = 2 * self.radius_deg / _PIXELS_ACROSS
        return int(np.clip(np.round(np.log2(58.6 / across)), 0, 18))  # 58.6 deg at order 0

    def _covering(self, order: int) -> NDArray[np.int64]:
        nside = 2**order
        a, d = _angles(self.centre)
        pixels: Any = hpgeom.query_circle(nside, a, d, self.radius_deg, inclusive=True)
        pixels = np.sort(np.asarray(pixels, np.int64))
        ra, dec = hpgeom.pixel_to_angle(nside, pixels)
        slack = np.deg2rad(hpgeom.max_pixel_radius(nside))
        # the distance of a pixel's centre from each border is at most its radius
        away = np.arccos(np.clip(_unit(ra, dec) @ self.normals.T, -1, 1))
        near = away <= np.arccos(np.clip(self.offsets, -1, 1)) + slack
        kept: NDArray[np.int64] = pixels[near.all(axis=1)]
        return kept


def _unit(ra: Floats, dec: Floats) -> Floats:
    a, d = np.deg2rad(ra), np.deg2rad(dec)
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)


def _angles(v: Floats) -> tuple[float, float]:
    ra = np.rad2deg(np.arctan2(v[1], v[0])) % 360.0
    return float(ra), float(np.rad2deg(np.arctan2(v[2], np.hypot(v[0], v[1]))))
