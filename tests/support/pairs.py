"""Simulated science and template images of one star field, with transients of known flux."""

from dataclasses import dataclass

import numpy as np

from promptdia.tasks.model.arrays import Catalog, Floats, Image
from promptdia.tasks.model.catalogs import SOURCE
from promptdia.tasks.model.exposure import Exposure, ScienceExposure, TemplateExposure
from promptdia.tasks.model.psf import GridPsf
from promptdia.tasks.model.visit import Detector, Visit
from promptdia.tasks.model.wcs import FitsWcs, tan_wcs

# three Gaussians close to a Moffat profile of beta 3: (weight, sigma over FWHM)
PROFILE = ((0.52, 0.365), (0.38, 0.55), (0.10, 1.05))
SKY = 900.0
GAIN = 1.6


@dataclass(frozen=True)
class Seeing:
    """FWHM in pixels at the middle, its fractional change to the right edge, ellipticity."""

    fwhm: float
    gradient: float = 0.04
    ellipticity: float = 0.02

    def stamps(self, x: Floats, y: Floats, shape: tuple[int, int], size: int) -> Floats:
        """(n, size, size) pixel-sampled; x and y may be off the pixel centre: stamp is at rint."""
        dx, dy = (v - np.rint(v) for v in (x, y))
        u = 2 * x / shape[1] - 1
        width = self.fwhm * (1 + self.gradient * u)
        e = self.ellipticity * (2 * y / shape[0] - 1)
        r = np.arange(size) - size // 2
        total = np.zeros((x.size, size, size))
        for weight, ratio in PROFILE:
            sx, sy = width * ratio * (1 + e), width * ratio * (1 - e)
            gx = np.exp(-0.5 * ((r - dx[:, None]) / sx[:, None]) ** 2)
            gy = np.exp(-0.5 * ((r - dy[:, None]) / sy[:, None]) ** 2)
            norm = weight / (2 * np.pi * sx * sy)
            total += norm[:, None, None] * gy[:, :, None] * gx[:, None, :]
        return total

    def psf(self, shape: tuple[int, int], size: int = 29) -> GridPsf:
        nodes = [np.linspace(0, n - 1, 5).round() for n in shape]
        y, x = (v.ravel() for v in np.meshgrid(*nodes, indexing="ij"))
        stamps = self.stamps(x, y, shape, size)
        stamps /= stamps.sum(axis=(1, 2), keepdims=True)
        return GridPsf(stamps.reshape(5, 5, size, size), nodes[1], nodes[0])


@dataclass(frozen=True)
class Pair:
    science: ScienceExposure
    template: TemplateExposure
    sources: Catalog
    transients: Floats
    """(n, 3): x, y, flux; in the science image only."""
    clean_science: Image
    """Noiseless."""


