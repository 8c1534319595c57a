"""Labelled detections from processed repositories with truth."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from promptdia.apdb.schema.lsst import DIA_SOURCE, REJECTED
from promptdia.pipeline.io.fits import read_exposure
from promptdia.pipeline.io.parquet import read_catalog
from promptdia.pipeline.report.collect import read_depth, read_outcomes
from promptdia.pipeline.report.evidence import Outcome
from promptdia.pipeline.report.matching import beside_segment
from promptdia.pipeline.report.truth import difference_flux, rows_by_detector
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.sim.truth import TRUTH_EPOCH
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.exposure import DifferenceExposure, ScienceExposure, TemplateExposure
from promptdia.tasks.model.wcs import FitsWcs, local_cd
from promptdia.tasks.reliability_features import reliability_features

SCORED = ("reliability",)
"""The rule of rejected detections that had been scored."""
SOFT = (
    "bad_fraction",
    "centroid",
    "cosmic_ray_center",
    "dipole",
    "glint",
    "high_variance_center",
    "near_bright_star",
    "science_snr",
    "sharper_than_psf",
)
"""Rules of the filter whose rejections serve as examples too: artefacts are few after them."""
FEWEST_FIELDS = 15
"""With fewer repositories the sets are told apart by visit."""


@dataclass(frozen=True, slots=True)
class LabelRules:
    """When a detection is real, when bogus; what is neither is left out."""

    real_px: float = 2.5
    """Real within this distance of a true change ..."""
    real_snr: float = 3.0
    """... that is at least this significant."""
    bogus_px: float = 5.0
    """Bogus farther than this from any change, and from any trail ..."""
    bogus_snr: float = 1.0
    """... that is at least this significant. Satellites do not count as changes."""


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """One row per detection."""

    features: NDArray[np.float64]
    real: NDArray[np.bool_]
    kind: NDArray[np.str_]
    """Of the truth, "bogus" or "satellite" when not real."""
    snr: NDArray[np.float64]
    """|S/N| of the detection."""
    negative: NDArray[np.bool_]
    group: NDArray[np.str_]
    """repository/visit."""

    def rows(self, which: NDArray[np.int64]) -> Self:
        """Some of the rows."""
        return type(self)(**{f.name: getattr(self, f.name)[which] for f in fields(self)})

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """All rows of all parts."""
        columns = {f.name: [getattr(p, f.name) for p in parts] for f in fields(cls)}
        return cls(**{name: np.concatenate(values) for name, values in columns.items()})

    def describe(self) -> str:
        """One line for people."""
        groups = len(np.unique(self.group))
        return f"{self.real.sum()} real and {(~self.real).sum()} bogus from {groups} visits"


def gather(root: Path, rules: LabelRules) -> Examples:
    """Labelled examples of one repository."""
    repository = Repository(root)
    outcomes = [o for o in read_outcomes(repository) if o.status == "done"]
    epochs = read_catalog(root / "truth" / "epochs.parquet", TRUTH_EPOCH)
    sigma = read_depth(repository, epochs, outcomes).sigma_njy
    flux = difference_flux(epochs, {(o.visit, o.detector): o.template_visits for o in outcomes})
    snr = np.abs(flux) / sigma
    rows_of = rows_by_detector(epochs, np.ones(len(epochs), bool))
    parts = []
    for outcome in outcomes:
        rows = rows_of.get((outcome.visit, outcome.detector), np.zeros(0, np.int64))
        parts.append(_of_detector(repository, outcome, epochs[rows], snr[rows], rules))
    return Examples.join(parts)


def _of_detector(
    repository: Repository, outcome: Outcome, epochs: Catalog, snr: NDArray, rules: LabelRules
) -> Examples:
    detector = repository.detector(outcome.detector)

    def product(name: str) -> Path:
        return repository.product(outcome.visit, outcome.detector, name)

    sources = read_catalog(product("dia_sources.parquet"), DIA_SOURCE)
    rejected = read_catalog(product("rejected.parquet"), REJECTED)
    also = np.isin(rejected["rule"], SCORED + SOFT) & np.isfinite(rejected["snr"])
    more = DIA_SOURCE.empty(int(also.sum()))
    for name in DIA_SOURCE.dtype.names or ():
        more[name] = rejected[name][also]
    sources = np.concatenate([sources, more])
    difference = read_exposure(product("difference.fits"), detector, DifferenceExposure)
    science = read_exposure(product("calexp.fits"), detector, ScienceExposure)
    template = read_exposure(product("template.fits"), detector, TemplateExposure)
    kind = label(sources, epochs, snr, difference.wcs, rules)
    keep = kind != ""
    sources, kind = sources[keep], kind[keep]
    return Examples(
        features=reliability_features(sources, difference, science, template),
        real=~np.isin(kind, ("bogus", "satellite")),
        kind=kind,
        snr=np.abs(sources["snr"].astype(float)),
        negative=sources["isNegative"].astype(bool),
        group=np.full(len(kind), f"{repository.root.name}/{outcome.visit}"),
    )


def label(
    sources: Catalog, epochs: Catalog, snr: NDArray, wcs: FitsWcs, rules: LabelRules
) -> NDArray[np.str_]:
    """(n,) kind of the true change of each detection, "bogus", "satellite", or "" to leave it out.

    Detections on long trails are left out: pieces of a real thing, found at no place of its own.
    """
    kind = np.full(len(sources), "bogus", dtype="U12")
    nearest = np.full(len(sources), np.inf)
    for epoch, significance in zip(epochs, snr):
        distance = _distance_px(sources, epoch, wcs)
        if epoch["kind"] == "satellite":
            kind[(distance <= rules.bogus_px) & (kind == "bogus")] = "satellite"
            continue
        strong = significance >= rules.real_snr
        if not strong and not significance >= rules.bogus_snr:
            continue
        point = strong and epoch["kind"] != "trail"
        here = distance <= (rules.real_px if point else -1.0)
        unclear = ~here & (distance <= rules.bogus_px) & ~np.isfinite(nearest)
        kind[unclear] = ""
        closest = here & (distance < nearest)
        kind[closest], nearest[closest] = epoch["kind"], distance[closest]
    return kind


def _distance_px(sources: Catalog, epoch: Catalog, wcs: FitsWcs) -> NDArray[np.float64]:
    """Pixels from the epoch, or from its trail."""
    dx, dy = sources["x"] - epoch["x"], sources["y"] - epoch["y"]
    length = float(epoch["trail_length_arcsec"])
    if not length > 0.0:
        return np.hypot(dx, dy)
    cd = local_cd(wcs, np.array([epoch["x"]]), np.array([epoch["y"]]))[0] * 3600.0
    east, north = cd @ np.stack([dx, dy])
    scale = np.sqrt(abs(np.linalg.det(cd)))
    return beside_segment(east, north, length, float(epoch["trail_angle_deg"])) / scale


def split_unit(group: NDArray[np.str_]) -> tuple[str, NDArray[np.str_]]:
    """What is never divided between sets, and its name in each row.

    The repository, that is the field on the sky; the visit when there are under FEWEST_FIELDS
    of them.
    """
    roots = np.char.partition(group, "/")[:, 0]
    return ("repository", roots) if len(np.unique(roots)) >= FEWEST_FIELDS else ("visit", group)


def splits(group: NDArray[np.str_], seed: int) -> tuple[NDArray[np.int64], ...]:
    """Rows to train, validate and test on, of 60, 20 and 20 % of the units."""
    _, unit = split_unit(group)
    names = np.random.default_rng(seed).permutation(np.unique(unit))
    if len(names) < 3:
        raise ValueError(f"{len(names)} groups of examples cannot be split in three")
    held = max(1, round(0.2 * len(names)))
    parts = names[2 * held :], names[:held], names[held : 2 * held]
    return tuple(np.nonzero(np.isin(unit, part))[0] for part in parts)
