"""Fit of a pixel-to-sky map to matched stars, and its form as TAN or TAN-SIP."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from astropy.wcs import WCS, Sip

from promptdia.tasks.model.arrays import Bools, Floats
from promptdia.tasks.model.psf import polynomial_terms, scaled
from promptdia.tasks.model.wcs import FitsWcs, tan_wcs

GRID = 15
"""Nodes per axis at which a composite map is turned into SIP."""
POINTS_PER_TERM = 1.2
"""A polynomial needs this many stars per term to be considered at all ..."""
SAFE_POINTS_PER_TERM = 1.5
"""... and with fewer than this many the lower one must be bad, and it better by far."""
BAD_FIT = 3.0
"""Left-out error, in units of the centroids' errors, of a map that lacks a term."""
ORDER_STARS = 500
"""About how many stars choose the order."""
WORTHWHILE, FAR_BETTER = 0.97, 0.6
"""A higher order must bring the left-out error below this part of the lower order's."""


@dataclass(frozen=True, slots=True, eq=False)
class PixelMap:
    """Polynomial that carries the pixels of an image to those of a first-guess WCS."""

    coefficients: Floats
    """(n_terms, 2), terms in the order of ``polynomial_terms``."""
    order: int
    shape: tuple[int, int]

    def __call__(self, xy: Floats) -> Floats:
        """(n, 2) guess pixels of (n, 2) pixels."""
        moved: Floats = _terms(xy, self.order, self.shape) @ self.coefficients
        return moved


class MapFit(NamedTuple):
    """The map and what it leaves."""

    map: PixelMap
    used: Bools
    """(n,) the pairs it was fitted on."""
    residuals: Floats
    """(n, 2) guess pixels."""


def fit_pixel_map(
    xy: Floats, target: Floats, variance: Floats, shape: tuple[int, int], max_order: int
) -> MapFit:
    """Fit ``target`` (n, 2) as polynomials of ``xy`` (n, 2), outliers clipped at 3.5 sigma.

    ``variance`` (n,) is that of one coordinate. The order is the one, up to
    ``max_order``, that best predicts stars left out of the fit.
    """
    used = np.ones(len(xy), bool)
    order = 1
    for _ in range(10):
        order = best_order(xy[used], target[used], variance[used], shape, max_order)
        fitted = solve_map(xy[used], target[used], variance[used], order, shape)
        residuals = target - fitted(xy)
        pull = np.hypot(*residuals.T) / np.sqrt(variance)
        typical = max(float(np.median(pull[used])) / 1.1774, 1e-6)  # of a 2-d Gaussian
        fresh = pull <= 3.5 * typical
        if np.array_equal(fresh, used) or fresh.sum() < 4:
            break
        used = fresh
    return MapFit(fitted, used, residuals)


def composite_wcs(guess: FitsWcs, pixel_map: PixelMap) -> FitsWcs:
    """The WCS that first moves pixels by ``pixel_map``, then applies ``guess``.

    Exact TAN where the guess is TAN and the map linear; otherwise TAN-SIP about the
    image's centre, one order above the distortion it describes.
    """
    plain = guess.wcs.sip is None and list(guess.wcs.wcs.ctype) == ["RA---TAN", "DEC--TAN"]
    if plain and pixel_map.order == 1:
        return _moved_tan(guess, pixel_map)
    distortion = 3 if guess.wcs.sip is None else max(guess.wcs.sip.a_order, guess.wcs.sip.b_order)
    order = min(max(pixel_map.order, distortion) + 1, 6)
    ny, nx = pixel_map.shape
    nodes_x, nodes_y = np.meshgrid(np.linspace(0, nx - 1, GRID), np.linspace(0, ny - 1, GRID))
    xy = np.column_stack([nodes_x.ravel(), nodes_y.ravel()])
    ra, dec = guess.pixel_to_sky(*pixel_map(xy).T)
    centre = np.array([(nx - 1) / 2, (ny - 1) / 2])
    ra0, dec0 = (float(v[0]) for v in guess.pixel_to_sky(*pixel_map(centre[None]).T))
    plane = gnomonic(ra, dec, ra0, dec0)
    return _tan_sip(xy - centre, plane, (ra0, dec0), centre, order, pixel_map.shape)


def gnomonic(ra: Floats, dec: Floats, ra0: float, dec0: float) -> Floats:
    """(n, 2) tangent-plane coordinates (east, north) in degrees about (ra0, dec0)."""
    a, d = np.deg2rad(ra - ra0), np.deg2rad(dec)
    d0 = np.deg2rad(dec0)
    depth = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    east = np.cos(d) * np.sin(a) / depth
    north = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / depth
    plane: Floats = np.rad2deg(np.column_stack([east, north]))
    return plane


