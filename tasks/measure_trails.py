"""Trail columns: a length from moments for every source, a fit for the elongated ones."""

from typing import NamedTuple

import numpy as np

from promptdia.tasks.local_sky import ARCSEC, LocalSky
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints, Mask
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.wcs import Wcs
from promptdia.tasks.moments import Moments
from promptdia.tasks.scene import DIFFERENCE, Scene
from promptdia.tasks.trail import LineFit, fit_trails

NAIVE, FITTED = 1, 3
"""Values of trailAlgorithm: from adaptive moments, and from the PSF-convolved fit."""
LONG_LINE = 2.7996
"""Length of a thin uniform line over the standard deviation of its adaptive Gaussian."""
MAX_ANGLE_ERROR = 180.0 / np.sqrt(12.0)
"""Of a direction about which nothing is known, degrees."""

UNEVEN, UNEVEN_SIGMA = 2.0, 5.0
"""A peak may outshine its line by this factor and this many sigma."""


class NaiveTrails(NamedTuple):
    """Lines with the moments of the sources, the PSF's taken off; pixels, radians, (n,)."""

    length: Floats
    """nan where there are no moments."""
    length_error: Floats
    angle: Floats
    """From +x towards +y."""
    angle_error: Floats
    excess_sigma: Floats
    """By how many errors the long axis exceeds the PSF's."""


class Trails(NamedTuple):
    """Fits of some of the detections."""

    rows: Ints
    """(m,) which detections are trails."""
    fit: LineFit
    """(m,)"""


def naive_trails(moments: Moments, psf: Moments, snr: Floats) -> NaiveTrails:
    """Lengths and directions from second moments; ``snr`` (n,) sets their errors.

    A line much shorter than the PSF adds L^2 / 12 to the variance along it, one much
    longer has L = LONG_LINE sigma; in between the larger share decides. A Gaussian fit
    knows a variance to sqrt(8) / snr of itself (Condon 1997).
    """
    excess = moments._replace(
        xx=moments.xx - psf.xx, yy=moments.yy - psf.yy, xy=moments.xy - psf.xy
    )
    along, _, angle = excess.axes()
    known = moments.good & psf.good
    along = np.where(known, np.maximum(along, 0.0), np.nan)
    size = 0.5 * (psf.xx + psf.yy)
    error = np.sqrt(8.0) / np.abs(snr) * (size + along)
    share = along / (along + 3.0 * size)
    factor = np.sqrt(12.0) * (1 - share) + LONG_LINE * share
    length = factor * np.sqrt(along)
    with np.errstate(divide="ignore", invalid="ignore"):
        length_error = np.minimum(0.5 * factor * error / np.sqrt(along), factor * np.sqrt(error))
        angle_error = np.minimum(error / np.sqrt(2.0) / along, np.deg2rad(MAX_ANGLE_ERROR))
    return NaiveTrails(length, length_error, angle, angle_error, along / error)


def footprint_lines(
    pixels: Ints, starts: Ints, width: int
) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    """Middle x, y, long and short axis (standard deviations) and angle of footprints, (n,).

    ``pixels`` are flat indices into an image ``width`` wide.
    """
    y, x = np.divmod(pixels, width)
    count = np.diff(np.append(starts, pixels.size))

    def mean(values: Floats) -> Floats:
        result: Floats = np.add.reduceat(values, starts) / count
        return result

    mx, my = mean(x.astype(float)), mean(y.astype(float))
    dx, dy = x - np.repeat(mx, count), y - np.repeat(my, count)
    shape = Moments(mx, my, mean(dx * dx), mean(dy * dy), mean(dx * dy), np.ones(mx.size, bool))
    long_axis, short_axis, angle = shape.axes()
    return mx, my, np.sqrt(long_axis), np.sqrt(np.maximum(short_axis, 0.0)), angle


def fit_elongated(
    naive: NaiveTrails,
    x: Floats,
    y: Floats,
    peaks: Catalog,
    footprints: tuple[Ints, Ints],
    scene: Scene,
    skip: Bools,
    candidate_sigma: float,
    accept_sigma: float,
) -> Trails:
    """Trails among the sources whose moments or footprints are longer than the PSF.

    ``footprints`` are flat pixel indices and where each detection's begin; sources in
    ``skip`` are left alone. A fit counts as a trail when flux and length are significant
    and the source's peak is one of such a line: a line through several sources is none.
    """
    width = scene.planes[DIFFERENCE].image.shape[1]
    mx, my, long_axis, short_axis, angle = footprint_lines(*footprints, width)
    length = np.sqrt(12.0 * np.maximum(long_axis**2 - short_axis**2, 0.0))
    is_long = (length > 3.0 * scene.fwhm) & (long_axis > 1.7 * short_axis)
    is_long |= ~np.isfinite(naive.length) & (long_axis > 1.2 * short_axis)
    wide = naive.excess_sigma > candidate_sigma
    rows = np.flatnonzero((is_long | wide) & ~skip)
    by_footprint = is_long[rows]
    start_x, start_y, length, angle = (
        np.where(by_footprint, a[rows], b[rows])
        for a, b in ((mx, x), (my, y), (length, naive.length), (angle, naive.angle))
    )
    start = np.column_stack([start_x, start_y, length * np.cos(angle), length * np.sin(angle)])
    stamps = scene.stamps(DIFFERENCE, start_x, start_y)
    move = max(2.0 * scene.fwhm, 0.5 * float(length.max(initial=0.0)))
    fit = fit_trails(scene.planes[DIFFERENCE], stamps, rows + 1, start, move)
    with np.errstate(divide="ignore", invalid="ignore"):
        # a short line shows by its length squared, whose relative error is twice as large
        significant = (0.5 * fit.length > accept_sigma * fit.length_error()) & (
            np.abs(fit.flux) > accept_sigma * np.sqrt(fit.covariance[:, 0, 0])
        )
    accepted = fit.good & significant & _even(fit, peaks[rows], scene)
    return Trails(rows[accepted], fit.rows(accepted))


