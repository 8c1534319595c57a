"""From an exposure in electrons to a calibrated one in nJy, step by step."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy.interpolate import RegularGridInterpolator

from promptdia.tasks.aperture_correction import (
    ApertureCorrectionConfig,
    CorrectAperture,
    with_correction,
)
from promptdia.tasks.astrometry import Astrometry, AstrometryConfig, SolveAstrometry
from promptdia.tasks.background import BackgroundConfig, SubtractBackground
from promptdia.tasks.cosmic_rays import CosmicRayConfig, FindCosmicRays
from promptdia.tasks.errors import TaskError
from promptdia.tasks.model.arrays import Catalog, Floats, Image
from promptdia.tasks.model.catalogs import REFERENCE, SOURCE
from promptdia.tasks.model.exposure import Exposure, ScienceExposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.photo_calib import PhotoCalib
from promptdia.tasks.model.psf import PolynomialPsf, Psf
from promptdia.tasks.model.wcs import pixel_scale_arcsec
from promptdia.tasks.noise_colour import measured_resampling
from promptdia.tasks.photometry import PhotometryConfig, SolvePhotometry, zero_point_calib
from promptdia.tasks.psf import FitPsf, PsfConfig, PsfFit
from promptdia.tasks.psf_photometry import psf_flux
from promptdia.tasks.psf_quality import psf_moments
from promptdia.tasks.resampling import RESAMPLED
from promptdia.tasks.sources import DetectSources, SourceConfig
from promptdia.tasks.star_shapes import star_shape_numbers
from promptdia.tasks.summary import (
    Fiducial,
    astrometry_numbers,
    effective_time,
    limiting_magnitude,
    photometry_numbers,
    psf_numbers,
    reference_numbers,
    sky_numbers,
    star_numbers,
    visit_numbers,
    wcs_numbers,
)

FLUX_COLUMNS = ("psfFlux", "psfFluxErr", "apFlux", "apFluxErr", "peak")
MIN_REFERENCE_SNR = 5.0
"""Of a source that joins a bootstrapped reference catalogue."""


@dataclass(frozen=True, slots=True)
class CalibrateConfig:
    background: BackgroundConfig = field(default_factory=BackgroundConfig)
    cosmic_rays: CosmicRayConfig = field(default_factory=CosmicRayConfig)
    sources: SourceConfig = field(default_factory=SourceConfig)
    psf: PsfConfig = field(default_factory=PsfConfig)
    aperture_correction: ApertureCorrectionConfig = field(default_factory=ApertureCorrectionConfig)
    astrometry: AstrometryConfig = field(default_factory=AstrometryConfig)
    photometry: PhotometryConfig = field(default_factory=PhotometryConfig)
    find_cosmic_rays: bool = True
    """False for frames that were cleaned before."""
    flux_radius_fwhm: float = 1.0
    """PSF fluxes are fitted within this many FWHM, away from neighbours."""
    fiducials: dict[str, Fiducial] = field(default_factory=dict)
    """By band; without one the summary has no effTime."""


class Calibrated(NamedTuple):
    """The calibrated visit image and what was learnt on the way."""

    science: ScienceExposure
    sources: Catalog
    """SOURCE rows in nJy, with positions on the sky."""
    background: Image
    """(ny, nx) nJy, what was subtracted."""
    summary: dict[str, float]
    """Rubin's summary statistics; skyBg, skyNoise and meanVar in electrons."""


class CalibrationFailed(TaskError):
    """One step failed; what succeeded before it is kept."""

    def __init__(self, step: str, reason: str, reached: "Measured"):
        super().__init__(f"{step}: {reason}")
        self.step = step
        """background, seeing, cosmic rays, sources, PSF, astrometry or photometry."""
        self.reached = reached


