"""Dipoles: a star on science and the same star misplaced on the template."""

from typing import NamedTuple

import numpy as np

from promptdia.tasks.kernels.source_fit import DIPOLE
from promptdia.tasks.model.arrays import Bools, Floats, Ints
from promptdia.tasks.star_fit import Planes, fit

MAX_SHARE = 0.65
"""A dipole's stronger lobe holds at most this part of the flux (Rubin's rule)."""
MIN_SNR = 5.0 * np.sqrt(2.0)
"""Least S/N of both lobes in quadrature."""


class DipoleFit(NamedTuple):
    """Two stars of opposite sign, one row per candidate; fluxes in the image's unit, pixels."""

    flux: Floats
    """(n, 2) amplitude of the positive and of the negative lobe, both positive in a dipole."""
    x: Floats
    """(n, 2) positive, negative."""
    y: Floats
    covariance: Floats
    """(n, 6, 6) of flux+, x+, y+, flux-, x-, y-."""
    chi2: Floats
    n_data: Floats
    good: Bools

    def rows(self, chosen: Bools) -> "DipoleFit":
        """Some of the candidates."""
        return self._replace(**{name: values[chosen] for name, values in self._asdict().items()})

    def is_dipole(self) -> Bools:
        """Both lobes together significant and of like strength, neither with the wrong sign."""
        error = np.sqrt(self.covariance[:, [0, 3], [0, 3]])
        with np.errstate(invalid="ignore", divide="ignore"):
            snr = np.hypot(*(self.flux / error).T)
            share = self.flux.max(axis=1) / self.flux.sum(axis=1)
            alike = (self.flux.min(axis=1) > 0) & (share < MAX_SHARE)
            found: Bools = self.good & (snr > MIN_SNR) & alike
        return found


def fit_dipole_candidates(
    planes: tuple[Planes, Planes, Planes],
    stamps: Floats,
    own: Ints,
    start: Floats,
    static_weight: float,
    max_move: float,
) -> DipoleFit:
    """Fit difference, science and matched template together, with real weights and errors.

    ``stamps`` is (3, n, size, size), the PSF of each image at each candidate, ``own``
    (n,) the candidates' numbers in the claims, ``start`` (n, 4): x+, y+, x-, y-. Science
    and template decide how bright the lobes are where they overlap; they count
    ``static_weight`` times as much as the difference, whose noise is theirs: the errors
    count no pixel twice. Fits in which a lobe moves more than ``max_move`` pixels fail.
    """
    zero = 0 * start[:, 0]
    begin = np.column_stack([zero, start[:, :2], zero, start[:, 2:]])
    found = fit(planes, stamps, own, begin, DIPOLE, max_move, static_weight)
    return DipoleFit(
        flux=found.p[:, [0, 3]],
        x=found.p[:, [1, 4]],
        y=found.p[:, [2, 5]],
        covariance=found.covariance,
        chi2=found.chi2,
        n_data=found.n_data,
        good=found.good,
    )
