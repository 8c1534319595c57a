"""Science minus PSF-matched template, with variance, mask, white noise and its own PSF."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import numpy as np

from promptdia.tasks.convolve import Tiles, VaryingFilter
from promptdia.tasks.decorrelate import Noise, Whitened, decorrelate
from promptdia.tasks.difference_mask import (
    Filled,
    broken_pixels,
    fill_broken,
    merged_mask,
    spread_mask,
)
from promptdia.tasks.difference_noise import matched_noise, pixel_noise
from promptdia.tasks.errors import NoWork, TaskError
from promptdia.tasks.kernel_basis import (
    KernelBasis,
    basis_half_width,
    delta_basis,
    gauss_hermite_basis,
)
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
from promptdia.tasks.parallel import over_strips
from promptdia.tasks.resampling import RESAMPLED
from promptdia.tasks.residual_sky import residual_sky

WORTHLESS = (
    MaskPlane.BAD
    | MaskPlane.SAT
    | MaskPlane.SAT_TEMPLATE
    | MaskPlane.NEAR_BRIGHT
    | MaskPlane.NO_DATA
)
"""Pixels that are kept out of the whitening filter, which would spread them."""
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
        _check(science, template)
        mask = merged_mask(science.mask, template.mask)
        coverage = _coverage(mask, self.config.min_coverage)
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
        spread_mask(
            mask,
            sides.science if reverse else sides.template,
            kernel.in_the_middle(),
            science.variance,
            self.config.max_masked_kernel,
            self.config.max_unknown_sigma,
        )
        raw, usable = self._difference(match, mask)
        white = decorrelate(
            _without(raw, usable),
            Noise(science.variance, float(science.notes.get(RESAMPLED, 0.0))),
            Noise(template.variance, float(template.notes.get(RESAMPLED, 0.0))),
            match.filters,
            science.require_psf(),
        )
        sky = _complete(white, raw, usable, mask)
        noise, scale = _noise(white, sky, self.config.scale_variance)
        metrics = {
            "kernel_sum": kernel.mean_sum,
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
            image=white.image,
            variance=white.variance,
            mask=mask,
            psf=white.psf,
            notes={**science.notes, **{f"subtract_{name}": v for name, v in metrics.items()}},
        )
        matched = TemplateExposure.of(
            template,
            image=match.template,
            variance=_scaled_variance(template.variance, kernel, reverse),
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
        reach = max(basis_half_width(width), self.config.kernel.delta_half_width)
        border = size // 2 + reach + int(MAX_SHIFT_PX) + 1
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
        basis = self._basis(width, (float(centre[0]), float(centre[1])))
        images = [
            (side.image, exposure.variance, exposure.mask)
            for side, exposure in ((sides.science, science), (sides.template, template))
        ]
        moving, fixed = images if reverse else images[::-1]
        stamps = cut_stamps(
            x, y, size, basis.half_width, moving, fixed, self.config.max_lost_pixels
        )
        return fit_matching_kernel(stamps, basis, science.shape, self.config.kernel), shift

    def _basis(self, width: float, centre: tuple[float, float]) -> KernelBasis:
        if self.config.kernel.basis == "gauss-hermite":
            return gauss_hermite_basis(width, centre)
        beyond = int(np.ceil(np.abs(centre).max() - 0.5))
        return delta_basis(self.config.kernel.delta_half_width + beyond)

    def _difference(self, match: "_Match", mask: Mask) -> tuple[Image, Bools]:
        """Science minus template without residual sky, and where it may be filtered."""
        raw, usable = np.empty(mask.shape, np.float32), np.empty(mask.shape, bool)

        def subtract(first: int, end: int) -> None:
            rows = slice(first, end)
            np.subtract(match.science[rows], match.template[rows], out=raw[rows])
            usable[rows] = ~has(mask[rows], WORTHLESS)

        over_strips(subtract, mask.shape[0])
        sky = residual_sky(raw, usable, self.config.sky_block_px)

        def level(first: int, end: int) -> None:
            raw[first:end] -= sky.on_rows(slice(first, end))

        over_strips(level, mask.shape[0])
        return raw, usable


class _Sides(NamedTuple):
    science: Filled
    template: Filled


class _Match(NamedTuple):
    """The two planes whose difference is taken, on the science image's flux scale."""

    science: Image
    template: Image
    filters: tuple[VaryingFilter, VaryingFilter]
    """What made them from the science image and from the template."""


