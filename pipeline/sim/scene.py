"""The light that reaches a detector in one visit, before the detector does anything to it."""

from dataclasses import dataclass

import numpy as np

from promptdia.pipeline.sim.motion import fluxes, positions, present
from promptdia.pipeline.sim.observing import Conditions
from promptdia.pipeline.sim.optics import (
    MOFFAT_BETA,
    MOFFAT_RADIUS_PER_FWHM,
    Profile,
    focal_plane,
)
from promptdia.pipeline.sim.plates import Plates
from promptdia.pipeline.sim.surveys import Survey
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Image
from promptdia.tasks.model.photo_calib import AB_ZERO_NJY
from promptdia.tasks.model.visit import Detector
from promptdia.tasks.model.wcs import FitsWcs

WING_LEVEL = 0.05
"""Wings are followed down to this fraction of the sky noise."""
MAX_WING_PX = 300
"""No wing is followed further; objects further outside are not rendered."""


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Objects on the detector's pixels at the time of a visit."""

    objects: Catalog
    x: Floats
    y: Floats
    flux_njy: Floats
    """Total; per arcsec of trail for satellites."""
    dx: Floats
    """Half the trail, pixels."""
    dy: Floats

    def only(self, chosen: Bools) -> "Placed":
        """Some of them."""
        return Placed(
            *(v[chosen] for v in (self.objects, self.x, self.y, self.flux_njy, self.dx, self.dy))
        )


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One detector in one visit as it really was."""

    survey: Survey
    conditions: Conditions
    detector: Detector
    wcs: FitsWcs
    radius_arcsec: float
    """From the boresight to the outermost corner of the field."""

    @property
    def detector_centre(self) -> tuple[Floats, Floats]:
        """(x, y) of its middle, each of one element."""
        return np.array([(self.detector.nx - 1) / 2]), np.array([(self.detector.ny - 1) / 2])

    @property
    def electrons_per_njy(self) -> float:
        """Detected electrons in the exposure per nJy above the atmosphere, before the flat."""
        zero_point = self.survey.zero_points[self.conditions.visit.band]
        rate = 10 ** (0.4 * (zero_point - AB_ZERO_NJY)) * self.conditions.throughput
        return float(rate * self.conditions.visit.exposure_s)

    @property
    def sky_electrons(self) -> float:
        """Sky in a pixel of the field's centre, electrons in the exposure."""
        zero_point = self.survey.zero_points[self.conditions.visit.band]
        per_arcsec2 = 10 ** (0.4 * (zero_point - self.conditions.sky_mag))
        area = self.detector.pixel_scale_arcsec**2
        return float(per_arcsec2 * area * self.conditions.visit.exposure_s)

    def place(self, objects: Catalog) -> Placed:
        """Those of the objects that exist now and are near or cross the detector."""
        visit = self.conditions.visit
        objects = objects[present(objects, visit.mjd_tai)]
        ra, dec = positions(objects, visit.mjd_tai)
        flux = fluxes(objects, visit.band, visit.mjd_tai)
        half_trail = np.nan_to_num(objects["rate_arcsec_h"]) * visit.exposure_s / 7200.0
        x, y = self._pixels(ra, dec, MAX_WING_PX + half_trail / self.detector.pixel_scale_arcsec)
        dx, dy = self._trails(objects["direction_deg"], half_trail)
        return Placed(objects, x, y, flux, dx, dy).only(np.isfinite(x))

    def _pixels(self, ra: Floats, dec: Floats, margin: Floats) -> tuple[Floats, Floats]:
        """True pixels, nan for what is further than ``margin`` pixels from the detector."""
        x, y = self.wcs.wcs.wcs_world2pix(ra, dec, 0)
        near = np.abs(x - self.detector.nx / 2) < self.detector.nx / 2 + margin
        near &= np.abs(y - self.detector.ny / 2) < self.detector.ny / 2 + margin
        exact_x, exact_y = np.full(x.shape, np.nan), np.full(y.shape, np.nan)
        if near.any():
            exact_x[near], exact_y[near] = self.wcs.sky_to_pixel(ra[near], dec[near])
        return exact_x, exact_y

    def _trails(self, direction_deg: Floats, half_arcsec: Floats) -> tuple[Floats, Floats]:
        """The half trails in pixels, by the linear WCS at its reference point."""
        angle = np.deg2rad(np.nan_to_num(direction_deg))
        step = np.stack([np.sin(angle), np.cos(angle)]) * half_arcsec / 3600.0
        dx, dy = np.linalg.solve(self.wcs.wcs.pixel_scale_matrix, step)
        return dx, dy


def light(frame: Frame, static: Placed, changing: Placed, stars: Plates, galaxies: Plates) -> Image:
    """(ny, nx) expected electrons before flat field and detector effects, sky included."""
    image = sky_image(frame)
    scale = frame.electrons_per_njy
    is_galaxy = static.objects["kind"] == "galaxy"
    is_trail = (changing.dx != 0) | (changing.dy != 0)
    points = [static.only(~is_galaxy), changing.only(~is_trail)]
    for group in points:
        _draw(stars, image, group, scale)
        _add_wings(frame, image, group, stars)
    _draw(galaxies, image, static.only(is_galaxy), scale)
    fwhm_px = frame.conditions.fwhm_arcsec / frame.detector.pixel_scale_arcsec
    for row in np.flatnonzero(is_trail):
        one = changing.only(np.arange(is_trail.size) == row)
        _draw(stars, image, trail_points(frame, one, 0.25 * fwhm_px, stars.half), scale)
    return image


