"""Diffraction spikes of bright stars, marked where the reference catalogue says they are."""

from dataclasses import dataclass

import numpy as np

from promptdia.tasks.astrometry import positions_at
from promptdia.tasks.model.arrays import Bools, Catalog, Floats
from promptdia.tasks.model.exposure import ScienceExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.photo_calib import njy_to_mag


@dataclass(frozen=True, slots=True)
class SpikeConfig:
    """The cross that the telescope's spider draws around a star, on the detector."""

    angles_deg: tuple[float, ...] = ()
    """Directions of the arms' lines, from +x towards +y; each line has two arms. None: no marks."""
    faintest_mag: float = 14.0
    """AB magnitude of the faintest star with a spike worth a mark ..."""
    length_px: float = 30.0
    """... how far its arms reach from its middle, the arms of brighter ones ..."""
    growth_per_mag: float = 0.2
    """... by this many decades more per magnitude (light falls with the square of distance) ..."""
    max_length_px: float = 1000.0
    """... but not farther."""
    width_px: float = 4.0
    """Full width of an arm."""


@dataclass(frozen=True, slots=True)
class MarkSpikes:
    """Set SPIKE along the arms of bright stars, those just off the detector included."""

    config: SpikeConfig

    def run(self, science: ScienceExposure, references: Catalog) -> ScienceExposure:
        """The exposure with the plane set; ``references`` are REFERENCE rows around it."""
        cfg = self.config
        if not cfg.angles_deg or references.size == 0:
            return science
        mags = njy_to_mag(references[f"{science.visit.band}_flux"].astype(float))
        bright = mags <= cfg.faintest_mag
        ra, dec = positions_at(references[bright], science.visit.mjd_tai)
        x, y = science.wcs.sky_to_pixel(ra, dec)
        marked = arms(science.shape, x, y, self.lengths(mags[bright]), cfg.angles_deg, cfg.width_px)
        mask = np.where(marked, science.mask | MaskPlane.SPIKE.value, science.mask)
        return science.replace(mask=mask.astype(science.mask.dtype))

    def lengths(self, mags: Floats) -> Floats:
        """Reach of the arms, pixels, by magnitude, (n,)."""
        cfg = self.config
        grown = cfg.length_px * 10 ** (cfg.growth_per_mag * (cfg.faintest_mag - mags))
        return np.minimum(grown, cfg.max_length_px)


def arms(
    shape: tuple[int, int],
    x: Floats,
    y: Floats,
    lengths: Floats,
    angles_deg: tuple[float, ...],
    width_px: float,
) -> Bools:
    """(ny, nx) True on bars of ``width_px`` through (x, y), reaching ``lengths`` (n,) each way."""
    marked = np.zeros(shape, bool)
    for angle in np.deg2rad(angles_deg):
        ux, uy = np.cos(angle), np.sin(angle)
        for k in np.flatnonzero(np.isfinite(x) & np.isfinite(y)):
            rows = _span(y[k], lengths[k] * abs(uy) + width_px, shape[0])
            columns = _span(x[k], lengths[k] * abs(ux) + width_px, shape[1])
            dy = np.arange(rows.start, rows.stop)[:, None] - y[k]
            dx = np.arange(columns.start, columns.stop) - x[k]
            along, across = np.abs(dx * ux + dy * uy), np.abs(dy * ux - dx * uy)
            marked[rows, columns] |= (along <= lengths[k]) & (across <= width_px / 2)
    return marked


def _span(middle: float, reach: float, side: int) -> slice:
    """Pixels within ``reach`` of a coordinate, as far as they exist."""
    first, last = (int(np.clip(middle + sign * reach, 0, side)) for sign in (-1, 1))
    return slice(first, min(side, last + 1))
