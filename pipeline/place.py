"""What happened at a place of the sky in a visit: alerted, rejected, or nothing seen."""

from collections.abc import Iterator

import numpy as np

from promptdia.apdb.schema.lsst import DIA_OBJECT
from promptdia.apdb.store import Apdb, Region
from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.factory import make_tasks
from promptdia.pipeline.io.fits import open_fits, read_exposure
from promptdia.pipeline.repository import Repository
from promptdia.tasks.model.exposure import DifferenceExposure, ScienceExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.wcs import FitsWcs, separation_arcsec

NEAR_ARCSEC = 2.0
"""A source or rejected detection this close to the place is taken to be what was asked for."""


def explain_place(
    repository: Repository, store: Apdb, ra: float, dec: float, visit: int
) -> Iterator[str]:
    """Sentences on a place in degrees, detector by detector of a visit.

    Of each source and each rejected detection within NEAR_ARCSEC its story, nearest first;
    then what the pixels say: forced PSF fluxes on difference and science image, and the
    mask planes set there. ConfigError for a visit that does not exist or no position.
    """
    if not (np.isfinite(ra) and -90 <= dec <= 90):
        raise ConfigError(f"ra {ra}, dec {dec} is no position; give degrees, dec from -90 to 90")
    ra %= 360.0
    repository.visit(visit)
    found = sorted(_near(store, ra, dec, visit))
    for distance, id in found:
        yield f'{distance:.2f}" away: ' + " ".join(store.explain(id).story)
    if not found:
        yield f'Nothing was detected within {NEAR_ARCSEC:g}" in visit {visit}.'
    outcomes = {outcome.detector: outcome for outcome in store.outcomes(visit)}
    covered = False
    for detector in repository.detectors(visit):
        path = repository.product(visit, detector, "difference.fits")
        if detector in outcomes and outcomes[detector].status != "done":
            yield f"Detector {detector} is {outcomes[detector].status}: {outcomes[detector].reason}"
        elif not path.exists():
            yield f"Detector {detector} was not processed."
        elif _covers(repository, visit, detector, ra, dec):
            covered = True
            yield from _pixels(repository, visit, detector, ra, dec)
    if not covered:
        yield f"No processed detector of visit {visit} covers ra {ra:.6f}, dec {dec:.6f}."


def _near(store: Apdb, ra: float, dec: float, visit: int) -> Iterator[tuple[float, int]]:
    """(distance in arcsec, id) of what was detected around the place."""
    for id in store.find(Region.circle(ra, dec, NEAR_ARCSEC / 3600), visit):
        facts = store.explain(int(id)).facts
        row = facts.get("source") or facts["rejected"]
        yield float(separation_arcsec(ra, dec, row["ra"], row["dec"])), int(id)


def _covers(repository: Repository, visit: int, detector: int, ra: float, dec: float) -> bool:
    with open_fits(repository.product(visit, detector, "difference.fits"), pixels=False) as hdus:
        wcs = FitsWcs.from_header(hdus[0].header)
    x, y = (float(v[0]) for v in wcs.sky_to_pixel(np.array([ra]), np.array([dec])))
    ny, nx = repository.detector(detector).shape
    return -0.5 <= x < nx - 0.5 and -0.5 <= y < ny - 0.5


def _pixels(
    repository: Repository, visit: int, detector: int, ra: float, dec: float
) -> Iterator[str]:
    camera = repository.detector(detector)
    difference = read_exposure(
        repository.product(visit, detector, "difference.fits"), camera, DifferenceExposure
    )
    science = read_exposure(
        repository.product(visit, detector, "calexp.fits"), camera, ScienceExposure
    )
    x, y = (float(v[0]) for v in difference.wcs.sky_to_pixel(np.array([ra]), np.array([dec])))
    bits = int(difference.mask[round(y), round(x)])
    planes = [plane.name or "" for plane in MaskPlane if bits & plane.value]
    yield (
        f"On detector {detector} it is pixel ({x:.1f}, {y:.1f}), with "
        f"{'mask planes ' + ', '.join(planes) if planes else 'no mask plane'} set."
    )
    place = DIA_OBJECT.empty(1)
    place["ra"], place["dec"] = ra, dec
    measured = make_tasks(repository.config).force.run(place, difference, science)
    if not measured.size or not np.isfinite(measured["psfFlux"][0]):
        yield "No pixel there could be measured."
        return
    threshold = repository.config.detect.threshold
    for name, words in (
        ("psfFlux", f"difference, where detection needs S/N {threshold:g}"),
        ("scienceFlux", "science image"),
    ):
        flux, error = float(measured[name][0]), float(measured[f"{name}Err"][0])
        numbers = f"{flux:.1f} ± {error:.1f} nJy, S/N {flux / error:.1f}"
        yield f"Forced PSF flux on the {words}: {numbers}."
