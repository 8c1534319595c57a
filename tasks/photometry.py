"""The photometric zero point from matched reference stars."""

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from promptdia.tasks.astrometry import Astrometry
from promptdia.tasks.errors import TaskError, TooFewStars
from promptdia.tasks.model.arrays import Bools, Catalog, Floats
from promptdia.tasks.model.photo_calib import AB_ZERO_NJY, PhotoCalib

MAG_PER_LN = 2.5 / np.log(10.0)


@dataclass(frozen=True, slots=True)
class ColourTerm:
    """What turns a catalogue magnitude into the camera's band."""

    bands: tuple[str, str]
    """The colour, first minus second, in the catalogue."""
    slope: float
    """Magnitudes to add per magnitude of colour."""


@dataclass(frozen=True, slots=True)
class PhotometryConfig:
    min_snr: float = 10.0
    """Of a star's PSF flux."""
    max_extendedness: float = 0.5
    """Wider sources are no stars."""
    min_stars: int = 3
    """Fewer end the task."""
    floor_mag: float = 0.01
    """Error of any star, added to the statistical one: flat field and catalogue."""
    clip_sigma: float = 3.0
    wanted_isolated: int = 15
    """With fewer isolated stars, blended ones count too."""
    colour_terms: dict[str, ColourTerm] = field(default_factory=dict)
    """By band; stars without the colour do not count then."""


class Photometry(NamedTuple):
    """The zero point and the stars it rests on."""

    photo_calib: PhotoCalib
    used: Bools
    """(n_sources,)."""
    scatter_mag: float
    """Robust scatter of single stars about the zero point."""
    error_mag: float
    """Of the zero point."""
    residual_mag: Floats
    """(n_sources,) catalogue less calibrated magnitude of the stars used, else nan."""


@dataclass(frozen=True, slots=True)
class SolvePhotometry:
    """One zero point for the detector: the PSF flux of a star is its catalogue flux."""

    config: PhotometryConfig

    def run(
        self, sources: Catalog, references: Catalog, matches: Astrometry, band: str
    ) -> Photometry:
        """The calibration of counts to nJy; raises TooFewStars or TaskError."""
        source, reference = matches.source_index, matches.reference_index
        stars, catalogue = sources[source], references[reference]
        flux = self._in_camera_band(catalogue, band)
        known = np.isfinite(flux) & (flux > 0)
        if not known.any():
            raise TaskError(f"none of {source.size} matched references {self._lacks(band)}")
        rows = self._select(stars, known)
        if rows.size < self.config.min_stars:
            raise TooFewStars("the zero point", rows.size, self.config.min_stars)
        counts = stars["psfFlux"][rows].astype(float)
        offset = 2.5 * np.log10(counts / flux[rows])  # a higher one: more counts per nJy
        relative = np.nan_to_num(
            catalogue[f"{band}_fluxErr"][rows] / catalogue[f"{band}_flux"][rows]
        )
        error = MAG_PER_LN * np.hypot(stars["psfFluxErr"][rows] / counts, relative)
        zero, kept = self._clipped_mean(offset, np.hypot(error, self.config.floor_mag))
        scatter = 1.4826 * float(np.median(np.abs(offset[kept] - zero)))
        error_mag = max(scatter, self.config.floor_mag) / np.sqrt(kept.sum())
        residual = np.full(sources.size, np.nan)
        residual[source[rows[kept]]] = offset[kept] - zero
        scale = 10 ** (-0.4 * zero)
        calib = PhotoCalib(float(scale), float(scale * error_mag / MAG_PER_LN))
        return Photometry(calib, np.isfinite(residual), scatter, float(error_mag), residual)

    def _in_camera_band(self, catalogue: Catalog, band: str) -> Floats:
        """(n,) catalogue fluxes as the camera's filter would see them; nan where unknown."""
        flux: Floats = catalogue[f"{band}_flux"].astype(float)
        term = self.config.colour_terms.get(band)
        if term is None:
            return flux
        first, second = (catalogue[f"{name}_flux"].astype(float) for name in term.bands)
        with np.errstate(invalid="ignore", divide="ignore"):
            # a colour of c magnitudes is a flux ratio of 10^(-0.4 c)
            return flux * np.where((first > 0) & (second > 0), first / second, np.nan) ** term.slope

    def _lacks(self, band: str) -> str:
        term = self.config.colour_terms.get(band)
        colour = f" and the colour {term.bands[0]}-{term.bands[1]}" if term else ""
        return f"has a flux in band {band}{colour}"

    def _select(self, stars: Catalog, known: Bools) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            good = known & (stars["psfFlux"] >= self.config.min_snr * stars["psfFluxErr"])
            good &= ~(stars["extendedness"] > self.config.max_extendedness)
        for flag in ("flag_saturated", "flag_bad", "flag_edge"):
            good &= ~stars[flag]
        isolated = np.flatnonzero(good & ~stars["flag_blended"])
        return isolated if isolated.size >= self.config.wanted_isolated else np.flatnonzero(good)

    def _clipped_mean(self, offset: Floats, error: Floats) -> tuple[float, Bools]:
        """Weighted mean of what lies within the clip about it, started from the median."""
        zero, kept = float(np.median(offset)), np.ones(offset.size, bool)
        for _ in range(20):
            scatter = 1.4826 * float(np.median(np.abs(offset[kept] - zero)))
            sigma = np.maximum(error, scatter)
            fresh = np.abs(offset - zero) <= self.config.clip_sigma * sigma
            if fresh.sum() < self.config.min_stars:
                break
            weights = fresh / (error**2 + scatter**2)
            zero = float((weights * offset).sum() / weights.sum())
            if np.array_equal(fresh, kept):
                break
            kept = fresh
        return zero, kept


def zero_point_calib(zero_point: float) -> PhotoCalib:
    """The calibration in which one count has the AB magnitude ``zero_point``."""
    return PhotoCalib(float(10 ** (0.4 * (AB_ZERO_NJY - zero_point))))
