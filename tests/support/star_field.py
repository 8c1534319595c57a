"""A simulated star field on the detector, with its truth and its reference catalogue."""

from collections.abc import Callable
from dataclasses import dataclass

import galsim
import numpy as np

from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.catalogs import REFERENCE
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.photo_calib import mag_to_njy
from promptdia.tasks.model.visit import Amplifier, Box, Detector, Visit
from promptdia.tasks.model.wcs import FitsWcs, nominal_wcs

ZERO_POINT = 28.0
"""AB magnitude of one electron."""


@dataclass(frozen=True)
class StarField:
    """An exposure in electrons, background subtracted, and what is really there."""

    exposure: Exposure
    x: Floats
    y: Floats
    flux: Floats
    """Electrons."""
    references: Catalog
    wcs: FitsWcs
    """The true one; the exposure holds the nominal one."""


def detector(shape: tuple[int, int] = (1024, 1024), scale: float = 0.2) -> Detector:
    """One amplifier without overscan, gain 1."""
    ny, nx = shape
    box = Box(0, nx, 0, ny)
    amplifier = Amplifier(box, box, None, gain=1.0, read_noise=5.0, saturation=65000.0)
    return Detector(3, "D3", nx, ny, scale, (amplifier,))


def visit(band: str = "r") -> Visit:
    """A 30 s exposure at (150, +2) degrees."""
    return Visit(2026060100007, band, 61192.3, 30.0, 150.0, 2.0, airmass=1.2)


def moffat(fwhm: float, e1: float = 0.0, e2: float = 0.0) -> galsim.GSObject:
    """Seeing profile with beta = 3."""
    return galsim.Moffat(beta=3.0, fwhm=fwhm).shear(e1=e1, e2=e2)


def star_field(
    seed: int = 1,
    shape: tuple[int, int] = (1024, 1024),
    n_stars: int = 150,
    fwhm: float = 3.5,
    faint_mag: float = 21.5,
    bright_mag: float = 16.0,
    sky: float = 400.0,
    profile: Callable[[float, float], galsim.GSObject] | None = None,
    wcs: FitsWcs | None = None,
    min_distance: float = 0.0,
) -> StarField:
    """Stars uniformly in log flux between the magnitudes, at random positions.

    ``profile(u, v)`` gives the PSF at a position scaled to [-1, 1]; ``wcs`` the true one.
    """
    rng = np.random.default_rng(seed)
    ny, nx = shape
    camera, when = detector(shape), visit()
    truth = nominal_wcs(when, camera) if wcs is None else wcs
    x, y = _positions(rng, n_stars, shape, min_distance)
    mag = rng.uniform(bright_mag, faint_mag, n_stars)
    flux = 10 ** (0.4 * (ZERO_POINT - mag))
    image = galsim.ImageF(nx, ny, xmin=0, ymin=0, scale=1.0)
    for k in range(n_stars):
        u, v = 2 * x[k] / (nx - 1) - 1, 2 * y[k] / (ny - 1) - 1
        star = (moffat(fwhm) if profile is None else profile(u, v)).withFlux(flux[k])
        size = int(np.clip(2 * round(fwhm * (3 + 1.2 * np.log10(max(flux[k] / 100, 1)))), 24, 160))
        centre = galsim.PositionD(x[k], y[k])
        stamp = star.drawImage(nx=size, ny=size, scale=1.0, center=centre)
        overlap = stamp.bounds & image.bounds
        image[overlap] += stamp[overlap]
    noiseless = image.array + sky
    pixels = rng.poisson(noiseless) + rng.normal(0, 5.0, shape) - sky
    mask = np.zeros(shape, np.int32)
    mask[noiseless > 65000] |= MaskPlane.SAT.value
    exposure = Exposure(
        image=pixels.astype(np.float32),
        mask=mask,
        variance=(np.maximum(pixels + sky, 1.0) + 25.0).astype(np.float32),
        wcs=nominal_wcs(when, camera),
        visit=when,
        detector=camera,
    )
    return StarField(exposure, x, y, flux, references(x, y, mag, truth), truth)


def references(x: Floats, y: Floats, mag: Floats, wcs: FitsWcs) -> Catalog:
    """REFERENCE rows without errors, r band only."""
    rows = REFERENCE.empty(x.size)
    rows["id"] = np.arange(1, x.size + 1)
    rows["ra"], rows["dec"] = wcs.pixel_to_sky(x, y)
    rows["raErr"] = rows["decErr"] = 0.001
    rows["epochMjdTai"] = visit().mjd_tai
    rows["r_flux"] = mag_to_njy(mag)
    rows["r_fluxErr"] = rows["r_flux"] * 0.002
    return rows


def matched(field: StarField, sources: Catalog, radius: float = 1.0) -> tuple[Floats, Floats]:
    """Indices (source, star) of the true star nearest to each source within ``radius``."""
    dx = sources["x"][:, None] - field.x
    dy = sources["y"][:, None] - field.y
    distance = np.hypot(dx, dy)
    nearest = distance.argmin(axis=1)
    good = distance[np.arange(sources.size), nearest] < radius
    return np.flatnonzero(good), nearest[good]


def _positions(
    rng: np.random.Generator, n: int, shape: tuple[int, int], min_distance: float
) -> tuple[Floats, Floats]:
    ny, nx = shape
    chosen: list[tuple[float, float]] = []
    while len(chosen) < n:
        x, y = rng.uniform(8, nx - 9), rng.uniform(8, ny - 9)
        if all((x - a) ** 2 + (y - b) ** 2 >= min_distance**2 for a, b in chosen):
            chosen.append((x, y))
    return np.array([c[0] for c in chosen]), np.array([c[1] for c in chosen])
