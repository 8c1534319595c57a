"""The PSF of a direct image: pixel stamps that vary smoothly over the detector."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from promptdia.tasks.errors import TooFewStars
from promptdia.tasks.kernels.moments import COLUMNS, measure_moments
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.psf import (
    FWHM_PER_SIGMA,
    PolynomialPsf,
    Psf,
    gaussian_stamp,
    polynomial_terms,
    scaled,
)
from promptdia.tasks.psf_photometry import shift_stamps
from promptdia.tasks.psf_stars import (
    MAD_TO_SIGMA,
    StarStamps,
    cut_stamps,
    neighbours,
    select_stars,
)


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
        return PsfFit(model.psf, used, _quality(model, stamps.take(judged), sources))

    def _select(self, sources: Catalog, shape: tuple[int, int], min_snr: float) -> Ints:
        config = self.config
        return select_stars(sources, shape, min_snr, config.max_stars, config.wanted_isolated)

    def _need(self, found: int) -> None:
        if found < self.config.min_stars:
            raise TooFewStars("the star selection", found, self.config.min_stars)

    def _fit(
        self, stamps: StarStamps, sources: Catalog, exposure: Exposure, fwhm: float
    ) -> "_StarModel":
        ny, nx = exposure.shape
        size = stamps.data.shape[1]
        coefficients = gaussian_stamp(fwhm / FWHM_PER_SIGMA, size)[None]
        psf = PolynomialPsf(coefficients, 0, (0.0, nx - 1.0), (0.0, ny - 1.0))
        psf = _with_order(psf, self._order(len(stamps)))
        model = _StarModel.start(stamps, sources, psf)
        for iteration in range(self.config.iterations):
            model = model.refitted(self.config.model_error)
            model = replace(model, psf=model.corrected_psf(self.config.model_error))
            if iteration in (2, 4):
                model = self._clipped(model)
            if iteration >= 1:
                model = model.recentred(self.config.model_error)
        return model.refitted(self.config.model_error)

    def _clipped(self, model: "_StarModel") -> "_StarModel":
        """Without the stars, and the pixels, that do not look like the others."""
        chi2 = model.chi2(self.config.model_error)
        spread = MAD_TO_SIGMA * float(np.median(np.abs(chi2 - np.median(chi2))))
        keep = chi2 <= np.median(chi2) + self.config.clip_sigma * max(spread, 0.1)
        model = model.take(keep)
        self._need(len(model.stamps))
        order = min(model.psf.order, self._order(len(model.stamps)))
        model = replace(model, psf=_with_order(model.psf, order))
        strange = np.abs(model.residuals()) > 6.0 * np.sqrt(model.variance(0.05))
        return replace(model, stamps=model.stamps.without(strange))

    def _order(self, n_stars: int) -> int:
        return sum(n_stars >= needed for needed in self.config.stars_for_order)


@dataclass(frozen=True, slots=True, eq=False)
class _StarModel:
    """Stars, the PSF so far, and each star's place and flux under it."""

    stamps: StarStamps
    psf: PolynomialPsf
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
    def start(cls, stamps: StarStamps, sources: Catalog, psf: PolynomialPsf) -> "_StarModel":
        dx = sources["x"][stamps.index] - stamps.x
        dy = sources["y"][stamps.index] - stamps.y
        zero = np.zeros_like(stamps.data)
        near = neighbours(stamps, sources, psf.size)
        return cls(stamps, psf, dx, dy, np.zeros(len(stamps)), zero, zero, near)

    def take(self, keep: Bools) -> "_StarModel":
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

    def refitted(self, model_error: float) -> "_StarModel":
        """Fluxes of stars and neighbours fitted to the data under the present PSF."""
        shapes = self.psf.stamps(self.stamps.x, self.stamps.y)
        own = shift_stamps(shapes, self.dx, self.dy)
        weights = self.stamps.good / self.variance(model_error)
        data = self.stamps.data
        flux = (weights * own * data).sum((1, 2)) / (weights * own**2).sum((1, 2))
        other = np.zeros_like(data)
        star, x, y = self.near
        if star.size:
            light = placed(shapes[star], x, y)
            for k in np.unique(star):
                templates = np.concatenate([own[k][None], light[star == k]])
                seen = (templates * self.stamps.good[k]).sum((1, 2)) > 0.02
                amplitudes = _amplitudes(templates[seen], data[k], weights[k])
                flux[k] = amplitudes[0]
                other[k] = np.tensordot(np.clip(amplitudes[1:], 0, None), templates[seen][1:], 1)
        flux = np.maximum(flux, 1e-3 * np.abs(data).sum((1, 2)) + 1e-12)
        return replace(self, flux=flux, star=flux[:, None, None] * own, other=other)

    def residuals(self) -> Floats:
        """Data minus everything modelled, zero where a pixel is not good."""
        return np.where(self.stamps.good, self.stamps.data - self.star - self.other, 0.0)

    def variance(self, model_error: float) -> Floats:
        """Of a pixel: the sky's, the modelled light's (electrons) and the model's own error.

        From the model, not from the pixels: weights that follow the noise bias the fit.
        """
        light = np.maximum(self.star + self.other, 0.0)
        sky = self.stamps.sky_variance[:, None, None]
        total: Floats = sky + light + (model_error * light) ** 2
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
        light = shift_stamps(self.variance(model_error) / flux**2, -self.dx, -self.dy)
        weights = self.stamps.good / np.maximum(light, 1e-12)
        terms = self.terms()
        n, n_terms = terms.shape
        products = (terms[:, :, None] * terms[:, None, :]).reshape(n, -1)
        size = self.psf.size
        flat = weights.reshape(n, -1).T
        normal = (flat @ products).reshape(size * size, n_terms, n_terms)
        right = (flat * back.reshape(n, -1).T) @ terms
        ridge = 1e-6 * np.trace(normal, axis1=1, axis2=2) + 1e-12
        normal += ridge[:, None, None] * np.eye(n_terms)
        change = np.linalg.solve(normal, right[:, :, None])[:, :, 0]
        coefficients = self.psf.coefficients + change.T.reshape(n_terms, size, size)
        return replace(self.psf, coefficients=coefficients / coefficients[0].sum())

    def recentred(self, model_error: float) -> "_StarModel":
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


