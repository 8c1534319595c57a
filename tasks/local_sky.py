"""Pixel vectors, errors and moments turned to the sky at many positions at once."""

from typing import NamedTuple

import numpy as np

from promptdia.tasks.model.arrays import Floats
from promptdia.tasks.model.wcs import Wcs, local_cd

ARCSEC = 3600.0


class LocalSky(NamedTuple):
    """The linear map from pixel offsets to the tangent plane at each of n positions."""

    cd: Floats
    """(n, 2, 2) degrees east and north per pixel of x and y."""

    @classmethod
    def at(cls, wcs: Wcs, x: Floats, y: Floats) -> "LocalSky":
        """The map at 0-based positions (n,)."""
        return cls(local_cd(wcs, x, y) if x.size else np.zeros((0, 2, 2)))

    def scales(self) -> Floats:
        """(n,) degrees per pixel: square root of the pixel area."""
        result: Floats = np.sqrt(np.abs(np.linalg.det(self.cd)))
        return result

    def lengths(self, dx: Floats, dy: Floats) -> Floats:
        """(n,) arcsec on the sky of pixel vectors."""
        return np.hypot(*self._turned(dx, dy)) * ARCSEC

    def position_angles(self, dx: Floats, dy: Floats) -> Floats:
        """(n,) degrees in [0, 360), north through east, of the direction of pixel vectors."""
        east, north = self._turned(dx, dy)
        result: Floats = np.rad2deg(np.arctan2(east, north)) % 360.0
        return result

    def covariances(self, pixels: Floats) -> Floats:
        """(n, 2, 2) degrees squared, east and north, of (n, 2, 2) pixel covariances or moments."""
        result: Floats = np.einsum("nij,njk,nlk->nil", self.cd, pixels, self.cd)
        return result

    def moments(self, xx: Floats, yy: Floats, xy: Floats) -> tuple[Floats, Floats, Floats]:
        """Second moments (east, north, mixed) in arcsec squared."""
        pixels = np.stack([np.stack([xx, xy], -1), np.stack([xy, yy], -1)], -2)
        sky = self.covariances(pixels) * ARCSEC**2
        return sky[:, 0, 0], sky[:, 1, 1], sky[:, 0, 1]

    def _turned(self, dx: Floats, dy: Floats) -> tuple[Floats, Floats]:
        east = self.cd[:, 0, 0] * dx + self.cd[:, 0, 1] * dy
        north = self.cd[:, 1, 0] * dx + self.cd[:, 1, 1] * dy
        return east, north
