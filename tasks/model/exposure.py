"""Images with everything needed to interpret them. Each role is its own type."""

from dataclasses import dataclass, field, fields, replace
from typing import Any, Self

import numpy as np

from promptdia.tasks.model.arrays import Image, Mask
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.photo_calib import PhotoCalib
from promptdia.tasks.model.psf import Psf
from promptdia.tasks.model.visit import Detector, Visit
from promptdia.tasks.model.wcs import FitsWcs


@dataclass(frozen=True, slots=True, eq=False)
class RawFrame:
    """A frame as the camera wrote it, overscan included."""

    pixels: Image
    """(ny_raw, nx_raw) ADU."""
    visit: Visit
    detector: Detector
    wcs: FitsWcs
    """First guess: the header's WCS where there is one, else pointing and geometry."""


@dataclass(frozen=True, slots=True, eq=False)
class Exposure:
    """Image, mask and variance of one detector."""

    image: Image
    """(ny, nx); electrons before photometric calibration, nJy after. nan only under NO_DATA."""
    mask: Mask
    """(ny, nx) bits of MaskPlane."""
    variance: Image
    """(ny, nx) square of the image's unit; inf where nothing is known."""
    wcs: FitsWcs
    visit: Visit
    detector: Detector
    psf: Psf | None = None
    photo_calib: PhotoCalib | None = None
    """None while the image is in electrons; kept afterwards to go back."""
    notes: dict[str, str | float | int | bool] = field(default_factory=dict)
    """What was done to it; written to the FITS header."""

    def __post_init__(self) -> None:
        if not (self.image.shape == self.mask.shape == self.variance.shape):
            raise ValueError(
                f"image {self.image.shape}, mask {self.mask.shape} and variance "
                f"{self.variance.shape} differ in shape"
            )

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        return self.image.shape[0], self.image.shape[1]

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed."""
        return replace(self, **changes)

    @classmethod
    def of(cls, other: "Exposure", **changes: Any) -> Self:
        """``other`` in this role, with some fields changed."""
        values = {f.name: getattr(other, f.name) for f in fields(Exposure)}
        return cls(**{**values, **changes})

    def require_psf(self) -> Psf:
        """The PSF; a ValueError when the exposure has none yet."""
        if self.psf is None:
            raise ValueError("exposure has no PSF")
        return self.psf

    def usable(self, planes: MaskPlane) -> np.ndarray:
        """(ny, nx) True where none of the planes is set and the variance is finite."""
        good: np.ndarray = ~has(self.mask, planes) & np.isfinite(self.variance)
        return good


class ScienceExposure(Exposure):
    """The calibrated visit image, background subtracted, nJy."""

    __slots__ = ()


class TemplateExposure(Exposure):
    """The template on the science pixel grid, nJy."""

    __slots__ = ()


class DifferenceExposure(Exposure):
    """Science minus matched template, noise decorrelated, nJy; its PSF is its own."""

    __slots__ = ()
