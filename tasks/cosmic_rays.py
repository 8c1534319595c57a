"""Cosmic rays by shape: light sharper than the PSF cannot have come through the telescope.

The rule is that of the reference system's cosmic-ray finder: a pixel that stands out in one
of four directions, and more sharply there than a star would, begins a ray; its neighbours
join under weaker conditions. Beyond that system's rule, the geometric mean of two neighbours
finds tracks on the slope of a star, the curvature of the logarithm those across one.
"""

from dataclasses import dataclass

import numpy as np

from promptdia.tasks.errors import TaskError
from promptdia.tasks.interpolate import coordinates, fill_in_place
from promptdia.tasks.kernels.cosmic_rays import (
    Bump,
    Sharpness,
    find_candidates,
    grow_rays,
    strong_regions,
)
from promptdia.tasks.model.arrays import Bools, Floats, Image
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.model.psf import FWHM_PER_SIGMA
from promptdia.tasks.parallel import over_strips

SKY_BOX = 64
"""Side of the boxes in which the sky is taken as constant, pixels."""
SKY_STRIDE = 4
"""Every 4th pixel of every 4th row gives the sky of a box."""


@dataclass(frozen=True, slots=True)
class CosmicRayConfig:
    """What counts as too sharp."""

    threshold: float = 5.25
    """How far a pixel that begins a ray stands above two opposite neighbours, sigma."""
    sharpness: float = 0.7
    """Its neighbours are below this part of what a centred star's would be ..."""
    margin: float = 3.0
    """... with all values taken this many of their errors to the safe side."""
    grow_threshold: float = 3.75
    """The threshold for the neighbours of a ray, without a margin ..."""
    grow_sharpness: float = 0.57
    """... and the sharpness that makes up for it."""
    bump_threshold: float = 1.75
    """How far a neighbour of a ray on a star stands above the star's profile, sigma of both."""
    blend: float = 0.15
    """By which part of itself that profile may be wrong."""
    iterations: int = 2
    """How many times rays grow by a pixel."""
    edge_threshold: float = 3.5
    """The threshold for a last ring, against the pixels at distance two ..."""
    edge_sharpness: float = 0.3
    """... and the sharpness."""
    min_electrons: float = 150.0
    """Regions with less light are dropped ..."""
    min_snr: float = 8.0
    """... and those with less than this many times its error."""
    max_fraction: float = 0.02
    """More of the frame in rays than this means that stars were taken for rays."""


class TooManyCosmicRays(TaskError):
    """So many rays that they must be stars."""


@dataclass(frozen=True, slots=True)
class FindCosmicRays:
    """Find, mark and interpolate cosmic rays."""

    config: CosmicRayConfig

    def run(self, exposure: Exposure, fwhm_px: float) -> Exposure:
        """The exposure with rays filled from their neighbours and marked CR and INTRP.

        ``exposure`` is in electrons, with or without sky. ``fwhm_px`` is the PSF's; if in doubt
        hand in too small a value, which misses rays but spares the stars. ``notes`` get the
        numbers of rays and of pixels. Raises TooManyCosmicRays.
        """
        rays, n = self.find(exposure, fwhm_px)
        pixels = coordinates(rays)
        fraction = pixels[0].size / rays.size
        if fraction > self.config.max_fraction:
            raise TooManyCosmicRays(
                f"{100 * fraction:.1f} % of the pixels look like cosmic rays, more than "
                f"{100 * self.config.max_fraction:.1f} %: the stars are probably sharper "
                f"than the FWHM of {fwhm_px:.2f} px"
            )
        image, variance = exposure.image.copy(), exposure.variance.copy()
        mask = exposure.mask.copy()
        mask[pixels] |= MaskPlane.CR.value
        unusable = has(mask, MaskPlane.CR | MaskPlane.NO_DATA | MaskPlane.SAT)
        fill_in_place(image, variance, mask, pixels, unusable)
        notes = {**exposure.notes, "NCOSMIC": n, "NPIXCR": pixels[0].size}
        return exposure.replace(image=image, variance=variance, mask=mask, notes=notes)

    def find(self, exposure: Exposure, fwhm_px: float) -> tuple[Bools, int]:
        """(ny, nx) True on ray pixels, and the number of rays."""
        if not fwhm_px > 0:
            raise ValueError(f"fwhm_px is {fwhm_px}, must be positive")
        cfg = self.config
        image, variance = exposure.image, exposure.variance
        flags = np.zeros(image.shape, np.uint8)

        def scan(first: int, end: int) -> None:
            find_candidates(image, variance, cfg.threshold, first, end, flags)

        over_strips(scan, image.shape[0], 256)
        # as bool, because that is searched much faster
        ys, xs = coordinates(flags.view(bool))
        forbidden = (MaskPlane.SAT | MaskPlane.NO_DATA).value
        cleaned = image.copy()
        grow_rays(
            cleaned,
            variance,
            exposure.mask,
            forbidden,
            box_sky(image),
            SKY_BOX,
            ys,
            xs,
            *rules(cfg, fwhm_px),
            flags,
        )
        ys, xs = coordinates(flags.view(bool))
        return strong_regions(
            image, cleaned, variance, ys, xs, cfg.min_electrons, cfg.min_snr, flags
        )


def rules(
    cfg: CosmicRayConfig, fwhm_px: float
) -> tuple[Sharpness, Sharpness, Bump, int, Sharpness]:
    """What begins a ray, what joins one, how many times, and what ends it.

    The numbers that are no part of the configuration were chosen with those that are, on
    simulated fields.
    """
    near, far = star_ratios(fwhm_px), star_ratios(fwhm_px, 2)
    seed = Sharpness(1, cfg.sharpness * near, cfg.threshold, cfg.margin, 1.2, 1)
    neighbour = Sharpness(1, cfg.grow_sharpness * near, cfg.grow_threshold, 0.1, 0.7, 1)
    bump = Bump(cfg.bump_threshold, cfg.blend, 1.5, 2)
    edge = Sharpness(2, cfg.edge_sharpness * far, cfg.edge_threshold, -2.5, np.inf, 2)
    return seed, neighbour, bump, cfg.iterations, edge


def star_ratios(fwhm_px: float, step: int = 1) -> Floats:
    """Neighbour at ``step`` over peak of a centred Gaussian star, (4,).

    In row, column and the two diagonals.
    """
    sigma = fwhm_px / FWHM_PER_SIGMA
    side = np.exp(-0.5 * (step / sigma) ** 2)
    return np.array([side, side, side**2, side**2])


def box_sky(image: Image) -> Image:
    """25th percentile of a sample of pixels in each box of SKY_BOX pixels; nan among the top.

    Below the sky rather than above it: that makes stars look less sharp.
    """
    side = SKY_BOX // SKY_STRIDE
    sample = image[::SKY_STRIDE, ::SKY_STRIDE]
    sample = np.pad(sample, [(0, -n % side) for n in sample.shape], mode="edge")
    ny, nx = sample.shape[0] // side, sample.shape[1] // side
    boxes = sample.reshape(ny, side, nx, side).swapaxes(1, 2).reshape(ny, nx, side * side)
    k = side * side // 4
    return np.ascontiguousarray(np.partition(boxes, k, axis=2)[:, :, k])
