"""PSF fluxes at given positions, and stamps shifted by a fraction of a pixel."""

from typing import NamedTuple

import numpy as np

from promptdia.tasks.kernels.psf_phot import fit_fluxes, shift_many
from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints
from promptdia.tasks.model.psf import Psf
from promptdia.tasks.parallel import over_strips

POSITIONS_PER_BATCH = 128
"""How many stamps are held in memory at once by each thread."""

OFF_IMAGE = -1e6
"""Stands for a coordinate that is nan or inf."""


class PsfFlux(NamedTuple):
    """Fluxes in the image's unit, one per position."""

    flux: Floats
    """(n,) amplitude of the unit-sum PSF; nan where no pixel could be used."""
    flux_err: Floats
    """(n,) from the variance plane; the source's own noise counts as far as it is in there."""
    chi2: Floats
    """(n,) of the residuals over the pixels used."""
    n_data: Ints
    """(n,) pixels used."""
    n_bad: Ints
    """(n,) pixels of the stamp that are masked, without variance or off the image."""


def psf_flux(
    image: Image,
    variance: Image,
    mask_bad: Bools,
    psf: Psf,
    x: Floats,
    y: Floats,
    radius_px: float | None = None,
    *,
    weighted: bool = False,
) -> PsfFlux:
    """Fit the local PSF's amplitude at fixed 0-based positions (n,).

    ``image`` has no background. Pixels are True in ``mask_bad`` where they must not be
    used, and only those within ``radius_px`` (None: the whole stamp) are. Equal weights
    by default: unbiased for bright stars and where the variance plane holds the source's
    own noise; ``weighted`` takes 1 / variance instead, best where the variance is smooth.
    """
    pixels = np.ascontiguousarray(image, np.float32)
    noise = np.ascontiguousarray(variance, np.float32)
    bad = np.ascontiguousarray(mask_bad, np.bool_)
    if not pixels.shape == noise.shape == bad.shape:
        raise ValueError(
            f"image {pixels.shape}, variance {noise.shape} and mask {bad.shape} differ in shape"
        )
    x, y = (np.ascontiguousarray(np.atleast_1d(v), float) for v in (x, y))
    lost = ~(np.isfinite(x) & np.isfinite(y))
    x, y = np.where(lost, OFF_IMAGE, x), np.where(lost, OFF_IMAGE, y)
    radius = np.inf if radius_px is None else float(radius_px)
    result = np.empty((x.size, 5))

    def work(first: int, end: int) -> None:
        px, py = x[first:end], y[first:end]
        stamps = shift_stamps(psf.stamps(px, py), px - np.rint(px), py - np.rint(py))
        fit_fluxes(pixels, noise, bad, stamps, px, py, radius, weighted, result[first:end])

    if x.size:
        over_strips(work, x.size, POSITIONS_PER_BATCH)
    flux, flux_err, chi2 = (result[:, k].copy() for k in range(3))
    return PsfFlux(
        flux, flux_err, chi2, result[:, 3].astype(np.int64), result[:, 4].astype(np.int64)
    )


def shift_stamps(stamps: Floats, dx: Floats, dy: Floats) -> Floats:
    """(n, size, size) stamps whose light is moved by (dx, dy) pixels, each within [-1, 1].

    Lanczos interpolation; what lies outside a stamp counts as zero.
    """
    stamps = np.ascontiguousarray(stamps, float)
    dx, dy = (
        np.ascontiguousarray(np.broadcast_to(np.asarray(v, float), stamps.shape[:1]))
        for v in (dx, dy)
    )
    if stamps.size and max(np.abs(dx).max(), np.abs(dy).max()) > 1.0:
        raise ValueError("stamps can be shifted by at most one pixel")
    out = np.empty_like(stamps)
    shift_many(stamps, dx, dy, out)
    return out
