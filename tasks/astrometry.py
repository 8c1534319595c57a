"""The WCS of an image from a reference catalogue."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from scipy.spatial import cKDTree

from promptdia.tasks.errors import TaskError
from promptdia.tasks.matching import (
    Match,
    Search,
    false_alarm,
    match_patterns,
    nearest_pairs,
    no_match,
)
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints
from promptdia.tasks.model.catalogs import BANDS
from promptdia.tasks.model.wcs import FitsWcs, pixel_scale_arcsec, separation_arcsec
from promptdia.tasks.wcs_fit import MapFit, composite_wcs, fit_pixel_map

DAYS_PER_YEAR = 365.25


@dataclass(frozen=True, slots=True)
class AstrometryConfig:
    max_offset_arcsec: float = 60.0
    """Pointing error that is searched."""
    max_rotation_deg: float = 1.0
    """Error of the position angle that is searched first."""
    blind: bool = True
    """Where that finds nothing, search any position angle, then mirrored images."""
    max_scale_error: float = 0.1
    """Relative error of the plate scale that is searched."""
    match_radius_px: float = 4.0
    """How far a star may lie from a quadratic map of the first guess."""
    false_alarm: float = 1e-4
    """Accepted chance that a match is an accident."""
    min_matches: int = 6
    """Stars that must agree in the end."""
    max_order: int = 3
    """Of the polynomial; what the number of stars bears may be less."""
    max_rms_px: float = 0.8
    """More scatter per axis than this is no solution."""
    systematic_px: float = 0.01
    """Error of any centroid, added to the statistical one."""


class Astrometry(NamedTuple):
    """A solved WCS and the pairs it rests on."""

    wcs: FitsWcs
    source_index: Ints
    """(n,) rows of the sources that match a reference."""
    reference_index: Ints
    """(n,) rows of the references, in the same order."""
    used: Bools
    """(n,) pairs that the fit is made of."""
    separation_arcsec: Floats
    """(n,) source from reference."""
    rms_arcsec: float
    """Per axis, of the pairs used."""
    order: int
    log10_false_alarm: float


@dataclass(frozen=True, slots=True)
class SolveAstrometry:
    """Match sources to references by their pattern, then fit the WCS."""

    config: AstrometryConfig

    def run(
        self,
        sources: Catalog,
        references: Catalog,
        guess: FitsWcs,
        shape: tuple[int, int],
        mjd_tai: float,
    ) -> Astrometry:
        """The WCS; raises TaskError when no significant match is found.

        ``guess`` may be wrong by what the configuration says, and in its position angle
        and parity altogether. Fluxes help to choose stars but are not needed.
        """
        ra, dec = positions_at(references, mjd_tai)
        scale = pixel_scale_arcsec(guess, (shape[1] - 1) / 2, (shape[0] - 1) / 2)
        near, where = self._in_field(ra, dec, guess, shape, scale)
        order = _brightest_first(_brightness(references[near]))
        near, where = near[order], where[order]
        usable = _usable(sources)
        stars = usable[_brightest_first(_source_flux(sources[usable]))]
        xy = np.column_stack([sources["x"][stars], sources["y"][stars]])
        match, search = self._matched(where, xy, shape, scale)
        self._check(match.a.size, -np.inf, stars.size, near.size)
        variance = _variance_px(sources[stars], self.config.systematic_px)
        fittable = ~(sources["flag_saturated"][stars] | sources["flag_bad"][stars])
        fit, a, b = self._refined(match, where, xy, variance, fittable, shape)
        used = fit.used & fittable[b]
        chance = _chance(fit, used, where, xy, shape, search)
        self._check(int(used.sum()), chance, stars.size, near.size)
        rms = scale * float(np.sqrt(np.mean(fit.residuals[used] ** 2)))
        self._check_rms(rms, scale)
        wcs = composite_wcs(guess, fit.map)
        source, reference = stars[b], near[a]
        sky = wcs.pixel_to_sky(*xy[b].T)
        separation = separation_arcsec(*sky, ra[reference], dec[reference])
        return Astrometry(wcs, source, reference, used, separation, rms, fit.map.order, chance)

    def _in_field(
        self, ra: Floats, dec: Floats, guess: FitsWcs, shape: tuple[int, int], scale: float
    ) -> tuple[Ints, Floats]:
        """References that may fall on the image, and their pixels under the guess."""
        centre = guess.pixel_to_sky(*(np.array([(n - 1) / 2]) for n in shape[::-1]))
        reach = 0.5 * float(np.hypot(*shape)) * (1 + self.config.max_scale_error)
        radius = 1.2 * reach * scale + self.config.max_offset_arcsec
        separation = separation_arcsec(ra, dec, *centre)
        near = np.flatnonzero(separation < radius)
        if near.size:
            where = np.column_stack(guess.sky_to_pixel(ra[near], dec[near]))
            margin = self.config.max_offset_arcsec / scale + self.config.max_scale_error * reach
            inside = np.isfinite(where).all(axis=1)
            inside &= ((where > -margin) & (where < np.array(shape[::-1]) + margin)).all(axis=1)
            near, where = near[inside], where[inside]
        if near.size == 0:
            raise TaskError(
                f"none of {ra.size} reference stars lies within {radius:.0f} arcsec "
                f"of ra {float(centre[0][0]):.4f}, dec {float(centre[1][0]):.4f}; "
                "the reference catalogue does not cover the field"
            )
        return near, where

    def _matched(
        self, where: Floats, xy: Floats, shape: tuple[int, int], scale: float
    ) -> tuple[Match, Search]:
        """The first significant match, else the best, and the search that found it."""
        config = self.config
        near = Search(
            max_shift_px=(1 + config.max_scale_error) * config.max_offset_arcsec / scale,
            max_rotation_deg=config.max_rotation_deg,
            max_scale_error=config.max_scale_error,
            radius_px=config.match_radius_px,
            false_alarm=config.false_alarm,
        )
        any_angle = replace(near, max_rotation_deg=180.0)
        mirrored = np.column_stack([shape[1] - 1 - xy[:, 0], xy[:, 1]])
        tries = [(near, xy)] + [(any_angle, xy), (any_angle, mirrored)] * config.blind
        best, used = no_match(), near
        for search, seen in tries:
            match = match_patterns(where, seen, shape, search)
            if match.log10_false_alarm < best.log10_false_alarm or best.a.size == 0:
                best, used = match, search
            if match.log10_false_alarm < np.log10(config.false_alarm):
                break
        return best, used

    def _refined(
        self,
        match: Match,
        where: Floats,
        xy: Floats,
        variance: Floats,
        fittable: Bools,
        shape: tuple[int, int],
    ) -> tuple[MapFit, Ints, Ints]:
        """The final fit, and its pairs as rows of ``where`` and ``xy``."""
        tree = cKDTree(where)
        b, a = match.b, match.a
        radius = self.config.match_radius_px
        for _ in range(6):
            sound = fittable[b]
            rows = np.flatnonzero(sound) if sound.sum() >= 4 else np.arange(b.size)
            fit = fit_pixel_map(
                xy[b[rows]], where[a[rows]], variance[b[rows]], shape, self.config.max_order
            )
            left = np.hypot(*fit.residuals[fit.used].T)
            radius = min(radius, max(5.0 * float(np.median(left)), 0.5))
            new_b, new_a = nearest_pairs(fit.map(xy), tree, radius)
            settled = np.array_equal(new_b, b) and np.array_equal(new_a, a)
            b, a = new_b, new_a
            if settled or b.size < 4:
                break
        residuals = where[a] - fit.map(xy[b])
        accepted = np.isin(b, b[rows][fit.used]) if settled else np.ones(b.size, bool)
        return MapFit(fit.map, accepted, residuals), a, b

    def _check(self, matched: int, log10_chance: float, n_stars: int, n_references: int) -> None:
        if matched < self.config.min_matches:
            raise TaskError(
                f"matched {matched} of {n_stars} sources to {n_references} "
                f"references, needs {self.config.min_matches}"
            )
        if log10_chance > np.log10(self.config.false_alarm):
            raise TaskError(
                f"the best match, {matched} of {n_stars} sources to {n_references} "
                f"references, may be an accident (chance 1e{log10_chance:.1f}, accepted "
                f"{self.config.false_alarm:g})"
            )

    def _check_rms(self, rms: float, scale: float) -> None:
        if rms > self.config.max_rms_px * scale:
            raise TaskError(
                f"matched stars scatter by {rms / scale:.2f} pixels per axis about "
                f"the best WCS, more than {self.config.max_rms_px:g}"
            )


def _chance(
    fit: MapFit, used: Bools, where: Floats, xy: Floats, shape: tuple[int, int], search: Search
) -> float:
    radius = max(float(np.hypot(*fit.residuals[used].T).max(initial=0.0)), 0.1)
    return false_alarm(int(used.sum()), fit.map.order, xy, where, shape, radius, search)


def positions_at(references: Catalog, mjd_tai: float) -> tuple[Floats, Floats]:
    """(ra, dec) in degrees with proper motions applied where they are known."""
    years = np.nan_to_num((mjd_tai - references["epochMjdTai"]) / DAYS_PER_YEAR)
    east = np.nan_to_num(references["pmRa"].astype(float)) * years / 3.6e6
    north = np.nan_to_num(references["pmDec"].astype(float)) * years / 3.6e6
    ra = references["ra"] + east / np.cos(np.deg2rad(references["dec"]))
    return ra % 360.0, references["dec"] + north


def _usable(sources: Catalog) -> Ints:
    finite = np.isfinite(sources["x"]) & np.isfinite(sources["y"])
    return np.flatnonzero(finite & ~sources["flag_edge"])


def _source_flux(sources: Catalog) -> Floats:
    flux: Floats = np.where(np.isfinite(sources["psfFlux"]), sources["psfFlux"], sources["apFlux"])
    return flux


def _brightness(references: Catalog) -> Floats:
    """Highest known flux of each reference, nan where there is none."""
    fluxes = np.stack([references[f"{band}_flux"] for band in BANDS])
    brightest: Floats = np.where(np.isfinite(fluxes), fluxes, -np.inf).max(axis=0)
    return brightest


def _brightest_first(flux: Floats) -> Ints:
    """Order of falling flux; unknown ones last, in the order given."""
    return np.argsort(-np.where(np.isfinite(flux), flux, -np.inf), kind="stable")


def _variance_px(sources: Catalog, systematic_px: float) -> Floats:
    """(n,) of one coordinate of the centroid."""
    x, y = (np.nan_to_num(sources[name].astype(float), nan=0.05) for name in ("xErr", "yErr"))
    variance: Floats = (x**2 + y**2) / 2 + systematic_px**2
    return variance
