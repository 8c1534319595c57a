"""One scorer for every subtraction of a simulated pair."""

from typing import Any, NamedTuple

import numpy as np
from lib.differencing_pair import Pair
from scipy import ndimage, optimize
from scipy.spatial import cKDTree

from promptdia.tasks.difference_noise import pixel_noise, robust_sigma
from promptdia.tasks.footprints import find_footprints
from promptdia.tasks.matched_filter import cell_psf, signal_to_noise
from promptdia.tasks.model.arrays import Bools, Floats, Image
from promptdia.tasks.model.exposure import DifferenceExposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.psf import Psf, fwhm_px
from promptdia.tasks.psf_photometry import PsfFlux, psf_flux

THRESHOLD = 5.0
MATCH_PX = 3.0
"""A detection this near a transient found it;"""
WINGS_PX = 10.0
"""one this near is not false; the same around cosmic rays, which are another step's work."""
RAY_PX = 15.0
"""Fluxes this near to a cosmic ray, which is in the images still, say nothing."""
MASK_NEAR_PX, BRIGHT_NEAR_PX = 20, 8.0
CONTROL_POSITIONS = 4000
WORTHLESS = (
    MaskPlane.BAD
    | MaskPlane.SAT
    | MaskPlane.SAT_TEMPLATE
    | MaskPlane.NEAR_BRIGHT
    | MaskPlane.NO_DATA
    | MaskPlane.EDGE
    | MaskPlane.CR
)


class Result(NamedTuple):
    """What a method returned, on the science image's flux scale."""

    image: Image
    variance: Image
    bad: Bools
    psf: Psf

    @classmethod
    def of(cls, difference: DifferenceExposure) -> "Result":
        """Our difference; unusable is what its mask says."""
        bad = has(difference.mask, WORTHLESS) | ~np.isfinite(difference.variance)
        return cls(difference.image, difference.variance, bad, difference.require_psf())


class Found(NamedTuple):
    """Positions and signs of detections."""

    x: Floats
    y: Floats
    positive: Bools


def true_snr(pair: Pair, oracle: Result) -> Floats:
    """(n,) flux over the error that the ideal difference gives, signed."""
    fluxes = _forced(oracle, pair.truth["x"], pair.truth["y"])
    result: Floats = pair.truth["flux"] / fluxes.flux_err
    return result


def score(pair: Pair, result: Result, snr: Floats, seed: int) -> dict[str, Any]:
    """The figures of one subtraction: noise, photometry, stars and 5 sigma peaks.

    ``noise`` scatter of pixels over sigma on empty sky, ``lag1`` correlation of neighbours,
    ``S_norm`` scatter of the matched-filter S/N there, ``depth`` S/N of transients over the
    ideal one, ``flux`` recovered over true, weighted (S/N > 15), ``pull`` robust scatter of
    (measured - true) / error at transients and ``pull_sky`` at random usable positions,
    ``chi2`` and ``chi2_90`` per pixel of stars of S/N > 200, ``false`` unmatched peaks of
    |S| / S_norm >= 5 (``near_mask`` within 20 px of a saturated pixel, ``near_bright``
    within 8 px of an object above 24 mag), ``lost`` unusable area beyond the two images'
    own masks, ``complete`` and ``complete_host`` recovered at true S/N >= 6.
    """
    sky = pair.empty & ~result.bad & (_base_mask(pair) == 0) & (pair.change == 0)
    noise, lag1 = pixel_noise(result.image, result.variance, sky)
    good = ~result.bad & np.isfinite(result.image)
    filters = cell_psf(result.psf, result.image.shape, 256)
    significance = signal_to_noise(np.where(good, result.image, 0), result.variance, good, filters)
    s_norm = robust_sigma(significance[::3, ::3][sky[::3, ::3]])
    significance /= np.float32(s_norm)
    found = _peaks(significance, good)
    numbers = {"noise": noise, "lag1": lag1, "S_norm": s_norm}
    numbers |= photometry(pair, result, snr, s_norm, seed)
    numbers |= _stars(pair, result)
    numbers |= judge(pair, found, result.bad, snr)
    return numbers


def photometry(
    pair: Pair, result: Result, snr: Floats, s_norm: float, seed: int
) -> dict[str, float]:
    """Forced fluxes of transients, and at random places where nothing changed."""
    truth, usable = pair.truth, _usable(result.bad, pair.truth["x"], pair.truth["y"])
    forced = _forced(result, truth["x"], truth["y"])
    clear = usable & (forced.n_bad == 0) & _far(truth["x"], truth["y"], pair.rays, RAY_PX)
    pull = (forced.flux - truth["flux"]) / forced.flux_err
    strong = clear & (snr > 15)
    side = pair.change.shape[0]
    x, y = np.random.default_rng(seed).uniform(30, side - 30, (2, CONTROL_POSITIONS))
    away = _far(x, y, np.stack([truth["x"], truth["y"]], 1), 25.0) & _far(x, y, pair.rays, RAY_PX)
    control = _forced(result, x[away], y[away])
    quiet = control.n_bad == 0
    weight = truth["flux"][strong] / forced.flux_err[strong] ** 2
    ratio = (weight * forced.flux[strong]).sum() / (weight * truth["flux"][strong]).sum()
    depth = forced.flux / forced.flux_err / s_norm / snr
    return {
        "depth": float(np.median(depth[strong])),
        "flux": float(ratio),
        "pull": mad_sigma(pull[clear]),
        "pull_sky": mad_sigma((control.flux / control.flux_err)[quiet]),
    }


