"""Templates of a repository: calibrated earlier visits, warped to sky patches and coadded."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from promptdia.pipeline.errors import ConfigError, InputError
from promptdia.pipeline.factory import make_tasks
from promptdia.pipeline.io.fits import read_exposure
from promptdia.pipeline.pool import Executor, ordered
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.worker import calibrate_frame
from promptdia.tasks.model.exposure import ScienceExposure
from promptdia.tasks.model.visit import Visit
from promptdia.tasks.template_inputs import Candidate, SelectConfig, select_visits
from promptdia.tasks.warp import warp


@dataclass(frozen=True)
class BuiltPatch:
    """One template coadd."""

    band: str
    patch: int
    n_inputs: int
    path: Path


@dataclass(frozen=True)
class Templates:
    """What ``promptdia template`` made and what could not go in."""

    built: list[BuiltPatch]
    refused: list[tuple[int, int, str]]
    """Visit, detector and why its frame was left out."""


def default_visits(repository: Repository, before: int | None = None) -> list[Visit]:
    """What ``promptdia template`` takes when no visit is named.

    The visits of the first night, or all of the nights before ``before`` (yyyymmdd).
    """
    visits = repository.visits()
    if not visits:
        raise ConfigError(f"{repository.root} has no visit to build a template from")
    if before is None:
        return [v for v in visits if v.day_obs == visits[0].day_obs]
    earlier = [v for v in visits if v.day_obs < before]
    if not earlier:
        raise ConfigError(f"{repository.root} has no visit before {before}")
    return earlier


def build_templates(
    repository: Repository,
    visits: list[Visit],
    executor: Executor,
    band: str | None = None,
    select: SelectConfig | None = None,
) -> Templates:
    """Calibrate the visits' frames where needed, and coadd them patch by patch.

    With ``select`` only the best of the visits go into each patch.
    """
    chosen = [v for v in visits if band in (None, v.band)]
    if not chosen:
        raise ConfigError(f"no visit in band {band} to build a template from")
    frames = [(v, d) for v in chosen for d in repository.detectors(v.id)]
    outcomes = ordered(executor, calibrate_frame, [(repository.root, v.id, d) for v, d in frames])
    refused, inputs = [], []
    for (visit, detector), outcome in zip(frames, outcomes):
        if outcome.status == "done":
            inputs.append((visit, detector))
        else:
            refused.append((visit.id, detector, outcome.reason))
    if not inputs:
        raise InputError(f"no frame could be calibrated for a template; the first: {refused[0][2]}")
    arguments = [
        (repository.root, b, patch, members)
        for b, patch, members in _by_patch(repository, inputs, select)
    ]
    return Templates(list(ordered(executor, _build_patch, arguments)), refused)


def store_template(repository: Repository, image: ScienceExposure) -> list[Path]:
    """Cut an image brought from elsewhere into the patches it touches."""
    coadd = make_tasks(repository.config).coadd
    paths = []
    for patch in repository.tiling.patches_of(image.wcs, image.shape):
        template = coadd.run([warp(image, patch.wcs, patch.shape)], patch)
        repository.write_template(image.visit.band, patch.id, template)
        paths.append(repository.template_path(image.visit.band, patch.id))
    return paths


def _by_patch(
    repository: Repository, inputs: list[tuple[Visit, int]], select: SelectConfig | None
) -> Iterator[tuple[str, int, list[tuple[int, int]]]]:
    members: dict[tuple[str, int], list[tuple[Candidate, int]]] = {}
    for visit, number in inputs:
        science = _calexp(repository, visit.id, number)
        frame = Candidate.of(science)
        for patch in repository.tiling.patches_of(science.wcs, science.shape):
            members.setdefault((visit.band, patch.id), []).append((frame, number))
    for band, patch_id in sorted(members):
        frames = members[band, patch_id]
        visits = {f.visit for f, _ in frames}
        if select is not None:
            visits = select_visits([f for f, _ in frames], select)
        yield band, patch_id, [(f.visit, number) for f, number in frames if f.visit in visits]


def _build_patch(
    root: Path, band: str, patch_id: int, members: list[tuple[int, int]]
) -> BuiltPatch:
    repository = Repository(root)
    # by its id: a WCS loses its last digits on the way to another process
    patch = repository.tiling.patch(patch_id)
    warps = [warp(_calexp(repository, v, d), patch.wcs, patch.shape) for v, d in members]
    template = make_tasks(repository.config).coadd.run(warps, patch)
    repository.write_template(band, patch.id, template)
    return BuiltPatch(band, patch.id, len(members), repository.template_path(band, patch.id))


def _calexp(repository: Repository, visit: int, detector: int) -> ScienceExposure:
    path = repository.product(visit, detector, "calexp.fits")
    return read_exposure(path, repository.detector(detector), ScienceExposure)
