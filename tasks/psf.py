"""The PSF of a direct image: pixel stamps that vary smoothly over the detector."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from promptdia.tasks.errors import TaskError, TooFewStars
from promptdia.tasks.model.arrays import Bools, Catalog, Ints
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.psf import (
    FWHM_PER_SIGMA,
    PolynomialPsf,
    effective_area,
    gaussian_stamp,
)
from promptdia.tasks.psf_model import StarModel, with_order
from promptdia.tasks.psf_quality import psf_quality
from promptdia.tasks.psf_stars import StarStamps, cut_stamps, select_stars
from promptdia.tasks.robust import MAD_TO_SIGMA


@dataclass(frozen=True, slots=True)
class PsfConfig:
    min_snr: float = 30.0
    """Of a PSF star, in the calibration aperture."""
    sparse_min_snr: float = 10.0
    """The same, where fewer stars than a linear variation needs pass the first."""
    max_stars: int = 200
    """At most this many are fitted."""
    min_stars: int = 5
    """Fewer end the task."""
    wanted_isolated: int = 30
    """With fewer isolated stars, blended ones are fitted too, their neighbours modelled."""
    stars_for_order: tuple[int, int] = (18, 45)
    """Stars needed for a linear and for a quadratic variation."""
    size_fwhm: float = 5.0
    """Side of a stamp in FWHM."""
    max_size_px: int = 51
    iterations: int = 8
    model_error: float = 0.01
    """Relative error of a model pixel; keeps single bright stars from ruling the fit."""
    clip_sigma: float = 4.0
    """Stars whose chi2 lies farther above the median are dropped."""
    held_out_stars: int = 30
    """From this number on, one star in six judges the fit instead of joining it."""


class PsfFit(NamedTuple):
    """The PSF, the sources it was fitted on, and how good it is."""

    psf: PolynomialPsf
    """Of unit sum."""
    used: Bools
    """(n_sources,)."""
    quality: dict[str, float]
    """nPsfStar and psfStarDelta* as Rubin names them (star minus model), and
    heldOutFluxResidual: relative flux that the model leaves in stars not fitted (nan when
    all were), heldOutFluxScatter: its robust scatter, psfChi2: of the fitted stars."""


@dataclass(frozen=True, slots=True)
class FitPsf:
    """Fit stamps whose pixels are Chebyshev polynomials of the position.

    Each star's stamp is modelled as flux x PSF shifted to the star's sub-pixel position
    (the residuals are shifted back and fitted, pixel by pixel, as in Anderson & King
    2000), so that undersampled stars are modelled rather than interpolated.
    """

    config: PsfConfig

    def run(self, exposure: Exposure, sources: Catalog) -> PsfFit:
        """The PSF; raises TooFewStars below ``min_stars``."""
        config = self.config
        rows = self._select(sources, exposure.shape, config.min_snr)
        if rows.size < config.stars_for_order[0]:
            rows = self._select(sources, exposure.shape, config.sparse_min_snr)
        self._need(rows.size)
        fwhm = float(np.median(sources["fwhm"][rows]))
        size = min(2 * int(np.ceil(config.size_fwhm / 2 * fwhm)) + 1, config.max_size_px)
        stamps = cut_stamps(exposure, sources, rows, size)
        core = stamps.good[:, size // 2 - 1 : size // 2 + 2, size // 2 - 1 : size // 2 + 2]
        whole: Bools = np.asarray(core.all(axis=(1, 2)))
        stamps = stamps.take(whole)
        self._need(len(stamps))
        judged = np.zeros(len(stamps), bool)
        if len(stamps) >= config.held_out_stars:
            judged[3::6] = True
        model = self._fit(stamps.take(~judged), sources, exposure, fwhm)
        used = np.zeros(sources.size, bool)
        used[model.stamps.index] = True
        return PsfFit(model.psf, used, psf_quality(model, stamps.take(judged), sources))

    def _select(self, sources: Catalog, shape: tuple[int, int], min_snr: float) -> Ints:
        config = self.config
        return select_stars(sources, shape, min_snr, config.max_stars, config.wanted_isolated)

    def _need(self, found: int) -> None:
        if found < self.config.min_stars:
            raise TooFewStars("the star selection", found, self.config.min_stars)

    def _fit(
        self, stamps: StarStamps, sources: Catalog, exposure: Exposure, fwhm: float
    ) -> StarModel:
        ny, nx = exposure.shape
        size = stamps.data.shape[1]
        coefficients = gaussian_stamp(fwhm / FWHM_PER_SIGMA, size)[None]
        psf = PolynomialPsf(coefficients, 0, (0.0, nx - 1.0), (0.0, ny - 1.0))
        psf = with_order(psf, self._order(len(stamps)))
        model = StarModel.start(stamps, sources, psf, fwhm)
        for iteration in range(self.config.iterations):
            model = model.refitted(self.config.model_error)
            model = replace(model, psf=model.corrected_psf(self.config.model_error))
            if iteration in (2, 4):
                model = self._clipped(model)
            if iteration >= 1:
                model = model.recentred(self.config.model_error)
        _check_size(model.psf, fwhm)
        return model.refitted(self.config.model_error)

    def _clipped(self, model: StarModel) -> StarModel:
        """Without the stars, and the pixels, that do not look like the others."""
        chi2 = model.chi2(self.config.model_error)
        spread = MAD_TO_SIGMA * float(np.median(np.abs(chi2 - np.median(chi2))))
        keep = chi2 <= np.median(chi2) + self.config.clip_sigma * max(spread, 0.1)
        model = model.take(keep)
        self._need(len(model.stamps))
        order = min(model.psf.order, self._order(len(model.stamps)))
        model = replace(model, psf=with_order(model.psf, order))
        strange = np.abs(model.residuals()) > 6.0 * np.sqrt(model.variance(0.05))
        return replace(model, stamps=model.stamps.without(strange))

    def _order(self, n_stars: int) -> int:
        return sum(n_stars >= needed for needed in self.config.stars_for_order)


def _check_size(psf: PolynomialPsf, fwhm: float) -> None:
    """TaskError when the model is not as large as the stars, at the centre or in a corner."""
    (x0, x1), (y0, y1) = psf.x_range, psf.y_range
    x = np.array([(x0 + x1) / 2, x0, x1, x0, x1])
    y = np.array([(y0 + y1) / 2, y0, y0, y1, y1])
    area = effective_area(psf.stamps(x, y))
    size = FWHM_PER_SIGMA * np.sqrt(area / (4.0 * np.pi))
    if not ((size > 0.6 * fwhm) & (size < 1.7 * fwhm)).all():
        raise TaskError(
            f"the model's FWHM ranges from {size.min():.2f} to {size.max():.2f} pixels over the "
            f"detector while the stars have {fwhm:.2f}"
        )
