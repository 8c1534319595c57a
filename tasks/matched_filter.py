"""The signal-to-noise map of an image filtered with its own local PSF."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdia.tasks.kernels.detect import matched_filter, trust_factors
from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints
from promptdia.tasks.model.psf import Psf
from promptdia.tasks.parallel import over_strips

ENERGY_LOST = 1e-3
"""Part of sum(P^2) that truncation, and again separation into factors, may drop."""
MAX_RANK = 6


class CellPsf(NamedTuple):
    """The filter in each cell of the image."""

    stamps: NDArray[np.float32]
    """(ny_cells, nx_cells, size, size)."""
    cell: int
    """Side of a cell, pixels; the last ones reach the border."""


def cell_psf(psf: Psf, shape: tuple[int, int], cell: int) -> CellPsf:
    """The PSF at the middle of each cell, cut to the pixels that carry its signal."""
    ny, nx = (max(1, round(side / cell)) for side in shape)
    x, y = np.meshgrid((np.arange(nx) + 0.5) * cell, (np.arange(ny) + 0.5) * cell)
    stamps = psf.stamps(
        np.minimum(x, shape[1] - 1.0).ravel(), np.minimum(y, shape[0] - 1.0).ravel()
    )
    half = _half_width((stamps**2).sum(axis=0))
    middle = psf.size // 2
    cut = slice(middle - half, middle + half + 1)
    kept = stamps[:, cut, cut].reshape(ny, nx, 2 * half + 1, 2 * half + 1)
    return CellPsf(np.ascontiguousarray(kept, np.float32), cell)


def signal_to_noise(image: Image, variance: Image, good: Bools, filters: CellPsf) -> Image:
    """Signed S/N of a point source centred on each pixel, (ny, nx).

    The flux estimate weighs good pixels by the PSF alone, so that noise in the variance
    plane does not bias it. 0 where no good pixel lies under the PSF.
    """
    stamps = filters.stamps.astype(float)
    psf_factors, square_factors = _factors(stamps), _factors(stamps**2)
    # what separation loses must not change the noise
    lost = (_outer(psf_factors) ** 2).sum(axis=(2, 3)) / _outer(square_factors).sum(axis=(2, 3))
    square_factors[0] *= lost[..., None, None]
    good = np.ascontiguousarray(good)
    image, variance = (np.ascontiguousarray(plane, np.float32) for plane in (image, variance))
    snr = np.empty(image.shape, np.float32)

    def work(first: int, end: int) -> None:
        matched_filter(
            image, variance, good, psf_factors, square_factors, filters.cell, first, end, snr
        )

    over_strips(work, image.shape[0])
    return snr


def trust(
    static: Image,
    variance: Image,
    good: Bools,
    filters: CellPsf,
    x: Ints,
    y: Ints,
    registration_px: float,
    flux_error: float,
) -> Floats:
    """By how much S/N shrinks at pixels (n,) once systematic errors count as noise.

    The idea is the S_corr statistic of Zackay, Ofek & Gal-Yam (2016), section 3.3: what
    a light distribution ``static`` leaves in the difference when it is misplaced or
    mis-scaled. 1 in the dark, near 0 on bright stars.
    """
    factors = np.empty(x.size)
    trust_factors(
        np.ascontiguousarray(static, np.float32),
        np.ascontiguousarray(variance, np.float32),
        np.ascontiguousarray(good),
        filters.stamps,
        filters.cell,
        x,
        y,
        registration_px,
        flux_error,
        factors,
    )
    return factors


def _half_width(energy: Floats) -> int:
    """Half side of the smallest central square that keeps all but ENERGY_LOST."""
    middle = int(energy.shape[0] // 2)
    total = energy.sum()
    for half in range(1, middle):
        cut = slice(middle - half, middle + half + 1)
        if energy[cut, cut].sum() >= (1 - ENERGY_LOST) * total:
            return half
    return middle


def _factors(stamps: Floats) -> NDArray[np.float32]:
    """(2, ny_cells, nx_cells, rank, size) columns and rows whose outer products add up."""
    u, s, vt = np.linalg.svd(stamps)
    lost = 1 - np.cumsum(s**2, axis=-1) / (s**2).sum(axis=-1, keepdims=True)
    rank = 1 + int(np.argmax((lost.max(axis=(0, 1)) <= ENERGY_LOST)[:MAX_RANK]))
    if lost[..., rank - 1].max() > ENERGY_LOST:
        rank = min(MAX_RANK, s.shape[-1])
    columns = np.swapaxes(u[..., :rank] * s[..., None, :rank], -1, -2)
    return np.ascontiguousarray(np.stack([columns, vt[..., :rank, :]]), np.float32)


def _outer(factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The (ny_cells, nx_cells, size, size) stamps that factors stand for."""
    stamps: NDArray[np.float32] = np.einsum("yxrj,yxri->yxji", factors[0], factors[1])
    return stamps
