"""Simulated science, template and difference: white noise, stars, dipoles and trails."""

from dataclasses import dataclass, field

import numpy as np

from promptdia.tasks.model.arrays import Floats, Image, Mask
from promptdia.tasks.model.exposure import DifferenceExposure, ScienceExposure, TemplateExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.psf import GridPsf, constant_psf
from promptdia.tasks.model.visit import Detector, Visit
from promptdia.tasks.model.wcs import FitsWcs, tan_wcs

SCALE_ARCSEC = 0.2
VISIT = Visit(2026112000001, "r", 60_999.25, 30.0, 150.0, 2.0)


def moffat(fwhm: float, dx: Floats, dy: Floats) -> Floats:
    """Moffat profile (beta 3), unit integral, at offsets from its centre, pixels."""
    alpha2 = (fwhm / 2) ** 2 / (2 ** (1 / 3) - 1)
    return 2 / (np.pi * alpha2) * (1 + (dx**2 + dy**2) / alpha2) ** -3


def moffat_psf(fwhm: float, size: int = 31) -> GridPsf:
    """The profile sampled on a stamp."""
    y, x = np.mgrid[:size, :size] - size // 2
    return constant_psf(moffat(fwhm, x, y))


@dataclass
class DiaScene:
    """Three aligned images to which light is added; the difference has its own noise model."""

    shape: tuple[int, int] = (256, 256)
    seed: int = 1
    fwhm: float = 3.6
    noise: float = 10.0
    """Of a science pixel, nJy."""
    template_noise: float = 3.0
    science: Image = field(init=False)
    template: Image = field(init=False)
    mask: Mask = field(init=False)

    def __post_init__(self) -> None:
        random = np.random.default_rng(self.seed)
        self.science = (self.noise * random.standard_normal(self.shape)).astype(np.float32)
        self.template = (self.template_noise * random.standard_normal(self.shape)).astype(
            np.float32
        )
        self.mask = np.zeros(self.shape, np.int32)

    @property
    def wcs(self) -> FitsWcs:
        cd = np.array([[-SCALE_ARCSEC, 0.02], [0.02, SCALE_ARCSEC]]) / 3600
        ny, nx = self.shape
        return tan_wcs(150.0, 2.0, nx / 2, ny / 2, cd, self.shape)

    @property
    def stamp_light(self) -> float:
        """The part of a star's light that falls on the PSF's stamp, which has unit sum."""
        y, x = np.mgrid[-15:16, -15:16]
        return float(moffat(self.fwhm, x, y).sum())

    def flux_of(self, snr: float) -> float:
        """Flux of a point source with this S/N on the difference."""
        y, x = np.mgrid[-15:16, -15:16]
        power = (moffat(self.fwhm, x, y) ** 2).sum()
        return snr * float(np.hypot(self.noise, self.template_noise) / np.sqrt(power))

    def add_star(self, x: float, y: float, science: float = 0.0, template: float = 0.0) -> None:
        """A star with its flux on either image."""
        self._add(self.science, x, y, science)
        self._add(self.template, x, y, template)

    def add_dipole(self, x: float, y: float, dx: float, dy: float, flux: float) -> None:
        """A star at (x, y) + (dx, dy) / 2 on science and at the opposite side on the template."""
        self._add(self.science, x + dx / 2, y + dy / 2, flux)
        self._add(self.template, x - dx / 2, y - dy / 2, flux)

    def add_trail(self, x: float, y: float, a: float, b: float, flux: float) -> None:
        """A uniform line on science from (x, y) - (a, b) / 2 to (x, y) + (a, b) / 2."""
        n = int(4 * np.hypot(a, b)) + 1
        for t in (np.arange(n) + 0.5) / n - 0.5:
            self._add(self.science, x + t * a, y + t * b, flux / n)

    def exposures(self) -> tuple[DifferenceExposure, ScienceExposure, TemplateExposure]:
        """Difference, science and matched template."""
        ny, nx = self.shape
        detector = Detector(4, "S04", nx, ny, SCALE_ARCSEC, ())
        psf = moffat_psf(self.fwhm)

        def plane(value: float) -> Image:
            return np.full(self.shape, value, np.float32)

        variance = self.noise**2, self.template_noise**2
        common = (self.wcs, VISIT, detector, psf)
        return (
            DifferenceExposure(
                self.science - self.template, self.mask.copy(), plane(sum(variance)), *common
            ),
            ScienceExposure(self.science, self.mask.copy(), plane(variance[0]), *common),
            TemplateExposure(
                self.template, np.zeros(self.shape, np.int32), plane(variance[1]), *common
            ),
        )

    def mark(self, x: int, y: int, radius: int, plane: MaskPlane) -> None:
        """Set a plane of science and difference in a disk."""
        yy, xx = np.ogrid[: self.shape[0], : self.shape[1]]
        self.mask[(xx - x) ** 2 + (yy - y) ** 2 <= radius**2] |= plane.value

    def _add(self, image: Image, x: float, y: float, flux: float) -> None:
        x0, y0 = max(0, int(x) - 40), max(0, int(y) - 40)
        window = image[y0 : int(y) + 42, x0 : int(x) + 42]
        py, px = np.mgrid[: window.shape[0], : window.shape[1]]
        window += (flux * moffat(self.fwhm, px + x0 - x, py + y0 - y)).astype(np.float32)


def grid_positions(n_side: int, spacing: float, seed: int) -> tuple[Floats, Floats]:
    """Well separated positions with random fractions of a pixel."""
    random = np.random.default_rng(seed)
    line = spacing * (np.arange(n_side) + 0.5)
    x, y = (c.ravel() for c in np.meshgrid(line, line))
    return x + random.uniform(-0.5, 0.5, x.size), y + random.uniform(-0.5, 0.5, x.size)