@dataclass(frozen=True, slots=True)
class CalibrateImage:
    """Background, cosmic rays, sources, PSF, astrometry and photometry of one detector."""

    config: CalibrateConfig = field(default_factory=CalibrateConfig)

    def run(self, exposure: Exposure, references: Catalog) -> Calibrated:
        """Calibrate an exposure in electrons; raises CalibrationFailed naming the step."""
        measured = self._measure(exposure)
        done, sources = measured.exposure, measured.sources.copy()
        with _step("astrometry", measured):
            solved = SolveAstrometry(self.config.astrometry).run(
                sources, references, exposure.wcs, exposure.shape, exposure.visit.mjd_tai
            )
        _mark_astrometry(sources, references, solved)
        measured = measured._replace(
            exposure=done.replace(wcs=solved.wcs),
            sources=sources,
            summary={
                **measured.summary,
                **astrometry_numbers(solved),
                **reference_numbers(references, solved.wcs, exposure.shape),
            },
        )
        with _step("photometry", measured):
            photometry = SolvePhotometry(self.config.photometry).run(
                sources, references, solved, exposure.visit.band, exposure.shape
            )
        sources["calib_photometry_used"] = photometry.used
        numbers = photometry_numbers(photometry, sources, exposure.shape)
        psf = measured.exposure.psf
        if isinstance(psf, PolynomialPsf) and photometry.excess.size > 1:
            measured = _refluxed(measured, psf, with_correction(psf, -photometry.excess))
        return self._finished(measured, photometry.photo_calib, numbers)

    def bootstrap(self, exposure: Exposure, zero_point: float) -> Calibrated:
        """As ``run`` where no catalogue exists: the exposure's own WCS counts as true.

        ``zero_point`` is the AB magnitude taken for one electron.
        """
        return self._finished(self._measure(exposure), zero_point_calib(zero_point), {})

    def adopt(self, science: ScienceExposure) -> Calibrated:
        """The stars of a frame calibrated elsewhere; its WCS and scale count as true.

        The remaining background is subtracted, and the PSF is fitted where the frame has none.
        How its noise was smoothed is measured where a note does not say.
        """
        done = self._finished(self._measure(science), PhotoCalib(1.0), {})
        notes = dict(done.science.notes)
        if RESAMPLED not in notes:
            notes[RESAMPLED] = measured_resampling(done.science)
        adopted = done.science.replace(photo_calib=science.photo_calib, notes=notes)
        return done._replace(science=adopted)

    def _measure(self, exposure: Exposure) -> "Measured":
        """Everything that needs no catalogue."""
        config = self.config
        detect = DetectSources(config.sources)
        state = Measured(exposure, SOURCE.empty(), exposure.image, visit_numbers(exposure))
        with _step("background", state):
            flat, background = SubtractBackground(config.background).run(exposure)
        state = state._replace(exposure=flat, background=background)
        with _step("seeing", state):
            fwhm = detect.seeing(flat)
        flat = flat.replace(notes={**flat.notes, "CRSEARCH": config.find_cosmic_rays})
        state = state._replace(exposure=flat)
        if config.find_cosmic_rays:
            with _step("cosmic rays", state):
                state = state._replace(exposure=FindCosmicRays(config.cosmic_rays).run(flat, fwhm))
        state.summary.update(sky_numbers(state.exposure, background))
        with _step("sources", state):
            sources = detect.run(state.exposure, fwhm)
        state = state._replace(sources=sources)
        radius = config.flux_radius_fwhm * fwhm
        if state.exposure.psf is not None:
            return _with_psf(state, state.exposure.psf, fwhm, radius)
        with _step("PSF", state):
            fit = FitPsf(config.psf).run(state.exposure, sources)
        return self._with_fitted_psf(state, fit, fwhm, radius)

    def _with_fitted_psf(
        self, state: "Measured", fit: PsfFit, fwhm: float, radius: float
    ) -> "Measured":
        """PSF fluxes that mean total light."""
        measured = _with_psf(state, fit.psf, fwhm, radius)
        measured.sources["calib_psf_used"] = fit.used
        corrected = CorrectAperture(self.config.aperture_correction).run(
            measured.exposure, measured.sources, fit.psf, fwhm
        )
        measured = _refluxed(measured, fit.psf, corrected.psf)
        numbers = {
            **measured.summary,
            **fit.quality,
            **corrected.numbers,
            **star_numbers(measured.sources, fit.used, state.exposure.shape),
        }
        return measured._replace(summary=numbers)

    def _finished(
        self, measured: "Measured", calib: PhotoCalib, numbers: dict[str, float]
    ) -> Calibrated:
        """The measured image and its sources in nJy and on the sky."""
        exposure, wcs = measured.exposure, measured.exposure.wcs
        scale = np.float32(calib.njy_per_count)
        science = ScienceExposure.of(
            exposure,
            image=exposure.image * scale,
            variance=exposure.variance * scale**2,
            photo_calib=calib,
        )
        sources = measured.sources.copy()
        for column in FLUX_COLUMNS:
            sources[column] *= scale
        sources["ra"], sources["dec"] = wcs.pixel_to_sky(sources["x"], sources["y"])
        summary = {**measured.summary, **wcs_numbers(wcs, exposure.shape), **numbers}
        summary["zeroPoint"] = calib.zero_point
        summary["magLim"] = limiting_magnitude(
            calib, summary["skyBg"], exposure.detector.read_noise, summary["psfArea"]
        )
        stars = measured.sources[measured.sources["calib_psf_used"]]
        summary |= star_shape_numbers(exposure, stars, summary["psfSigma"])
        fiducial = self.config.fiducials.get(exposure.visit.band)
        if fiducial is not None:
            summary |= effective_time(summary, fiducial)
        return Calibrated(science, sources, measured.background * scale, summary)


