"""Forced photometry: what is, and what is not, at the places of known objects."""

from dataclasses import dataclass

import numpy as np

from promptdia.apdb.ids import dia_source_ids
from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE
from promptdia.tasks.detect import usable
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints
from promptdia.tasks.model.exposure import DifferenceExposure, Exposure, ScienceExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.psf import Psf, fwhm_px
from promptdia.tasks.psf_photometry import PsfFlux, psf_flux


@dataclass(frozen=True, slots=True)
class ForcedConfig:
    """Where and how forced fluxes are measured."""

    border_px: float = 0.0
    """Objects nearer to the border of the detector are left out."""
    fit_radius_fwhm: float = 2.5
    """Pixels within this many FWHM take part in the PSF fit."""
    release: int = 0
    """Release number that goes into the ids."""
    precovery_days: float = 30.0
    """A new object is also measured on the stored visits of this many days before; 0 is never."""


@dataclass(frozen=True, slots=True)
class ForcedPhotometry:
    """PSF fluxes at the positions of DiaObjects."""

    config: ForcedConfig

    def run(
        self, objects: Catalog, difference: DifferenceExposure, science: ScienceExposure
    ) -> Catalog:
        """DIA_FORCED_SOURCE rows of the objects on the detector, in their order; nJy.

        Rows of DIA_OBJECT outside the detector, within ``border_px`` of its border or on
        a pixel without data have no row. A flux is nan where no pixel could be used.
        ``timeProcessedMjdTai`` is left for the caller. Only pixels around the objects are
        looked at, so the exposures' arrays may be files mapped to memory.
        """
        x, y = difference.wcs.sky_to_pixel(objects["ra"], objects["dec"])
        seen = self._on_detector(difference, x, y)
        objects, x, y = objects[seen], x[seen], y[seen]
        visit, detector = difference.visit, difference.detector
        rows = DIA_FORCED_SOURCE.empty(len(objects))
        rows["diaForcedSourceId"] = dia_source_ids(
            visit.id, detector.id, np.arange(len(objects)), self.config.release
        )
        for name in ("diaObjectId", "ra", "dec"):
            rows[name] = objects[name]
        rows["visit"], rows["detector"], rows["band"] = visit.id, detector.id, visit.band
        rows["midpointMjdTai"] = visit.mjd_tai
        for name, exposure in (("psfFlux", difference), ("scienceFlux", science)):
            found = self._fluxes(exposure, x, y)
            rows[name], rows[f"{name}Err"] = found.flux, found.flux_err
        return rows

    def _on_detector(self, exposure: Exposure, x: Floats, y: Floats) -> Bools:
        ny, nx = exposure.shape
        border = self.config.border_px - 0.5
        inside = (x >= border) & (x < nx - 1 - border) & (y >= border) & (y < ny - 1 - border)
        px = np.rint(np.where(inside, x, 0)).astype(np.int64)
        py = np.rint(np.where(inside, y, 0)).astype(np.int64)
        blank = (exposure.mask[py, px] & MaskPlane.NO_DATA.value) != 0
        result: Bools = inside & ~blank
        return result

    def _fluxes(self, exposure: Exposure, x: Floats, y: Floats) -> PsfFlux:
        psf = exposure.require_psf()
        ny, nx = exposure.shape
        radius = self.config.fit_radius_fwhm * fwhm_px(psf, nx / 2, ny / 2)
        stamps = _Strip.cut(exposure, x, y, min(int(np.ceil(radius)) + 1, psf.size // 2))
        cut = stamps.exposure
        bad = ~usable(cut)
        return psf_flux(cut.image, cut.variance, bad, stamps, *stamps.places(x, y), radius)


@dataclass(frozen=True, slots=True, eq=False)
class _Strip:
    """Squares around positions of an exposure, one below the other, and the PSF there."""

    exposure: Exposure
    psf: Psf
    x0: Ints
    """(n,) column of the exposure under the first of each square."""
    y0: Ints

    @classmethod
    def cut(cls, exposure: Exposure, x: Floats, y: Floats, half: int) -> "_Strip":
        ny, nx = exposure.shape
        x0, y0 = (np.rint(v).astype(np.int64) - half for v in (x, y))
        side = 2 * half + 1
        rows = (y0[:, None] + np.arange(side)).reshape(-1, 1)
        columns = np.repeat(x0[:, None] + np.arange(side), side, axis=0)
        inside = (rows >= 0) & (rows < ny) & (columns >= 0) & (columns < nx)
        at = np.clip(rows, 0, ny - 1), np.clip(columns, 0, nx - 1)
        mask = np.where(inside, exposure.mask[at], MaskPlane.NO_DATA.value)
        squares = exposure.replace(
            image=exposure.image[at].astype(np.float32),
            mask=mask.astype(np.int32),
            variance=exposure.variance[at].astype(np.float32),
        )
        return cls(squares, exposure.require_psf(), x0, y0)

    @property
    def size(self) -> int:
        """Side of a PSF stamp."""
        return self.psf.size

    def places(self, x: Floats, y: Floats) -> tuple[Floats, Floats]:
        """Where the positions lie on the strip."""
        return x - self.x0, y - self.y0 + self._side * np.arange(x.size)

    def stamps(self, x: Floats, y: Floats) -> Floats:
        """The PSF at positions of the strip."""
        square = np.rint(y).astype(np.int64) // self._side
        return self.psf.stamps(x + self.x0[square], y - self._side * square + self.y0[square])

    @property
    def _side(self) -> int:
        return self.exposure.shape[1]
