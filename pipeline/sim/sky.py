"""What is in the simulated sky: static stars and galaxies, and everything that changes."""

from dataclasses import dataclass

import numpy as np

from promptdia.pipeline.sim.observing import Conditions
from promptdia.pipeline.sim.seeds import generator
from promptdia.pipeline.sim.surveys import Survey
from promptdia.pipeline.sim.truth import TRUTH_OBJECT
from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.catalogs import BANDS
from promptdia.tasks.model.wcs import tan_wcs

CATALOGUE_EPOCH_MJD = 57_388.5
"""2016.0: the epoch of star positions."""
COLOUR_TERM = {"u": 2.2, "g": 1.0, "r": 0.0, "i": -0.4, "z": -0.6, "y": -0.7}
"""Magnitude minus r, per magnitude of g - r."""


@dataclass(frozen=True, slots=True)
class Region:
    """The rectangle of sky that is populated, around the survey's centre."""

    ra_deg: float
    dec_deg: float
    half_arcsec: tuple[float, float]
    """Half sides east-west and north-south."""

    @property
    def area_arcmin2(self) -> float:
        """Its area."""
        return self.half_arcsec[0] * self.half_arcsec[1] / 900.0

    def scatter(self, rng: np.random.Generator, n: int) -> tuple[Floats, Floats]:
        """(ra, dec) of n uniform positions."""
        east, north = rng.uniform(-1.0, 1.0, (2, n)) * np.array(self.half_arcsec)[:, None]
        cd = np.diag([1.0, 1.0]) / 3600.0
        return tan_wcs(self.ra_deg, self.dec_deg, 0, 0, cd, (1, 1)).pixel_to_sky(east, north)


def populate(survey: Survey, region: Region, plan: list[Conditions], seed: int) -> Catalog:
    """Every object of the survey, TRUTH_OBJECT; truth_id counts from 1 in this order."""
    stars = _stars(survey, region, generator(seed, "stars"))
    galaxies = _galaxies(survey, region, generator(seed, "galaxies"))
    galaxies["truth_id"] = stars.size + 1 + np.arange(galaxies.size)
    objects = np.concatenate(
        [
            stars,
            galaxies,
            _supernovae(survey, region, galaxies, plan, generator(seed, "supernovae")),
            _variables(survey, region, generator(seed, "variables")),
            _nuclei(survey, galaxies, generator(seed, "nuclei")),
            *_movers(survey, region, plan, seed),
        ]
    )
    objects["truth_id"] = 1 + np.arange(objects.size)
    return objects


def offset(ra: Floats, dec: Floats, arcsec: Floats, angle_deg: Floats) -> tuple[Floats, Floats]:
    """Positions a small angle away in direction ``angle_deg``, north through east."""
    angle = np.deg2rad(angle_deg)
    east, north = arcsec * np.sin(angle) / 3600.0, arcsec * np.cos(angle) / 3600.0
    return ra + east / np.cos(np.deg2rad(dec)), dec + north


def _rows(kind: str, n: int, r_mag: Floats, colour: Floats) -> Catalog:
    rows = TRUTH_OBJECT.empty(n)
    rows["kind"] = kind
    rows["reference_mjd"] = CATALOGUE_EPOCH_MJD
    for band in BANDS:
        rows[f"{band}_mag"] = r_mag + COLOUR_TERM[band] * colour
    return rows


def _stars(survey: Survey, region: Region, rng: np.random.Generator) -> Catalog:
    p = survey.population
    count = p.stars_to_21 * region.area_arcmin2
    r_mag = _power_law_mags(rng, count, 21.0, p.star_slope, p.star_brightest, p.faintest)
    rows = _rows("star", r_mag.size, r_mag, rng.beta(2.0, 2.5, r_mag.size) * 1.5 + 0.1)
    rows["ra"], rows["dec"] = region.scatter(rng, r_mag.size)
    # most stars crawl, a few are near: a log-normal speed of 5 mas/yr, factor 2.5
    speed = 5.0 * 2.5 ** rng.normal(size=r_mag.size)
    angle = rng.uniform(0.0, 2.0 * np.pi, r_mag.size)
    rows["pm_ra"], rows["pm_dec"] = speed * np.sin(angle), speed * np.cos(angle)
    return rows


def _galaxies(survey: Survey, region: Region, rng: np.random.Generator) -> Catalog:
    p = survey.population
    count = p.galaxies_to_24 * region.area_arcmin2
    r_mag = _power_law_mags(rng, count, 24.0, p.galaxy_slope, p.galaxy_brightest, p.faintest)
    rows = _rows("galaxy", r_mag.size, r_mag, rng.normal(0.7, 0.25, r_mag.size))
    rows["ra"], rows["dec"] = region.scatter(rng, r_mag.size)
    radius = 0.35 * 10 ** (-0.1 * (r_mag - 24.0)) * 1.4 ** rng.normal(size=r_mag.size)
    # each galaxy takes a shape of about its size, so that neighbours differ
    radii = galaxy_radii(p.galaxy_shapes)
    index = np.interp(np.log(radius), np.log(radii), np.arange(p.galaxy_shapes))
    index += rng.uniform(-2.0, 2.0, radius.size)
    rows["shape"] = np.clip(np.rint(index), 0, p.galaxy_shapes - 1).astype(int)
    rows["half_light_radius"] = radii[rows["shape"]]
    return rows


def galaxy_radii(n_shapes: int) -> Floats:
    """Half-light radii of the galaxy shapes, arcsec, ascending."""
    return np.geomspace(0.18, 1.4, n_shapes)


