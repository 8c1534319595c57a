"""The simulated telescope: true WCS with distortion, and a PSF that varies over the field.

The PSF is a sheared Moffat profile. On a detector it is *defined* as the bilinear mix
of the profiles at the nodes of a grid, so that what is drawn is exact.
"""

from dataclasses import dataclass, replace

import galsim
import numpy as np
from astropy.wcs import Sip

from promptdia.pipeline.sim.observing import Conditions
from promptdia.pipeline.sim.seeds import generator
from promptdia.pipeline.sim.surveys import Survey
from promptdia.tasks.model.arrays import Floats, Ints
from promptdia.tasks.model.visit import Detector
from promptdia.tasks.model.wcs import FitsWcs, nominal_wcs

MOFFAT_BETA = 3.5
MOFFAT_RADIUS_PER_FWHM = float(0.5 / np.sqrt(2 ** (1 / MOFFAT_BETA) - 1))
FWHM_FIELD_CURVATURE = 0.03
"""The PSF is wider by this much at the corner of the field."""


@dataclass(frozen=True, slots=True)
class Profile:
    """The Moffat at one place: FWHM in arcsec and reduced shear, focal-plane axes."""

    fwhm: float
    e1: float
    e2: float


def focal_plane(detector: Detector, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Arcsec from the boresight along the focal plane's axes, of pixels of the detector."""
    scale, angle = detector.pixel_scale_arcsec, np.deg2rad(detector.rotation_deg)
    dx, dy = (x - (detector.nx - 1) / 2) * scale, (y - (detector.ny - 1) / 2) * scale
    return (
        detector.offset_x_arcsec + np.cos(angle) * dx - np.sin(angle) * dy,
        detector.offset_y_arcsec + np.sin(angle) * dx + np.cos(angle) * dy,
    )


def field_corners(detectors: list[Detector]) -> Floats:
    """(2, n) focal-plane positions of all detectors' corners, arcsec."""
    corners = [
        focal_plane(d, np.array([0, d.nx, 0, d.nx]), np.array([0, 0, d.ny, d.ny]))
        for d in detectors
    ]
    return np.concatenate(corners, axis=1)


def true_wcs(
    survey: Survey, conditions: Conditions, detector: Detector, radius_arcsec: float, seed: int
) -> FitsWcs:
    """Tangent projection about the true pointing, displaced detector, cubic distortion (SIP)."""
    rng = generator(seed, "mounting", detector.id)
    dx, dy = rng.normal(0.0, 1.5 * detector.pixel_scale_arcsec, 2)
    mounted = replace(
        detector,
        offset_x_arcsec=detector.offset_x_arcsec + dx,
        offset_y_arcsec=detector.offset_y_arcsec + dy,
        rotation_deg=detector.rotation_deg + rng.normal(0.0, 0.015),
    )
    wcs = nominal_wcs(conditions.pointing, mounted).wcs
    radius_px = radius_arcsec / detector.pixel_scale_arcsec
    cubic = survey.distortion_arcsec / detector.pixel_scale_arcsec / radius_px**3
    a, b = np.zeros((4, 4)), np.zeros((4, 4))
    a[3, 0] = a[1, 2] = b[0, 3] = b[2, 1] = cubic
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.sip = Sip(a, b, None, None, wcs.wcs.crpix)
    wcs.wcs.set()
    return FitsWcs(wcs)


def profile_at(conditions: Conditions, fx: Floats, fy: Floats) -> tuple[Floats, Floats, Floats]:
    """FWHM in arcsec and shear (e1, e2) at field positions in units of the corner radius."""
    fwhm = conditions.fwhm_arcsec * (
        1.0
        + conditions.fwhm_slope[0] * fx
        + conditions.fwhm_slope[1] * fy
        + FWHM_FIELD_CURVATURE * (fx**2 + fy**2)
    )
    e1 = conditions.ellipticity[0] + conditions.ellipticity_slope[0] * fx
    e2 = conditions.ellipticity[1] + conditions.ellipticity_slope[1] * fy
    return fwhm, e1, e2


@dataclass(frozen=True, slots=True)
class PsfGrid:
    """The profiles at the nodes of a grid that spans the detector."""

    detector: Detector
    profiles: tuple[Profile, ...]
    """n x n, row by row from y = 0."""
    n: int
    """Nodes per axis, at least 2."""

    def drawable(self, profile: Profile) -> galsim.GSObject:
        """Unit-flux profile in pixel coordinates of the detector."""
        angle, scale = np.deg2rad(self.detector.rotation_deg), self.detector.pixel_scale_arcsec
        moffat = galsim.Moffat(beta=MOFFAT_BETA, fwhm=profile.fwhm)
        c, s = scale * np.cos(angle), scale * np.sin(angle)
        return galsim.JacobianWCS(c, -s, s, c).toImage(moffat.shear(g1=profile.e1, g2=profile.e2))

    def mix(self, x: Floats, y: Floats) -> tuple[Ints, Floats]:
        """(m, 4) node indices and bilinear weights for each position."""
        ix, wx = self._bracket(x, self.detector.nx)
        iy, wy = self._bracket(y, self.detector.ny)
        node = (iy * self.n + ix)[:, None] + np.array([0, 1, self.n, self.n + 1])
        weight = np.stack([(1 - wy) * (1 - wx), (1 - wy) * wx, wy * (1 - wx), wy * wx], axis=1)
        return node.astype(np.int64), weight

    def profile(self, x: float, y: float) -> Profile:
        """The Moffat whose parameters are the same mix of the nodes': the PSF's wings."""
        nodes, weights = self.mix(np.array([x]), np.array([y]))
        rows = [(p.fwhm, p.e1, p.e2) for p in (self.profiles[n] for n in nodes[0])]
        fwhm, e1, e2 = weights[0] @ np.array(rows)
        return Profile(float(fwhm), float(e1), float(e2))

    def _bracket(self, v: Floats, size: int) -> tuple[Ints, Floats]:
        u = np.clip(v / (size - 1), 0.0, 1.0) * (self.n - 1)
        low = np.clip(np.floor(u), 0, self.n - 2).astype(np.int64)
        return low, u - low


def psf_grid(
    survey: Survey, conditions: Conditions, detector: Detector, radius_arcsec: float
) -> PsfGrid:
    """The PSF of one detector in one visit."""
    n = survey.psf_nodes
    nodes_y, nodes_x = np.meshgrid(
        np.linspace(0, detector.ny - 1, n), np.linspace(0, detector.nx - 1, n), indexing="ij"
    )
    fx, fy = (v.ravel() / radius_arcsec for v in focal_plane(detector, nodes_x, nodes_y))
    values = zip(*profile_at(conditions, fx, fy), strict=True)
    profiles = tuple(Profile(float(f), float(a), float(b)) for f, a, b in values)
    return PsfGrid(detector, profiles, n)
