"""Precovery: what earlier visits saw, or did not see, where a new object was found."""

from dataclasses import dataclass
from typing import NamedTuple

from promptdia.apdb.pixels import Region
from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE
from promptdia.apdb.store import Apdb, VisitDetector
from promptdia.pipeline.errors import InputError
from promptdia.pipeline.io.fits import map_exposure
from promptdia.pipeline.repository import Repository
from promptdia.tasks.forced import ForcedPhotometry
from promptdia.tasks.model.arrays import Bools, Catalog, copied
from promptdia.tasks.model.exposure import DifferenceExposure, ScienceExposure
from promptdia.tasks.model.visit import Visit
from promptdia.tasks.model.wcs import separation_arcsec


class Precovered(NamedTuple):
    """Forced photometry on stored visits."""

    rows: Catalog
    """DIA_FORCED_SOURCE, oldest first; the ids are those of the earlier visits' own numbering."""
    n_frames: int
    """Stored detectors that were measured."""
    missing: tuple[str, ...]
    """Why a detector that the database knows could not be measured, a sentence each."""


@dataclass(frozen=True, slots=True)
class Precovery:
    """Measure new objects on the differences that earlier visits left in the repository.

    Which detectors lay on a place the database knows; of their files only the pixels around
    the objects are read. A file that is gone costs its points and is reported.
    """

    repository: Repository
    store: Apdb
    force: ForcedPhotometry

    def run(self, objects: Catalog, region: Region, visit: Visit) -> Precovered:
        """Points of DIA_OBJECT rows inside ``region`` on the visits before ``visit``."""
        days = self.force.config.precovery_days
        found, n_frames, missing = [DIA_FORCED_SOURCE.empty()], 0, []
        if objects.size and days > 0:
            for past in self.store.observed(region, visit.mjd_tai - days, visit.mjd_tai):
                near = objects[_near(objects, past)]
                if not near.size:
                    continue
                try:
                    found.append(self._measure(near, past))
                    n_frames += 1
                except InputError as gone:
                    missing.append(str(gone))
        return Precovered(copied(*found), n_frames, tuple(missing))

    def _measure(self, objects: Catalog, past: VisitDetector) -> Catalog:
        where, camera = (past.visit, past.detector), self.repository.detector(past.detector)
        product = self.repository.product
        return self.force.run(
            objects,
            map_exposure(product(*where, "difference.fits"), camera, DifferenceExposure),
            map_exposure(product(*where, "calexp.fits"), camera, ScienceExposure),
        )


def _near(objects: Catalog, past: VisitDetector) -> Bools:
    away = separation_arcsec(objects["ra"], objects["dec"], past.ra, past.dec)
    near: Bools = away <= past.radius_deg * 3600
    return near
