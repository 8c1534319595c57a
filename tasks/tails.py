"""Stars with tails: a telescope that lost its guide star writes every star twice."""

import numpy as np
from scipy import ndimage

from promptdia.tasks.errors import TaskError
from promptdia.tasks.model.arrays import Bools, Image
from promptdia.tasks.model.psf import FWHM_PER_SIGMA
from promptdia.tasks.robust import MAD_TO_SIGMA

MOST_STARS, FEWEST_STARS = 150, 50
BRIGHT_SIGMA = 30.0
"""S/N of a star's brightest pixel."""
INNER_FWHM, OUTER_FWHM = 1.5, 3.5
"""Where a tail is looked for: outside what an imperfect kernel leaves on a star."""
CLEAR = 6.0
"""A tail stands this far above the scatter of the mean star's surroundings."""


class StarsHaveTails(TaskError):
    """What surrounds the stars of the science image is not round them on the template."""

    def __init__(self, tail: float, allowed: float) -> None:
        super().__init__(
            f"stars have tails of {100 * tail:.2g} % of their peaks that the template lacks, at "
            f"most {100 * allowed:.2g} % are allowed: did the telescope move while exposing?"
        )


def tail(difference: Image, static: Image, variance: Image, good: Bools, fwhm: float) -> float:
    """Brightest spot to one side of the median bright star of a difference, over its peak.

    ``static`` is the matched template; all are (ny, nx). 0 with too few stars, or when the
    spot does not stand out. Chance neighbours differ from star to star: the median has none.
    """
    reach = int(np.ceil(4 * fwhm))
    box = 2 * int(fwhm) + 1
    # one level for all pixels first: few are left for the rest
    least = np.min(variance[::16, ::16][good[::16, ::16]], initial=np.inf)
    y, x = np.nonzero(static > BRIGHT_SIGMA * np.sqrt(least))
    bright = good[y, x] & (static[y, x] > BRIGHT_SIGMA * np.sqrt(variance[y, x]))
    y, x = y[bright], x[bright]
    ny, nx = static.shape
    inside = (y > reach) & (y < ny - 1 - reach) & (x > reach) & (x < nx - 1 - reach)
    y, x = y[inside], x[inside]
    order = np.argsort(-static[y, x], kind="stable")[: MOST_STARS * box**2]
    y, x = y[order], x[order]
    step = np.arange(-(box // 2), box // 2 + 1)
    at = (y[:, None] + step)[:, :, None], (x[:, None] + step)[:, None, :]
    highest = np.where(good[at], static[at], 0.0).max(axis=(1, 2))
    top = np.flatnonzero(static[y, x] >= highest)[:MOST_STARS]
    if top.size < FEWEST_STARS:
        return 0.0
    y, x = y[top], x[top]
    step = np.arange(-reach, reach + 1)
    at = (y[:, None] + step)[:, :, None], (x[:, None] + step)[:, None, :]
    stamps = np.where(good[at], difference[at], 0.0) / static[y, x][:, None, None]
    mean = ndimage.gaussian_filter(np.median(stamps, axis=0), fwhm / FWHM_PER_SIGMA)
    radius = np.hypot(step[:, None], step)
    annulus = radius.astype(int)
    # what is round, such as the wings of stars that vary, is no tail
    mean -= ndimage.median(mean, annulus, np.arange(annulus.max() + 1))[annulus]
    ring = mean[(radius > INNER_FWHM * fwhm) & (radius < OUTER_FWHM * fwhm)]
    scatter = MAD_TO_SIGMA * np.median(np.abs(ring))
    spot = float(ring.max())
    return spot if spot > CLEAR * scatter else 0.0
