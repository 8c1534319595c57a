"""A reference catalogue out of one frame, for cameras without WCS or catalogue.

The chosen frame's pointing and the camera's plate scale are taken as true, and its stars
become the references; positions and zero point of everything after are relative to it.
"""

import numpy as np

from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.factory import make_tasks
from promptdia.pipeline.refcat import store_references
from promptdia.pipeline.repository import Repository
from promptdia.tasks.calibrate import reference_catalog


def bootstrap(repository: Repository, visit: int, detector: int, zero_point: float) -> int:
    """Store the stars of a frame as references; how many. ``zero_point``: AB mag of 1 electron."""
    if detector not in repository.detectors(visit):
        raise ConfigError(f"visit {visit} has no raw frame of detector {detector}")
    tasks = make_tasks(repository.config)
    raw = repository.raw(visit, detector)
    exposure = tasks.remove_signature.run(raw, repository.calibrations(raw.visit, detector))
    stars = reference_catalog(tasks.calibrate.bootstrap(exposure, zero_point))
    if not np.isfinite(zero_point):
        raise ConfigError(f"zero point is {zero_point}, must be a finite magnitude")
    store_references(repository.root / "refcat", stars)
    return len(stars)
