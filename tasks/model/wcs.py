"""Pixels to sky. 0-based pixels, centre of the first pixel at (0, 0), ICRS degrees."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from astropy.io.fits import Header
from astropy.wcs import WCS

from promptdia.tasks.model.arrays import Floats
from promptdia.tasks.model.visit import Detector, Visit


class Wcs(Protocol):
    """Maps between pixels and the sky; arrays broadcast."""

    def pixel_to_sky(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """(ra, dec) in degrees."""
        ...

    def sky_to_pixel(self, ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
        """(x, y), 0-based; nan where the sky cannot be projected."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class FitsWcs:
    """A celestial FITS WCS, with SIP distortion where the header has it."""

    wcs: WCS

    @classmethod
    def from_header(cls, header: Header) -> "FitsWcs":
        """Read the celestial WCS of a FITS header."""
        return cls(WCS(header, relax=True).celestial)

    def to_header(self) -> Header:
        """FITS cards that read back as the same WCS."""
        return self.wcs.to_header(relax=True)

    def pixel_to_sky(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        ra, dec = self.wcs.all_pix2world(np.asarray(x, float), np.asarray(y, float), 0)
        return np.asarray(ra), np.asarray(dec)

    def sky_to_pixel(self, ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
        x, y = self.wcs.all_world2pix(
            np.asarray(ra, float), np.asarray(dec, float), 0, quiet=True, tolerance=1e-6
        )
        return np.asarray(x), np.asarray(y)

    def shifted(self, x0: int, y0: int) -> "FitsWcs":
        """The WCS of a cutout whose first pixel was (x0, y0)."""
        moved = self.wcs.deepcopy()
        moved.wcs.crpix = moved.wcs.crpix - np.array([x0, y0])
        if moved.sip is not None:
            moved.sip.crpix[:] = moved.wcs.crpix
        return FitsWcs(moved)


def tan_wcs(
    ra_deg: float, dec_deg: float, x: float, y: float, cd: Floats, shape: tuple[int, int]
) -> FitsWcs:
    """Gnomonic WCS with (ra, dec) at pixel (x, y) and the (2, 2) matrix ``cd`` in deg/pixel."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.cunit = ["deg", "deg"]
    wcs.wcs.radesys = "ICRS"
    wcs.wcs.crval = [ra_deg, dec_deg]
    wcs.wcs.crpix = [x + 1, y + 1]
    wcs.wcs.cd = np.asarray(cd, float)
    wcs.array_shape = shape
    wcs.wcs.set()
    return FitsWcs(wcs)


def nominal_wcs(visit: Visit, detector: Detector) -> FitsWcs:
    """The WCS that pointing and camera geometry promise, before any star is matched.

    The tangent point is the boresight. At rotation 0 the focal plane has +y north
    and +x west (``flip``: +x east).
    """
    scale = detector.pixel_scale_arcsec / 3600.0
    own, sky = np.deg2rad(detector.rotation_deg), np.deg2rad(visit.rotation_deg)
    to_focal = np.array([[np.cos(own), -np.sin(own)], [np.sin(own), np.cos(own)]])
    east = 1.0 if detector.flip else -1.0
    # +y of the focal plane points to position angle ``sky`` (north through east)
    to_sky = np.array([[east * np.cos(sky), np.sin(sky)], [-east * np.sin(sky), np.cos(sky)]])
    cd = scale * to_sky @ to_focal
    offset = np.array([detector.offset_x_arcsec, detector.offset_y_arcsec]) / 3600.0
    boresight = -np.linalg.solve(to_focal, offset) / scale
    x = (detector.nx - 1) / 2 + boresight[0]
    y = (detector.ny - 1) / 2 + boresight[1]
    return tan_wcs(visit.ra_deg, visit.dec_deg, x, y, cd, detector.shape)


def local_cd(wcs: Wcs, x: Floats, y: Floats) -> Floats:
    """(n, 2, 2) matrices d(east, north)/d(x, y) in degrees per pixel at each position."""
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    px = np.concatenate([x + 0.5, x - 0.5, x, x])
    py = np.concatenate([y, y, y + 0.5, y - 0.5])
    ra, dec = (a.reshape(4, -1) for a in wcs.pixel_to_sky(px, py))
    cos_dec = np.cos(np.deg2rad(dec.mean(axis=0)))
    cd = np.empty((x.size, 2, 2))
    for axis in range(2):
        d_ra = (ra[2 * axis] - ra[2 * axis + 1] + 180.0) % 360.0 - 180.0
        cd[:, 0, axis] = d_ra * cos_dec
        cd[:, 1, axis] = dec[2 * axis] - dec[2 * axis + 1]
    return cd


def pixel_scale_arcsec(wcs: Wcs, x: float, y: float) -> float:
    """Square root of the pixel area at (x, y), arcsec."""
    return float(np.sqrt(abs(np.linalg.det(local_cd(wcs, np.array([x]), np.array([y]))[0]))) * 3600)


def separation_arcsec(
    ra1: Floats | float, dec1: Floats | float, ra2: Floats | float, dec2: Floats | float
) -> Floats:
    """Angle on the sphere by the haversine formula, arcsec; degrees in, arrays broadcast."""
    a1, d1, a2, d2 = (np.deg2rad(np.asarray(v, float)) for v in (ra1, dec1, ra2, dec2))
    h = np.sin((d2 - d1) / 2) ** 2 + np.cos(d1) * np.cos(d2) * np.sin((a2 - a1) / 2) ** 2
    result: Floats = np.rad2deg(2 * np.arcsin(np.sqrt(np.clip(h, 0, 1)))) * 3600
    return result


def unit_vectors(ra: Floats, dec: Floats) -> Floats:
    """(n, 3) unit vectors of positions in degrees."""
    a, d = np.deg2rad(np.asarray(ra, float)), np.deg2rad(np.asarray(dec, float))
    return np.stack([np.cos(d) * np.cos(a), np.cos(d) * np.sin(a), np.sin(d)], axis=-1)
