"""The kernel that makes one image look like another (Alard & Lupton 1998, Alard 2000)."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import linalg

from promptdia.tasks.convolve import VaryingFilter
from promptdia.tasks.errors import TaskError, TooFewStars
from promptdia.tasks.kernel_basis import KernelBasis
from promptdia.tasks.kernel_stamps import Stamps
from promptdia.tasks.model.arrays import Bools, Floats, Image
from promptdia.tasks.model.psf import polynomial_terms, scaled
from promptdia.tasks.parallel import over_strips
from promptdia.tasks.robust import MAD_TO_SIGMA

MAX_ORDER = 2
MIN_STARS = 3
BATCH = 16
"""Stars at a time, one thread each."""
MAX_NOISE_SHARE = 0.5
"""Of a mode of the kernel equations, up to which the dilution by noise is undone."""


class KernelFitFailed(TaskError):
    """No believable matching kernel."""


@dataclass(frozen=True, slots=True)
class KernelConfig:
    """How the matching kernel is fitted."""

    basis: Literal["gauss-hermite", "delta"] = "gauss-hermite"
    """What the kernel is made of; delta has one coefficient per pixel, smoothed by the prior."""
    delta_half_width: int = 5
    """Of a delta kernel, pixels beyond the misregistration."""
    shape_order: int = 2
    """Chebyshev order over the detector of the kernel's shape, given enough stars; at most 1
    for a delta basis."""
    sum_order: int = 1
    """The same for its sum, the flux ratio."""
    background_order: int = 2
    """The same for the differential background."""
    stars_per_order: tuple[int, int] = (20, 60)
    """From so many stars on the shape may vary to order 1 and 2."""
    profile_error: float = 0.002
    """Fraction of a star's brightness the model may miss; added to the noise in the weights."""
    prior_sigma: float = 0.3
    """Prior width of the shape coefficients, which are of the order of the kernel's sum."""
    prior_sigma_varying: float = 0.05
    """The same for the terms that vary over the detector."""
    clip_mad: float = 4.0
    """A star is left out when its chi2 is this many (normalised) MADs above the median."""
    clip_rounds: int = 4
    """At most this many rounds of clipping."""
    max_chi2: float = 50.0
    """The fit has failed when the median chi2 per pixel exceeds this."""


@dataclass(frozen=True, slots=True, eq=False)
class MatchingKernel:
    """A kernel whose shape, sum and background are Chebyshev polynomials of the position."""

    basis: KernelBasis
    coefficients: Floats
    """(n_basis, n_terms)."""
    background: Floats
    """(n_terms,) to be added to the convolved image."""
    shape: tuple[int, int]
    stars_used: int
    stars_tried: int
    chi2: float
    """Median over the used stars of chi2 per pixel, in pure pixel noise."""

    def at(self, x: Floats, y: Floats) -> Floats:
        """(n, size, size) kernels."""
        kernels: Floats = np.tensordot(self._terms(x, y), self._images(), axes=1)
        return kernels

    def in_the_middle(self) -> Floats:
        """(size, size) the kernel at the middle of the detector."""
        ny, nx = self.shape
        kernel: Floats = self.at(np.array([nx / 2]), np.array([ny / 2]))[0]
        return kernel

    def filter(self) -> VaryingFilter:
        """The kernel as a filter."""
        return VaryingFilter(self._images(), self._terms)

    def filter_of_unit_sum(self) -> VaryingFilter:
        """The kernel divided by its sum, everywhere."""
        return VaryingFilter(
            self._images(), lambda x, y: self._terms(x, y) / self.sum_at(x, y)[:, None]
        )

    def sum_at(self, x: Floats, y: Floats) -> Floats:
        """(n,) flux in the target's scale of a unit flux in the convolved image."""
        sums: Floats = self._terms(x, y) @ self.coefficients[0]
        return sums

    def sum_rows(self, rows: slice) -> Image:
        """The kernel's sum on rows of the image."""
        return _plane(self.coefficients[0], self.shape, rows)

    @property
    def mean_sum(self) -> float:
        """Of the kernel's sum over the detector."""
        ny, nx = self.shape
        u, v = (_chebyshev(n).mean(axis=0) for n in (nx, ny))
        return float(v @ _square(self.coefficients[0]) @ u)

    def background_rows(self, rows: slice) -> Image:
        """Target minus convolved image on empty sky, on rows of the image."""
        return _plane(self.background, self.shape, rows)

    def _terms(self, x: Floats, y: Floats) -> Floats:
        return _terms(x, y, self.shape)

    def _images(self) -> Floats:
        """(n_terms, size, size)."""
        images: Floats = np.tensordot(self.coefficients.T, self.basis.images, axes=1)
        return images


