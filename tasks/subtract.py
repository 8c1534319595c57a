"""Science minus PSF-matched template, with variance, mask, white noise and its own PSF."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from promptdia.tasks.convolve import Tiles, centred_rfft
from promptdia.tasks.decorrelate import FiltersAt, Noise, Whitened, decorrelate
from promptdia.tasks.difference_mask import (
    Filled,
    broken_pixels,
    fill_broken,
    spread_mask,
    template_bits,
)
from promptdia.tasks.difference_noise import matched_noise, pixel_noise, residual_sky
from promptdia.tasks.errors import NoWork, TaskError
from promptdia.tasks.kernel_basis import basis_half_width, gauss_hermite_basis
from promptdia.tasks.kernel_stamps import choose_stars, cut_stamps, measure_shift
from promptdia.tasks.matching_kernel import KernelConfig, MatchingKernel, fit_matching_kernel
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Image, Mask
from promptdia.tasks.model.exposure import (
    DifferenceExposure,
    Exposure,
    ScienceExposure,
    TemplateExposure,
)
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.psf import FWHM_PER_SIGMA, fwhm_px
from promptdia.tasks.resampling import RESAMPLED

WORTHLESS = (
    MaskPlane.BAD
    | MaskPlane.SAT
    | MaskPlane.SAT_TEMPLATE
    | MaskPlane.NEAR_BRIGHT
    | MaskPlane.NO_DATA
)
"""Pixels that are kept out of the whitening filter, which would spread them."""
NOT_INHERITED = MaskPlane.DETECTED | MaskPlane.DETECTED_NEGATIVE
MIN_SHIFT_PX = 0.1
"""From this misregistration on the kernel is centred on it,"""
MAX_SHIFT_PX = 2.0
"""up to so much."""


class WrongTemplate(TaskError):
    """The template is not of this band or this grid."""


@dataclass(frozen=True, slots=True)
class SubtractConfig:
    """How the template is matched and subtracted."""

    convolve: Literal["auto", "template", "science"] = "auto"
    """Which image is smoothed; auto takes the one with the sharper PSF."""
    kernel: KernelConfig = field(default_factory=KernelConfig)
    """The fit of the matching kernel."""
    stars_per_cell: int = 3
    """Kernel stars in each cell of a 16 x 16 grid."""
    min_star_snr: float = 20.0
    """Lowest S/N of a kernel star."""
    max_lost_pixels: float = 0.2
    """A kernel star is left out when more than this fraction of its pixels is masked."""
    min_coverage: float = 0.1
    """No work when template and science overlap on a smaller fraction of the detector."""
    forgiven_coverage: float = 0.2
    """No work, and not a failure, when the kernel cannot be fitted below this overlap."""
    max_masked_kernel: float = 0.02
    """A pixel is flagged when more than this share of its kernel falls on bad pixels."""
    max_unknown_sigma: float = 0.1
    """NEAR_BRIGHT where saturated pixels may have leaked more than so many sigma: little on
    one pixel is much on a PSF."""
    sky_block_px: int = 128
    """Blocks whose medians are taken off the difference as residual sky; a crowded field with
    an uneven background needs smaller ones (32 to 64)."""
    scale_variance: bool = True
    """Scale the variance so that empty sky has unit scatter."""


class Subtraction(NamedTuple):
    """What the subtraction hands on."""

    difference: DifferenceExposure
    matched: TemplateExposure
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class SubtractTemplate:
    """Subtract the PSF-matched template (Alard & Lupton 1998)."""

    config: SubtractConfig

    def run(
        self, science: ScienceExposure, template: TemplateExposure, sources: Catalog
    ) -> Subtraction:
        """The difference on the science image's flux scale and pixel grid.

        ``sources`` is the science catalogue (SOURCE). ``matched`` is what was subtracted; its
        variance is the level that independent pixels would need to give a PSF flux its true
        error. Metrics: ``kernel_sum`` (science over template flux), ``kernel_stars``,
        ``kernel_stars_tried``, ``kernel_chi2`` (median per pixel), ``noise`` and
        ``noise_matched`` (scatter of pixels and of matched-filter S/N over their sigma, before
        scaling), ``variance_scale`` (what the variance was multiplied by), ``correlation``
        (with the next pixel, after whitening), ``coverage``, ``convolved_science`` (0 or 1),
        ``fwhm_science`` and ``fwhm_template`` (pixels), ``shift_x`` and ``shift_y`` (science
        minus template position, pixels).

        NoWork below ``min_coverage``, or below ``forgiven_coverage`` when the fit fails;
        TooFewStars, KernelFitFailed and WrongTemplate else.
        """
        coverage = _check(science, template, self.config.min_coverage)
        fwhm = np.array([_seeing(science), _seeing(template)])
        reverse = self._convolves_science(fwhm)
        sides = _fill(science, template)
        try:
            kernel, shift = self._fit(science, template, sides, sources, fwhm, reverse)
        except TaskError as failed:
            if coverage < self.config.forgiven_coverage:
                raise NoWork(f"template covers {coverage:.3f} of the detector: {failed}") from None
            raise
        match = _match(sides, kernel, reverse)
        mask = self._mask(science, template, sides, kernel, reverse)
        usable = ~has(mask, WORTHLESS)
        raw = match.science - match.template
        raw -= residual_sky(raw, usable, self.config.sky_block_px)
        white = decorrelate(
            np.where(usable, raw, np.float32(0)),
            Noise(science.variance, float(science.notes.get(RESAMPLED, 0.0))),
            Noise(template.variance, float(template.notes.get(RESAMPLED, 0.0))),
            match.filters_at,
            science.require_psf(),
        )
        image = np.where(usable, white.image, raw)
        unknown = has(mask, MaskPlane.NO_DATA)
        image[unknown] = 0
        white.variance[unknown] = np.inf
        noise, scale = _noise(image, white, mask == 0, self.config.scale_variance)
        metrics = {
            "kernel_sum": float(match.sums.mean()),
            "kernel_stars": float(kernel.stars_used),
            "kernel_stars_tried": float(kernel.stars_tried),
            "kernel_chi2": kernel.chi2,
            **noise,
            "variance_scale": scale,
            "coverage": coverage,
            "convolved_science": float(reverse),
            "fwhm_science": float(fwhm[0]),
            "fwhm_template": float(fwhm[1]),
            "shift_x": float(shift[0]),
            "shift_y": float(shift[1]),
        }
        difference = DifferenceExposure.of(
            science,
            image=image,
            variance=white.variance * np.float32(scale),
            mask=mask,
            psf=white.psf,
            notes={**science.notes, **{f"subtract_{name}": v for name, v in metrics.items()}},
        )
        flux_scale = match.sums if not reverse else 1.0 / match.sums
        matched = TemplateExposure.of(
            template,
            image=match.template,
            variance=template.variance * flux_scale.astype(np.float32) ** 2,
            psf=template.psf if reverse else science.psf,
            photo_calib=science.photo_calib,
        )
        return Subtraction(difference, matched, metrics)

    def _convolves_science(self, fwhm: Floats) -> bool:
        if self.config.convolve == "auto":
            return bool(fwhm[1] > fwhm[0])
        return self.config.convolve == "science"

    def _fit(
        self,
        science: Exposure,
        template: Exposure,
        sides: "_Sides",
        sources: Catalog,
        fwhm: Floats,
        reverse: bool,
    ) -> tuple[MatchingKernel, Floats]:
        """The kernel, and the shift of the science image against the template."""
        size = 2 * int(np.clip(np.ceil(2.4 * fwhm.max()), 8, 18)) + 1
        width = float(np.sqrt(abs(fwhm[0] ** 2 - fwhm[1] ** 2)) / FWHM_PER_SIGMA)
        border = size // 2 + basis_half_width(width) + int(MAX_SHIFT_PX) + 1
        rows = choose_stars(
            sources, science.shape, border, self.config.stars_per_cell, self.config.min_star_snr
        )
        x, y = sources["x"][rows].astype(float), sources["y"][rows].astype(float)
        shift = measure_shift(x, y, sides.science.image, sides.template.image, float(fwhm.mean()))
        centre = -shift if reverse else shift
        centre = (
            centre.clip(-MAX_SHIFT_PX, MAX_SHIFT_PX)
            if np.hypot(*shift) > MIN_SHIFT_PX
            else 0 * shift
        )
        basis = gauss_hermite_basis(width, (float(centre[0]), float(centre[1])))
        images = [
            (side.image, exposure.variance, exposure.mask)
            for side, exposure in ((sides.science, science), (sides.template, template))
        ]
        moving, fixed = images if reverse else images[::-1]
        stamps = cut_stamps(
            x, y, size, basis.half_width, moving, fixed, self.config.max_lost_pixels
        )
        return fit_matching_kernel(stamps, basis, science.shape, self.config.kernel), shift

    def _mask(
        self,
        science: Exposure,
        template: Exposure,
        sides: "_Sides",
        kernel: MatchingKernel,
        reverse: bool,
    ) -> Mask:
        """Both masks, that of the convolved image as far as the convolution takes it."""
        bits = [science.mask & ~NOT_INHERITED.value, template_bits(template.mask)]
        ny, nx = science.shape
        middle = kernel.at(np.array([nx / 2]), np.array([ny / 2]))[0]
        moving = 0 if reverse else 1
        spread = spread_mask(
            bits[moving], sides[moving], middle, science.variance,
            self.config.max_masked_kernel, self.config.max_unknown_sigma,
        )  # fmt: skip
        return bits[1 - moving] | spread


class _Sides(NamedTuple):
    science: Filled
    template: Filled


class _Match(NamedTuple):
    """The two planes whose difference is taken, on the science image's flux scale."""

    science: Image
    template: Image
    sums: Image
    """(ny, nx) kernel sum."""
    filters_at: FiltersAt


