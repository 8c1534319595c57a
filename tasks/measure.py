"""One DIA_SOURCE row per detection on the difference."""

from dataclasses import dataclass, field

import numpy as np
import sep

from promptdia.apdb.ids import dia_source_ids
from promptdia.apdb.schema.lsst import DIA_SOURCE
from promptdia.apdb.schema.table import Column, TableSchema
from promptdia.tasks.detect import Detections
from promptdia.tasks.glints import GlintConfig, find_glints
from promptdia.tasks.local_sky import ARCSEC, LocalSky
from promptdia.tasks.measure_dipoles import Dipoles, dipole_centres, fill_dipoles, try_dipoles
from promptdia.tasks.measure_trails import Trails, fill_trails, fit_elongated, naive_trails
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints
from promptdia.tasks.model.exposure import DifferenceExposure, ScienceExposure, TemplateExposure
from promptdia.tasks.moments import Moments, adaptive_moments, psf_moments
from promptdia.tasks.pixel_flags import fill_flags, touched_planes
from promptdia.tasks.psf_photometry import PsfFlux, psf_flux
from promptdia.tasks.scene import DIFFERENCE, SCIENCE, TEMPLATE, Scene, make_scene
from promptdia.tasks.trail import LineFit, fit_points

MEASURED = TableSchema(
    "MeasuredDiaSource",
    (
        *DIA_SOURCE.columns,
        Column("badCenter", "boolean", "", "a bad pixel in the central 3 x 3"),
        Column("edgeCenter", "boolean", "", "an EDGE pixel in the central 3 x 3"),
        Column("satTemplateCenter", "boolean", "", "saturated on the template in the middle"),
        Column("spikeCenter", "boolean", "", "on a bright star's spike in the middle"),
        Column("nearBrightCenter", "boolean", "", "in a saturated star's halo in the middle"),
        Column("interpolatedCenterAll", "boolean", "", "the central 3 x 3 all interpolated"),
        Column("highVarianceCenterAll", "boolean", "", "the central 3 x 3 all HIGH_VARIANCE"),
        Column("badFraction", "float", "", "part of the pixels within one FWHM that is unusable"),
        Column("footprintLength", "float", "arcsec", "diagonal of the footprint's box"),
        Column("sharpness", "float", "", "5 sigma lower limit of peak over the PSF model's peak"),
    ),
)
"""DIA_SOURCE and what only the filters need."""

CORE_FWHM = 1.0
SHARPNESS_SIGMA = 5.0


@dataclass(frozen=True, slots=True)
class MeasureConfig:
    """How detections are measured."""

    fit_radius_fwhm: float = 2.5
    """Pixels within this many FWHM take part in PSF, trail and dipole fits."""
    aperture_radius_px: float = 12.0
    """Of apFlux."""
    max_centroid_shift_px: float = 5.0
    """A centroid farther than this from its peak has failed."""
    dipole_max_area_fwhm2: float = 60.0
    """Larger footprints (in FWHM squared) are not tried as dipoles."""
    dipole_max_separation_fwhm: float = 1.5
    """Lobes farther apart are no dipole."""
    dipole_static_weight: float = 0.5
    """Weight of science and template against the difference in the dipole fit."""
    trail_candidate_sigma: float = 3.0
    """Sources longer than the PSF by this many errors of their moments get a trail fit."""
    trail_sigma: float = 4.0
    """A fitted trail counts when its squared length is this many times its error."""
    glints: GlintConfig | None = field(default_factory=GlintConfig)
    """None: rows of glints are not looked for."""
    release: int = 0
    """Release number that goes into the ids."""


