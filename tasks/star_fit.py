"""The one call of the compiled least-squares fitter, split over threads."""

from typing import Any, NamedTuple

import numpy as np

from promptdia.tasks.kernels.source_fit import COLUMNS, MAX_PARAMETERS, fit_stars
from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints, Mask
from promptdia.tasks.parallel import over_strips

FITS_PER_BATCH = 64


class Planes(NamedTuple):
    """What the fitter reads of an image, (ny, nx) in C order; float32, float32, int32."""

    image: Image
    variance: Image
    claims: Mask
    """0 where a pixel is free, negative where it must not be used, else its source's number."""


class StarFit(NamedTuple):
    """Best parameters of one model at n places."""

    p: Floats
    """(n, 6) in the model's order; unused ones are nan."""
    covariance: Floats
    """(n, 6, 6); nan where the fit failed."""
    chi2: Floats
    n_data: Floats
    good: Bools


def fit(
    planes: tuple[Planes, Planes, Planes],
    stamps: Floats,
    own: Ints,
    start: Floats,
    model: int,
    max_move: float,
    static_weight: float = 1.0,
) -> StarFit:
    """Fit ``model`` (POINT, LINE or DIPOLE of the kernel) from ``start`` (n, <= 6).

    ``planes`` and ``stamps`` (3, n, size, size) are those of difference, science and
    template, of which only dipoles need the last two. Fits use pixels that are free or
    claimed by the number in ``own`` (n,).
    """
    first, second, third = planes
    images = (first.image, second.image, third.image)
    variances = (first.variance, second.variance, third.variance)
    claims = (first.claims, second.claims, third.claims)
    stamps = np.ascontiguousarray(stamps, float)
    n = len(start)
    numbers = np.ascontiguousarray(own, np.int64)
    begin = np.zeros((n, MAX_PARAMETERS))
    begin[:, : start.shape[1]] = start
    out = np.empty((n, COLUMNS))

    def work(first: int, end: int) -> None:
        part = slice(first, end)
        fit_stars(
            images,
            variances,
            claims,
            np.ascontiguousarray(stamps[:, part]),
            numbers[part],
            begin[part],
            model,
            static_weight,
            max_move,
            out[part],
        )

    if n:
        over_strips(work, n, FITS_PER_BATCH)
    return StarFit(
        p=out[:, :MAX_PARAMETERS].copy(),
        covariance=out[:, MAX_PARAMETERS + 3 :].reshape(-1, MAX_PARAMETERS, MAX_PARAMETERS),
        chi2=out[:, MAX_PARAMETERS].copy(),
        n_data=out[:, MAX_PARAMETERS + 1].copy(),
        good=out[:, MAX_PARAMETERS + 2] > 0,
    )


def alone(planes: Planes, stamps: Floats) -> tuple[tuple[Planes, Planes, Planes], Any]:
    """Arguments of ``fit`` for a model that looks at one image only."""
    return (planes, planes, planes), np.broadcast_to(stamps, (3, *stamps.shape))
