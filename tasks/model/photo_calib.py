"""Counts to nJy."""

from dataclasses import dataclass

import numpy as np

from promptdia.tasks.model.arrays import Floats

AB_ZERO_NJY = 31.4
"""AB magnitude of 1 nJy, to the 3e-5 mag of the AB definition (3631 Jy)."""


def njy_to_mag(flux: Floats) -> Floats:
    """AB magnitude; nan where the flux is not positive."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(flux > 0, AB_ZERO_NJY - 2.5 * np.log10(flux), np.nan)


def mag_to_njy(mag: Floats) -> Floats:
    """nJy of an AB magnitude."""
    result: Floats = 10 ** (0.4 * (AB_ZERO_NJY - np.asarray(mag, dtype=float)))
    return result


@dataclass(frozen=True, slots=True)
class PhotoCalib:
    """One scale for the detector: nJy = counts x njy_per_count."""

    njy_per_count: float
    error: float = 0.0
    """Statistical error of the scale, nJy per count."""

    @property
    def zero_point(self) -> float:
        """AB magnitude of one count."""
        return float(AB_ZERO_NJY - 2.5 * np.log10(self.njy_per_count))
