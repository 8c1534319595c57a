"""PSF fluxes where nothing is: what noise and background are worth on a finished difference."""

import numpy as np

from promptdia.tasks.model.arrays import Bools, Floats
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.psf_photometry import psf_flux
from promptdia.tasks.robust import MAD_TO_SIGMA

PLASTIC = 1.32471795724474602596
"""x^3 = x + 1: its powers spread points evenly over a plane (Roberts 2018)."""
TRIES = 20
"""Places tried for each one wanted."""


def sky_fluxes(exposure: Exposure, empty: Bools, n: int, radius_px: float) -> dict[str, float]:
    """Median flux over its error, and robust scatter of that, at up to ``n`` empty places.

    ``empty`` is (ny, nx), True where there is neither source nor damage; places lie at least
    ``radius_px`` inside of it. The visit's id sets where they are.
    """
    x, y = _places(empty, n, int(np.ceil(radius_px)), exposure.visit.id)
    if x.size == 0:
        return {"sky.nSources": 0}
    psf = exposure.require_psf()
    found = psf_flux(exposure.image, exposure.variance, ~empty, psf, x, y, radius_px)
    pull = found.flux / found.flux_err
    middle = float(np.nanmedian(pull))
    scatter = float(MAD_TO_SIGMA * np.nanmedian(np.abs(pull - middle)))
    return {"sky.nSources": x.size, "sky.fluxOverError": middle, "sky.fluxPull": scatter}


def _places(empty: Bools, n: int, margin: int, seed: int) -> tuple[Floats, Floats]:
    """At most ``n`` pixels (x, y) with ``margin`` empty pixels around them."""
    ny, nx = empty.shape
    k = np.arange(seed % 100_003, seed % 100_003 + TRIES * n)
    x = ((k / PLASTIC) % 1.0 * nx).astype(np.int64)
    y = ((k / PLASTIC**2) % 1.0 * ny).astype(np.int64)
    whole = (x >= margin) & (x < nx - margin) & (y >= margin) & (y < ny - margin)
    x, y = x[whole], y[whole]
    step = np.arange(-margin, margin + 1)
    clear = empty[(y[:, None] + step)[:, :, None], (x[:, None] + step)[:, None, :]].all(axis=(1, 2))
    x, y = x[clear][:n], y[clear][:n]
    return x.astype(float), y.astype(float)
