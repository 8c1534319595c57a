"""Difference, science and template of one detector, as the measuring steps read them."""

from typing import NamedTuple

import numpy as np

from promptdia.tasks.detect import Detections, usable
from promptdia.tasks.kernels.footprints import claim_pixels
from promptdia.tasks.model.arrays import Bools, Floats, Ints
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.psf import FWHM_PER_SIGMA, Psf, fwhm_px
from promptdia.tasks.star_fit import Planes

DIFFERENCE, SCIENCE, TEMPLATE = 0, 1, 2


class Scene(NamedTuple):
    """Three aligned images and their PSFs, in the order of the roles above."""

    planes: tuple[Planes, Planes, Planes]
    psfs: tuple[Psf, Psf, Psf]
    fwhm: float
    """Of the difference's PSF in the middle of the detector, pixels."""
    radius: float
    """Of the pixels that take part in fits."""

    def bad(self, role: int) -> Bools:
        """(ny, nx) True where a pixel of one image must not be used."""
        return self.planes[role].claims < 0

    @property
    def sigma(self) -> float:
        """Of a Gaussian with the difference PSF's FWHM, pixels."""
        return float(self.fwhm / FWHM_PER_SIGMA)

    def stamps(self, role: int, x: Floats, y: Floats) -> Floats:
        """(n, size, size) PSFs of one image at positions (n,), cut to the fit radius."""
        return _resized(self.psfs[role].stamps(x, y), 2 * int(np.ceil(self.radius)) + 1)


def make_scene(
    detections: Detections, science: Exposure, template: Exposure, fit_radius_fwhm: float
) -> Scene:
    """The scene; a ValueError when the images differ in shape.

    On all three images, the footprint pixels of detection k are claimed by k + 1.
    """
    exposures = (detections.difference, science, template)
    if len({exposure.shape for exposure in exposures}) > 1:
        raise ValueError(
            f"difference {exposures[0].shape}, science {science.shape} and template "
            f"{template.shape} differ in shape"
        )
    ny, nx = science.shape
    psf = detections.difference.require_psf()
    fwhm = fwhm_px(psf, nx / 2, ny / 2)
    count = np.diff(np.append(detections.starts, detections.pixels.size))
    numbers = np.repeat(np.arange(1, count.size + 1), count)
    planes = [planes_of(exposure, detections.pixels, numbers) for exposure in exposures]
    return Scene(
        (planes[0], planes[1], planes[2]),
        (psf, science.require_psf(), template.require_psf()),
        fwhm,
        fit_radius_fwhm * fwhm,
    )


def planes_of(exposure: Exposure, pixels: Ints, numbers: Ints) -> Planes:
    """Pixels and variance; ``pixels`` are claimed by ``numbers``, unusable ones by -1."""
    claims = np.zeros(exposure.shape, np.int32)
    claim_pixels(usable(exposure), pixels, numbers, claims)
    return Planes(
        np.ascontiguousarray(exposure.image, np.float32),
        np.ascontiguousarray(exposure.variance, np.float32),
        claims,
    )


def _resized(stamps: Floats, size: int) -> Floats:
    """Stamps cut, or padded with zeros, around their middle."""
    spare = (size - stamps.shape[-1]) // 2
    if spare >= 0:
        return np.pad(stamps, ((0, 0), (spare, spare), (spare, spare)))
    return stamps[:, -spare:spare, -spare:spare]
