"""Sources on the difference image: a matched filter at 5 sigma, both signs."""

from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from promptdia.tasks.bright import near_bright
from promptdia.tasks.doubt import bright_pixels, doubt_scale
from promptdia.tasks.errors import NoUsablePixels, TaskError
from promptdia.tasks.footprints import (
    NEGATIVE,
    POSITIVE,
    Footprints,
    find_footprints,
    significant_pixels,
)
from promptdia.tasks.kernels.detect import find_usable
from promptdia.tasks.matched_filter import CellPsf, cell_psf, signal_to_noise, trust
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Image, Ints, Mask
from promptdia.tasks.model.exposure import (
    DifferenceExposure,
    Exposure,
    ScienceExposure,
    TemplateExposure,
)
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.psf import FWHM_PER_SIGMA, fwhm_px
from promptdia.tasks.robust import MAD_TO_SIGMA
from promptdia.tasks.sky_sources import sky_fluxes
from promptdia.tasks.streaks import StreakConfig, find_streaks, is_charge_trail
from promptdia.tasks.tails import StarsHaveTails, tail

UNUSABLE = (
    MaskPlane.BAD
    | MaskPlane.SAT
    | MaskPlane.CR
    | MaskPlane.EDGE
    | MaskPlane.NO_DATA
    | MaskPlane.SAT_TEMPLATE
)
"""Pixels that carry no weight in detection and measurement."""
NOT_EMPTY = (
    MaskPlane.DETECTED
    | MaskPlane.DETECTED_NEGATIVE
    | MaskPlane.NEAR_BRIGHT
    | MaskPlane.STREAK
    | MaskPlane.SPIKE
)
"""Planes without which a good pixel counts as sky."""
QUIET_CELL_PX = 8
"""Noise is measured in squares of this side without, and not next to, a significant pixel."""
MIN_SAMPLE = 200
"""Fewest values from which noise is measured."""


@dataclass(frozen=True, slots=True)
class DetectConfig:
    """How sources are found on a difference."""

    threshold: float = 5.0
    """Least |S/N| of a peak."""
    psf_cell_px: int = 256
    """Side of the squares in which one PSF is used for the filter."""
    grow_sigmas: float = 2.4
    """Footprints grow by this many PSF sigmas, and those that touch become one ..."""
    min_separation_fwhm: float = 1.5
    """... unless they have one sign and peaks this far apart that stand clear."""
    registration_error_px: float = 0.03
    """Misplacement of template stars that is counted as noise, per axis."""
    flux_error: float = 0.01
    """Error of a star's template flux that is counted as noise, a fraction."""
    max_doubt: float = 10.0
    """Where the bright stars of a frame show larger errors, both are multiplied by what they
    show, at most by this; 1: never."""
    background_cell_px: int = 128
    """Medians in squares of this side are subtracted from the difference; 0: none."""
    rescale_noise: bool = True
    """Scale the variance so that the empty difference has unit noise in S/N."""
    rescale_tolerance: float = 0.03
    """The variance is left alone while the noise of S/N is this near 1."""
    bright_margin_fwhm: float = 1.0
    """NEAR_BRIGHT reaches this many FWHM beyond saturated pixels ..."""
    bright_margin_radius: float = 0.3
    """... plus this many radii of a circle with the saturated area ..."""
    bright_margin_max_px: float = 60.0
    """... but not farther."""
    streaks: StreakConfig | None = field(default_factory=StreakConfig)
    """None: streaks are not looked for."""
    max_tail: float | None = 0.0015
    """A frame fails when its stars have tails brighter than this part of their peaks."""
    sky_sources: int = 100
    """Places where nothing is at which PSF fluxes are taken for control ..."""
    sky_radius_fwhm: float = 1.5
    """... and the radius of their fits."""
    max_detections: int = 20_000
    """More than this is a failed subtraction, not a sky."""


class TooManyDetections(TaskError):
    """The difference is full of residuals."""

    def __init__(self, found: int, allowed: int) -> None:
        super().__init__(
            f"found {found} detections on the difference, at most {allowed} make sense"
        )


class Detections(NamedTuple):
    """The difference with its detections marked, and what was detected."""

    difference: DifferenceExposure
    """Local background removed, variance rescaled if it had to be; planes DETECTED,
    DETECTED_NEGATIVE, NEAR_BRIGHT and STREAK set. ``notes`` hold ``detect.*`` figures."""
    peaks: Catalog
    """(n,) rows of footprints.PEAK."""
    pixels: Ints
    """Flat indices of the pixels of all footprints, one detection after the other."""
    starts: Ints
    """(n,) where each detection's pixels begin."""