def fit_matching_kernel(
    stamps: Stamps, basis: KernelBasis, shape: tuple[int, int], config: KernelConfig
) -> MatchingKernel:
    """Least squares over the stamps, weighted by noise, with outlying stars left out.

    TooFewStars with less than three stars (before or after clipping), KernelFitFailed when
    chi2 or the kernel's sum make no sense.
    """
    if stamps.count < MIN_STARS:
        raise TooFewStars("kernel fit", stamps.count, MIN_STARS)
    normal = _normal_equations(stamps, basis, config.profile_error)
    terms = _terms(stamps.x, stamps.y, shape)
    used = np.ones(stamps.count, bool)
    for _ in range(config.clip_rounds + 1):
        active = _active_terms(int(used.sum()), basis.scale.size, config)
        solution = _solve(normal, basis.penalty, terms, used, active, config)
        chi2 = normal.chi2(terms @ solution.T)
        kept = used & (chi2 <= _chi2_limit(chi2[used], config.clip_mad))
        if kept.sum() < MIN_STARS:
            raise TooFewStars("kernel fit after clipping", int(kept.sum()), MIN_STARS)
        if (kept == used).all():
            break
        used = kept
    pure = float(np.median(normal.pure_chi2(terms @ solution.T)[used]))
    _check(pure, terms[used] @ solution[0], config.max_chi2)
    return MatchingKernel(
        basis, solution[:-1], solution[-1], shape, int(used.sum()), stamps.count, pure
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Normal:
    """Per star: design' W design, design' W target, target' W target."""

    matrix: Floats
    vector: Floats
    square: Floats
    pixels: Floats
    target_noise: Floats
    input_noise: Floats
    """(n,) sums over the pixels of weight x variance of the target, of the convolved image."""
    gram: Floats
    """(n_basis + 1, n_basis + 1) inner products of the basis images."""

    def chi2(self, solution: Floats) -> Floats:
        """(n,) per pixel, for (n, n_basis + 1) coefficients at each star."""
        quadratic = np.einsum("si,sij,sj->s", solution, self.matrix, solution, optimize=True)
        total = self.square - 2 * (solution * self.vector).sum(axis=1) + quadratic
        result: Floats = total / self.pixels
        return result

    def pure_chi2(self, solution: Floats) -> Floats:
        """``chi2`` in units of pure pixel noise, without the allowed profile error."""
        kernel_square = np.einsum("si,ij,sj->s", solution, self.gram, solution, optimize=True)
        expected = (self.target_noise + kernel_square * self.input_noise) / self.pixels
        result: Floats = self.chi2(solution) / expected
        return result

    def summed(self, terms: Floats, used: Bools) -> tuple[Floats, Floats, Floats]:
        """Matrix, its part that is only noise, and vector over all coefficients."""
        k, t = self.gram.shape[0], terms.shape[1]
        products = (terms[used][:, :, None] * terms[used][:, None, :]).reshape(-1, t * t)
        full = (self.matrix[used].reshape(-1, k * k).T @ products).reshape(k, k, t, t)
        noise = np.kron(self.gram, (self.input_noise[used] @ products).reshape(t, t))
        vector = (self.vector[used].T @ terms[used]).ravel()
        matrix: Floats = full.transpose(0, 2, 1, 3).reshape(k * t, k * t)
        return matrix, np.asarray(noise, float), vector


def _normal_equations(stamps: Stamps, basis: KernelBasis, profile_error: float) -> _Normal:
    n, size = stamps.count, stamps.target.shape[-1]
    k = basis.scale.size + 1
    matrix, vector = np.empty((n, k, k)), np.empty((n, k))
    square, pixels, target_noise, input_noise = (np.empty(n) for _ in range(4))
    flat = basis.images.reshape(k - 1, -1)
    gram = np.zeros((k, k))
    gram[:-1, :-1] = flat @ flat.T

    def batch(first: int, end: int) -> None:
        s = slice(first, end)
        convolved = basis.convolve_stamps(stamps.input[s])
        count = convolved.shape[0]
        design = np.ones((count, k, size * size))
        design[:, :-1] = convolved.reshape(count, k - 1, -1)
        profile = np.maximum(convolved[:, 0] - _quarter(convolved[:, 0]), 0.0)
        source = _smooth_variance(stamps.input_variance[s], profile)
        noise = _smooth_variance(stamps.variance[s], profile)
        model = noise + gram[0, 0] * source + (profile_error * convolved[:, 0]) ** 2
        weight = np.where(stamps.usable[s], 1.0 / model, 0.0)
        root = np.sqrt(weight).reshape(count, -1)
        design *= root[:, None, :]
        target = root * stamps.target[s].reshape(count, -1)
        np.matmul(design, design.swapaxes(1, 2), out=matrix[s])
        vector[s] = (design @ target[:, :, None])[:, :, 0]
        square[s] = (target**2).sum(axis=1)
        pixels[s] = (root > 0).sum(axis=1)
        target_noise[s] = (weight * noise).sum(axis=(1, 2))
        input_noise[s] = (weight * source).sum(axis=(1, 2))

    over_strips(batch, n, rows_per_strip=BATCH)
    return _Normal(matrix, vector, square, pixels, target_noise, input_noise, gram)


def _smooth_variance(variance: Floats, profile: Floats) -> Floats:
    """Variance as sky plus a multiple of the star's profile; nan where it is not known.

    The plane itself follows each pixel's own noise; weights taken from it would pull the
    fitted flux low.
    """
    sky = _quarter(variance)
    excess = np.nansum(variance - sky, axis=(1, 2), keepdims=True)
    slope = np.maximum(excess, 0.0) / np.maximum(profile.sum(axis=(1, 2), keepdims=True), 1e-30)
    smooth: Floats = sky + slope * profile
    return smooth


def _quarter(stamps: Floats | Image) -> Floats:
    """(n, 1, 1) lower quartile of the known pixels of each stamp."""
    ordered = np.sort(stamps.reshape(stamps.shape[0], -1), axis=1)
    known = np.isfinite(ordered).sum(axis=1)
    quarter = np.take_along_axis(ordered, np.maximum(known - 1, 0)[:, None] // 4, axis=1)
    return np.asarray(quarter[:, :, None], float)


def _active_terms(n_stars: int, n_basis: int, config: KernelConfig) -> Bools:
    """(n_basis + 1, n_terms) True for the coefficients that are fitted; background last."""
    allowed = sum(n_stars >= needed for needed in config.stars_per_order)
    degree = np.array([i + j for j in range(MAX_ORDER + 1) for i in range(MAX_ORDER + 1 - j)])
    highest = min(config.shape_order, 1) if config.basis == "delta" else config.shape_order
    order = np.full(n_basis + 1, min(highest, allowed))
    order[0], order[-1] = min(config.sum_order, allowed), min(config.background_order, allowed)
    active: Bools = degree[None, :] <= order[:, None]
    return active


def _solve(
    normal: _Normal,
    penalty: Floats,
    terms: Floats,
    used: Bools,
    active: Bools,
    config: KernelConfig,
) -> Floats:
    """(n_basis + 1, n_terms) coefficients that minimise chi2 plus the prior.

    Noise in the convolved image adds to the matrix and would pull the solution towards zero
    (regression dilution); its expectation is taken off, mode by mode.
    """
    full, noise, vector = normal.summed(terms, used)
    by_term = np.full(active.shape[1], config.prior_sigma_varying**-2)
    by_term[0] = config.prior_sigma**-2
    prior = np.kron(np.pad(penalty, (0, 1)), np.diag(by_term))
    index = np.flatnonzero(active.ravel())
    square = np.ix_(index, index)
    matrix = full[square] + prior[square]
    if not np.isfinite(matrix).all():
        raise KernelFitFailed("kernel equations are not finite: bad pixels in the kernel stars")
    try:
        solved = _solve_undiluted(matrix, noise[square], vector[index])
    except linalg.LinAlgError:
        raise KernelFitFailed(
            f"kernel equations of {int(used.sum())} stars have no unique solution"
        ) from None
    solution = np.zeros(active.size)
    solution[index] = solved
    return solution.reshape(active.shape)


def _solve_undiluted(matrix: Floats, noise: Floats, vector: Floats) -> Floats:
    """Solve (matrix - noise) x = vector where ``noise`` is the part of the matrix due to noise.

    In the modes that diagonalise both, the noise has a share of the matrix; a mode that is
    noise to more than MAX_NOISE_SHARE is corrected as if it had that much, so that what the
    stars do not fix stays small. LinAlgError unless the matrix is well positive definite.
    """
    diagonal = np.diag(matrix)
    if not (diagonal > 0).all():
        raise linalg.LinAlgError("diagonal is not positive")
    scale = 1.0 / np.sqrt(diagonal)
    unit = matrix * scale[:, None] * scale[None, :]
    unit[np.diag_indices(scale.size)] += 1e-12
    share, modes = linalg.eigh(noise * scale[:, None] * scale[None, :], unit)
    along = (modes.T @ (scale * vector)) / (1.0 - np.minimum(share, MAX_NOISE_SHARE))
    solution: Floats = scale * (modes @ along)
    return solution


def _chi2_limit(chi2: Floats, n_mad: float) -> float:
    middle = np.median(chi2)
    return float(
        max(middle + n_mad * MAD_TO_SIGMA * np.median(np.abs(chi2 - middle)), 1.5 * middle)
    )


def _check(chi2: float, sums: Floats, max_chi2: float) -> None:
    if not np.isfinite(chi2) or chi2 > max_chi2:
        raise KernelFitFailed(
            f"median chi2 per pixel of the kernel stars is {chi2:.3g}, must be below {max_chi2:g}"
        )
    if not (np.isfinite(sums).all() and sums.min() > 0.1 and sums.max() < 10.0):
        raise KernelFitFailed(
            f"kernel sum runs from {sums.min():.3g} to {sums.max():.3g}, must be within 0.1 to 10"
        )


def _terms(x: Floats, y: Floats, shape: tuple[int, int]) -> Floats:
    return polynomial_terms(
        scaled(x, (0.0, shape[1] - 1.0)), scaled(y, (0.0, shape[0] - 1.0)), MAX_ORDER
    )


def _plane(coefficients: Floats, shape: tuple[int, int], rows: slice) -> Image:
    """Rows of a Chebyshev polynomial on every pixel."""
    u, v = (_chebyshev(n) for n in shape[::-1])
    along_y: Image = (v[rows] @ _square(coefficients)).astype(np.float32)
    plane: Image = along_y @ u.T.astype(np.float32)
    return plane


def _chebyshev(n: int) -> Floats:
    """(n, MAX_ORDER + 1) polynomials on a row of pixels."""
    return np.asarray(np.polynomial.chebyshev.chebvander(np.linspace(-1, 1, n), MAX_ORDER), float)


def _square(coefficients: Floats) -> Floats:
    """(order of v, order of u) from the order of ``polynomial_terms``."""
    square = np.zeros((MAX_ORDER + 1, MAX_ORDER + 1))
    pairs = [(j, i) for j in range(MAX_ORDER + 1) for i in range(MAX_ORDER + 1 - j)]
    for (j, i), c in zip(pairs, coefficients):
        square[j, i] = c
    return square
