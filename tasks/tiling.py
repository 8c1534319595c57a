"""Fixed patches of sky for template coadds: HEALPix cells, each with its own TAN grid."""

from dataclasses import dataclass

import hpgeom
import numpy as np

from promptdia.tasks.model.arrays import Floats
from promptdia.tasks.model.wcs import FitsWcs, tan_wcs

CELL_EXTENT = 1.8
"""A cell's north-up box on the tangent plane is at most this many radians wide over nside."""
SAMPLE_PX = 32
"""Grid on a detector that finds its cells; a patch's margin must exceed 0.71 of it."""


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """A piece of sky with its own pixel grid."""

    id: int
    """4 x 4**order + nested HEALPix index: the order can be read back from it."""
    wcs: FitsWcs
    """TAN, tangent point at the cell's centre, north up, east left."""
    shape: tuple[int, int]
    """(ny, nx); holds the cell and the margin."""


@dataclass(frozen=True, slots=True)
class Tiling:
    """Patches for one pixel scale, as large as ``max_side_px`` allows."""

    pixel_scale_arcsec: float
    overlap_px: int = 100
    """Neighbouring patches share a band at least this wide."""
    max_side_px: int = 4200

    def __post_init__(self) -> None:
        if not 0 < self.pixel_scale_arcsec < 3600:
            raise ValueError(f"pixel scale is {self.pixel_scale_arcsec} arcsec, must be in 0..3600")
        if self.overlap_px < 2 * SAMPLE_PX:
            raise ValueError(f"overlap is {self.overlap_px} px, must be at least {2 * SAMPLE_PX}")

    @property
    def order(self) -> int:
        """HEALPix order of the cells."""
        room = np.deg2rad((self.max_side_px - self.overlap_px) * self.pixel_scale_arcsec / 3600)
        return int(np.clip(np.ceil(np.log2(CELL_EXTENT / room)), 0, 29))

    def patches_of(self, wcs: FitsWcs, shape: tuple[int, int]) -> list[Patch]:
        """The patches that together cover every pixel of a detector, by id."""
        y, x = np.meshgrid(*(_samples(n) for n in shape), indexing="ij")
        ra, dec = wcs.pixel_to_sky(x.ravel(), y.ravel())
        cells = hpgeom.angle_to_pixel(2**self.order, ra, dec, nest=True)
        return [self._of_cell(int(cell)) for cell in np.unique(cells)]

    def patch(self, patch_id: int) -> Patch:
        """The patch with this id; a ValueError when it belongs to another order."""
        base = 4 * 4**self.order
        if not base <= patch_id < 4 * base:
            raise ValueError(
                f"patch {patch_id} is none of this tiling's {base}..{4 * base - 1}: "
                f"it was made for another pixel scale than {self.pixel_scale_arcsec} arcsec"
            )
        return self._of_cell(patch_id - base)

    def _of_cell(self, cell: int) -> Patch:
        nside = 2**self.order
        ra, dec = (float(v) for v in hpgeom.pixel_to_angle(nside, cell, nest=True))
        edge_ra, edge_dec = hpgeom.boundaries(nside, cell, step=4, nest=True)
        x, y = _tangent_px(ra, dec, edge_ra, edge_dec, self.pixel_scale_arcsec)
        margin = self.overlap_px / 2
        x0, y0 = np.floor(x.min() - margin), np.floor(y.min() - margin)
        nx, ny = int(np.ceil(x.max() + margin) - x0) + 1, int(np.ceil(y.max() + margin) - y0) + 1
        scale = self.pixel_scale_arcsec / 3600
        cd = np.array([[-scale, 0.0], [0.0, scale]])
        return Patch(4 * 4**self.order + cell, tan_wcs(ra, dec, -x0, -y0, cd, (ny, nx)), (ny, nx))


def _samples(n: int) -> Floats:
    return np.linspace(-0.5, n - 0.5, max(2, int(np.ceil(n / SAMPLE_PX)) + 1))


def _tangent_px(
    ra0: float, dec0: float, ra: Floats, dec: Floats, scale_arcsec: float
) -> tuple[Floats, Floats]:
    """Gnomonic offsets (west, north) in pixels."""
    a, d, d0 = np.deg2rad(ra - ra0), np.deg2rad(dec), np.deg2rad(dec0)
    depth = np.sin(d0) * np.sin(d) + np.cos(d0) * np.cos(d) * np.cos(a)
    px = np.rad2deg(1.0) * 3600 / scale_arcsec
    east = np.cos(d) * np.sin(a) / depth
    north = (np.cos(d0) * np.sin(d) - np.sin(d0) * np.cos(d) * np.cos(a)) / depth
    return -east * px, north * px