@dataclass(frozen=True, slots=True)
class MeasureDiaSources:
    """Measure every detection on difference, science and template."""

    config: MeasureConfig

    def run(
        self, detections: Detections, science: ScienceExposure, matched: TemplateExposure
    ) -> Catalog:
        """(n,) rows of MEASURED, in the order of ``detections.peaks``; fluxes in nJy.

        ``matched`` is the template as it was subtracted. Reliability, associations and
        the time of processing are left for later steps.
        """
        cfg, peaks, difference = self.config, detections.peaks, detections.difference
        sources = _identified(difference, len(peaks), cfg.release)
        if len(peaks) == 0:
            return sources
        scene = make_scene(detections, science, matched, cfg.fit_radius_fwhm)
        x, y = peaks["x"].astype(float), peaks["y"].astype(float)
        here, own = scene.planes[DIFFERENCE], np.arange(1, len(peaks) + 1)
        moments = adaptive_moments(here.image, here.claims, own, x, y, peaks["snr"], scene.sigma)
        psf_shape = psf_moments(scene.psfs[DIFFERENCE], x, y, scene.sigma)
        naive = naive_trails(moments, psf_shape, peaks["snr"])
        dipoles = try_dipoles(
            peaks,
            scene,
            cfg.dipole_max_area_fwhm2,
            cfg.dipole_max_separation_fwhm,
            cfg.dipole_static_weight,
        )
        is_dipole = np.zeros(len(peaks), bool)
        is_dipole[dipoles.rows] = dipoles.found
        trails = fit_elongated(
            naive,
            moments.x,
            moments.y,
            peaks,
            (detections.pixels, detections.starts),
            scene,
            is_dipole,
            cfg.trail_candidate_sigma,
            cfg.trail_sigma,
        )
        points = fit_points(
            here, scene.stamps(DIFFERENCE, x, y), own, x, y, cfg.max_centroid_shift_px
        )
        covariance = _fill_centroids(sources, peaks, points, trails, dipoles)
        at = sources["x"].astype(float), sources["y"].astype(float)
        sky = LocalSky.at(difference.wcs, *at)
        _fill_sky(sources, difference, covariance, sky)
        _fill_fluxes(sources, peaks, scene, cfg.aperture_radius_px)
        _fill_shapes(sources, peaks, moments, psf_shape, sky)
        fill_trails(sources, naive, moments, trails, difference.mask, difference.wcs, sky)
        fill_dipoles(sources, dipoles, sky)
        fill_flags(
            sources, touched_planes(difference.mask, detections.pixels, detections.starts, *at)
        )
        sources["isNegative"] = (peaks["snr"] < 0) & ~sources["isDipole"]
        if cfg.glints is not None:
            single = ~sources["isNegative"] & ~sources["isDipole"]
            sources["glint_trail"][single] = find_glints(at[0][single], at[1][single], cfg.glints)
        return sources


def _identified(difference: DifferenceExposure, n: int, release: int) -> Catalog:
    """Rows that know their id, visit and time."""
    visit, detector = difference.visit, difference.detector
    sources = MEASURED.empty(n)
    sources["diaSourceId"] = dia_source_ids(visit.id, detector.id, np.arange(n), release)
    sources["visit"], sources["detector"], sources["band"] = visit.id, detector.id, visit.band
    sources["midpointMjdTai"], sources["exposureTime"] = visit.mjd_tai, visit.exposure_s
    return sources


def _fill_centroids(
    sources: Catalog, peaks: Catalog, points: LineFit, trails: Trails, dipoles: Dipoles
) -> Floats:
    """Set x and y; returns their (n, 2, 2) covariance, nan where only the peak is known.

    The PSF fit, but the middle of a trail and of a dipole.
    """
    x = np.where(points.good, points.x, peaks["x"])
    y = np.where(points.good, points.y, peaks["y"])
    covariance = points.covariance[:, 1:3, 1:3].copy()
    good = points.good.copy()
    rows, fit = trails
    x[rows], y[rows], covariance[rows] = fit.x, fit.y, fit.covariance[:, 1:3, 1:3]
    good[rows] = True
    middle_x, middle_y, error = dipole_centres(dipoles)
    rows, found = dipoles.rows[dipoles.found], dipoles.found
    x[rows], y[rows], covariance[rows] = middle_x[found], middle_y[found], error[found]
    good[rows] = True
    sources["x"], sources["y"] = x, y
    sources["xErr"], sources["yErr"] = np.sqrt(covariance[:, [0, 1], [0, 1]]).T
    sources["centroid_flag"] = ~good
    return covariance


