"""Association of a whole sequence of visits, and how right it is."""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
from astropy.table import Table
from lib.sky_month import Seen

from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE, DIA_OBJECT, DIA_SOURCE
from promptdia.tasks.associate import AssociateConfig, AssociateSources
from promptdia.tasks.model.arrays import Catalog, Ints, copied
from promptdia.tasks.summarize import SummarizeObjects

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"


class Grade(NamedTuple):
    """Of the sources of true objects, false detections left out."""

    correct: float
    """Part whose DiaObject holds mostly sources of the same truth, which has no other DiaObject:
    ``association_correct`` of the truth report."""
    majority: float
    """Part whose DiaObject holds mostly sources of the same truth."""
    correct_blended: float
    """``correct`` of the sources of objects with a neighbour."""
    n_sources: int
    n_duplicates: int
    """DiaObjects beyond the first of each truth."""


def associate_all(visits: Iterable[Catalog], config: AssociateConfig) -> Catalog:
    """All sources with their objects, visit by visit, positions renewed from all before."""
    task, summarize = AssociateSources(config), SummarizeObjects()
    objects, history = DIA_OBJECT.empty(), DIA_SOURCE.empty()
    for sources in visits:
        found = task.run(sources, objects)
        history = copied(history, found.sources)
        objects = summarize.run(found.objects, history, DIA_FORCED_SOURCE.empty())
    return history


def grade_month(visits: list[Seen], config: AssociateConfig) -> Grade:
    """Association of a simulated month against its truth."""
    owners = associate_all((visit.sources for visit in visits), config)["diaObjectId"]
    truth = np.concatenate([visit.truth for visit in visits])
    blended = np.concatenate([visit.blended for visit in visits]) == 1
    votes: dict[int, Counter[int]] = defaultdict(Counter)
    objects_of: dict[int, set[int]] = defaultdict(set)
    for owner, name in zip(owners.tolist(), truth.tolist()):
        votes[owner][name] += 1
        objects_of[name].add(owner)
    majority = {owner: min(n, key=lambda t: (-n[t], t)) for owner, n in votes.items()}
    same = np.array([majority[o] == t for o, t in zip(owners.tolist(), truth.tolist())])
    alone = np.array([len(objects_of[t]) == 1 for t in truth.tolist()])
    real = truth >= 0
    objects_of.pop(-1, None)
    return Grade(
        float((same & alone)[real].mean()),
        float(same[real].mean()),
        float((same & alone)[real & blended].mean()),
        int(real.sum()),
        sum(len(found) - 1 for found in objects_of.values()),
    )


def comcam_sources() -> tuple[list[Catalog], Ints] | None:
    """Real LSSTComCam sources by visit and detector, and the objects LSST gave them."""
    folder = Path(os.environ.get("PROMPTDIA_DATA") or DATA) / "lsst_comcam_diasources"
    if not folder.is_dir():
        return None
    table = Table.read(folder / "diasources.ecsv")
    table.sort(["midpointMjdTai", "visit", "detector"])
    rows = DIA_SOURCE.empty(len(table))
    for name in ("visit", "detector", "band", "midpointMjdTai", "ra", "dec", "raErr", "decErr"):
        rows[name] = np.ma.filled(table[name], np.nan if rows[name].dtype.kind == "f" else 0)
    rows["diaSourceId"] = np.arange(len(table)) + 1
    borders = np.flatnonzero(np.diff(rows["visit"]) | np.diff(rows["detector"])) + 1
    return np.split(rows, borders), np.asarray(table["diaObjectId"], np.int64)


def pair_agreement(ours: Ints, theirs: Ints) -> tuple[float, float]:
    """Completeness and purity of the pairs of sources that share an object."""
    both = _pairs(ours, theirs)
    return both / _pairs(theirs), both / _pairs(ours)


def _pairs(*labels: Ints) -> int:
    _, n = np.unique(np.stack(labels, axis=1), axis=0, return_counts=True)
    return int((n * (n - 1) // 2).sum())
