"""How deep a difference image is at given positions, and where it can be trusted."""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import maximum_filter

from promptdia.tasks.model.arrays import Bools, Floats
from promptdia.tasks.model.exposure import DifferenceExposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.psf_photometry import psf_flux

UNUSABLE = (
    MaskPlane.BAD
    | MaskPlane.SAT
    | MaskPlane.SAT_TEMPLATE
    | MaskPlane.CR
    | MaskPlane.INTRP
    | MaskPlane.EDGE
    | MaskPlane.NO_DATA
    | MaskPlane.STREAK
    | MaskPlane.SPIKE
    | MaskPlane.HIGH_VARIANCE
    | MaskPlane.NEAR_BRIGHT
)
"""Planes that leave an epoch out of the completeness when they touch its 3 x 3 pixels."""


class Depth(NamedTuple):
    """What the difference can say at each position."""

    sigma_njy: Floats
    """(n,) error of the PSF flux; nan outside the image."""
    usable: Bools
    """(n,) inside, and no pixel of the 3 x 3 around it is in UNUSABLE."""


def depth_at(difference: DifferenceExposure, x: Floats, y: Floats) -> Depth:
    """Depth at 0-based pixel positions (n,); the sources' own noise counts where it is."""
    ny, nx = difference.shape
    x, y = (np.atleast_1d(np.asarray(v, float)) for v in (x, y))
    inside = (x >= -0.5) & (x < nx - 0.5) & (y >= -0.5) & (y < ny - 0.5)
    sigma = np.full(x.shape, np.nan)
    usable = np.zeros(x.shape, bool)
    column, row = (np.rint(v[inside]).astype(int) for v in (x, y))
    touched = maximum_filter(has(difference.mask, UNUSABLE), 3, mode="constant", cval=1)
    usable[inside] = ~touched[row, column]
    no_data = has(difference.mask, MaskPlane.NO_DATA) | ~np.isfinite(difference.variance)
    sigma[inside] = psf_flux(
        difference.image,
        difference.variance,
        no_data,
        difference.require_psf(),
        x[inside],
        y[inside],
    ).flux_err
    return Depth(sigma, usable & np.isfinite(sigma))