def stamp_moments(stamps: Floats, fwhm: float) -> Floats:
    """(n, COLUMNS) moments of stamps (n, size, size), about the middle pixel."""
    n, size, _ = stamps.shape
    strip = np.ascontiguousarray(stamps.reshape(n * size, size), np.float32)
    x = np.full(n, size // 2, float)
    y = np.arange(n) * size + size // 2.0
    out = np.empty((n, COLUMNS))
    dark = np.zeros_like(strip)
    sigma = fwhm / FWHM_PER_SIGMA
    measure_moments(strip, dark, dark > 0, x, y, sigma, size / 4.0, out)
    out[:, 1] -= y - size // 2
    return out


def psf_moments(psf: Psf, x: Floats, y: Floats, fwhm: float) -> Floats:
    """(n, COLUMNS) moments of the PSF at each position."""
    parts = [
        stamp_moments(psf.stamps(x[k : k + 1000], y[k : k + 1000]), fwhm)
        for k in range(0, x.size, 1000)
    ]
    return np.concatenate(parts) if parts else np.empty((0, COLUMNS))


def _with_order(psf: PolynomialPsf, order: int) -> PolynomialPsf:
    """The same PSF with more or fewer polynomial terms."""
    old = _term_numbers(psf.order)
    coefficients = np.zeros((len(_term_numbers(order)), psf.size, psf.size))
    for row, term in enumerate(_term_numbers(order)):
        if term in old:
            coefficients[row] = psf.coefficients[old.index(term)]
    return replace(psf, coefficients=coefficients, order=order)


def _term_numbers(order: int) -> list[tuple[int, int]]:
    return [(i, j) for j in range(order + 1) for i in range(order + 1 - j)]


def _amplitudes(templates: Floats, data: Floats, weights: Floats) -> Floats:
    n = len(templates)
    flat = templates.reshape(n, -1)
    weighted = flat * weights.ravel()
    normal = weighted @ flat.T
    normal += 1e-9 * np.trace(normal) * np.eye(n)
    solution: Floats = np.linalg.solve(normal, weighted @ data.ravel())
    return solution


def _shape_numbers(moments: Floats) -> tuple[Floats, Floats, Floats]:
    """e1, e2 and size of (n, COLUMNS) moments."""
    xx, yy, xy = moments[:, 4], moments[:, 5], moments[:, 6]
    size: Floats = np.sqrt((xx + yy) / 2)
    return (xx - yy) / (xx + yy), 2 * xy / (xx + yy), size


def _quality(model: _StarModel, judged: StarStamps, sources: Catalog) -> dict[str, float]:
    fwhm = float(np.median(sources["fwhm"][model.stamps.index]))
    clean = np.where(model.stamps.good, model.stamps.data - model.other, model.star)
    observed, modelled = stamp_moments(clean, fwhm), stamp_moments(model.star, fwhm)
    fine = (observed[:, 7] > 0) & (modelled[:, 7] > 0)
    star, own = _shape_numbers(observed[fine]), _shape_numbers(modelled[fine])
    quality = {"nPsfStar": float(len(model.stamps)), "psfOrder": float(model.psf.order)}
    for name, a, b in zip(("E1", "E2", "Size"), star, own):
        quality[f"psfStarDelta{name}Median"], quality[f"psfStarDelta{name}Scatter"] = _spread(a - b)
    relative = (star[2] - own[2]) / own[2]
    quality["psfStarScaledDeltaSizeScatter"] = _spread(relative)[1]
    quality["psfChi2"] = float(np.median(model.chi2(0.0)))
    quality["heldOutFluxResidual"], quality["heldOutFluxScatter"] = _held_out(
        model, judged, sources
    )
    return quality


def _held_out(model: _StarModel, judged: StarStamps, sources: Catalog) -> tuple[float, float]:
    if len(judged) == 0:
        return float("nan"), float("nan")
    other = _StarModel.start(judged, sources, model.psf)
    for _ in range(2):
        other = other.refitted(0.01)
        other = _moved_freely(other)
    other = other.refitted(0.01)
    left = other.residuals().sum((1, 2)) / other.flux
    chi2 = other.chi2(0.01)
    typical = chi2 <= 3.0 * np.median(chi2)
    return _spread(left[typical])


def _moved_freely(model: _StarModel) -> _StarModel:
    constant = replace(model, psf=_with_order(model.psf, 0))
    moved = constant.recentred(0.01)
    return replace(moved, psf=model.psf)


def _spread(values: Floats) -> tuple[float, float]:
    """Median and robust scatter; nan without values."""
    if values.size == 0:
        return float("nan"), float("nan")
    middle = float(np.median(values))
    return middle, float(MAD_TO_SIGMA * np.median(np.abs(values - middle)))