@dataclass(frozen=True, slots=True)
class DetectDiaSources:
    """Find what changed."""

    config: DetectConfig

    def run(
        self,
        difference: DifferenceExposure,
        science: ScienceExposure,
        matched: TemplateExposure,
    ) -> Detections:
        """Detections of both signs; those of opposite sign that touch are one.

        ``science`` and ``matched`` (the template as it was subtracted) lie on the same
        pixels. Raises NoUsablePixels, StarsHaveTails, or TooManyDetections for a hopeless
        difference.
        """
        cfg = self.config
        _check_shapes(difference, science, matched)
        good = usable(difference)
        if not good.any():
            raise NoUsablePixels("difference image", "every pixel is masked or has no variance")
        image = difference.image - local_background(difference.image, good, cfg.background_cell_px)
        fwhm = fwhm_px(difference.require_psf(), *(side / 2 for side in difference.shape[::-1]))
        filters = cell_psf(difference.require_psf(), difference.shape, cfg.psf_cell_px)
        snr = signal_to_noise(image, difference.variance, good, filters)
        noise = noise_scale(snr, good, cfg.threshold)
        scale = noise if cfg.rescale_noise and abs(noise - 1) > cfg.rescale_tolerance else 1.0
        variance = (
            difference.variance if scale == 1.0 else difference.variance * np.float32(scale**2)
        )
        if scale != 1.0:
            snr /= np.float32(scale)
        snr[has(difference.mask, MaskPlane.NO_DATA)] = 0.0
        tails = tail(image, matched.image, variance, good, fwhm)
        if cfg.max_tail is not None and tails > cfg.max_tail:
            raise StarsHaveTails(tails, cfg.max_tail)
        doubt = self._doubt(snr, matched.image, variance, good, filters)
        grow = int(cfg.grow_sigmas * fwhm / FWHM_PER_SIGMA + 0.5)
        found = find_footprints(snr, cfg.threshold, grow, cfg.min_separation_fwhm * fwhm)
        if len(found.peaks) > cfg.max_detections:
            raise TooManyDetections(len(found.peaks), cfg.max_detections)
        mask, n_streaks = self._marked(difference.mask, image, variance, good, found, fwhm)
        notes = {
            **difference.notes,
            "detect.noiseScale": noise,
            "detect.varianceRescaled": scale**2,
            "detect.doubtScale": doubt,
            "detect.tail": tails,
            "detect.nStreaks": n_streaks,
            "detect.nDetections": len(found.peaks),
        }
        marked = difference.replace(image=image, variance=variance, mask=mask)
        empty = good & ~has(mask, NOT_EMPTY)
        sky = sky_fluxes(marked, empty, cfg.sky_sources, cfg.sky_radius_fwhm * fwhm)
        marked = marked.replace(notes={**notes, **sky})
        return Detections(marked, found.peaks, found.pixels, found.starts)

    def _doubt(
        self, snr: Image, static: Image, variance: Image, good: Bools, filters: CellPsf
    ) -> float:
        """Lower S/N, in place, where misplaced or mis-scaled template light explains it.

        Returns by how much more than the settings say the bright stars are off.
        """
        cfg = self.config
        errors = np.array([cfg.registration_error_px, cfg.flux_error])
        y, x = bright_pixels(static, variance, good)
        trusted = trust(static, variance, good, filters, x, y, *errors)
        more = min(doubt_scale(snr[y, x], trusted), cfg.max_doubt)
        y, x = significant_pixels(snr, cfg.threshold)
        snr[y, x] *= trust(static, variance, good, filters, x, y, *(more * errors))
        return more

    def _marked(
        self,
        mask: Mask,
        image: Image,
        variance: Image,
        good: Bools,
        found: Footprints,
        fwhm: float,
    ) -> tuple[Mask, int]:
        """The mask with all that detection adds to it, and how many streaks there are."""
        cfg = self.config
        detected = MaskPlane.DETECTED | MaskPlane.DETECTED_NEGATIVE
        marked = mask & np.int32(~detected.value)
        for sign, plane in (
            (POSITIVE, MaskPlane.DETECTED),
            (NEGATIVE, MaskPlane.DETECTED_NEGATIVE),
        ):
            marked.ravel()[found.pixels[(found.signs & sign) != 0]] |= plane.value
        saturated = has(mask, MaskPlane.SAT | MaskPlane.SAT_TEMPLATE)
        near = near_bright(
            saturated,
            cfg.bright_margin_fwhm * fwhm,
            cfg.bright_margin_radius,
            cfg.bright_margin_max_px,
        )
        marked[near] |= MaskPlane.NEAR_BRIGHT.value
        if cfg.streaks is None:
            return marked, 0
        streaks = find_streaks(image, variance, good & ~near, cfg.streaks)
        trails = [is_charge_trail(streak, saturated) for streak in streaks]
        for streak, trail in zip(streaks, trails):
            plane = MaskPlane.SPIKE if trail else MaskPlane.STREAK
            marked[streak.mask(image.shape)] |= plane.value
        return marked, len(streaks) - sum(trails)


