"""Shapes of the PSF's stars beyond their second moments, and what the model leaves of these."""

import numpy as np

from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.psf import FWHM_PER_SIGMA, Psf
from promptdia.tasks.model.wcs import pixel_scale_arcsec
from promptdia.tasks.psf_quality import psf_moments, shape_numbers
from promptdia.tasks.psf_stars import cut_stamps

REACH = 4.0
"""Moments see pixels up to this many sigma along each axis."""
SEPARATIONS_ARCMIN = {"1": (0.0, 1.0), "2": (5.0, 100.0), "3": (0.0, 5.0), "4": (5.0, 20.0)}
"""Of the pairs of stars that enter TE1 to TE4."""
MIN_PAIRS = 20
"""Fewer say nothing."""
GRID = 6
"""Nodes per axis at which the aperture correction is looked at."""


def star_shape_numbers(exposure: Exposure, stars: Catalog, psf_sigma: float) -> dict[str, float]:
    """Higher moments of the PSF's ``stars``, residual correlations, psfApCorrSigmaScaledDelta.

    Without stars nothing. ``psf_sigma`` in pixels; the exposure's PSF and WCS are the final ones.
    """
    psf = exposure.psf
    if psf is None or not stars.size:
        return {}
    ny, nx = exposure.shape
    scale = pixel_scale_arcsec(exposure.wcs, (nx - 1) / 2, (ny - 1) / 2)
    gx, gy = np.meshgrid(np.linspace(0, nx - 1, GRID), np.linspace(0, ny - 1, GRID))
    correction = 1.0 / psf.stamps(gx.ravel(), gy.ravel()).sum(axis=(1, 2))
    return {
        "psfApCorrSigmaScaledDelta": float(np.ptp(correction) / psf_sigma),
        **higher_moments(exposure, stars),
        **residual_correlations(stars, psf, FWHM_PER_SIGMA * psf_sigma, scale),
    }


def higher_moments(exposure: Exposure, stars: Catalog) -> dict[str, float]:
    """starComa1Median and so on: medians over the stars of combined third and fourth moments.

    M_pq is the mean of u^p v^q under the star's light times exp(-(u^2 + v^2) / 2); (u, v) are
    its pixels in units of its adaptive moments, their symmetric root taken (Zhang et al. 2022,
    MNRAS 510, 1978, section 2). A Gaussian star has kurtosis 2 and else 0. Stars with a bad
    pixel do not count; without any the numbers are left out.
    """
    moments = np.column_stack([stars[name] for name in ("ixx", "iyy", "ixy")]).astype(float)
    rows = np.flatnonzero(np.isfinite(moments).all(axis=1))
    if not rows.size:
        return {}
    xx, yy, xy = moments[rows].T
    radius = int(np.ceil(REACH * np.sqrt(np.maximum(xx, yy).max())))
    stamps = cut_stamps(exposure, stars, rows, 2 * radius + 1)
    grid = np.arange(-radius, radius + 1.0)
    dx = grid[None, None, :] - (stars["x"][rows] - stamps.x)[:, None, None]
    dy = grid[None, :, None] - (stars["y"][rows] - stamps.y)[:, None, None]
    a, b, c = (v[:, None, None] for v in _inverse_root(xx, yy, xy))
    u, v = a * dx + b * dy, b * dx + c * dy
    weight = np.exp(-0.5 * (u**2 + v**2))
    seen = (stamps.good | (weight < 1e-3)).all(axis=(1, 2))
    light = weight * stamps.data
    total = light.sum(axis=(1, 2))
    seen &= total > 0.0
    if not seen.any():
        return {}

    def moment(p: int, q: int) -> Floats:
        result: Floats = (light[seen] * u[seen] ** p * v[seen] ** q).sum(axis=(1, 2)) / total[seen]
        return result

    m30, m21, m12, m03 = (moment(p, 3 - p) for p in (3, 2, 1, 0))
    m40, m31, m22, m13, m04 = (moment(p, 4 - p) for p in (4, 3, 2, 1, 0))
    combined = {
        "starComa1": m30 + m12,
        "starComa2": m21 + m03,
        "starTrefoil1": m30 - 3 * m12,
        "starTrefoil2": 3 * m21 - m03,
        "starKurtosis": m40 + 2 * m22 + m04,
        "starE41": m40 - m04,
        "starE42": 2 * (m31 + m13),
    }
    return {f"{name}Median": float(np.median(values)) for name, values in combined.items()}


def residual_correlations(
    stars: Catalog, psf: Psf, fwhm_px: float, scale_arcsec: float
) -> dict[str, float]:
    """psfTE1e1 to psfTE4ex: how far the model's ellipticity errors at two stars go together.

    Mean of de1 de1', de2 de2' and de1 de2' (ex) over pairs of stars at SEPARATIONS_ARCMIN; de is
    the star's ellipticity less the model's (TE1 to TE4 of LPM-17, here of one detector). A scale
    without MIN_PAIRS pairs is left out. ``scale_arcsec`` is per pixel.
    """
    model = psf_moments(psf, stars["x"], stars["y"], fwhm_px)
    star = np.zeros_like(model)
    star[:, 4], star[:, 5], star[:, 6] = stars["ixx"], stars["iyy"], stars["ixy"]
    e1, e2 = (a - b for a, b in zip(shape_numbers(star)[:2], shape_numbers(model)[:2]))
    known = np.isfinite(e1) & np.isfinite(e2)
    e1, e2 = e1[known], e2[known]
    xy = np.column_stack([stars["x"], stars["y"]])[known] * scale_arcsec / 60.0
    i, j = np.triu_indices(len(xy), 1)
    apart = np.hypot(*(xy[i] - xy[j]).T)
    numbers = {}
    for name, (least, most) in SEPARATIONS_ARCMIN.items():
        near = (apart >= least) & (apart < most)
        if near.sum() < MIN_PAIRS:
            continue
        a, b = i[near], j[near]
        numbers[f"psfTE{name}e1"] = float(np.mean(e1[a] * e1[b]))
        numbers[f"psfTE{name}e2"] = float(np.mean(e2[a] * e2[b]))
        numbers[f"psfTE{name}ex"] = float(np.mean(e1[a] * e2[b] + e2[a] * e1[b]) / 2)
    return numbers


def _inverse_root(xx: Floats, yy: Floats, xy: Floats) -> tuple[Floats, Floats, Floats]:
    """(xx, xy, yy) of the inverse symmetric square root of each matrix [[xx, xy], [xy, yy]]."""
    root = np.sqrt(xx * yy - xy**2)
    trace = np.sqrt(xx + yy + 2.0 * root)
    # the root is (m + root 1) / trace, with determinant root
    scale = 1.0 / (root * trace)
    return (yy + root) * scale, -xy * scale, (xx + root) * scale
