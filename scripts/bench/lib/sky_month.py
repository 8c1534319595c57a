"""A month of a field at catalogue level: variable objects, blends, false detections, and truth.

Difference fluxes are drawn, not rendered: a source is what a detector with a threshold of
S/N 5 and the seeing of that visit would list. Two members of a blend that are closer than
0.6 FWHM and both seen are one source at their common centre of light, as they would be.
"""

from dataclasses import dataclass

import numpy as np

from promptdia.apdb.ids import dia_source_ids, visit_id
from promptdia.apdb.schema.lsst import DIA_SOURCE
from promptdia.tasks.model.arrays import Catalog, Floats, Ints
from promptdia.tasks.model.wcs import FitsWcs, tan_wcs

DETECTION_SNR = 5.0
RESOLVED_FWHM = 0.6
SYSTEMATIC_ARCSEC = 0.02
"""Error of each visit's WCS, per position and axis; it is in the errors that are reported."""


@dataclass(frozen=True, slots=True)
class Month:
    """How the field looks and is observed."""

    n_objects: int = 2000
    side_arcsec: float = 720.0
    blended: float = 0.05
    """Part of the objects that have a neighbour within ``blend_arcsec``."""
    blend_arcsec: float = 2.0
    nights: int = 30
    visits_per_night: int = 2
    false_per_visit: float = 20.0
    ra_deg: float = 53.0
    dec_deg: float = -28.0


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """What one visit lists."""

    sources: Catalog
    truth: Ints
    """(n,) number of the object behind each source, the brighter one of a merged blend; -1 for
    a false detection."""
    blended: Ints
    """(n,) 1 for a source of an object that has a neighbour."""


def observe(month: Month, seed: int) -> list[Seen]:
    """The visits in time order."""
    rng = np.random.default_rng(seed)
    wcs = tan_wcs(month.ra_deg, month.dec_deg, 0, 0, np.diag([-1, 1]) / 3600, (1, 1))
    place, partner = _places(month, rng)
    amplitude = 10 ** rng.uniform(0.5, 1.7, month.n_objects)  # S/N at the greatest change
    period, phase = rng.uniform(0.3, 40.0, month.n_objects), rng.uniform(0, 1, month.n_objects)
    outburst = rng.uniform(-20, 30, month.n_objects)
    transient = rng.random(month.n_objects) < 0.3
    visits = []
    for number in range(month.nights * month.visits_per_night):
        night, rank = divmod(number, month.visits_per_night)
        mjd = 61000.0 + night + 0.02 * rank
        t = mjd - 61000.0
        wave = np.sin(2 * np.pi * (t / period + phase))
        burst = np.where(t > outburst, np.exp(-(t - outburst) / 15.0), 0.0)
        fwhm, depth = rng.uniform(0.7, 1.1), rng.uniform(0.7, 1.2)
        snr = amplitude * np.where(transient, burst, wave) * depth
        visits.append(_visit(month, rng, wcs, place, partner, snr, fwhm, mjd, night, rank))
    return visits


def _places(month: Month, rng: np.random.Generator) -> tuple[Floats, Ints]:
    """(n, 2) tangent-plane positions and (n,) the number of each one's neighbour, -1 for none."""
    n_pairs = round(month.n_objects * month.blended / 2)
    half = month.side_arcsec / 2
    place = rng.uniform(-half, half, (month.n_objects, 2))
    radius = month.blend_arcsec * np.sqrt(rng.random(n_pairs))
    angle = rng.uniform(0, 2 * np.pi, n_pairs)
    first, second = np.arange(n_pairs), np.arange(n_pairs, 2 * n_pairs)
    place[second] = place[first] + np.column_stack([radius * np.cos(angle), radius * np.sin(angle)])
    partner = np.full(month.n_objects, -1)
    partner[first], partner[second] = second, first
    return place, partner


def _visit(
    month: Month,
    rng: np.random.Generator,
    wcs: FitsWcs,
    place: Floats,
    partner: Ints,
    snr: Floats,
    fwhm: float,
    mjd: float,
    night: int,
    rank: int,
) -> Seen:
    noisy = snr + rng.normal(0, 1, snr.size)
    truth = np.flatnonzero(np.abs(noisy) >= DETECTION_SNR)
    where, level = place[truth].copy(), np.abs(noisy[truth])
    kept = np.ones(truth.size, bool)
    at = {number: k for k, number in enumerate(truth.tolist())}
    for k, number in enumerate(truth.tolist()):
        other = at.get(int(partner[number]), -1)
        if other < 0 or level[other] > level[k] or not kept[k]:
            continue
        if np.hypot(*(place[number] - place[truth[other]])) < RESOLVED_FWHM * fwhm:
            weight = level[[k, other]]
            where[k] = np.average(place[truth[[k, other]]], axis=0, weights=weight)
            kept[other] = False
    truth, where, level = truth[kept], where[kept], level[kept]
    n_false, half = rng.poisson(month.false_per_visit), month.side_arcsec / 2
    truth = np.concatenate([truth, np.full(n_false, -1)])
    where = np.concatenate([where, rng.uniform(-half, half, (n_false, 2))])
    level = np.concatenate([level, rng.uniform(DETECTION_SNR, 8, n_false)])
    sigma = np.hypot(fwhm / 2.355 / level, SYSTEMATIC_ARCSEC)
    where = where + rng.normal(0, 1, where.shape) * sigma[:, None]

    rows = DIA_SOURCE.empty(truth.size)
    rows["visit"] = visit_id(20260101 + night, rank + 1)
    rows["diaSourceId"] = dia_source_ids(int(rows["visit"][0]), 0, np.arange(rows.size))
    rows["ra"], rows["dec"] = wcs.pixel_to_sky(where[:, 0], where[:, 1])
    rows["raErr"] = rows["decErr"] = sigma / 3600
    rows["ra_dec_Cov"] = 0.0
    rows["midpointMjdTai"] = rows["timeProcessedMjdTai"] = mjd
    rows["psfFlux"], rows["psfFluxErr"], rows["snr"], rows["band"] = level, 1.0, level, "r"
    in_pair = (truth >= 0) & (partner[np.maximum(truth, 0)] >= 0)
    return Seen(rows, truth, in_pair.astype(np.int64))