def _even(fit: LineFit, peaks: Catalog, scene: Scene) -> Bools:
    """Whether the peak lies on its line and is not much brighter than the line is, (m,).

    The point-source flux in the middle of a long line of flux F and length L is about
    1.5 FWHM F / L (for a Gaussian PSF of width sigma: 2 sqrt(pi) sigma F / L).
    """
    dx, dy = peaks["x"] - fit.x, peaks["y"] - fit.y
    with np.errstate(divide="ignore", invalid="ignore"):
        along = (dx * fit.a + dy * fit.b) / fit.length
        across = (dy * fit.a - dx * fit.b) / fit.length
        share = np.minimum(1.0, 1.5 * scene.fwhm / fit.length)
    near: Bools = (np.abs(across) < scene.fwhm) & (np.abs(along) < 0.5 * fit.length + scene.fwhm)
    power = (scene.stamps(DIFFERENCE, dx + fit.x, dy + fit.y) ** 2).sum(axis=(1, 2))
    noise = np.sqrt(scene.planes[DIFFERENCE].variance[peaks["y"], peaks["x"]] / power)
    expected = np.abs(fit.flux) * share / noise
    even: Bools = near & (np.abs(peaks["snr"]) < UNEVEN * expected + UNEVEN_SIGMA)
    return even


def fill_trails(
    sources: Catalog,
    naive: NaiveTrails,
    moments: Moments,
    trails: Trails,
    mask: Mask,
    wcs: Wcs,
    sky: LocalSky,
) -> None:
    """Set the trail columns, in place; point-like sources keep their PSF flux."""
    a, b = naive.length * np.cos(naive.angle), naive.length * np.sin(naive.angle)
    x, y = moments.x.copy(), moments.y.copy()
    rows, fit = trails
    x[rows], y[rows], a[rows], b[rows] = fit.x, fit.y, fit.a, fit.b
    length_error, angle_error = naive.length_error.copy(), naive.angle_error.copy()
    length_error[rows], angle_error[rows] = fit.length_error(), fit.angle_error()
    scale = sky.scales()
    sources["trailRa"], sources["trailDec"] = wcs.pixel_to_sky(x, y)
    sources["trailRaErr"], sources["trailDecErr"] = sources["raErr"], sources["decErr"]
    sources["trailLength"] = sky.lengths(a, b)
    sources["trailLengthErr"] = length_error * scale * ARCSEC
    sources["trailAngle"] = sky.position_angles(a, b) % 180.0
    sources["trailAngleErr"] = np.minimum(np.rad2deg(angle_error), MAX_ANGLE_ERROR)
    sources["trailFlux"], sources["trailFluxErr"] = sources["psfFlux"], sources["psfFluxErr"]
    sources["trailFlux"][rows] = fit.flux
    sources["trailFluxErr"][rows] = np.sqrt(fit.covariance[:, 0, 0])
    sources["trailChi2"][rows] = fit.chi2
    sources["trailNdata"][rows] = fit.n_data
    sources["trailAlgorithm"] = NAIVE
    sources["trailAlgorithm"][rows] = FITTED
    sources["trail_flag"] = ~np.isfinite(sources["trailLength"])
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    sources["trail_flag_edge"] = _beyond(mask, x + a / 2, y + b / 2) | _beyond(
        mask, x - a / 2, y - b / 2
    )


def _beyond(mask: Mask, x: Floats, y: Floats) -> Bools:
    """Which positions (n,) lie off the image or on pixels without data."""
    ny, nx = mask.shape
    px, py = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    inside = (px >= 0) & (px < nx) & (py >= 0) & (py < ny)
    bits = mask[np.clip(py, 0, ny - 1), np.clip(px, 0, nx - 1)]
    edge = MaskPlane.EDGE | MaskPlane.NO_DATA
    result: Bools = ~inside | ((bits & edge.value) != 0)
    return result
