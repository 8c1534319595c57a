"""Dipole columns: candidates are footprints with peaks of both signs."""

from typing import NamedTuple

import numpy as np

from promptdia.tasks.dipole import DipoleFit, fit_dipole_candidates
from promptdia.tasks.local_sky import LocalSky
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints
from promptdia.tasks.model.psf import FWHM_PER_SIGMA
from promptdia.tasks.scene import DIFFERENCE, SCIENCE, TEMPLATE, Scene

MAX_MOVE_SIGMA = 5.0
"""Lobes stay within this many PSF sigmas of their peaks."""


class Dipoles(NamedTuple):
    """Fits of some of the detections."""

    rows: Ints
    """(m,) which detections were tried."""
    fit: DipoleFit
    """(m,)"""
    found: Bools
    """(m,) which are dipoles."""


def try_dipoles(
    peaks: Catalog,
    scene: Scene,
    max_area_fwhm2: float,
    max_separation_fwhm: float,
    static_weight: float,
) -> Dipoles:
    """Fit dipoles to the small footprints with peaks of both signs.

    Lobes farther apart than ``max_separation_fwhm`` are two sources, such as a mover beside
    what it left in the template.
    """
    small = peaks["area"] <= max_area_fwhm2 * scene.fwhm**2
    rows = np.flatnonzero((peaks["snr2"] != 0) & small)
    chosen = peaks[rows]
    positive = (chosen["snr"] > 0)[:, None]
    first, second = (
        np.column_stack([chosen[x], chosen[y]]).astype(float) for x, y in (("x", "y"), ("x2", "y2"))
    )
    start = np.hstack([np.where(positive, first, second), np.where(positive, second, first)])
    middle = 0.5 * (first + second)
    stamps = np.stack([scene.stamps(k, *middle.T) for k in (DIFFERENCE, SCIENCE, TEMPLATE)])
    move = MAX_MOVE_SIGMA * scene.fwhm / FWHM_PER_SIGMA
    fit = fit_dipole_candidates(scene.planes, stamps, rows + 1, start, static_weight, move)
    apart = np.hypot(fit.x[:, 0] - fit.x[:, 1], fit.y[:, 0] - fit.y[:, 1])
    found: Bools = fit.is_dipole() & (apart <= max_separation_fwhm * scene.fwhm)
    return Dipoles(rows, fit, found)


def dipole_centres(dipoles: Dipoles) -> tuple[Floats, Floats, Floats]:
    """x, y (m,) half-way between the lobes, and their (m, 2, 2) covariance; pixels."""
    half = np.zeros((2, 6))
    half[0, [1, 4]] = half[1, [2, 5]] = 0.5
    covariance = np.einsum("ai,nij,bj->nab", half, dipoles.fit.covariance, half)
    return dipoles.fit.x.mean(axis=1), dipoles.fit.y.mean(axis=1), covariance


def fill_dipoles(sources: Catalog, dipoles: Dipoles, sky: LocalSky) -> None:
    """Set the dipole columns, in place."""
    sources["dipoleFitAttempted"][dipoles.rows] = True
    sources["isDipole"][dipoles.rows] = dipoles.found
    rows = dipoles.rows[dipoles.fit.good]
    fit = dipoles.fit.rows(dipoles.fit.good)
    here = LocalSky(sky.cd[rows])
    flux = fit.covariance[:, [0, 0, 3, 3], [0, 3, 0, 3]]
    dx, dy = fit.x[:, 0] - fit.x[:, 1], fit.y[:, 0] - fit.y[:, 1]
    for name, values in {
        "dipoleMeanFlux": fit.flux.mean(axis=1),
        "dipoleMeanFluxErr": 0.5 * np.sqrt(flux @ [1, 1, 1, 1]),
        "dipoleFluxDiff": fit.flux[:, 0] - fit.flux[:, 1],
        "dipoleFluxDiffErr": np.sqrt(flux @ [1, -1, -1, 1]),
        "dipoleLength": here.lengths(dx, dy),
        "dipoleAngle": here.position_angles(dx, dy),
        "dipoleChi2": fit.chi2,
        "dipoleNdata": fit.n_data,
    }.items():
        sources[name][rows] = values
