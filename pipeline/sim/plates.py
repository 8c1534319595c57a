"""Oversampled plates of light per pixel, drawn by GalSim in Fourier space.

A star drawn from them agrees with GalSim's own drawing to 1e-4 of its flux and of its
peak; a galaxy to 1e-3 (disc) or 1e-2 (Sersic, whose wings end with the stamp).
"""

from dataclasses import dataclass

import galsim
import numpy as np
from numpy.typing import NDArray
from scipy import fft

from promptdia.pipeline.sim.optics import PsfGrid
from promptdia.pipeline.sim.sky import galaxy_radii
from promptdia.tasks.kernels.render import add_stamps
from promptdia.tasks.model.arrays import Floats, Image, Ints

STAR_OVERSAMPLING = 4
GALAXY_OVERSAMPLING = 2
STAR_HALF_FWHM = 6.5
"""Half side of a star's stamp in FWHM; 1e-4 of a Moffat's light lies outside."""
GALAXY_HALF_RADII = 6.0
"""Half side of the galaxies' stamps in the largest half-light radius, beyond the PSF's."""


@dataclass(frozen=True, slots=True, eq=False)
class Plates:
    """B-spline coefficients of every shape under the PSF of every node."""

    coefficients: NDArray[np.float32]
    """(n_shapes x n_nodes, m, m), nodes fastest; light per pixel of a unit flux."""
    grid: PsfGrid
    oversampling: int
    half: int
    """Half side of a stamp, pixels."""

    def add(self, image: Image, x: Floats, y: Floats, flux: Floats, shape: Ints) -> None:
        """Draw objects of the given flux and shape into ``image``, in place."""
        near = self.half + 1
        ny, nx = image.shape
        inside = (x > -near) & (x < nx + near) & (y > -near) & (y < ny + near) & (flux > 0)
        x, y, flux, shape = x[inside], y[inside], flux[inside], shape[inside]
        node, weight = self.grid.mix(x, y)
        add_stamps(
            image,
            np.ascontiguousarray(x, float),
            np.ascontiguousarray(y, float),
            node + (shape * len(self.grid.profiles))[:, None],
            weight * flux[:, None],
            self.coefficients,
            self.oversampling,
            self.half,
        )


def star_plates(grid: PsfGrid) -> Plates:
    """The PSF itself: one shape."""
    widest = max(p.fwhm for p in grid.profiles) / grid.detector.pixel_scale_arcsec
    half = int(np.ceil(STAR_HALF_FWHM * widest))
    # twice the stamp, so that the periodic images' wings stay away
    size = fft.next_fast_len(4 * half, real=True)
    pixel = galsim.Pixel(1.0)
    transforms = [
        _transform(galsim.Convolve(grid.drawable(p), pixel), size, STAR_OVERSAMPLING)
        for p in grid.profiles
    ]
    return _plates(transforms, size, grid, STAR_OVERSAMPLING, half)


def galaxy_plates(grid: PsfGrid, shapes: list[galsim.GSObject], sky_to_pixel: Floats) -> Plates:
    """Every galaxy shape convolved with the PSF of every node.

    ``shapes`` are in arcsec on the sky (east, north); ``sky_to_pixel`` is the (2, 2)
    matrix d(east, north)/d(x, y) in arcsec per pixel at the detector's centre.
    """
    scale = grid.detector.pixel_scale_arcsec
    widest = max(p.fwhm for p in grid.profiles) / scale
    radius = max(shape.calculateHLR() for shape in shapes[-1:]) / scale
    half = int(np.ceil(2.0 * widest + GALAXY_HALF_RADII * radius))
    size = fft.next_fast_len(2 * half + 6, real=True)
    local = galsim.JacobianWCS(*np.asarray(sky_to_pixel, float).ravel())
    pixel = galsim.Pixel(1.0)
    blurs = [
        _transform(galsim.Convolve(grid.drawable(p), pixel), size, GALAXY_OVERSAMPLING)
        for p in grid.profiles
    ]
    bare = (_transform(local.toImage(s), size, GALAXY_OVERSAMPLING) for s in shapes)
    transforms = [blur * shape for shape in bare for blur in blurs]
    return _plates(transforms, size, grid, GALAXY_OVERSAMPLING, half)


def galaxy_shapes(n: int, rng: np.random.Generator) -> list[galsim.GSObject]:
    """n unit-flux profiles in arcsec (east, north) by ascending half-light radius.

    Two thirds are exponential discs, the others Sersic of index 2 to 3; all sheared.
    """
    shapes = []
    for radius in galaxy_radii(n):
        disc, index = rng.random() < 2 / 3, round(float(rng.uniform(2.0, 3.0)), 1)
        bare = (
            galsim.Exponential(half_light_radius=radius)
            if disc
            else galsim.Sersic(index, half_light_radius=radius)
        )
        shear, angle = min(0.6, rng.rayleigh(0.22)), rng.uniform(0.0, np.pi)
        shapes.append(bare.shear(g=shear, beta=angle * galsim.radians))
    return shapes


def _transform(profile: galsim.GSObject, size: int, oversampling: int) -> NDArray[np.complex128]:
    """Fourier transform on the half plane that irfft2 takes, for pixels 1/oversampling wide."""
    n = size * oversampling
    bounds = galsim.BoundsI(0, n // 2, -(n // 2), n - n // 2 - 1)
    image = profile.drawKImage(bounds=bounds, scale=2 * np.pi / size, recenter=False)
    transform: NDArray[np.complex128] = np.fft.ifftshift(image.array, axes=0)
    return transform


def _plates(
    transforms: list[NDArray[np.complex128]], size: int, grid: PsfGrid, oversampling: int, half: int
) -> Plates:
    n = size * oversampling
    columns, rows = _spline_response(np.arange(n // 2 + 1) / n), _spline_response(np.arange(n) / n)
    sharpen = 1.0 / np.outer(rows, columns)
    m = 2 * (oversampling * (half + 1) + 2) + 1
    low = n // 2 - m // 2
    coefficients = np.empty((len(transforms), m, m), np.float32)
    for i, transform in enumerate(transforms):
        light = fft.irfft2(transform * sharpen, s=(n, n)) * oversampling**2
        coefficients[i] = np.fft.fftshift(light)[low : low + m, low : low + m]
    return Plates(coefficients, grid, oversampling, half)


def _spline_response(frequency: Floats) -> Floats:
    """Transform of the cubic B-spline sampled at the integers, cycles per sample."""
    response: Floats = (4.0 + 2.0 * np.cos(2 * np.pi * frequency)) / 6.0
    return response
