"""Positions that alert again and again: variables, or what the subtraction leaves there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from real_truth import Frame
from scipy.cluster.hierarchy import DisjointSet
from scipy.spatial import cKDTree

from promptdia.tasks.model.arrays import Floats

SAME_ARCSEC = 1.0
"""Alerts this near to each other are one position."""
NIGHTS = 3
MAX_CHI2 = 2.0
"""A variable looks like the PSF: median chi2 per pixel of its alerts."""
MAX_SEEING_RANK = 0.7
"""Flux that follows the seeing this well (Spearman) is a residual."""


@dataclass(frozen=True)
class Repeat:
    """One position with alerts on several nights."""

    ra: float
    dec: float
    alerts: tuple[Mapping[str, Any], ...]
    n_nights: int
    kind: str
    """variable or artefact, by the rules above."""
    why: str


def find_repeats(frames: Sequence[Frame]) -> list[Repeat]:
    """Positions of other alerts than the known source's on NIGHTS nights or more."""
    seeing = {f.visit: f.seeing_px for f in frames}
    alerts = [alert for frame in frames for alert in frame.others]
    if not alerts:
        return []
    sources = [alert["diaSource"] for alert in alerts]
    ra, dec = (np.array([s[name] for s in sources]) for name in ("ra", "dec"))
    flat = np.column_stack([(ra - ra[0]) * np.cos(np.deg2rad(dec[0])), dec - dec[0]]) * 3600
    groups = DisjointSet(range(len(alerts)))
    for first, second in cKDTree(flat).query_pairs(SAME_ARCSEC):
        groups.merge(first, second)
    found = []
    for members in sorted(sorted(group) for group in groups.subsets()):
        nights = {int(sources[k]["visit"]) // 100_000 for k in members}
        if len(nights) >= NIGHTS:
            chosen = [sources[k] for k in members]
            kind, why = _judged(chosen, np.array([seeing[int(s["visit"])] for s in chosen]))
            found.append(
                Repeat(
                    float(ra[members].mean()),
                    float(dec[members].mean()),
                    tuple(alerts[k] for k in members),
                    len(nights),
                    kind,
                    why,
                )
            )
    return sorted(found, key=lambda r: -r.n_nights)


def _judged(sources: Sequence[Mapping[str, Any]], seeing: Floats) -> tuple[str, str]:
    """A name for a repeating position, and the reason."""
    chi2 = float(np.median([s["psfChi2"] / s["psfNdata"] for s in sources]))
    flux = np.array([s["psfFlux"] for s in sources])
    if chi2 > MAX_CHI2:
        return "artefact", f"not like the PSF: chi2 per pixel {chi2:.1f}"
    both = np.isfinite(seeing)
    if np.count_nonzero(both) >= 6:
        rank = float(np.corrcoef(_ranks(flux[both]), _ranks(seeing[both]))[0, 1])
        if abs(rank) > MAX_SEEING_RANK:
            return "artefact", f"its flux follows the seeing: rank correlation {rank:.2f}"
    return "variable", f"like the PSF (chi2 per pixel {chi2:.1f}), no matter the seeing"


def _ranks(values: Floats) -> Floats:
    return np.argsort(np.argsort(values)).astype(float)
