"""When and in what conditions the simulated survey observes."""

from dataclasses import dataclass, replace
from datetime import date

import numpy as np

from promptdia.pipeline.sim.seeds import generator
from promptdia.pipeline.sim.surveys import Night, Survey
from promptdia.tasks.model.visit import Visit

EXTINCTION_MAG_PER_AIRMASS = 0.1


@dataclass(frozen=True, slots=True)
class Conditions:
    """One visit as it really was, beside what its header will say."""

    visit: Visit
    """As the header says."""
    pointing: Visit
    """With the pointing and rotation that the telescope really had."""
    template: bool
    fwhm_arcsec: float
    """Seeing at the centre of the field."""
    ellipticity: tuple[float, float]
    """Reduced shear of the PSF at the centre, focal-plane axes."""
    fwhm_slope: tuple[float, float]
    """Relative change of the FWHM from the centre to the corner radius, per axis."""
    ellipticity_slope: tuple[float, float]
    throughput: float
    """Transparency and extinction, 1 above the atmosphere."""
    sky_mag: float
    """Per square arcsecond."""
    sky_slope: tuple[float, float]
    """Relative change of the sky from the centre to the corner radius, per axis."""


def plan(survey: Survey, seed: int) -> list[Conditions]:
    """All visits in time order."""
    return [
        _conditions(survey, night, sequence, seed)
        for night in survey.nights
        for sequence in range(1, night.n_visits + 1)
    ]


def mjd_of_night(day_obs: int) -> float:
    """MJD at which observing starts: soon after 0 h of the next calendar day."""
    day = date(day_obs // 10_000, day_obs // 100 % 100, day_obs % 100)
    return day.toordinal() - 678_576 + 1.05


def _conditions(survey: Survey, night: Night, sequence: int, seed: int) -> Conditions:
    number = night.day_obs * 100_000 + sequence
    rng = generator(seed, "visit", number)
    visit = _visit(survey, night, number, sequence, rng)
    error = rng.normal(0.0, survey.pointing_error_arcsec, 2) / 3600.0
    pointing = replace(
        visit,
        ra_deg=visit.ra_deg + error[0] / np.cos(np.deg2rad(visit.dec_deg)),
        dec_deg=visit.dec_deg + error[1],
        rotation_deg=visit.rotation_deg + rng.normal(0.0, 0.02),
    )
    dimming_mag = EXTINCTION_MAG_PER_AIRMASS * visit.airmass
    return Conditions(
        visit=visit,
        pointing=pointing,
        template=night.template,
        fwhm_arcsec=rng.uniform(*night.seeing_arcsec),
        ellipticity=_pair(rng, 0.02),
        fwhm_slope=_pair(rng, 0.02),
        ellipticity_slope=_pair(rng, 0.01),
        throughput=rng.uniform(*survey.transparency) * 10 ** (-0.4 * dimming_mag),
        sky_mag=survey.dark_sky[night.band] - rng.uniform(0.0, survey.moonlight_mag),
        sky_slope=_pair(rng, 0.01),
    )


def _visit(
    survey: Survey, night: Night, number: int, sequence: int, rng: np.random.Generator
) -> Visit:
    dither = rng.uniform(-survey.dither_arcsec, survey.dither_arcsec, 2) / 3600.0
    days = ((sequence - 1) + rng.uniform(-0.2, 0.2)) * night.cadence_min / 1440.0
    hour_angle = np.deg2rad(-35.0 + 60.0 * (sequence - 1) / max(1, night.n_visits - 1))
    return Visit(
        id=number,
        band=night.band,
        mjd_tai=mjd_of_night(night.day_obs) + days,
        exposure_s=survey.exposure_s,
        ra_deg=survey.ra_deg + dither[0] / np.cos(np.deg2rad(survey.dec_deg)),
        dec_deg=survey.dec_deg + dither[1],
        rotation_deg=rng.uniform(-survey.rotation_deg, survey.rotation_deg),
        airmass=float(1.0 / np.cos(hour_angle)),
        observation_reason="template" if night.template else "science",
        target_name=f"sim-{survey.name}",
    )


def _pair(rng: np.random.Generator, sigma: float) -> tuple[float, float]:
    a, b = np.clip(rng.normal(0.0, sigma, 2), -2.5 * sigma, 2.5 * sigma)
    return float(a), float(b)
