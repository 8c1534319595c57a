"""The photometric zero point from matched reference stars."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.stats import chi2

from promptdia.tasks.astrometry import Astrometry
from promptdia.tasks.errors import TaskError, TooFewStars
from promptdia.tasks.model.arrays import Bools, Catalog, Floats
from promptdia.tasks.model.photo_calib import AB_ZERO_NJY, PhotoCalib
from promptdia.tasks.model.psf import polynomial_terms, scaled
from promptdia.tasks.robust import MAD_TO_SIGMA

MAG_PER_LN = 2.5 / np.log(10.0)


@dataclass(frozen=True, slots=True)
class ColourTerm:
    """What turns a catalogue magnitude into the camera's band."""

    bands: tuple[str, str]
    """The colour, first minus second, in the catalogue."""
    slope: float
    """Magnitudes to add per magnitude of colour."""


@dataclass(frozen=True, slots=True)
class PhotometryConfig:
    min_snr: float = 10.0
    """Of a star's PSF flux."""
    max_extendedness: float = 0.5
    """Wider sources are no stars."""
    min_stars: int = 3
    """Fewer end the task."""
    floor_mag: float = 0.003
    """Least error of any star beyond the statistical one; more where the stars scatter more."""
    clip_sigma: float = 3.0
    wanted_isolated: int = 15
    """With fewer isolated stars, blended ones count too."""
    unseen_light: float = 0.5
    """Size of what undetected sources usually put into the flux of any star, in noises of the
    sky."""
    colour_terms: dict[str, ColourTerm] = field(default_factory=dict)
    """By band; stars without the colour do not count then."""
    max_order: int = 2
    """Of the polynomial by which PSF fluxes may differ from the catalogue over the field."""
    chance: float = 1e-4
    """How likely noise may feign that difference, at most, for it to be taken out."""
    stars_per_term: int = 10


class Photometry(NamedTuple):
    """The zero point and the stars it rests on."""

    photo_calib: PhotoCalib
    excess: Floats
    """(n_terms,) relative, of the PSF fluxes over the field, by ``polynomial_terms``: to be taken
    out of them. The constant is 0; one term where nothing varies."""
    used: Bools
    """(n_sources,)."""
    scatter_mag: float
    """Robust scatter of single stars about the zero point."""
    error_mag: float
    """Of the zero point."""
    residual_mag: Floats
    """(n_sources,) catalogue less calibrated magnitude of the stars used, else nan."""