def simulate_pair(
    seed: int,
    side: int = 1024,
    n_stars: int = 400,
    science: Seeing = Seeing(3.75),
    template: Seeing = Seeing(3.25),
    n_transients: int = 60,
    depth: float = 9.0,
    flux_ratio: float = 0.97,
    shift_px: tuple[float, float] = (0.03, -0.02),
) -> Pair:
    """A pair on one grid: the template has ``depth`` times less variance."""
    rng = np.random.default_rng(seed)
    shape = (side, side)
    x, y = rng.uniform(-5, side + 5, (2, n_stars))
    flux = np.minimum(10 ** rng.uniform(2.6, 5.9, n_stars) ** 1.0, 6e5)
    flux = np.where(rng.random(n_stars) < 0.6, flux**0.8, flux)
    u = 2 * x / side - 1
    ratio = flux_ratio * (1 + 0.01 * u)
    tx, ty = rng.uniform(30, side - 30, (2, n_transients))
    sigma_psf = np.sqrt((SKY / GAIN) * 4 * np.pi * (science.fwhm / 2.35) ** 2)
    tflux = sigma_psf * rng.uniform(20, 60, n_transients)
    mean_s = render(shape, x, y, flux, science)
    mean_s += render(shape, tx, ty, tflux, science)
    mean_t = render(shape, x + shift_px[0], y + shift_px[1], flux / ratio, template)
    var_s, var_t = (SKY + mean_s) / GAIN, (SKY + mean_t) / GAIN / depth
    grid = np.linspace(-1, 1, side)
    background = 3.0 + 2.0 * grid[:, None] - 1.5 * grid[None, :]
    image_s = mean_s + background + rng.normal(size=shape) * np.sqrt(var_s)
    image_t = mean_t + rng.normal(size=shape) * np.sqrt(var_t)
    # variance planes as ISR makes them: from the noisy counts
    var_s = np.maximum(SKY + image_s, 1) / GAIN
    var_t = np.maximum(SKY * depth + image_t * depth, 1) / GAIN / depth**2
    make = exposure_on(shape)
    s = ScienceExposure.of(make(image_s, var_s), psf=science.psf(shape))
    t = TemplateExposure.of(make(image_t, var_t), psf=template.psf(shape))
    sources = catalog(x, y, flux, sigma_psf, side)
    return Pair(s, t, sources, np.stack([tx, ty, tflux], axis=1), mean_s.astype(np.float32))


def render(shape: tuple[int, int], x: Floats, y: Floats, flux: Floats, seeing: Seeing) -> Floats:
    """Noiseless sum of stars; bright ones on larger stamps."""
    image = np.zeros((shape[0] + 160, shape[1] + 160))
    seen = (np.abs(x - shape[1] / 2) < shape[1] / 2 + 40) & (
        np.abs(y - shape[0] / 2) < shape[0] / 2 + 40
    )
    x, y, flux = x[seen], y[seen], flux[seen]
    for low, high, size in ((0, 3e4, 33), (3e4, np.inf, 61)):
        some = (flux >= low) & (flux < high)
        for block in np.array_split(np.flatnonzero(some), max(1, some.sum() // 256)):
            if block.size == 0:
                continue
            stamps = seeing.stamps(x[block], y[block], shape, size) * flux[block, None, None]
            x0 = np.rint(x[block]).astype(int) - size // 2 + 80
            y0 = np.rint(y[block]).astype(int) - size // 2 + 80
            for stamp, i, j in zip(stamps, y0, x0):
                image[i : i + size, j : j + size] += stamp
    return image[80:-80, 80:-80]


def catalog(x: Floats, y: Floats, flux: Floats, sigma: float, side: int) -> Catalog:
    """What the science catalogue would hold of these stars."""
    inside = (x > 12) & (x < side - 12) & (y > 12) & (y < side - 12) & (flux > 10 * sigma)
    rows = SOURCE.empty(int(inside.sum()))
    rows["x"], rows["y"] = x[inside], y[inside]
    rows["psfFlux"] = flux[inside]
    rows["psfFluxErr"] = np.sqrt(sigma**2 + flux[inside] / GAIN)
    rows["extendedness"] = 0.0
    return rows


def exposure_on(shape: tuple[int, int], wcs: FitsWcs | None = None):  # type: ignore[no-untyped-def]
    """A function that makes an Exposure of an image and its variance, mask clear."""
    detector = Detector(0, "sim", shape[1], shape[0], 0.2, ())
    visit = Visit(2026010100001, "r", 61041.0, 30.0, 150.0, 2.0)
    scale = 0.2 / 3600
    if wcs is None:
        cd = np.array([[-scale, 0.0], [0.0, scale]])
        wcs = tan_wcs(150.0, 2.0, shape[1] / 2, shape[0] / 2, cd, shape)

    def make(image: Floats, variance: Floats) -> Exposure:
        return Exposure(
            image.astype(np.float32),
            np.zeros(shape, np.int32),
            variance.astype(np.float32),
            wcs,
            visit,
            detector,
        )

    return make
