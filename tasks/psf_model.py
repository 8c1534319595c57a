"""Stars as flux x shifted PSF, and the steps that bring the PSF nearer to them."""

from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import uniform_filter

from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints
from promptdia.tasks.model.psf import PolynomialPsf, polynomial_terms, scaled
from promptdia.tasks.psf_photometry import shift_stamps
from promptdia.tasks.psf_stars import StarStamps, neighbours

VARIABILITY = 0.3
"""Expected relative variation of a PSF pixel from the centre to the edge of the detector."""


@dataclass(frozen=True, slots=True, eq=False)
class StarModel:
    """Stars, the PSF so far, and each star's place and flux under it."""

    stamps: StarStamps
    psf: PolynomialPsf
    fwhm: float
    dx: Floats
    """(n,) star from the stamp's centre."""
    dy: Floats
    flux: Floats
    star: Floats
    """(n, size, size) model of the star, its flux included."""
    other: Floats
    """(n, size, size) model of its neighbours."""
    near: tuple[Ints, Floats, Floats]
    """As ``psf_stars.neighbours`` gives them."""

    @classmethod
    def start(
        cls, stamps: StarStamps, sources: Catalog, psf: PolynomialPsf, fwhm: float
    ) -> "StarModel":
        dx = sources["x"][stamps.index] - stamps.x
        dy = sources["y"][stamps.index] - stamps.y
        zero = np.zeros_like(stamps.data)
        near = neighbours(stamps, sources, psf.size)
        return cls(stamps, psf, fwhm, dx, dy, np.zeros(len(stamps)), zero, zero, near)

    def take(self, keep: Bools) -> "StarModel":
        """Some of the stars."""
        renumbered = np.cumsum(keep) - 1
        star, x, y = self.near
        near = keep[star]
        parts = {n: getattr(self, n)[keep] for n in ("dx", "dy", "flux", "star", "other")}
        return replace(
            self,
            stamps=self.stamps.take(keep),
            near=(renumbered[star[near]], x[near], y[near]),
            **parts,
        )

    def refitted(self, model_error: float) -> "StarModel":
        """Fluxes of stars and neighbours fitted to the data under the present PSF."""
        shapes = self.psf.stamps(self.stamps.x, self.stamps.y)
        own = shift_stamps(shapes, self.dx, self.dy)
        weights = self.stamps.good / self.variance(model_error)
        data = self.stamps.data
        other = np.zeros_like(data)
        star, x, y = self.near
        if star.size:
            light = placed(shapes[star], x, y)
            for k in np.unique(star):
                templates = np.concatenate([own[k][None], light[star == k]])
                seen = (templates * self.stamps.good[k]).sum((1, 2)) > 0.2
                seen[0] = True
                amplitudes = _amplitudes(templates[seen], data[k], weights[k])
                other[k] = np.tensordot(np.clip(amplitudes[1:], 0, None), templates[seen][1:], 1)
        flux = (weights * own * (data - other)).sum((1, 2)) / (weights * own**2).sum((1, 2))
        flux = np.maximum(flux, 1e-3 * np.abs(data).sum((1, 2)) + 1e-12)
        return replace(self, flux=flux, star=flux[:, None, None] * own, other=other)

    def residuals(self) -> Floats:
        """Data minus everything modelled, zero where a pixel is not good."""
        return np.where(self.stamps.good, self.stamps.data - self.star - self.other, 0.0)

    def variance(self, model_error: float) -> Floats:
        """Of a pixel: the sky's, the modelled light's and the model's own error.

        From the model, not from the pixels: weights that follow the noise bias the fit.
        """
        light = np.maximum(self.star + self.other, 0.0)
        sky = self.stamps.sky_variance[:, None, None]
        poisson = self.stamps.light_variance[:, None, None] * light
        total: Floats = sky + poisson + (model_error * light) ** 2
        return total

    def chi2(self, model_error: float) -> Floats:
        """(n,) per pixel."""
        total = (self.residuals() ** 2 / self.variance(model_error)).sum((1, 2))
        per_pixel: Floats = total / np.maximum(self.stamps.good.sum((1, 2)), 1)
        return per_pixel

    def terms(self) -> Floats:
        """(n, n_terms) of the PSF's polynomial at the stars."""
        u = scaled(self.stamps.x, self.psf.x_range)
        v = scaled(self.stamps.y, self.psf.y_range)
        return polynomial_terms(u, v, self.psf.order)

    def corrected_psf(self, model_error: float) -> PolynomialPsf:
        """The PSF after one linear solve, pixel by pixel, on the residuals."""
        flux = self.flux[:, None, None]
        back = shift_stamps(self.residuals() / flux, -self.dx, -self.dy)
        weights = self.stamps.good * flux**2 / self.variance(model_error)
        terms = self.terms()
        n, n_terms = terms.shape
        products = (terms[:, :, None] * terms[:, None, :]).reshape(n, -1)
        size = self.psf.size
        flat = weights.reshape(n, -1).T
        normal = (flat @ products).reshape(size * size, n_terms, n_terms)
        right = (flat * back.reshape(n, -1).T) @ terms
        strength = np.trace(normal, axis1=1, axis2=2) + 1e-12
        normal += (1e-6 * strength)[:, None, None] * np.eye(n_terms)
        varying = np.eye(n_terms)
        varying[0, 0] = 0.0
        prior = self.prior(model_error)
        normal += prior[:, None, None] * varying
        right -= prior[:, None] * self.psf.coefficients.reshape(n_terms, -1).T @ varying
        change = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
        coefficients = self.psf.coefficients + change.T.reshape(n_terms, size, size)
        return replace(self.psf, coefficients=_of_unit_sum(coefficients))

    def prior(self, model_error: float) -> Floats:
        """(size**2,) weight, per pixel, of the expectation that the PSF varies little.

        It matters in the wings, where few stars tell little; and everywhere in crowded
        fields, where chi2 shows that the pixels tell less than their noise promises.
        """
        local = uniform_filter(np.abs(self.psf.coefficients[0]), 5, mode="nearest")
        expected = VARIABILITY * np.maximum(local, 1e-6)
        crowding = max(float(np.median(self.chi2(model_error))), 1.0) ** 2
        weight: Floats = (crowding / expected**2).ravel()
        return weight

    def recentred(self, model_error: float) -> "StarModel":
        """Stars moved to where the PSF fits best.

        Moves that are a smooth function of the position belong to the PSF's centring, which
        the sources' centroids define, and are not made.
        """
        slope_y, slope_x = np.gradient(self.star, axis=(1, 2))
        weights = self.stamps.good / self.variance(model_error)
        residuals = self.residuals()
        templates = np.stack([self.star, -slope_x, -slope_y], axis=1)
        normal = np.einsum("kapq,kbpq,kpq->kab", templates, templates, weights, optimize=True)
        right = np.einsum("kapq,kpq->ka", templates, weights * residuals)
        normal += 1e-9 * np.trace(normal, axis1=1, axis2=2)[:, None, None] * np.eye(3)
        moves = np.linalg.solve(normal, right[:, :, None])[:, 1:, 0]
        terms = self.terms()
        moves = np.clip(moves - terms @ np.linalg.lstsq(terms, moves, rcond=None)[0], -0.2, 0.2)
        dx, dy = np.clip(self.dx + moves[:, 0], -1, 1), np.clip(self.dy + moves[:, 1], -1, 1)
        return replace(self, dx=dx, dy=dy)


