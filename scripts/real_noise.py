"""The noise of finished differences over what their variance said, away from bright stars."""

import numpy as np
from scipy.spatial import cKDTree

from promptdia.pipeline.io.fits import read_exposure
from promptdia.pipeline.io.parquet import read_catalog
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.worker import Outcome
from promptdia.tasks.detect import NOT_EMPTY, usable
from promptdia.tasks.difference_noise import robust_sigma
from promptdia.tasks.matched_filter import cell_psf, signal_to_noise
from promptdia.tasks.model.arrays import Bools, Catalog
from promptdia.tasks.model.catalogs import SOURCE
from promptdia.tasks.model.exposure import DifferenceExposure
from promptdia.tasks.model.mask import has
from promptdia.tasks.model.psf import fwhm_px

BRIGHT_SNR = 100.0
"""Of a star on the science image; such stars cover a quarter to a half of a crowded frame."""
AWAY_FWHM = 1.5
CELL_PX = 256


def away_noise(repository: Repository, outcome: Outcome) -> dict[str, float]:
    """Scatter of pixels, and of matched-filter S/N, over their sigma before any rescaling.

    Of empty pixels farther than AWAY_FWHM from every star of BRIGHT_SNR; ``away_part`` is the
    part of the frame that they are.
    """
    camera = repository.detector(outcome.detector)
    difference, sources = (
        repository.product(outcome.visit, outcome.detector, name)
        for name in ("difference.fits", "sources.parquet")
    )
    exposure = read_exposure(difference, camera, DifferenceExposure)
    middle = (side / 2 for side in exposure.shape[::-1])
    reach = AWAY_FWHM * fwhm_px(exposure.require_psf(), *middle)
    empty = usable(exposure) & ~has(exposure.mask, NOT_EMPTY)
    away = empty & _far_from_stars(exposure.shape, read_catalog(sources, SOURCE), reach)
    filters = cell_psf(exposure.require_psf(), exposure.shape, CELL_PX)
    snr = signal_to_noise(exposure.image, exposure.variance, empty, filters)
    pixels = exposure.image[away] / np.sqrt(exposure.variance[away])
    metrics = outcome.metrics
    scale = float(np.sqrt(metrics["variance_scale"] * metrics["detect.varianceRescaled"]))
    return {
        "noise_away": scale * robust_sigma(pixels),
        "noise_matched_away": scale * robust_sigma(snr[away]),
        "away_part": float(away.mean()),
    }


def _far_from_stars(shape: tuple[int, int], sources: Catalog, reach_px: float) -> Bools:
    bright = sources[sources["psfFlux"] > BRIGHT_SNR * sources["psfFluxErr"]]
    if bright.size == 0:
        return np.ones(shape, bool)
    y, x = np.mgrid[: shape[0], : shape[1]]
    stars = cKDTree(np.column_stack([bright["x"], bright["y"]]))
    distance, _ = stars.query(np.column_stack([x.ravel(), y.ravel()]))
    far: Bools = (distance > reach_px).reshape(shape)
    return far
