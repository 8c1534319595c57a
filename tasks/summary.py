"""Numbers that sum up a calibrated detector, under Rubin's names."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from promptdia.tasks.astrometry import Astrometry
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Image
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.photo_calib import PhotoCalib
from promptdia.tasks.model.psf import (
    FWHM_PER_SIGMA,
    Psf,
    effective_area,
    polynomial_order,
    polynomial_terms,
)
from promptdia.tasks.model.wcs import FitsWcs, pixel_scale_arcsec, separation_arcsec
from promptdia.tasks.photometry import MAG_PER_LN, Photometry
from promptdia.tasks.psf_quality import psf_moments

STRIDE = 3
"""Sky statistics look at every third pixel along each axis."""
LIMIT_SNR = 5.0
MIN_TREND_STARS = 10
"""Fewer stars say nothing of a trend of the zero point."""
GRID = 6
"""Nodes per axis at which the PSF's variation is sampled."""


@dataclass(frozen=True, slots=True)
class Fiducial:
    """The conditions, in one band, in which an exposure counts with its full time."""

    psf_sigma: float
    """Pixels."""
    sky: float
    """Electrons per second and pixel."""
    zero_point: float
    """AB magnitude of one electron per second."""


def visit_numbers(exposure: Exposure) -> dict[str, float]:
    """expTime, zenithDistance (degrees, of a plane atmosphere)."""
    visit = exposure.visit
    zenith = np.rad2deg(np.arccos(1.0 / max(visit.airmass, 1.0)))
    return {"expTime": visit.exposure_s, "zenithDistance": float(zenith)}


def sky_numbers(exposure: Exposure, background: Image) -> dict[str, float]:
    """skyBg, skyNoise and meanVar, in electrons, of an exposure in electrons."""
    part = (slice(None, None, STRIDE), slice(None, None, STRIDE))
    planes = MaskPlane.NO_DATA | MaskPlane.BAD | MaskPlane.SAT | MaskPlane.CR
    good = ~has(exposure.mask[part], planes) & np.isfinite(exposure.variance[part])
    level = float(np.median(background[part][good])) if good.any() else float("nan")
    values = exposure.image[part][good].astype(float)
    variance = exposure.variance[part][good].astype(float)
    return {"skyBg": level, "skyNoise": _clipped_std(values), "meanVar": _mean(variance)}


def psf_numbers(psf: Psf, shape: tuple[int, int], fwhm: float) -> dict[str, float]:
    """Size and shape of the PSF at the centre, and how they vary over the detector."""
    ny, nx = shape
    gx, gy = np.meshgrid(np.linspace(0, nx - 1, GRID), np.linspace(0, ny - 1, GRID))
    x = np.append((nx - 1) / 2, gx.ravel())
    y = np.append((ny - 1) / 2, gy.ravel())
    stamps = psf.stamps(x, y)
    moments = psf_moments(psf, x, y, fwhm)
    trace = np.sqrt((moments[:, 4] + moments[:, 5]) / 2)
    inside = _aperture(stamps.shape[1], max(2.0, 3.0 * fwhm / FWHM_PER_SIGMA))
    enclosed = (stamps * inside).sum(axis=(1, 2))
    xx, yy, xy = (float(v) for v in moments[0, 4:7])
    return {
        "psfSigma": float((xx * yy - xy**2) ** 0.25),
        "psfArea": float(effective_area(stamps[:1])[0]),
        "psfIxx": xx,
        "psfIyy": yy,
        "psfIxy": xy,
        "psfTraceRadiusDelta": float(np.ptp(trace)),
        "psfApFluxDelta": float(np.ptp(enclosed)),
    }