def _check(science: Exposure, template: Exposure, min_coverage: float) -> float:
    """The fraction of pixels that both images have."""
    if template.visit.band != science.visit.band:
        raise WrongTemplate(
            f"template is in band {template.visit.band!r}, science in {science.visit.band!r}"
        )
    if template.shape != science.shape:
        raise WrongTemplate(f"template has shape {template.shape}, science {science.shape}")
    both = has(science.mask | template.mask, MaskPlane.NO_DATA)
    coverage = 1.0 - float(both.mean())
    if coverage < min_coverage:
        raise NoWork(f"template covers {coverage:.3f} of the detector, needs {min_coverage}")
    return coverage


def _seeing(exposure: Exposure) -> float:
    """Median FWHM on a 3 x 3 grid, pixels."""
    psf = exposure.require_psf()
    ny, nx = exposure.shape
    at = [fwhm_px(psf, fx * nx, fy * ny) for fx in (0.2, 0.5, 0.8) for fy in (0.2, 0.5, 0.8)]
    return float(np.median(at))


def _fill(science: Exposure, template: Exposure) -> _Sides:
    broken = broken_pixels(science), broken_pixels(template)
    return _Sides(
        fill_broken(science, template, broken[0], broken[1]),
        fill_broken(template, science, broken[1], broken[0]),
    )