def usable(exposure: Exposure) -> Bools:
    """(ny, nx) True on pixels that may take part in detection and measurement."""
    good = np.empty(exposure.shape, bool)
    image = np.ascontiguousarray(exposure.image, np.float32)
    variance = np.ascontiguousarray(exposure.variance, np.float32)
    find_usable(image, variance, np.ascontiguousarray(exposure.mask), UNUSABLE.value, good)
    return good


def noise_scale(snr: Image, good: Bools, threshold: float) -> float:
    """Robust standard deviation of S/N away from sources, from every 5th pixel per axis.

    1 when there are too few pixels to tell.
    """
    busy = np.zeros([side // QUIET_CELL_PX + 1 for side in snr.shape], bool)
    y, x = significant_pixels(snr, threshold)
    busy[y // QUIET_CELL_PX, x // QUIET_CELL_PX] = True
    busy = ndimage.binary_dilation(busy, np.ones((3, 3)))
    rows, columns = (np.arange(0, side, 5) for side in snr.shape)
    quiet = ~busy[np.ix_(rows // QUIET_CELL_PX, columns // QUIET_CELL_PX)]
    sample, usable_sample = snr[::5, ::5], good[::5, ::5]
    values = sample[usable_sample & quiet]
    if values.size < MIN_SAMPLE:
        values = sample[usable_sample]
    if values.size < MIN_SAMPLE:
        return 1.0
    return float(MAD_TO_SIGMA * np.median(np.abs(values - np.median(values))))


def local_background(image: Image, good: Bools, cell_px: int) -> Image:
    """Medians of cells, smoothed over 3 x 3 and interpolated; (ny, nx), 0 where unknown."""
    if cell_px == 0 or min(image.shape) < cell_px:
        return np.zeros_like(image)
    stride = max(1, cell_px // 32)
    sample = np.where(good[::stride, ::stride], image[::stride, ::stride], np.nan)
    edges = [np.linspace(0, side, max(1, round(side / cell_px)) + 1) for side in image.shape]
    rows, columns = (np.rint(edge / stride).astype(int) for edge in edges)
    cells = np.array(
        [
            [_median(sample[y0:y1, x0:x1]) for x0, x1 in pairwise(columns)]
            for y0, y1 in pairwise(rows)
        ]
    )
    around = np.lib.stride_tricks.sliding_window_view(_extended(cells), (3, 3))
    smooth = _extended(np.median(around, axis=(-2, -1))).astype(np.float32)
    weights_y, weights_x = (_hat_weights(edge) for edge in edges)
    background = (weights_y @ smooth) @ weights_x.T
    return background.astype(np.float32, copy=False)


def _extended(cells: Floats) -> Floats:
    """One more cell on every side, on the straight line through the outer ones."""
    for axis in (0, 1):
        pad = [(1, 1) if k == axis else (0, 0) for k in (0, 1)]
        if cells.shape[axis] > 1:
            cells = np.pad(cells, pad, mode="reflect", reflect_type="odd")
        else:
            cells = np.pad(cells, pad, mode="edge")
    return cells


def _median(values: Image) -> float:
    seen = values[np.isfinite(values)]
    return float(np.median(seen)) if seen.size > 0.1 * values.size else 0.0


def _hat_weights(edges: Floats) -> Image:
    """(side, cells + 2) linear interpolation between the middles of extended cells."""
    middles = _middles(edges)
    pixels = np.arange(int(edges[-1]))
    columns = [np.interp(pixels, middles, unit) for unit in np.eye(middles.size)]
    return np.stack(columns, axis=1).astype(np.float32)


def _middles(edges: Floats) -> Floats:
    step = edges[1] - edges[0]
    longer = np.concatenate([[edges[0] - step], edges, [edges[-1] + step]])
    middles: Floats = 0.5 * (longer[:-1] + longer[1:]) - 0.5
    return middles


def _check_shapes(*exposures: Exposure) -> None:
    shapes = {exposure.shape for exposure in exposures}
    if len(shapes) > 1:
        raise ValueError(f"difference, science and template differ in shape: {sorted(shapes)}")