def reference_catalog(calibrated: Calibrated) -> Catalog:
    """REFERENCE rows of an image's own undisturbed sources, at its epoch and in its band."""
    science, sources = calibrated.science, calibrated.sources
    good = sources["psfFlux"] > MIN_REFERENCE_SNR * sources["psfFluxErr"]
    for flag in ("flag_saturated", "flag_bad", "flag_edge"):
        good &= ~sources[flag]
    kept = sources[good]
    ny, nx = science.shape
    scale = pixel_scale_arcsec(science.wcs, (nx - 1) / 2, (ny - 1) / 2)
    rows = REFERENCE.empty(kept.size)
    rows["id"] = kept["id"]
    rows["ra"], rows["dec"] = kept["ra"], kept["dec"]
    rows["raErr"], rows["decErr"] = kept["xErr"] * scale, kept["yErr"] * scale
    rows["epochMjdTai"] = science.visit.mjd_tai
    rows[f"{science.visit.band}_flux"] = kept["psfFlux"]
    rows[f"{science.visit.band}_fluxErr"] = kept["psfFluxErr"]
    return rows


def extendedness(sources: Catalog, psf: Psf, shape: tuple[int, int], fwhm: float) -> Floats:
    """(n,) 0 for the PSF's size, towards 1 for wider; nan without moments.

    1 - exp(-chi^2 / 2) with chi = (T - T_psf) / sqrt(T_psf), T = ixx + iyy (meas_base's
    size extendedness); never wider than the PSF when smaller.
    """
    ny, nx = shape
    nodes = np.linspace(0, nx - 1, 7), np.linspace(0, ny - 1, 7)
    gx, gy = np.meshgrid(*nodes, indexing="ij")
    moments = psf_moments(psf, gx.ravel(), gy.ravel(), fwhm)
    size = (moments[:, 4] + moments[:, 5]).reshape(7, 7)
    at = np.column_stack([np.clip(sources["x"], 0, nx - 1), np.clip(sources["y"], 0, ny - 1)])
    expected = RegularGridInterpolator(nodes, size)(at)
    chi = (sources["ixx"] + sources["iyy"] - expected) / np.sqrt(expected)
    value: Floats = 1.0 - np.exp(-0.5 * np.clip(chi, 0, None) ** 2)
    return value


class Measured(NamedTuple):
    """What is known before the scale to nJy."""

    exposure: Exposure
    """In electrons."""
    sources: Catalog
    """SOURCE rows; what is not measured yet is nan."""
    background: Image
    summary: dict[str, float]


@contextmanager
def _step(name: str, state: Measured) -> Iterator[None]:
    """Names the step in a failure and keeps what was reached before it."""
    try:
        yield
    except TaskError as error:
        raise CalibrationFailed(name, str(error), state) from error


def _with_psf(state: Measured, psf: Psf, fwhm: float, radius: float) -> Measured:
    """PSF fluxes within ``radius`` pixels, and which sources are wider than the PSF."""
    exposure = state.exposure.replace(psf=psf)
    sources = state.sources.copy()
    broken = MaskPlane.NO_DATA | MaskPlane.SAT | MaskPlane.BAD
    bad = has(exposure.mask, broken)
    x, y = sources["x"], sources["y"]
    flux = psf_flux(exposure.image, exposure.variance, bad, psf, x, y, radius)
    sources["psfFlux"], sources["psfFluxErr"] = flux.flux, flux.flux_err
    sources["extendedness"] = extendedness(sources, psf, exposure.shape, fwhm)
    summary = {**state.summary, **psf_numbers(psf, exposure.shape, fwhm)}
    return Measured(exposure, sources, state.background, summary)


def _refluxed(measured: Measured, old: PolynomialPsf, new: PolynomialPsf) -> Measured:
    """PSF fluxes under a PSF that differs from the old one in the sum of its stamps only."""
    sources = measured.sources.copy()
    ratio = old.light(sources["x"], sources["y"]) / new.light(sources["x"], sources["y"])
    for column in ("psfFlux", "psfFluxErr"):
        sources[column] *= ratio
    return measured._replace(exposure=measured.exposure.replace(psf=new), sources=sources)


def _mark_astrometry(sources: Catalog, references: Catalog, solved: Astrometry) -> None:
    sources["ref_id"][solved.source_index] = references["id"][solved.reference_index]
    sources["calib_astrometry_used"][solved.source_index[solved.used]] = True