@dataclass(frozen=True, slots=True)
class SolvePhotometry:
    """One zero point for the detector: the PSF flux of a star is its catalogue flux.

    Where the stars show beyond doubt that the two differ with the position, the PSF fluxes are
    to be corrected by a polynomial. What undetected sources add to every flux alike is fitted
    too, and neither counts as sensitivity nor is taken out of the fluxes.
    """

    config: PhotometryConfig

    def run(
        self,
        sources: Catalog,
        references: Catalog,
        matches: Astrometry,
        band: str,
        shape: tuple[int, int],
    ) -> Photometry:
        """The calibration of counts to nJy; raises TooFewStars or TaskError."""
        source, reference = matches.source_index, matches.reference_index
        stars, catalogue = sources[source], references[reference]
        flux = self._in_camera_band(catalogue, band)
        known = np.isfinite(flux) & (flux > 0)
        if not known.any():
            raise TaskError(f"none of {source.size} matched references {self._lacks(band)}")
        rows = self._select(stars, known)
        if rows.size < self.config.min_stars:
            raise TooFewStars("the zero point", rows.size, self.config.min_stars)
        counts = stars["psfFlux"][rows].astype(float)
        offset = 2.5 * np.log10(counts / flux[rows])  # a higher one: more counts per nJy
        relative = np.nan_to_num(
            catalogue[f"{band}_fluxErr"][rows] / catalogue[f"{band}_flux"][rows]
        )
        error = MAG_PER_LN * np.hypot(stars["psfFluxErr"][rows] / counts, relative)
        x, y = sources["x"][source[rows]], sources["y"][source[rows]]
        u, v = (scaled(c, (0.0, n - 1.0)) for c, n in zip((x, y), reversed(shape)))
        unseen = MAG_PER_LN * float(stars["psfFluxErr"][rows].min()) / counts
        fit = self._fit(offset, error, unseen, u, v)
        left = offset - fit.model
        scatter = MAD_TO_SIGMA * float(np.median(np.abs(left[fit.kept])))
        residual = np.full(sources.size, np.nan)
        residual[source[rows[fit.kept]]] = left[fit.kept]
        scale = 10 ** (-0.4 * fit.terms[0])
        calib = PhotoCalib(float(scale), float(scale * fit.error / MAG_PER_LN))
        excess = np.append(0.0, fit.terms[1:] / MAG_PER_LN)
        return Photometry(calib, excess, np.isfinite(residual), scatter, fit.error, residual)

    def _in_camera_band(self, catalogue: Catalog, band: str) -> Floats:
        """(n,) catalogue fluxes as the camera's filter would see them; nan where unknown."""
        flux: Floats = catalogue[f"{band}_flux"].astype(float)
        term = self.config.colour_terms.get(band)
        if term is None:
            return flux
        first, second = (catalogue[f"{name}_flux"].astype(float) for name in term.bands)
        with np.errstate(invalid="ignore", divide="ignore"):
            # a colour of c magnitudes is a flux ratio of 10^(-0.4 c)
            return flux * np.where((first > 0) & (second > 0), first / second, np.nan) ** term.slope

    def _lacks(self, band: str) -> str:
        term = self.config.colour_terms.get(band)
        colour = f" and the colour {term.bands[0]}-{term.bands[1]}" if term else ""
        return f"has a flux in band {band}{colour}"

    def _select(self, stars: Catalog, known: Bools) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            good = known & (stars["psfFlux"] >= self.config.min_snr * stars["psfFluxErr"])
            good &= ~(stars["extendedness"] > self.config.max_extendedness)
        for flag in ("flag_saturated", "flag_bad", "flag_edge"):
            good &= ~stars[flag]
        isolated = np.flatnonzero(good & ~stars["flag_blended"])
        return isolated if isolated.size >= self.config.wanted_isolated else np.flatnonzero(good)

    def _fit(self, offset: Floats, error: Floats, unseen: Floats, u: Floats, v: Floats) -> "_Fit":
        """The polynomial of the lowest order that those of higher order do not clearly beat."""
        best = self._fit_order(offset, error, unseen, polynomial_terms(u, v, 0))
        for order in range(1, self.config.max_order + 1):
            other = self._fit_order(offset, error, unseen, polynomial_terms(u, v, order))
            n, more = other.terms.size, other.terms.size - best.terms.size
            clip = self.config.clip_sigma
            chi2s = [
                (np.clip((offset - f.model) / best.sigma, -clip, clip) ** 2).sum()
                for f in (best, other)
            ]
            clear = chi2s[0] - chi2s[1] > chi2.isf(self.config.chance, more)
            if clear and offset.size >= self.config.stars_per_term * n:
                best = other
        return best

    def _fit_order(self, offset: Floats, error: Floats, unseen: Floats, design: Floats) -> "_Fit":
        """Weighted least squares over what lies within the clip, started from the median.

        What the stars scatter beyond their errors is added to the error of each, so that the
        brightest count for as much as they are worth. One term more is light that all fluxes
        hold alike, faint stars' and bright ones'; ``unseen`` (n,) is what a noise of the sky
        makes of each, in magnitudes.
        """
        config = self.config
        design = np.column_stack([design, unseen])
        prior = np.diag([0.0] * (design.shape[1] - 1) + [config.unseen_light**-2])
        kept = np.ones(offset.size, bool)
        terms = np.append(np.median(offset), np.zeros(design.shape[1] - 1))
        off = offset - terms[0]
        extra = max(MAD_TO_SIGMA * float(np.median(np.abs(off))), config.floor_mag) ** 2
        for _ in range(20):
            sigma = np.sqrt(error**2 + extra)
            fresh = np.abs(offset - design @ terms) <= config.clip_sigma * sigma
            if fresh.sum() >= max(config.min_stars, design.shape[1]):
                kept = fresh
            weighted = design * (kept / sigma**2)[:, None]
            covariance = np.linalg.pinv(weighted.T @ design + prior)
            terms = covariance @ (weighted.T @ offset)
            pull = ((offset - design @ terms) / sigma)[kept]
            width = MAD_TO_SIGMA * float(np.median(np.abs(pull)))
            excess = float(np.median(sigma[kept])) ** 2 * (width**2 - 1.0)
            extra = max(extra + excess, config.floor_mag**2)
        return _Fit(terms[:-1], float(np.sqrt(covariance[0, 0])), design @ terms, sigma, kept)


class _Fit(NamedTuple):
    terms: Floats
    error: float
    """Of the first term."""
    model: Floats
    """(n,) at the stars."""
    sigma: Floats
    """(n,) error of the stars, their scatter included."""
    kept: Bools


def zero_point_calib(zero_point: float) -> PhotoCalib:
    """The calibration in which one count has the AB magnitude ``zero_point``."""
    return PhotoCalib(float(10 ** (0.4 * (AB_ZERO_NJY - zero_point))))
