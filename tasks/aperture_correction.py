"""What part of a star's light the PSF's stamps hold, measured on bright stars in wide apertures."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.ndimage import maximum_filter, uniform_filter
from scipy.stats import chi2

from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.psf import (
    PolynomialPsf,
    polynomial_order,
    polynomial_terms,
    scaled,
)
from promptdia.tasks.psf_model import with_order
from promptdia.tasks.psf_photometry import shift_stamps
from promptdia.tasks.psf_stars import (
    StarStamps,
    cut_stamps,
    near_pairs,
    select_stars,
)
from promptdia.tasks.robust import MAD_TO_SIGMA


@dataclass(frozen=True, slots=True)
class ApertureCorrectionConfig:
    min_snr: float = 50.0
    """Of a star, in the calibration aperture."""
    max_stars: int = 300
    min_stars: int = 5
    """With fewer nothing is corrected."""
    radius_fwhm: float = 2.5
    """Within it the light is counted, star by star; beyond it that of the wing is expected."""
    wing_fwhm: tuple[float, float] = (1.5, 5.0)
    """Where the wing is fitted to what is seen of all stars."""
    wing_beta: tuple[float, float] = (3.0, 1.0)
    """Of the wing, a Moffat profile, before it is seen, and how certain that is."""
    wing_varies: float = 0.03
    """Relative difference of its brightness between the stars, by which no bright one rules."""
    neighbour_radius_fwhm: float = 3.0
    """Pixels this near to another source count as their ring about the star does in the mean."""
    neighbour_peak: float = 0.3
    """A star with a neighbour of more than this part of its peak does not count ..."""
    min_seen: float = 0.3
    """... nor one of which a smaller part of any ring is seen."""
    companion_sigma: float = 4.0
    """Squares a FWHM wide that stand this far out of their ring do not count either: they hold
    a source too near to the star to be detected."""
    model_error: float = 0.01
    """Relative error of the PSF, for which no square stands out."""
    expected: float = 0.02
    """Size of a usual correction; outweighs what is measured with a larger error."""
    floor: float = 0.002
    """Relative error of any star: flat field, undetected companions."""
    clip_sigma: float = 3.0
    max_order: int = 2
    chance: float = 1e-3
    """How likely noise may feign a variation over the field, at most, for it to be adopted."""
    stars_per_term: int = 8


class ApertureCorrection(NamedTuple):
    """The PSF whose stamps sum to the part of the light that they hold."""

    psf: PolynomialPsf
    numbers: dict[str, float]
    """apCorr: total over PSF flux at the centre, as the PSF of unit sum had it; apCorrErr;
    apCorrOrder: of its polynomial; nApCorrStar; psfWingBeta."""


class Rings(NamedTuple):
    """Light of n stars in rings of one pixel."""

    u: Floats
    """(n,) position scaled to [-1, 1]."""
    v: Floats
    flux: Floats
    """(n,) under the PSF of unit sum."""
    light: Floats
    """(n, rings) per pixel."""
    variance: Floats
    """(n, rings) of that."""
    pixels: Floats
    """(n, rings), seen or not."""


@dataclass(frozen=True, slots=True)
class CorrectAperture:
    """Make PSF fluxes mean total light, everywhere on the detector.

    The light within a radius, more or less than the flux says, is modelled over all stars as
    flux x polynomial of the position + constant. The constant is what undetected sources and
    a sky off by little put into any aperture, whatever its star's brightness. The light
    outside is that of a Moffat profile fitted to the rings, from where the PSF is well known
    outwards, again with a constant in each.
    """

    config: ApertureCorrectionConfig

    def run(
        self, exposure: Exposure, sources: Catalog, psf: PolynomialPsf, fwhm: float
    ) -> ApertureCorrection:
        """The corrected PSF; ``sources`` have PSF fluxes under ``psf``, of unit sum."""
        config = self.config
        rows = select_stars(sources, exposure.shape, config.min_snr, config.max_stars, 1)
        if rows.size < config.min_stars:
            return ApertureCorrection(psf, {"nApCorrStar": 0.0})
        rings = self.rings(exposure, sources, rows, psf, fwhm)
        numbers = {"nApCorrStar": float(rings.flux.size)}
        if rings.flux.size < config.min_stars:
            return ApertureCorrection(psf, numbers)
        radius = int(config.radius_fwhm * fwhm)
        beta, outside = self.wing(rings, radius, fwhm)
        fit = self._surface(rings, radius, outside)
        numbers |= {
            "apCorr": 1.0 + fit.centre,
            "apCorrErr": fit.error,
            "apCorrOrder": float(fit.order),
            "psfWingBeta": beta,
        }
        return ApertureCorrection(with_correction(psf, fit.terms), numbers)

    def rings(
        self, exposure: Exposure, sources: Catalog, rows: Ints, psf: PolynomialPsf, fwhm: float
    ) -> Rings:
        """Of the stars in some rows of ``sources``, less those with bright neighbours."""
        config = self.config
        radius, clearance = config.wing_fwhm[1] * fwhm, config.neighbour_radius_fwhm * fwhm
        stamps = cut_stamps(exposure, sources, rows, max(2 * int(radius) + 3, psf.size))
        star, other = near_pairs(stamps, sources, radius + clearance)
        flux, peak = (sources[name].astype(float) for name in ("psfFlux", "peak"))
        x, y = sources["x"], sources["y"]
        clear = flux[rows] > 0
        clear[star[~(peak[other] <= config.neighbour_peak * peak[rows[star]])]] = False
        good = stamps.good & ~_discs(stamps, star, x[other], y[other], clearance)
        dx, dy = x[rows] - stamps.x, y[rows] - stamps.y
        model = _padded(shift_stamps(psf.stamps(stamps.x, stamps.y), dx, dy), good.shape[1])
        model *= flux[rows][:, None, None]
        ring = _ring_numbers(good.shape, dx, dy)
        modelled = _padded(np.ones((1, psf.size, psf.size)), good.shape[1]) > 0
        good &= ~self._companions(stamps.without(~(good & modelled)), model, ring, fwhm)
        seen, whole = _ring_sums(good, ring), np.maximum(_ring_sums(np.ones_like(good), ring), 1.0)
        # what is not seen of a ring is as the model has it but for the ring's mean difference
        rest = _ring_sums(np.where(good, stamps.data - model, 0.0), ring)
        light = rest / np.maximum(seen, 1.0) + _ring_sums(model, ring) / whole
        variance = stamps.sky_variance[:, None] + stamps.light_variance[:, None] * light.clip(0)
        columns = Rings(
            scaled(stamps.x, psf.x_range),
            scaled(stamps.y, psf.y_range),
            flux[rows],
            light,
            variance / np.maximum(seen, 1.0),
            whole,
        )
        n = int(radius)
        clear &= (seen >= config.min_seen * whole)[:, :n].all(axis=1)
        return Rings(*(v[clear] if v.ndim == 1 else v[clear, :n] for v in columns))

    def _companions(self, stamps: StarStamps, model: Floats, ring: Ints, fwhm: float) -> Bools:
        """(n, size, size) True in squares that stand out of their rings, the star subtracted."""
        config = self.config
        rest = np.where(stamps.good, stamps.data - model, 0.0)
        mean = _ring_sums(rest, ring) / np.maximum(_ring_sums(stamps.good, ring), 1.0)
        rest -= np.where(stamps.good, mean.ravel()[ring], 0.0)
        side = 2 * int(fwhm / 2.0) + 1
        square = (1, side, side)
        rest, light = uniform_filter(rest, square), uniform_filter(model, square).clip(0.0)
        variance = stamps.sky_variance[:, None, None] + stamps.light_variance[:, None, None] * light
        error = np.sqrt(variance / side**2 + (config.model_error * light) ** 2)
        found: Bools = maximum_filter(rest > config.companion_sigma * error, square)
        return found

    def wing(self, rings: Rings, radius: int, fwhm: float) -> tuple[float, float]:
        """Beta of the wing, and the light beyond ``radius`` pixels over the flux."""
        config = self.config
        first = int(config.wing_fwhm[0] * fwhm)
        slope, error = _slopes(rings, config.wing_varies, config.clip_sigma)
        slope, error = slope[first:], error[first:]
        r = np.arange(first, first + slope.size) + 0.5
        best = (np.inf, 0.0, 0.0)
        for beta in np.arange(1.6, 6.01, 0.05):
            alpha = fwhm / 2.0 / np.sqrt(2.0 ** (1.0 / beta) - 1.0)
            shape = (1.0 + (r / alpha) ** 2) ** -beta
            height = (slope * shape / error**2).sum() / (shape**2 / error**2).sum()
            off = (((slope - height * shape) / error) ** 2).sum()
            off += ((beta - config.wing_beta[0]) / config.wing_beta[1]) ** 2
            beyond = (1.0 + (radius / alpha) ** 2) ** (1.0 - beta)
            outside = np.pi * alpha**2 / (beta - 1.0) * height * beyond
            best = min(best, (float(off), float(beta), float(outside)))
        return best[1], best[2]

    def _surface(self, rings: Rings, radius: int, outside: float) -> "_Fit":
        """Total over PSF flux, less one, over the field."""
        config = self.config
        inside = rings.pixels[:, :radius]
        left = (inside * rings.light[:, :radius]).sum(axis=1) + (outside - 1.0) * rings.flux
        variance = (inside**2 * rings.variance[:, :radius]).sum(axis=1)
        variance += (config.floor * rings.flux) ** 2
        variance += self._beyond_noise(rings, left, variance)
        fit = self._fit(rings, left, variance, 0)
        for order in range(1, config.max_order + 1):
            other = self._fit(rings, left, variance, order)
            n, more = other.terms.size, other.terms.size - fit.terms.size
            varies = fit.chi2 - other.chi2 > chi2.isf(config.chance, more)
            if varies and left.size >= config.stars_per_term * n:
                fit = other
        return fit

    def _beyond_noise(self, rings: Rings, left: Floats, variance: Floats) -> float:
        """Variance, the same for all stars, that makes their scatter what it is."""
        extra, typical = 0.0, float(np.median(variance))
        for _ in range(10):
            pull = self._fit(rings, left, variance + extra, 0).pull
            width = MAD_TO_SIGMA * float(np.median(np.abs(pull)))
            extra = max(extra + typical * (width**2 - 1.0), 0.0)
        return extra

    def _fit(self, rings: Rings, left: Floats, variance: Floats, order: int) -> "_Fit":
        """Clipped least squares, drawn towards no correction as far as that is expected."""
        config = self.config
        terms = polynomial_terms(rings.u, rings.v, order)
        n = terms.shape[1]
        design = np.column_stack([rings.flux[:, None] * terms, np.ones(left.size)])
        prior = np.diag([config.expected**-2] * n + [1e-12])
        solution: Floats = np.zeros(n + 1)
        kept = np.ones(left.size, bool)
        for _ in range(5):
            weighted = design * (kept / variance)[:, None]
            normal = weighted.T @ design + prior
            solution = np.linalg.solve(normal, weighted.T @ left).astype(float)
            pull = (left - design @ solution) / np.sqrt(variance)
            kept = np.abs(pull) <= config.clip_sigma
        at_centre = polynomial_terms(np.zeros(1), np.zeros(1), order)[0]
        covariance = np.linalg.inv(normal)[:n, :n]
        return _Fit(
            order=order,
            terms=solution[:n],
            centre=float(at_centre @ solution[:n]),
            error=float(np.sqrt(at_centre @ covariance @ at_centre)),
            pull=pull,
            chi2=float((np.minimum(np.abs(pull), config.clip_sigma) ** 2).sum()),
        )


def with_correction(psf: PolynomialPsf, terms: Floats) -> PolynomialPsf:
    """The PSF under which fluxes are larger by a relative correction over the field.

    ``terms`` are those of ``polynomial_terms``; to first order in what varies.
    """
    order = polynomial_order(terms.size)
    psf = with_order(psf, max(order, psf.order))
    correction = replace(psf, coefficients=terms[:, None, None], order=order)
    share = -with_order(correction, psf.order).coefficients / (1.0 + terms[0]) ** 2
    share[0] = 0.0
    coefficients = psf.coefficients / (1.0 + terms[0]) + share * psf.coefficients[0]
    return replace(psf, coefficients=coefficients)


class _Fit(NamedTuple):
    order: int
    terms: Floats
    centre: float
    error: float
    pull: Floats
    """(n,) light less model over its error."""
    chi2: float


def _slopes(rings: Rings, varies: float, clip_sigma: float) -> tuple[Floats, Floats]:
    """(rings,) light per pixel that goes with the star's flux, and its error.

    A straight line through the stars, ring by ring; what stands off is clipped.
    """
    flux = rings.flux[:, None]
    kept = np.ones(rings.light.shape, bool)
    extra = np.zeros(rings.light.shape[1])
    for _ in range(6):
        variance = rings.variance + extra + (varies * np.abs(rings.light)) ** 2
        weight = kept / variance
        total = weight.sum(axis=0)
        mean_flux = (weight * flux).sum(axis=0) / total
        mean_light = (weight * rings.light).sum(axis=0) / total
        spread = (weight * (flux - mean_flux) ** 2).sum(axis=0)
        slope = (weight * (flux - mean_flux) * (rings.light - mean_light)).sum(axis=0) / spread
        pull = rings.light - mean_light - slope * (flux - mean_flux)
        pull /= np.sqrt(variance)
        width = MAD_TO_SIGMA * np.median(np.abs(pull), axis=0)
        extra = np.maximum(extra + np.median(variance, axis=0) * (width**2 - 1.0), 0.0)
        kept = np.abs(pull) <= clip_sigma * np.maximum(width, 1.0)
    return slope, np.sqrt(1.0 / spread)


def _discs(stamps: StarStamps, star: Ints, x: Floats, y: Floats, radius: float) -> Bools:
    """(n, size, size) True within ``radius`` of image positions (x, y) near the stars."""
    inside = np.zeros_like(stamps.good)
    r = np.arange(inside.shape[1]) - inside.shape[1] // 2
    for k, px, py in zip(star, x - stamps.x[star], y - stamps.y[star]):
        inside[k] |= (r - px) ** 2 + (r[:, None] - py) ** 2 <= radius**2
    return inside


def _padded(stamps: Floats, size: int) -> Floats:
    spare = (size - stamps.shape[1]) // 2
    return np.pad(stamps, ((0, 0), (spare, spare), (spare, spare)))


def _ring_numbers(shape: tuple[int, ...], x: Floats, y: Floats) -> Ints:
    """(n, size, size) number of the ring, one pixel wide about (x, y); every star has its own."""
    n, size = shape[:2]
    r = np.arange(size) - size // 2
    distance = np.sqrt((r - x[:, None])[:, None, :] ** 2 + (r - y[:, None])[:, :, None] ** 2)
    return np.arange(n)[:, None, None] * size + distance.astype(np.int64)


def _ring_sums(pixels: Floats | Bools, ring: Ints) -> Floats:
    """(n, rings) sums of (n, size, size) pixels."""
    n, size = pixels.shape[:2]
    return np.bincount(ring.ravel(), pixels.ravel(), n * size).reshape(n, size).astype(float)