def star_numbers(sources: Catalog, used: Bools, shape: tuple[int, int]) -> dict[str, float]:
    """starEMedian, starUnNormalizedEMedian and maxDistToNearestPsf (pixels); none without stars."""
    stars = sources[used]
    if not stars.size:
        return {}
    xx, yy, xy = (stars[name].astype(float) for name in ("ixx", "iyy", "ixy"))
    bare = np.hypot(xx - yy, 2 * xy)
    ny, nx = shape
    gx, gy = np.meshgrid(np.arange(0, nx, max(nx // 32, 1)), np.arange(0, ny, max(ny // 32, 1)))
    nearest, _ = cKDTree(np.column_stack([stars["x"], stars["y"]])).query(
        np.column_stack([gx.ravel(), gy.ravel()])
    )
    return {
        "starEMedian": float(np.median(bare / (xx + yy))),
        "starUnNormalizedEMedian": float(np.median(bare)),
        "maxDistToNearestPsf": float(nearest.max()),
    }


def wcs_numbers(wcs: FitsWcs, shape: tuple[int, int]) -> dict[str, float]:
    """ra, dec, raCorners0..3, decCorners0..3 (anticlockwise from pixel 0, 0), pixelScale."""
    ny, nx = shape
    x = np.array([(nx - 1) / 2, -0.5, nx - 0.5, nx - 0.5, -0.5])
    y = np.array([(ny - 1) / 2, -0.5, -0.5, ny - 0.5, ny - 0.5])
    ra, dec = wcs.pixel_to_sky(x, y)
    numbers = {"ra": float(ra[0]), "dec": float(dec[0])}
    for k in range(4):
        numbers[f"raCorners{k}"] = float(ra[k + 1])
        numbers[f"decCorners{k}"] = float(dec[k + 1])
    numbers["pixelScale"] = pixel_scale_arcsec(wcs, (nx - 1) / 2, (ny - 1) / 2)
    return numbers


def astrometry_numbers(astrometry: Astrometry) -> dict[str, float]:
    """astromOffsetMean and astromOffsetStd (arcsec) under Rubin's names, and their number."""
    offsets = astrometry.separation_arcsec[astrometry.used]
    return {
        "astromOffsetMean": float(offsets.mean()),
        "astromOffsetStd": float(offsets.std()),
        "astromRms": astrometry.rms_arcsec,
        "astromOrder": float(astrometry.order),
        "nAstromMatch": float(astrometry.used.size),
        "nAstromStar": float(astrometry.used.sum()),
    }


def reference_numbers(
    references: Catalog, wcs: FitsWcs, shape: tuple[int, int]
) -> dict[str, float]:
    """refCatSourceDensity: references on the detector per square degree, at their own epoch."""
    ny, nx = shape
    middle = (nx - 1) / 2, (ny - 1) / 2
    scale = pixel_scale_arcsec(wcs, *middle)
    centre = wcs.pixel_to_sky(*(np.array([v]) for v in middle))
    # one on the other side of the sky may be projected onto the detector
    near = separation_arcsec(references["ra"], references["dec"], *centre) < scale * (nx + ny)
    x, y = wcs.sky_to_pixel(references["ra"][near], references["dec"][near])
    inside = (x > -0.5) & (x < nx - 0.5) & (y > -0.5) & (y < ny - 0.5)
    return {"refCatSourceDensity": float(inside.sum() / (nx * ny * (scale / 3600.0) ** 2))}


def photometry_numbers(
    photometry: Photometry, sources: Catalog, shape: tuple[int, int]
) -> dict[str, float]:
    """The zero point's error and scatter, and how much it seems to vary over the detector.

    zeroPointCorrection: rms over the detector, in mag, of what was taken out of PSF fluxes;
    zeroPointTrend: the same of a plane fitted to the residuals that the stars still have;
    zeroPointTrendSigma: how many times its expected size that is, were there none.
    """
    used = photometry.used
    u, v = (g.ravel() for g in np.meshgrid(*2 * [np.linspace(-1, 1, 2 * GRID)]))
    excess = polynomial_terms(u, v, polynomial_order(photometry.excess.size)) @ photometry.excess
    numbers = {
        "zeroPointCorrection": float(MAG_PER_LN * np.std(excess)),
        "zeroPointErr": photometry.error_mag,
        "zeroPointScatter": photometry.scatter_mag,
        "nPhotoStar": float(used.sum()),
    }
    if used.sum() < MIN_TREND_STARS:
        return numbers
    ny, nx = shape
    u, v = 2.0 * sources["x"][used] / nx - 1.0, 2.0 * sources["y"][used] / ny - 1.0
    terms = np.column_stack([np.ones(u.size), u, v])
    slopes = np.linalg.lstsq(terms, photometry.residual_mag[used], rcond=None)[0][1:]
    # u and v have variance 1/3 over the detector
    trend = float(np.sqrt((slopes**2).sum() / 3.0))
    covariance = np.linalg.inv(terms.T @ terms)[1:, 1:] * photometry.scatter_mag**2
    expected = float(np.sqrt(np.trace(covariance) / 3.0))
    return numbers | {
        "zeroPointTrend": trend,
        "zeroPointTrendSigma": trend / max(expected, 1e-6),
    }


def effective_time(numbers: dict[str, float], fiducial: Fiducial) -> dict[str, float]:
    """effTime (seconds) and its factors: the exposure time at fiducial conditions that goes as
    deep (Rubin's computeExposureSummaryStats; SMTN-002, section 3).

    ``numbers`` has expTime, psfSigma, skyBg and zeroPoint, the last two for the exposure.
    """
    seconds = numbers["expTime"]
    zero_point = numbers["zeroPoint"] - 2.5 * np.log10(seconds)
    scales = {
        "effTimePsfSigmaScale": (fiducial.psf_sigma / numbers["psfSigma"]) ** 2,
        "effTimeSkyBgScale": fiducial.sky * seconds / numbers["skyBg"],
        "effTimeZeroPointScale": 10 ** (0.8 * (zero_point - fiducial.zero_point)),
    }
    effective = seconds * float(np.prod(list(scales.values())))
    return {"effTime": effective, **{name: float(value) for name, value in scales.items()}}


def limiting_magnitude(
    calib: PhotoCalib, sky: float, read_noise: float, psf_area: float, snr: float = LIMIT_SNR
) -> float:
    """Magnitude of a point source at ``snr``; counts are electrons (SMTN-002)."""
    background = (sky + read_noise**2) * psf_area
    counts = snr**2 / 2 + np.sqrt(snr**4 / 4 + snr**2 * background)
    return float(calib.zero_point - 2.5 * np.log10(counts))


def _aperture(size: int, radius: float) -> Bools:
    """(size, size) pixels within ``radius`` of the middle."""
    r = np.arange(size) - size // 2
    inside: Bools = r[:, None] ** 2 + r**2 <= radius**2
    return inside


def _clipped_std(values: Floats) -> float:
    """Standard deviation after two clips at three sigma."""
    for _ in range(2):
        if values.size == 0:
            return float("nan")
        values = values[np.abs(values - values.mean()) <= 3.0 * values.std()]
    return float(values.std()) if values.size else float("nan")


def _mean(values: Floats) -> float:
    return float(values.mean()) if values.size else float("nan")
