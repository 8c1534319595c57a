"""Images with just the sources of a simulated detector, for its cutouts."""

import numpy as np

from promptdia.pipeline.sim.stream_sky import DEPTH
from promptdia.tasks.model.arrays import Catalog, Floats, Image
from promptdia.tasks.model.exposure import (
    DifferenceExposure,
    Exposure,
    ScienceExposure,
    TemplateExposure,
)
from promptdia.tasks.model.psf import constant_psf, gaussian_stamp
from promptdia.tasks.model.visit import Detector, Visit
from promptdia.tasks.model.wcs import FitsWcs

CELL_PX = 64
"""Side of the square that each source has to itself; the largest cutouts see neighbours."""
_JITTER_PX = 14.0
_SIGMA_PX = {"science": 1.9, "template": 1.6, "difference": 1.9}
_SIZE_PX = {"science": 41, "template": 51, "difference": 41}
_PSFS = {name: constant_psf(gaussian_stamp(s, _SIZE_PX[name])) for name, s in _SIGMA_PX.items()}
_HALF_PX = 20


def sources_layout(n: int, n_cells: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """(n,) x and y of sources, one to a cell of an ``n_cells`` square."""
    cell = rng.permutation(n_cells * n_cells)[:n]
    jitter = rng.uniform(-_JITTER_PX, _JITTER_PX, (2, n))
    return (
        CELL_PX * (cell % n_cells + 0.5) + jitter[0],
        CELL_PX * (cell // n_cells + 0.5) + jitter[1],
    )


def exposures(
    visit: Visit, detector: Detector, wcs: FitsWcs, sources: Catalog, rng: np.random.Generator
) -> tuple[ScienceExposure, TemplateExposure, DifferenceExposure]:
    """Science, template and difference with Gaussian stars of the sources' fluxes, and noise.

    A pixel's noise is such that the optimal PSF flux has the sources' psfFluxErr: its
    variance is that error squared over the PSF's effective area, 4 pi sigma^2.
    """
    flux_err = float(DEPTH[visit.band])
    science_noise = flux_err / np.sqrt(4 * np.pi * _SIGMA_PX["science"] ** 2)
    template_noise = 0.3 * science_noise
    shape = detector.shape
    template_signal = np.zeros(shape, np.float32)
    _add_stars(template_signal, sources, sources["templateFlux"], _SIGMA_PX["template"])
    change = np.zeros(shape, np.float32)
    _add_stars(change, sources, sources["psfFlux"], _SIGMA_PX["difference"])
    matched = np.zeros(shape, np.float32)
    _add_stars(matched, sources, sources["templateFlux"], _SIGMA_PX["science"])
    noise = science_noise * rng.standard_normal(shape, np.float32)
    noise2 = template_noise * rng.standard_normal(shape, np.float32)
    mask = np.zeros(shape, np.int32)

    def exposure(name: str, image: Image, variance: float) -> Exposure:
        plane = np.full(shape, variance, np.float32)
        return Exposure(image.astype(np.float32), mask, plane, wcs, visit, detector, _PSFS[name])

    return (
        ScienceExposure.of(exposure("science", matched + change + noise, science_noise**2)),
        TemplateExposure.of(exposure("template", template_signal + noise2, template_noise**2)),
        DifferenceExposure.of(
            exposure("difference", change + noise - noise2, science_noise**2 + template_noise**2)
        ),
    )


def _add_stars(image: Image, sources: Catalog, flux: Floats, sigma: float) -> None:
    x, y = sources["x"].astype(float), sources["y"].astype(float)
    x0, y0 = np.rint(x).astype(int) - _HALF_PX, np.rint(y).astype(int) - _HALF_PX
    offsets = np.arange(2 * _HALF_PX + 1)
    gx = np.exp(-0.5 * ((x0[:, None] + offsets - x[:, None]) / sigma) ** 2)
    gy = np.exp(-0.5 * ((y0[:, None] + offsets - y[:, None]) / sigma) ** 2)
    scale = flux / (gx.sum(axis=1) * gy.sum(axis=1))
    stamps = (scale[:, None, None] * gy[:, :, None] * gx[:, None, :]).astype(np.float32)
    for i, stamp in enumerate(stamps):
        a, b = max(-y0[i], 0), max(-x0[i], 0)
        box = image[max(y0[i], 0) : y0[i] + 41, max(x0[i], 0) : x0[i] + 41]
        box += stamp[a : a + box.shape[0], b : b + box.shape[1]]