def _match(sides: _Sides, kernel: MatchingKernel, reverse: bool) -> _Match:
    """Convolve one image; with ``reverse`` the science image, which is then rescaled."""
    sums, background = kernel.sum_plane(), kernel.background_plane()
    moving = sides.science.image if reverse else sides.template.image
    tiles = Tiles.around(sides.science.image.shape, kernel.basis.half_width)
    convolved = tiles.convolve(
        moving,
        lambda row: centred_rfft(
            kernel.at(tiles.x, np.full(tiles.x.size, tiles.y[row])), tiles.side
        ),
    )
    convolved += background

    def filters_at(x: Floats, y: Floats) -> tuple[Floats, Floats]:
        kernels = kernel.at(x, y)
        one = np.ones((x.size, 1, 1))
        if not reverse:
            return one, kernels
        total = kernel.sum_at(x, y)[:, None, None]
        return kernels / total, one / total

    if reverse:
        return _Match(convolved / sums, sides.template.image / sums, sums, filters_at)
    return _Match(sides.science.image, convolved, sums, filters_at)


def _noise(
    image: Image, white: Whitened, sky: Bools, scaled: bool
) -> tuple[dict[str, float], float]:
    """The noise metrics, and the factor for the variance."""
    noise, correlation = pixel_noise(image, white.variance, sky)
    scale = noise**2 if scaled and np.isfinite(noise) and noise > 0 else 1.0
    matched = matched_noise(image, white.variance, sky, white.psf)
    return {"noise": noise, "noise_matched": matched, "correlation": correlation}, scale
