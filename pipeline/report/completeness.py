"""How the chance of being found rises with S/N."""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit

from promptdia.tasks.model.arrays import Bools, Floats, Ints

FEWEST = 20
"""Epochs below which no curve is fitted."""


@dataclass(frozen=True, slots=True)
class CompletenessCurve:
    """plateau / (1 + exp(-(ln S/N - centre) / width))."""

    plateau: float
    centre: float
    width: float

    def __call__(self, snr: Floats) -> Floats:
        with np.errstate(divide="ignore"):
            rising = expit((np.log(snr) - self.centre) / self.width)
        result: Floats = self.plateau * rising
        return result

    @property
    def snr50(self) -> float:
        """S/N at which half are found; nan when the plateau is below one half."""
        if self.plateau <= 0.5:
            return float("nan")
        return float(np.exp(self.centre + self.width * logit(0.5 / self.plateau)))


def fit_completeness(snr: Floats, found: Bools) -> CompletenessCurve | None:
    """The most likely curve for these epochs, each found or not.

    None when there are fewer than FEWEST epochs or all share one outcome, because then
    nothing tells where the curve rises.
    """
    if snr.size < FEWEST or found.all() or not found.any():
        return None
    log_snr = np.log(np.maximum(snr, 1e-3))

    def cost(p: Floats) -> float:
        chance = expit(p[0]) * expit((log_snr - p[1]) / np.exp(p[2]))
        chance = np.clip(chance, 1e-9, 1.0 - 1e-9)
        return float(-np.sum(np.where(found, np.log(chance), np.log1p(-chance))))

    start = np.array([3.0, np.log(5.0), np.log(0.1)])
    bounds = [(-5.0, 9.0), (np.log(0.5), np.log(100.0)), (np.log(0.02), np.log(3.0))]
    best = minimize(cost, start, method="Nelder-Mead", bounds=bounds, options={"maxiter": 2000})
    plateau, centre, width = best.x
    return CompletenessCurve(float(expit(plateau)), float(centre), float(np.exp(width)))


@dataclass(frozen=True, slots=True, eq=False)
class Binned:
    """Found fractions in bins of S/N."""

    edges: Floats
    """(n + 1,)"""
    number: Ints
    """(n,) epochs in each bin."""
    fraction: Floats
    """(n,), nan in empty bins."""
    low: Floats
    """(n,) lower end of the 68 % interval."""
    high: Floats


def binned_completeness(snr: Floats, found: Bools, edges: Floats) -> Binned:
    """Found fraction per bin with its 68 % interval (Wilson 1927)."""
    number, _ = np.histogram(snr, edges)
    hits, _ = np.histogram(snr[found], edges)
    with np.errstate(invalid="ignore", divide="ignore"):
        fraction = hits / number
        middle = (fraction + 0.5 / number) / (1.0 + 1.0 / number)
        half = np.sqrt(fraction * (1 - fraction) / number + 0.25 / number**2) / (1 + 1.0 / number)
    return Binned(edges, number.astype(np.int64), fraction, middle - half, middle + half)
