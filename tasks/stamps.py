"""Pixels around sources, scaled so that sources of any camera and either sign look alike."""

from dataclasses import dataclass

import numpy as np

from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Image, Ints
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.psf import FWHM_PER_SIGMA, Psf, effective_area
from promptdia.tasks.psf_photometry import shift_stamps

HALF_WIDTH_FWHM = 3.5
SMALLEST_HALF, LARGEST_HALF = 8, 28

UNKNOWN = MaskPlane.NO_DATA | MaskPlane.BAD | MaskPlane.SAT | MaskPlane.SAT_TEMPLATE
"""Pixels whose values say nothing."""


@dataclass(frozen=True, slots=True, eq=False)
class Stamps:
    """Squares around n sources, each (n, side, side)."""

    change: Image
    """Difference over its error, times the sign of the source; 0 where not ``good``."""
    brighter: Image
    """The image in which the source is brighter, over its background noise."""
    fainter: Image
    """The other image: the template of a positive source, the visit of a negative one."""
    good: Bools
    """The difference is known here."""
    mask: Ints
    """Bits of MaskPlane of the difference; NO_DATA off the detector."""
    psf: Image
    """PSF of the difference at the source."""
    dx: Image
    """Columns from the source, in FWHM."""
    dy: Image
    distance: Image
    """From the source, in FWHM."""
    brighter_noise: Floats
    """(n,) background noise of ``brighter``, nJy."""
    fainter_noise: Floats
    change_noise: Floats
    fwhm_px: Floats
    """(n,) of the difference's PSF."""


def cut_stamps(
    sources: Catalog, difference: Exposure, science: Exposure, template: Exposure
) -> Stamps:
    """Stamps around DIA_SOURCE rows; all three exposures share the pixel grid."""
    x, y = (np.nan_to_num(sources[name].astype(float)) for name in ("x", "y"))
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    psf_stamps = difference.require_psf().stamps(x, y)
    fwhm = FWHM_PER_SIGMA * np.sqrt(effective_area(psf_stamps) / (4.0 * np.pi))
    ny, nx = difference.shape
    typical = mean_fwhm_px(difference.psf, (ny, nx))
    half = int(np.clip(np.ceil(HALF_WIDTH_FWHM * typical), SMALLEST_HALF, LARGEST_HALF))
    step = np.arange(-half, half + 1)
    rows, columns = row[:, None, None] + step[:, None], column[:, None, None] + step
    inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
    where = np.clip(rows, 0, ny - 1), np.clip(columns, 0, nx - 1)
    mask = np.where(inside, difference.mask[where], MaskPlane.NO_DATA.value).astype(np.int64)
    change, good, noise = _significance(difference, where, mask)
    visit, visit_noise = _in_noise(science, where, inside)
    before, before_noise = _in_noise(template, where, inside)
    negative = np.asarray(sources["isNegative"], bool)
    swap = negative[:, None, None]
    dx = ((columns - x[:, None, None]) / fwhm[:, None, None]).astype(np.float32)
    dy = ((rows - y[:, None, None]) / fwhm[:, None, None]).astype(np.float32)
    return Stamps(
        change=np.where(swap, -change, change),
        brighter=np.where(swap, before, visit),
        fainter=np.where(swap, visit, before),
        good=good,
        mask=mask,
        psf=_resized(shift_stamps(psf_stamps, x - column, y - row), half).astype(np.float32),
        dx=dx,
        dy=dy,
        distance=np.hypot(dx, dy),
        brighter_noise=np.where(negative, before_noise, visit_noise),
        fainter_noise=np.where(negative, visit_noise, before_noise),
        change_noise=noise,
        fwhm_px=fwhm,
    )


def mean_fwhm_px(psf: Psf | None, shape: tuple[int, int]) -> float:
    """FWHM at the middle of an image, nan without a PSF."""
    if psf is None:
        return float("nan")
    ny, nx = shape
    area = effective_area(psf.stamps(np.array([nx / 2.0]), np.array([ny / 2.0])))
    return float(FWHM_PER_SIGMA * np.sqrt(area[0] / (4.0 * np.pi)))


def _significance(
    difference: Exposure, where: tuple[Ints, Ints], mask: Ints
) -> tuple[Image, Bools, Floats]:
    image, variance = difference.image[where], difference.variance[where]
    good = np.isfinite(image) & np.isfinite(variance) & (variance > 0)
    good &= (mask & UNKNOWN.value) == 0
    change = np.where(good, image, 0.0) / np.sqrt(np.where(good, variance, 1.0))
    return change.astype(np.float32), good, _noise(variance, good)


def _in_noise(exposure: Exposure, where: tuple[Ints, Ints], inside: Bools) -> tuple[Image, Floats]:
    image, variance = exposure.image[where], exposure.variance[where]
    known = inside & np.isfinite(image) & np.isfinite(variance) & (variance > 0)
    noise = _noise(variance, known)
    level = np.where(known, image, 0.0) / np.where(np.isfinite(noise), noise, 1.0)[:, None, None]
    return level.astype(np.float32), noise


def _noise(variance: Image, known: Bools) -> Floats:
    """(n,) harmonic mean of the errors, which the sky's pixels dominate; nan when all unknown."""
    weight = np.where(known, 1.0 / np.sqrt(np.where(known, variance, 1.0)), 0.0)
    total, number = weight.sum(axis=(1, 2)), known.sum(axis=(1, 2))
    result: Floats = np.divide(number, total, out=np.full(len(total), np.nan), where=total > 0)
    return result


def _resized(stamps: Floats, half: int) -> Floats:
    """Cut or padded with zeros to 2 half + 1 pixels a side, middle kept."""
    own = stamps.shape[-1] // 2
    if own >= half:
        cut = slice(own - half, own + half + 1)
        return stamps[:, cut, cut]
    margin = half - own
    return np.pad(stamps, ((0, 0), (margin, margin), (margin, margin)))