def _check(science: Exposure, template: Exposure) -> None:
    if template.visit.band != science.visit.band:
        raise WrongTemplate(
            f"template is in band {template.visit.band!r}, science in {science.visit.band!r}"
        )
    if template.shape != science.shape:
        raise WrongTemplate(f"template has shape {template.shape}, science {science.shape}")


def _coverage(mask: Mask, least: float) -> float:
    """The fraction of pixels that both images have."""
    missing = np.empty(mask.shape[0])

    def count(first: int, end: int) -> None:
        missing[first:end] = has(mask[first:end], MaskPlane.NO_DATA).mean(axis=1)

    over_strips(count, mask.shape[0])
    coverage = 1.0 - float(missing.mean())
    if coverage < least:
        raise NoWork(f"template covers {coverage:.3f} of the detector, needs {least}")
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
    shape = sides.science.image.shape
    tiles = Tiles.around(shape, kernel.basis.half_width)
    moving = sides.science.image if reverse else sides.template.image
    convolved = tiles.convolve(moving, kernel.filter())
    other = np.empty(shape, np.float32) if reverse else sides.science.image

    def finish(first: int, end: int) -> None:
        rows = slice(first, end)
        convolved[rows] += kernel.background_rows(rows)
        if reverse:
            flux_ratio = kernel.sum_rows(rows)
            convolved[rows] /= flux_ratio
            np.divide(sides.template.image[rows], flux_ratio, out=other[rows])

    over_strips(finish, shape[0])
    if not reverse:
        filters = VaryingFilter.point(), kernel.filter()
        return _Match(other, convolved, filters)
    filters = kernel.filter_of_unit_sum(), VaryingFilter.point(lambda x, y: 1 / kernel.sum_at(x, y))
    return _Match(convolved, other, filters)


def _without(raw: Image, usable: Bools) -> Image:
    """The difference with 0 in what is not usable."""
    clear = np.zeros(raw.shape, np.float32)
    over_strips(
        lambda a, b: np.copyto(clear[a:b], raw[a:b], where=usable[a:b]),
        raw.shape[0],
    )
    return clear


def _complete(white: Whitened, raw: Image, usable: Bools, mask: Mask) -> Bools:
    """Put into the whitened difference what was kept out of the filter; where nothing is masked."""
    clear = np.empty(mask.shape, bool)

    def strip(first: int, end: int) -> None:
        rows = slice(first, end)
        np.copyto(white.image[rows], raw[rows], where=~usable[rows])
        unknown = has(mask[rows], MaskPlane.NO_DATA)
        white.image[rows][unknown] = 0
        white.variance[rows][unknown] = np.inf
        np.equal(mask[rows], 0, out=clear[rows])

    over_strips(strip, mask.shape[0])
    return clear


def _scaled_variance(variance: Image, kernel: MatchingKernel, reverse: bool) -> Image:
    """On the science image's flux scale."""
    out = np.empty(variance.shape, np.float32)

    def strip(first: int, end: int) -> None:
        rows = slice(first, end)
        factor = kernel.sum_rows(rows) ** 2
        (np.divide if reverse else np.multiply)(variance[rows], factor, out=out[rows])

    over_strips(strip, variance.shape[0])
    return out


def _noise(white: Whitened, sky: Bools, scaled: bool) -> tuple[dict[str, float], float]:
    """The noise metrics, and the factor that the variance is multiplied by here."""
    noise, correlation = pixel_noise(white.image, white.variance, sky)
    matched = matched_noise(white.image, white.variance, sky, white.psf)
    scale = noise**2 if scaled and np.isfinite(noise) and noise > 0 else 1.0
    factor = np.float32(scale)

    def strip(first: int, end: int) -> None:
        white.variance[first:end] *= factor

    over_strips(strip, sky.shape[0])
    return {"noise": noise, "noise_matched": matched, "correlation": correlation}, scale