def judge(pair: Pair, found: Found, bad: Bools, snr: Floats) -> dict[str, float]:
    """False detections and completeness of any list of detections."""
    truth = pair.truth
    at = np.stack([truth["x"], truth["y"]], 1)
    false = _far(found.x, found.y, at, WINGS_PX) & _far(found.x, found.y, pair.rays, WINGS_PX)
    fx, fy = found.x[false], found.y[false]
    masked = ndimage.distance_transform_edt(_base_mask(pair)[::2, ::2] == 0) * 2 <= MASK_NEAR_PX
    half = tuple(np.rint(v / 2).astype(int).clip(0, masked.shape[0] - 1) for v in (fy, fx))
    hit = np.zeros(truth.size, bool)
    for sign in (True, False):
        mine = found.positive == sign
        wanted = (truth["flux"] > 0) == sign
        near = ~_far(truth["x"], truth["y"], np.stack([found.x, found.y], 1)[mine], MATCH_PX)
        hit |= near & wanted
    usable = _usable(bad, truth["x"], truth["y"])
    usable &= _usable(_base_mask(pair) != 0, truth["x"], truth["y"])
    bright, host = usable & (np.abs(snr) >= 6), truth["on_galaxy"]
    return {
        "false": float(false.sum()),
        "near_mask": float(masked[half].sum()),
        "near_bright": float((~_far(fx, fy, pair.objects, BRIGHT_NEAR_PX)).sum()),
        "lost": float((bad & (_base_mask(pair) == 0)).mean()),
        "complete": float(hit[bright & ~host].mean()),
        "complete_host": float(hit[bright & host].mean()),
        "SN50": half_point(np.abs(snr[usable]), hit[usable]),
    }


def half_point(snr: Floats, hit: Bools) -> float:
    """S/N at which half are found: a logistic curve in log S/N, maximum likelihood."""

    def cost(p: Floats) -> float:
        z = np.clip(np.exp(p[1]) * (np.log(snr) - p[0]), -30, 30)
        return float(np.sum(np.log1p(np.exp(np.where(hit, -z, z)))))

    best = optimize.minimize(cost, [np.log(5.0), np.log(10.0)], method="Nelder-Mead")
    return float(np.exp(best.x[0]))


def mad_sigma(values: Floats) -> float:
    """1.4826 times the median absolute deviation."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def _stars(pair: Pair, result: Result) -> dict[str, float]:
    """Residuals of bright unsaturated stars over 15 x 15 pixels."""
    chi2 = []
    unusable = result.bad | (_base_mask(pair) != 0)
    alone = _far(*pair.bright.T, np.stack([pair.truth["x"], pair.truth["y"]], 1), 20.0)
    for x, y in np.rint(pair.bright[alone]).astype(int):
        box = slice(y - 7, y + 8), slice(x - 7, x + 8)
        if not unusable[box].any():
            chi2.append(np.mean(result.image[box] ** 2 / result.variance[box], dtype=float))
    if not chi2:
        return {"chi2": float("nan"), "chi2_90": float("nan")}
    return {"chi2": float(np.median(chi2)), "chi2_90": float(np.percentile(chi2, 90))}


def _peaks(significance: Image, good: Bools) -> Found:
    peaks = find_footprints(np.where(good, significance, 0), THRESHOLD, 3, 6.0).peaks
    return Found(peaks["x"].astype(float), peaks["y"].astype(float), peaks["snr"] > 0)


def _forced(result: Result, x: Floats, y: Floats) -> PsfFlux:
    ny, nx = result.image.shape
    radius = 2.5 * fwhm_px(result.psf, nx / 2, ny / 2)
    return psf_flux(result.image, result.variance, result.bad, result.psf, x, y, radius)


def _base_mask(pair: Pair) -> np.ndarray:
    mask: np.ndarray = pair.science.mask | pair.template.mask
    return mask


def _usable(bad: Bools, x: Floats, y: Floats) -> Bools:
    usable: Bools = ~bad[np.rint(y).astype(int), np.rint(x).astype(int)]
    return usable


def _far(x: Floats, y: Floats, others: Floats, px: float) -> Bools:
    """(n,) whether none of the positions (m, 2) is within ``px``."""
    if len(others) == 0 or x.size == 0:
        return np.ones(x.size, bool)
    far: Bools = ~np.isfinite(
        cKDTree(others).query(np.stack([x, y], 1), distance_upper_bound=px)[0]
    )
    return far