def placed(shapes: Floats, x: Floats, y: Floats) -> Floats:
    """(n, size, size) stamps moved by any distance; what leaves the stamp is lost."""
    whole_x, whole_y = np.rint(x).astype(int), np.rint(y).astype(int)
    moved = shift_stamps(shapes, x - whole_x, y - whole_y)
    size = shapes.shape[1]
    result = np.zeros_like(moved)
    for k in range(x.size):
        sx, sy = whole_x[k], whole_y[k]
        to_x, to_y = slice(max(0, sx), size + min(0, sx)), slice(max(0, sy), size + min(0, sy))
        of_x, of_y = slice(max(0, -sx), size - max(0, sx)), slice(max(0, -sy), size - max(0, sy))
        if abs(sx) < size and abs(sy) < size:
            result[k, to_y, to_x] = moved[k, of_y, of_x]
    return result


def with_order(psf: PolynomialPsf, order: int) -> PolynomialPsf:
    """The same PSF with more or fewer polynomial terms."""
    old = _term_numbers(psf.order)
    coefficients = np.zeros((len(_term_numbers(order)), psf.size, psf.size))
    for row, term in enumerate(_term_numbers(order)):
        if term in old:
            coefficients[row] = psf.coefficients[old.index(term)]
    return replace(psf, coefficients=coefficients, order=order)


def _of_unit_sum(coefficients: Floats) -> Floats:
    """The constant term of unit sum, the others of sum zero: unit sum everywhere."""
    constant = coefficients[:1] / coefficients[0].sum()
    varying = coefficients[1:] / coefficients[0].sum()
    varying = varying - varying.sum(axis=(1, 2), keepdims=True) * constant
    return np.concatenate([constant, varying])


def _term_numbers(order: int) -> list[tuple[int, int]]:
    return [(i, j) for j in range(order + 1) for i in range(order + 1 - j)]


def _amplitudes(templates: Floats, data: Floats, weights: Floats) -> Floats:
    n = len(templates)
    flat = templates.reshape(n, -1)
    weighted = flat * weights.ravel()
    normal = weighted @ flat.T
    normal = normal + 1e-9 * np.trace(normal) * np.eye(n)
    solution: Floats = np.linalg.solve(normal, weighted @ data.ravel())
    return solution
