"""Which detections go on: a table of rules, the first that stops a source is recorded."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from promptdia.apdb.schema.lsst import DIA_SOURCE, REJECTED
from promptdia.tasks.model.arrays import Bools, Catalog, Floats

DEG_PER_DAY = 3600.0 / 86400.0
"""Arcsec per second of time."""


@dataclass(frozen=True, slots=True)
class FilterConfig:
    """Limits of the rules; None switches a rule off."""

    near_bright: bool = True
    """Stop sources in the halo of a saturated star."""
    streak: bool = True
    """Stop sources on a streak."""
    glint: bool = True
    """Stop sources that belong to a row of glints."""
    dipole: bool = True
    """Stop dipoles."""
    min_science_snr: float | None = -2.0
    """Flux on the science image over its error: a hole in the sky is no source."""
    max_bad_fraction: float | None = 0.4
    """Part of the pixels within one FWHM that may be unusable."""
    max_sharpness: float | None = 2.0
    """Peak over the PSF model's peak, of which noise may hide 5 sigma."""
    max_trail_deg_per_day: float | None = 10.0
    """Motion of a trailed source; Rubin's limit, above which satellites are."""


class Filtered(NamedTuple):
    """Every source, on one side or the other."""

    kept: Catalog
    """Rows of DIA_SOURCE."""
    rejected: Catalog
    """Rows of REJECTED."""


class Rule(NamedTuple):
    """Stops a source whose value lies beyond the limit; nan passes."""

    name: str
    value: Callable[[Catalog], Floats]
    limit: float
    below: bool = False
    """Stops what lies under the limit rather than over it."""

    def stops(self, value: Floats) -> Bools:
        """(n,) which values are beyond the limit."""
        return value < self.limit if self.below else value > self.limit


def rules(config: FilterConfig, exposure_s: float) -> list[Rule]:
    """The rules in the order in which they are tried."""
    table = [
        _flag("off_image", "pixelFlags_offimage"),
        _flag("no_data_center", "pixelFlags_nodataCenter"),
        _flag("edge_center", "edgeCenter"),
        _flag("saturated_center", "pixelFlags_saturatedCenter"),
        _flag("saturated_template_center", "satTemplateCenter"),
        _flag("bad_center", "badCenter"),
        _flag("cosmic_ray_center", "pixelFlags_crCenter"),
        _flag("interpolated_center", "interpolatedCenterAll"),
        _flag("spike_center", "spikeCenter"),
        _flag("high_variance_center", "highVarianceCenterAll"),
        _flag("no_good_pixels", "psfFlux_flag_noGoodPixels"),
    ]
    if config.near_bright:
        table.append(_flag("near_bright_star", "nearBrightCenter"))
    if config.streak:
        table.append(_flag("streak_center", "pixelFlags_streakCenter"))
    if config.max_bad_fraction is not None:
        table.append(Rule("bad_fraction", _column("badFraction"), config.max_bad_fraction))
    if config.max_trail_deg_per_day is not None:
        longest = config.max_trail_deg_per_day * DEG_PER_DAY * exposure_s
        table.append(Rule("trail_length_arcsec", _sure_length, longest))
    if config.dipole:
        table.append(_flag("dipole", "isDipole"))
    if config.max_sharpness is not None:
        table.append(Rule("sharper_than_psf", _column("sharpness"), config.max_sharpness))
    table.append(_flag("centroid", "centroid_flag"))
    if config.min_science_snr is not None:
        table.append(Rule("science_snr", _science_snr, config.min_science_snr, below=True))
    if config.glint:
        table.append(_flag("glint", "glint_trail"))
    return table


@dataclass(frozen=True, slots=True)
class FilterDiaSources:
    """Take out what cannot be astrophysical."""

    config: FilterConfig

    def run(self, sources: Catalog, exposure_s: float) -> Filtered:
        """Split rows of measure.MEASURED; kept and rejected keep their order and add up."""
        free = np.ones(len(sources), bool)
        reasons = REJECTED.empty(len(sources))[["rule", "rule_value", "rule_limit"]]
        for rule in rules(self.config, exposure_s):
            value = rule.value(sources)
            stopped = free & rule.stops(value)
            reasons["rule"][stopped] = rule.name
            reasons["rule_value"][stopped] = value[stopped]
            reasons["rule_limit"][stopped] = rule.limit
            free &= ~stopped
        kept, rejected = DIA_SOURCE.empty(int(free.sum())), REJECTED.empty(int((~free).sum()))
        for column in DIA_SOURCE.columns:
            kept[column.name] = sources[column.name][free]
            rejected[column.name] = sources[column.name][~free]
        for name in reasons.dtype.names or ():
            rejected[name] = reasons[name][~free]
        return Filtered(kept, rejected)


def _flag(name: str, column: str) -> Rule:
    return Rule(name, _column(column), 0.0)


def _column(name: str) -> Callable[[Catalog], Floats]:
    def value(sources: Catalog) -> Floats:
        result: Floats = sources[name].astype(float)
        return result

    return value


def _science_snr(sources: Catalog) -> Floats:
    snr: Floats = sources["scienceFlux"].astype(float) / sources["scienceFluxErr"]
    return snr


def _sure_length(sources: Catalog) -> Floats:
    """Trail length known to 3 sigma, else 0; without moments the footprint's; arcsec."""
    known = sources["trailLength"] > 3 * sources["trailLengthErr"]
    length = np.where(known, sources["trailLength"], 0.0)
    return np.where(sources["trail_flag"], sources["footprintLength"], length).astype(float)
