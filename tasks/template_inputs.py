"""Which visits go into a template: the sharpest of those that are deep and recent enough."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from promptdia.tasks.errors import NoUsablePixels
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.psf import effective_area, fwhm_px


@dataclass(frozen=True, slots=True)
class SelectConfig:
    """What ``promptdia template`` takes when no visit is named."""

    max_visits: int = 12
    """At most so many for a patch, those with the best seeing."""
    max_noise_ratio: float = 2.0
    """A visit is too shallow when a PSF flux is noisier than the median visit's by more."""
    max_age_days: float = 730.0
    """Older than the newest visit by more than this is too old: stars move."""


class Candidate(NamedTuple):
    """One frame that could go into a template."""

    visit: int
    mjd_tai: float
    fwhm: float
    """In the middle, pixels."""
    noise: float
    """Of a PSF flux on the sky in the middle, nJy."""

    @classmethod
    def of(cls, exposure: Exposure) -> "Candidate":
        """Its seeing and depth; NoUsablePixels when no pixel has a variance."""
        psf, (ny, nx) = exposure.require_psf(), exposure.shape
        sample = exposure.variance[::7, ::7]
        sample = sample[np.isfinite(sample) & (sample > 0)]
        if sample.size == 0:
            raise NoUsablePixels(f"visit {exposure.visit.id}", "no pixel has a variance")
        area = effective_area(psf.stamps(np.array([nx / 2]), np.array([ny / 2])))[0]
        noise = float(np.sqrt(np.median(sample) * area))
        visit = exposure.visit
        return cls(visit.id, visit.mjd_tai, fwhm_px(psf, nx / 2, ny / 2), noise)


def select_visits(frames: Sequence[Candidate], config: SelectConfig) -> set[int]:
    """Ids of the visits to use; a visit counts by the median of its frames.

    The newest visit is never too old, and at least one is deep enough.
    """
    ids = sorted({f.visit for f in frames})
    rows = [[f for f in frames if f.visit == visit] for visit in ids]
    mjd, fwhm, noise = (
        np.array([np.median([getattr(f, name) for f in row]) for row in rows])
        for name in ("mjd_tai", "fwhm", "noise")
    )
    recent = mjd >= mjd.max() - config.max_age_days
    deep = noise <= config.max_noise_ratio * np.median(noise[recent])
    usable = np.flatnonzero(recent & deep)
    best = usable[np.argsort(fwhm[usable], kind="stable")][: config.max_visits]
    return {ids[row] for row in best}
