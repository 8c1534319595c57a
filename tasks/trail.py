"""Point sources and uniformly lit trails, fitted with the PSF's own pixels."""

from typing import NamedTuple

import numpy as np

from promptdia.tasks.kernels.source_fit import LINE, POINT
from promptdia.tasks.model.arrays import Bools, Floats, Ints
from promptdia.tasks.star_fit import Planes, alone, fit


class LineFit(NamedTuple):
    """Uniformly lit lines, or points where length and its errors are nan; pixels."""

    flux: Floats
    """(n,) signed, in the image's unit."""
    x: Floats
    """(n,) the middle."""
    y: Floats
    a: Floats
    """(n,) x of one end minus x of the other; nan for points."""
    b: Floats
    covariance: Floats
    """(n, 5, 5) of flux, x, y, a, b; nan where the fit failed."""
    chi2: Floats
    n_data: Floats
    good: Bools

    def rows(self, chosen: Bools) -> "LineFit":
        """Some of the fits."""
        return self._replace(**{name: values[chosen] for name, values in self._asdict().items()})

    @property
    def length(self) -> Floats:
        """(n,) pixels."""
        return np.hypot(self.a, self.b)

    def length_error(self) -> Floats:
        """(n,) pixels."""
        return self._error_along(self.a, self.b)

    def angle_error(self) -> Floats:
        """(n,) radians, of the direction of (a, b)."""
        return self._error_along(-self.b, self.a) / self.length

    def _error_along(self, u: Floats, v: Floats) -> Floats:
        unit = np.stack([u, v], axis=1) / self.length[:, None]
        variance = np.einsum("ni,nij,nj->n", unit, self.covariance[:, 3:, 3:], unit)
        result: Floats = np.sqrt(variance)
        return result


def fit_points(
    planes: Planes, stamps: Floats, own: Ints, x: Floats, y: Floats, max_move: float
) -> LineFit:
    """Flux and position of point sources of either sign near (x, y), 0-based, (n,).

    ``stamps`` (n, size, size) are PSFs at the sources, ``own`` their numbers in
    ``planes.claims``. Fits that move more than
    ``max_move`` pixels fail.
    """
    return _fit(planes, stamps, own, np.column_stack([0 * x, x, y]), POINT, max_move)


def fit_trails(
    planes: Planes, stamps: Floats, own: Ints, start: Floats, max_move: float
) -> LineFit:
    """Uniform lines convolved with the PSF; ``start`` is (n, 4): x, y of the middle, a, b.

    The model of Veres et al. (2012), with the PSF's pixels in place of a Gaussian.
    """
    begin = np.column_stack([0 * start[:, 0], start])
    return _fit(planes, stamps, own, begin, LINE, max_move)


def _fit(
    planes: Planes, stamps: Floats, own: Ints, start: Floats, model: int, max_move: float
) -> LineFit:
    found = fit(*alone(planes, stamps), own, start, model, max_move)
    flux, x, y, a, b = found.p[:, :5].T
    covariance = found.covariance[:, :5, :5]
    return LineFit(flux, x, y, a, b, covariance, found.chi2, found.n_data, found.good)