def _fill_sky(
    sources: Catalog, difference: DifferenceExposure, covariance: Floats, sky: LocalSky
) -> None:
    x, y = sources["x"].astype(float), sources["y"].astype(float)
    sources["ra"], sources["dec"] = difference.wcs.pixel_to_sky(x, y)
    on_sky = sky.covariances(covariance)
    sources["raErr"], sources["decErr"] = np.sqrt(on_sky[:, [0, 1], [0, 1]]).T
    sources["ra_dec_Cov"] = on_sky[:, 0, 1]


def _fill_fluxes(sources: Catalog, peaks: Catalog, scene: Scene, aperture_px: float) -> None:
    x, y = sources["x"].astype(float), sources["y"].astype(float)
    sources["snr"] = np.abs(peaks["snr"])
    flux = [_psf_flux(scene, role, x, y, scene.radius) for role in (DIFFERENCE, SCIENCE, TEMPLATE)]
    for role, name in ((DIFFERENCE, "psf"), (SCIENCE, "science"), (TEMPLATE, "template")):
        sources[f"{name}Flux"], sources[f"{name}FluxErr"] = flux[role].flux, flux[role].flux_err
    sources["psfChi2"], sources["psfNdata"] = flux[DIFFERENCE].chi2, flux[DIFFERENCE].n_data
    sources["psfLnL"] = _log_likelihood(flux[DIFFERENCE], scene, x, y)
    edge = _leaves_image(scene, x, y)
    for role, name in ((DIFFERENCE, "psfFlux"), (SCIENCE, "forced_PsfFlux")):
        empty = flux[role].n_data == 0
        sources[f"{name}_flag_noGoodPixels"], sources[f"{name}_flag_edge"] = empty, edge
        sources[f"{name}_flag"] = empty | edge
    core = _psf_flux(scene, DIFFERENCE, x, y, CORE_FWHM * scene.fwhm)
    sources["badFraction"] = core.n_bad / np.maximum(core.n_bad + core.n_data, 1)
    sources["sharpness"] = _sharpness(flux[DIFFERENCE].flux, scene, x, y)
    _fill_aperture(sources, scene, x, y, aperture_px)


def _psf_flux(scene: Scene, role: int, x: Floats, y: Floats, radius: float) -> PsfFlux:
    image, variance, _ = scene.planes[role]
    return psf_flux(image, variance, scene.bad(role), scene.psfs[role], x, y, radius)


def _fill_aperture(sources: Catalog, scene: Scene, x: Floats, y: Floats, radius_px: float) -> None:
    image, variance, claims = scene.planes[DIFFERENCE]
    flux, error, _ = sep.sum_circle(image, x, y, radius_px, var=variance, mask=claims < 0)
    ny, nx = image.shape
    reach = radius_px + 0.5
    cut = (x < reach - 1) | (x > nx - reach) | (y < reach - 1) | (y > ny - reach)
    sources["apFlux"], sources["apFluxErr"] = flux, error
    sources["apFlux_flag_apertureTruncated"] = cut
    sources["apFlux_flag"] = cut | ~np.isfinite(flux)