def sky_image(frame: Frame) -> Image:
    """Sky alone, electrons: a level and a slope over the field."""
    y, x = np.ogrid[: frame.detector.ny, : frame.detector.nx]
    fx, fy = focal_plane(frame.detector, x, y)
    slope_x, slope_y = (s / frame.radius_arcsec for s in frame.conditions.sky_slope)
    relative = 1.0 + slope_x * fx.astype(np.float32) + slope_y * fy.astype(np.float32)
    image: Image = (frame.sky_electrons * relative).astype(np.float32)
    return image


def trail_points(frame: Frame, trail: Placed, spacing_px: float, margin: int) -> Placed:
    """The part of one trail within ``margin`` of the detector, as a row of points."""
    low, high = clip_trail(frame.detector, trail, margin)
    length = 2.0 * float(np.hypot(trail.dx[0], trail.dy[0])) * (high - low)
    n = max(1, int(np.ceil(length / spacing_px))) if high > low else 0
    at = low + (np.arange(n) + 0.5) / max(1, n) * (high - low)
    share = (high - low) / max(1, n)
    if trail.objects["kind"][0] == "satellite":
        share = length * frame.detector.pixel_scale_arcsec / max(1, n)
    offset = 2.0 * at - 1.0
    return Placed(
        np.repeat(trail.objects, n),
        trail.x[0] + offset * trail.dx[0],
        trail.y[0] + offset * trail.dy[0],
        np.full(n, trail.flux_njy[0] * share),
        np.zeros(n),
        np.zeros(n),
    )


def clip_trail(detector: Detector, trail: Placed, margin: float) -> tuple[float, float]:
    """The part of one trail, 0 at its start to 1 at its end, over the detector; (0, 0) if none."""
    low, high = 0.0, 1.0
    for at, half, size in (
        (trail.x[0], trail.dx[0], detector.nx),
        (trail.y[0], trail.dy[0], detector.ny),
    ):
        ends = (-0.5 - margin, size - 0.5 + margin)
        if half == 0:
            if not ends[0] <= at <= ends[1]:
                return 0.0, 0.0
            continue
        a, b = sorted((end - (at - half)) / (2.0 * half) for end in ends)
        low, high = max(low, a), min(high, b)
    return (low, high) if high > low else (0.0, 0.0)


def _draw(plates: Plates, image: Image, placed: Placed, electrons_per_njy: float) -> None:
    shape = placed.objects["shape"].astype(np.int64)
    plates.add(image, placed.x, placed.y, placed.flux_njy * electrons_per_njy, shape)


def _add_wings(frame: Frame, image: Image, stars: Placed, plates: Plates) -> None:
    """The light of bright stars outside their stamps, where pixels need no integration."""
    noise = np.sqrt(frame.sky_electrons)
    core_px = MOFFAT_RADIUS_PER_FWHM * frame.conditions.fwhm_arcsec
    core_px /= frame.detector.pixel_scale_arcsec
    flux = stars.flux_njy * frame.electrons_per_njy
    centre = flux * (MOFFAT_BETA - 1.0) / (np.pi * core_px**2)
    reach = core_px * (centre / (WING_LEVEL * noise)) ** (0.5 / MOFFAT_BETA)
    for n in np.flatnonzero(reach > plates.half):
        _add_wing(plates, image, stars.x[n], stars.y[n], flux[n], int(reach[n]))


def _add_wing(plates: Plates, image: Image, x: float, y: float, flux: float, reach: int) -> None:
    column, line, reach = int(np.floor(x + 0.5)), int(np.floor(y + 0.5)), min(reach, MAX_WING_PX)
    x0, x1 = max(0, column - reach), min(image.shape[1], column + reach + 1)
    y0, y1 = max(0, line - reach), min(image.shape[0], line + reach + 1)
    if x0 >= x1 or y0 >= y1:
        return
    py, px = np.mgrid[y0:y1, x0:x1]
    outside = np.maximum(np.abs(px - column), np.abs(py - line)) > plates.half
    wing = moffat(plates.grid.detector, plates.grid.profile(x, y), px - x, py - y)
    image[y0:y1, x0:x1] += np.where(outside, flux * wing, 0.0)


def moffat(detector: Detector, profile: Profile, dx: Floats, dy: Floats) -> Floats:
    """Unit-flux PSF per pixel at offsets in pixels, not integrated over the pixels.

    A sheared profile of unit flux: reduced shear as GalSim defines it.
    """
    scale, angle = detector.pixel_scale_arcsec, np.deg2rad(detector.rotation_deg)
    u = (np.cos(angle) * dx - np.sin(angle) * dy) * scale
    v = (np.sin(angle) * dx + np.cos(angle) * dy) * scale
    g1, g2 = profile.e1, profile.e2
    norm = 1.0 / np.sqrt(1.0 - g1**2 - g2**2)
    r2 = (norm * ((1 - g1) * u - g2 * v)) ** 2 + (norm * ((1 + g1) * v - g2 * u)) ** 2
    radius = MOFFAT_RADIUS_PER_FWHM * profile.fwhm
    peak = (MOFFAT_BETA - 1.0) / (np.pi * radius**2) * scale**2
    result: Floats = peak * (1.0 + r2 / radius**2) ** -MOFFAT_BETA
    return result