def _moved_tan(guess: FitsWcs, pixel_map: PixelMap) -> FitsWcs:
    corner = pixel_map(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
    matrix = np.column_stack([corner[1] - corner[0], corner[2] - corner[0]])
    tangent = np.asarray(guess.wcs.wcs.crpix) - 1.0
    x, y = np.linalg.solve(matrix, tangent - corner[0])
    cd = np.asarray(guess.wcs.pixel_scale_matrix) @ matrix
    ra, dec = guess.wcs.wcs.crval
    return tan_wcs(float(ra), float(dec), float(x), float(y), cd, pixel_map.shape)


def n_terms(order: int) -> int:
    """Number of terms of a polynomial in two coordinates."""
    return (order + 1) * (order + 2) // 2


def _tan_sip(
    offsets: Floats,
    plane: Floats,
    sky: tuple[float, float],
    centre: Floats,
    order: int,
    shape: tuple[int, int],
) -> FitsWcs:
    """TAN-SIP through tangent-plane positions at pixel offsets from the tangent point."""
    powers = [(i, j) for n in range(1, order + 1) for i in range(n, -1, -1) for j in (n - i,)]
    reach = np.abs(offsets).max()
    u, v = (offsets / reach).T
    basis = np.stack([u**i * v**j for i, j in powers], axis=1)
    fit = np.linalg.lstsq(basis, plane, rcond=None)[0]
    fit /= np.array([reach ** (i + j) for i, j in powers])[:, None]
    cd = fit[:2].T
    distortion = np.linalg.solve(cd, fit[2:].T)
    a, b = np.zeros((2, order + 1, order + 1))
    for (i, j), (fx, fy) in zip(powers[2:], distortion.T):
        a[i, j], b[i, j] = fx, fy
    wcs: WCS = tan_wcs(*sky, float(centre[0]), float(centre[1]), cd, shape).wcs
    wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
    wcs.sip = Sip(a, b, None, None, centre + 1.0)
    wcs.wcs.set()
    return FitsWcs(wcs)


def _terms(xy: Floats, order: int, shape: tuple[int, int]) -> Floats:
    ny, nx = shape
    return polynomial_terms(
        scaled(xy[:, 0], (0.0, nx - 1.0)), scaled(xy[:, 1], (0.0, ny - 1.0)), order
    )


def solve_map(
    xy: Floats,
    target: Floats,
    variance: Floats,
    order: int,
    shape: tuple[int, int],
    bend: float = np.inf,
) -> PixelMap:
    """Weighted least-squares polynomial that carries ``xy`` to ``target``.

    ``bend`` is the size expected of the coefficients beyond the linear ones, in pixels
    (Gaussian prior): it lets few stars carry a high order.
    """
    root = 1.0 / np.sqrt(variance)[:, None]
    terms = _terms(xy, order, shape) * root
    degree = np.array([i + j for j in range(order + 1) for i in range(order + 1 - j)])
    prior = np.eye(degree.size)[degree > 1] / bend
    rows, right = [terms, prior], [target * root, np.zeros((len(prior), 2))]
    fit = np.linalg.lstsq(np.concatenate(rows), np.concatenate(right), rcond=None)[0]
    return PixelMap(fit, order, shape)


def best_order(
    xy: Floats, target: Floats, variance: Floats, shape: tuple[int, int], max_order: int
) -> int:
    """The order, from 1 to ``max_order``, whose fit best predicts stars it has not seen."""
    some = slice(None, None, len(xy) // ORDER_STARS + 1)
    xy, target, variance = xy[some], target[some], variance[some]
    best, best_error = 1, np.inf
    for order in range(1, max_order + 1):
        if order > 1 and len(xy) < POINTS_PER_TERM * n_terms(order):
            break
        error = _left_out_error(xy, target, variance, order, shape)
        safe = len(xy) >= SAFE_POINTS_PER_TERM * n_terms(order)
        if not safe and best_error < BAD_FIT:
            break
        if error < (WORTHWHILE if safe else FAR_BETTER) * best_error:
            best, best_error = order, error
    return best


def _left_out_error(
    xy: Floats, target: Floats, variance: Floats, order: int, shape: tuple[int, int]
) -> float:
    """Robust size of the error at each star when it is left out (r / (1 - leverage))."""
    root = 1.0 / np.sqrt(variance)[:, None]
    terms = _terms(xy, order, shape) * root
    basis, _ = np.linalg.qr(terms)
    weighted = target * root
    residuals = weighted - basis @ (basis.T @ weighted)
    leverage = np.clip((basis**2).sum(axis=1), 0, 1 - 1e-6)
    errors = (residuals**2).sum(axis=1) / (1 - leverage) ** 2
    ceiling = 25.0 * np.median(errors)  # an outlier must not choose the order
    return float(np.sqrt(np.minimum(errors, ceiling).mean()))