def _supernovae(
    survey: Survey,
    region: Region,
    galaxies: Catalog,
    plan: list[Conditions],
    rng: np.random.Generator,
) -> Catalog:
    p = survey.population
    n_hosted = min(p.hosted_supernovae, int(np.sum(galaxies["r_mag"] < 24.0)))
    n = n_hosted + p.hostless_supernovae
    rows = _rows("supernova", n, rng.uniform(20.6, 24.9, n), rng.normal(0.2, 0.2, n))
    rows["ra"], rows["dec"] = region.scatter(rng, n)
    hosts = rng.choice(galaxies[galaxies["r_mag"] < 24.0], n_hosted, replace=False)
    distance = hosts["half_light_radius"] * rng.rayleigh(0.9, n_hosted)
    rows["host_id"][:n_hosted] = hosts["truth_id"]
    rows["ra"][:n_hosted], rows["dec"][:n_hosted] = offset(
        hosts["ra"], hosts["dec"], distance, rng.uniform(0.0, 360.0, n_hosted)
    )
    # most go off for the science visits, some were bright when the template was made
    template, science = (
        np.mean([c.visit.mjd_tai for c in plan if c.template is which]) for which in (True, False)
    )
    old = rng.random(n) < 0.12
    peak = np.where(old, template + rng.uniform(-10, 5, n), science + rng.uniform(-18, 6, n))
    rows["reference_mjd"] = peak
    rows["rise_d"], rows["fall_d"] = rng.uniform(2.5, 5.0, n), rng.uniform(12.0, 30.0, n)
    return rows


def _variables(survey: Survey, region: Region, rng: np.random.Generator) -> Catalog:
    n = survey.population.variable_stars
    rows = _rows("variable", n, rng.uniform(18.3, 23.2, n), rng.uniform(0.1, 1.2, n))
    rows["ra"], rows["dec"] = region.scatter(rng, n)
    _oscillate(rows, rng, 0.15, 12.0)
    return rows


def _nuclei(survey: Survey, galaxies: Catalog, rng: np.random.Generator) -> Catalog:
    large = galaxies[galaxies["r_mag"] < 22.5]
    n = min(survey.population.active_nuclei, large.size)
    hosts = rng.choice(large, n, replace=False)
    rows = _rows("variable", n, hosts["r_mag"] + rng.uniform(0.3, 1.5, n), rng.normal(0.2, 0.1, n))
    rows["ra"], rows["dec"], rows["host_id"] = hosts["ra"], hosts["dec"], hosts["truth_id"]
    _oscillate(rows, rng, 30.0, 200.0)
    return rows


def _oscillate(rows: Catalog, rng: np.random.Generator, shortest: float, longest: float) -> None:
    n = rows.size
    rows["period_d"] = np.exp(rng.uniform(np.log(shortest), np.log(longest), n))
    rows["amplitude_mag"] = np.exp(rng.uniform(np.log(0.1), np.log(1.0), n))
    rows["reference_mjd"] += rng.uniform(0.0, rows["period_d"])


def _movers(survey: Survey, region: Region, plan: list[Conditions], seed: int) -> list[Catalog]:
    """Asteroids per night, trails and satellites per visit."""
    p = survey.population
    found = []
    for day in sorted({c.visit.day_obs for c in plan}):
        times = [c.visit.mjd_tai for c in plan if c.visit.day_obs == day]
        rng = generator(seed, "asteroids", day)
        n = p.asteroids_per_night
        rates = np.exp(rng.uniform(np.log(6.0), np.log(60.0), n))
        middle, span = (times[0] + times[-1]) / 2, times[-1] - times[0] + 0.1
        found.append(
            _moving("asteroid", region, rng, rng.uniform(20.5, 24.3, n), rates, middle, span)
        )
    for conditions in plan:
        visit = conditions.visit
        span = visit.exposure_s / 86_400.0
        rng = generator(seed, "trails", visit.id)
        n = int(rng.poisson(p.trails_per_visit))
        lengths = np.exp(rng.uniform(np.log(2.5), np.log(40.0), n))
        rates = lengths * 3600.0 / visit.exposure_s
        mags = rng.uniform(17.5, 21.5, n)
        found.append(_moving("trail", region, rng, mags, rates, visit.mjd_tai, span))
        n = int(rng.poisson(p.satellites_per_visit))
        rates = rng.uniform(1000.0, 3000.0, n) * 3600.0
        mags = rng.uniform(22.0, 25.0, n)
        found.append(_moving("satellite", region, rng, mags, rates, visit.mjd_tai, span))
    return found


def _moving(
    kind: str,
    region: Region,
    rng: np.random.Generator,
    r_mag: Floats,
    rate_arcsec_h: Floats,
    mjd: float,
    span_d: float,
) -> Catalog:
    rows = _rows(kind, r_mag.size, r_mag, np.full(r_mag.size, 0.5))
    rows["ra"], rows["dec"] = region.scatter(rng, r_mag.size)
    rows["reference_mjd"], rows["duration_d"] = mjd, span_d
    rows["rate_arcsec_h"] = rate_arcsec_h
    rows["direction_deg"] = rng.uniform(0.0, 360.0, r_mag.size)
    return rows


def _power_law_mags(
    rng: np.random.Generator,
    count: float,
    to_mag: float,
    slope: float,
    brightest: float,
    faintest: float,
) -> Floats:
    """Magnitudes with N(<m) growing as 10^(slope m) and ``count`` expected above ``to_mag``."""
    low, high = (count * 10 ** (slope * (m - to_mag)) for m in (brightest, faintest))
    n = int(rng.poisson(high - low))
    mags: Floats = to_mag + np.log10(rng.uniform(low, high, n) / count) / slope
    return mags