def _fill_shapes(
    sources: Catalog, peaks: Catalog, moments: Moments, psf: Moments, sky: LocalSky
) -> None:
    for suffix, shape in (("", moments), ("PSF", psf)):
        columns = sky.moments(*(np.where(shape.good, m, np.nan) for m in shape[2:5]))
        for name, values in zip(("ixx", "iyy", "ixy"), columns):
            sources[f"{name}{suffix}"] = values
    x, y = sources["x"], sources["y"]
    outside = (x < peaks["x0"] - 0.5) | (x > peaks["x1"] - 0.5)
    outside |= (y < peaks["y0"] - 0.5) | (y > peaks["y1"] - 0.5)
    sources["shape_flag_not_contained"] = outside
    sources["shape_flag_no_pixels"] = sources["psfNdata"] == 0
    sources["shape_flag"] = ~moments.good | outside
    size, psf_size = moments.xx + moments.yy, psf.xx + psf.yy
    known = moments.good & psf.good
    sources["extendedness"] = np.where(known, np.clip(1.0 - psf_size / size, 0.0, 1.0), np.nan)
    width, height = peaks["x1"] - peaks["x0"], peaks["y1"] - peaks["y0"]
    sources["footprintLength"] = np.hypot(width, height) * sky.scales() * ARCSEC
    reach = np.max(
        [
            x - peaks["x0"] + 0.5,
            peaks["x1"] - 0.5 - x,
            y - peaks["y0"] + 0.5,
            peaks["y1"] - 0.5 - y,
        ],
        axis=0,
    )
    side = np.minimum(np.ceil(2 * reach), 2 * np.maximum(width, height))
    sources["bboxSize"] = np.maximum(side, 1)


def _log_likelihood(flux: PsfFlux, scene: Scene, x: Floats, y: Floats) -> Floats:
    """Of the PSF fit, with Gaussian noise: -(chi2 + sum of ln(2 pi variance)) / 2."""
    _, variance, claims = scene.planes[DIFFERENCE]
    half = min(int(np.ceil(scene.radius)), scene.psfs[DIFFERENCE].size // 2)
    py, px, inside = _around(variance.shape, x, y, half)
    distance2 = (px - x[:, None, None]) ** 2 + (py - y[:, None, None]) ** 2
    used = inside & (claims[py, px] >= 0) & (distance2 <= scene.radius**2)
    logs = np.log(2 * np.pi * np.where(used, variance[py, px], 1 / (2 * np.pi)))
    result: Floats = -0.5 * (flux.chi2 + logs.sum(axis=(1, 2)))
    return result


def _sharpness(flux: Floats, scene: Scene, x: Floats, y: Floats) -> Floats:
    """Least brightness of the central pixels over the PSF's peak that noise allows, (n,).

    About 1 for a bright star, several for a cosmic ray or a hot pixel, low where noise
    hides it. The highest of the central 3 x 3 pixels less SHARPNESS_SIGMA of its noise.
    """
    image, variance, claims = scene.planes[DIFFERENCE]
    py, px, inside = _around(image.shape, x, y, 1)
    usable = inside & (claims[py, px] >= 0)
    noise = SHARPNESS_SIGMA * np.sqrt(np.where(usable, variance[py, px], 0.0))
    sure = image[py, px] * np.sign(flux)[:, None, None] - noise
    highest = np.where(usable, sure, -np.inf).max(axis=(1, 2))
    peak = scene.stamps(DIFFERENCE, x, y).max(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = highest / (np.abs(flux) * peak)
    return np.where(np.isfinite(ratio), ratio, 0.0)


def _leaves_image(scene: Scene, x: Floats, y: Floats) -> Bools:
    """Where the fit radius reaches beyond the image."""
    ny, nx = scene.planes[DIFFERENCE].image.shape
    reach = scene.radius
    leaves: Bools = (x < reach) | (x > nx - 1 - reach) | (y < reach) | (y > ny - 1 - reach)
    return leaves


def _around(shape: tuple[int, ...], x: Floats, y: Floats, half: int) -> tuple[Ints, Ints, Bools]:
    """Indices y and x of the pixels around positions, (n, size, size), clipped; if inside."""
    step = np.arange(-half, half + 1)
    py = np.rint(y).astype(np.int64)[:, None, None] + step[:, None]
    px = np.rint(x).astype(np.int64)[:, None, None] + step
    py, px = np.broadcast_arrays(py, px)
    inside = (py >= 0) & (py < shape[0]) & (px >= 0) & (px < shape[1])
    return np.clip(py, 0, shape[0] - 1), np.clip(px, 0, shape[1] - 1), inside
