"""Raw to calibrated exposure: time per step, and of the library that does the same."""

import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from lib.fields import Field, simulate, survey_of
from lib.results import Checks, Rows, verdict

from promptdia.tasks.aperture_correction import ApertureCorrectionConfig, CorrectAperture
from promptdia.tasks.astrometry import AstrometryConfig, SolveAstrometry, positions_at
from promptdia.tasks.background import BackgroundConfig, SubtractBackground
from promptdia.tasks.calibrate import CalibrateImage
from promptdia.tasks.cosmic_rays import CosmicRayConfig, FindCosmicRays
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.wcs import FitsWcs, tan_wcs
from promptdia.tasks.psf import FitPsf, PsfConfig
from promptdia.tasks.sources import DetectSources, SourceConfig
from promptdia.tasks.warp import warp

FULL_SIDE = 4096
"""Pixels a side of the detector that the limits are meant for."""
DENSER = 2.4
"""Times as many objects as in the survey: about 5,000 sources are detected then."""


class Time(NamedTuple):
    """What a call took, and what it returned."""

    cpu_s: float
    wall_s: float
    result: Any


def checks(seed: int, quick: bool) -> tuple[Checks, Rows]:
    """Time of the whole, and a table of steps beside their alternatives."""
    survey = survey_of(quick)
    sky = survey.population
    dense = replace(
        sky,
        stars_to_21=DENSER * sky.stars_to_21,
        galaxies_to_24=DENSER * sky.galaxies_to_24,
    )
    field = simulate(replace(survey, population=dense), seed)[0]

    def whole() -> Any:
        return CalibrateImage().run(field.exposure(), field.references)

    total = timed(whole)
    n = int(total.result.sources.size)
    what = f"raw to calibrated, {field.raw.detector.nx} px, {n} sources"
    rows: Rows = [{"what": what, "seconds": total.cpu_s, "wall_s": total.wall_s}]
    rows += steps(field)
    results: Checks = []
    side = field.raw.detector.nx
    for name, seconds, needed in (("CPU", total.cpu_s, "<= 4"), ("wall", total.wall_s, "<= 3")):
        name = f"raw to calibrated, {name} s"
        found = verdict(name, seconds, needed, side, FULL_SIDE, "pixels a side")
        results, rows = results + found[0], rows + found[1]
    return results, rows


def timed(call: Callable[[], Any], repeats: int = 3) -> Time:
    """CPU seconds of all threads and wall seconds of the fastest call; others share the machine."""
    spent = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        result = call()
        spent.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall, cpu = min(spent)
    return Time(cpu, wall, result)


def steps(field: Field) -> Rows:
    """Each step and, where there is one, a library's."""
    detect = DetectSources(SourceConfig())
    isr = timed(field.exposure)
    exposure: Exposure = isr.result
    background = timed(lambda: SubtractBackground(BackgroundConfig()).run(exposure))
    flat: Exposure = background.result[0]
    seeing = timed(lambda: detect.seeing(flat))
    fwhm = seeing.result
    rays = timed(lambda: FindCosmicRays(CosmicRayConfig()).run(flat, fwhm))
    clean: Exposure = rays.result
    sources = timed(lambda: detect.run(clean, fwhm))
    psf = timed(lambda: FitPsf(PsfConfig()).run(clean, sources.result))
    table = sources.result
    table["psfFlux"] = table["apFlux"]
    correct = CorrectAperture(ApertureCorrectionConfig())
    aperture = timed(lambda: correct.run(clean, table, psf.result.psf, fwhm))
    solve = SolveAstrometry(AstrometryConfig())
    mjd = exposure.visit.mjd_tai
    wcs = timed(lambda: solve.run(table, field.references, exposure.wcs, exposure.shape, mjd))
    turned = _turned(wcs.result.wcs, exposure.shape)
    warped = timed(lambda: warp(clean.replace(psf=psf.result.psf), turned, exposure.shape))
    pairs = wcs.result
    star = table[pairs.source_index[pairs.used]]
    ra, dec = positions_at(field.references[pairs.reference_index[pairs.used]], mjd)
    blank = has(clean.mask, MaskPlane.NO_DATA | MaskPlane.BAD | MaskPlane.SAT)
    return [
        _row("ISR", isr),
        _row("background", background),
        _peer("background, photutils Background2D", lambda: _photutils(exposure, blank)),
        _row("seeing", seeing),
        _row("cosmic rays", rays),
        _peer("cosmic rays, astroscrappy", lambda: _astroscrappy(exposure, blank, fwhm)),
        _row("sources", sources),
        _row("PSF", psf),
        _row("aperture correction", aperture),
        _row("match and WCS", wcs),
        _peer("WCS alone, astropy fit_wcs_from_points", lambda: _astropy(star, ra, dec, exposure)),
        _row("warp to another grid (template step)", warped),
        _peer("warp, reproject_interp bicubic", lambda: _reproject(clean, turned)),
    ]


def _row(what: str, spent: Time) -> dict[str, Any]:
    return {"what": what, "seconds": spent.cpu_s, "wall_s": spent.wall_s}


def _peer(what: str, call: Callable[[], Any]) -> dict[str, Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _row(what, timed(call, repeats=1))
    except ImportError as absent:
        return {"what": what, "reason": str(absent)}


def _photutils(exposure: Exposure, blank: np.ndarray) -> Any:
    from photutils.background import Background2D, MedianBackground

    return Background2D(
        exposure.image, 128, filter_size=3, mask=blank, bkg_estimator=MedianBackground()
    ).background


def _astroscrappy(exposure: Exposure, blank: np.ndarray, fwhm: float) -> Any:
    import astroscrappy

    # on the image with its sky, as it models the noise
    return astroscrappy.detect_cosmics(
        exposure.image,
        inmask=blank,
        gain=1.0,
        readnoise=exposure.detector.read_noise,
        satlevel=np.inf,
        psfmodel="gauss",
        psffwhm=fwhm,
    )


def _astropy(star: Any, ra: np.ndarray, dec: np.ndarray, exposure: Exposure) -> Any:
    from astropy import units
    from astropy.coordinates import SkyCoord
    from astropy.wcs.utils import fit_wcs_from_points

    sky = SkyCoord(ra, dec, unit=units.deg)
    return fit_wcs_from_points((star["x"], star["y"]), sky, sip_degree=3)


def _reproject(exposure: Exposure, wcs: FitsWcs) -> Any:
    from reproject import reproject_interp

    return reproject_interp(
        (exposure.image, exposure.wcs.wcs), wcs.wcs, shape_out=exposure.shape, order="bicubic"
    )


def _turned(wcs: FitsWcs, shape: tuple[int, int]) -> FitsWcs:
    """A grid half a degree and some pixels away."""
    ny, nx = shape
    ra, dec = (float(v[0]) for v in wcs.pixel_to_sky(np.array([nx / 2]), np.array([ny / 2])))
    c, s = np.cos(np.deg2rad(0.5)), np.sin(np.deg2rad(0.5))
    cd = np.asarray(wcs.wcs.pixel_scale_matrix) @ np.array([[c, -s], [s, c]])
    return tan_wcs(ra, dec, nx / 2 + 3.3, ny / 2 - 4.4, cd, shape)
