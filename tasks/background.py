"""The sky: its level in boxes, clear of sources, joined by a smooth surface."""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.ndimage import median_filter
from scipy.stats import norm

from promptdia.tasks.errors import NoUsablePixels
from promptdia.tasks.kernels.background import (
    block_means,
    box_levels,
    square_sums,
    subtract_where,
)
from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.parallel import over_strips
from promptdia.tasks.robust import MAD_TO_SIGMA

EXCLUDED = (
    MaskPlane.BAD | MaskPlane.SAT | MaskPlane.CR | MaskPlane.INTRP | MaskPlane.NO_DATA
).value
MODE_WINDOW = 1.0
"""The mode looks no further above the sky than this many sigma."""
MEAN_WINDOW = 3.0
"""The mean reaches as far above the sky as below."""
MIN_KNOWN = 0.2
"""With a smaller part of the boxes clear of sources, the others tell nothing of theirs."""
OUTLIER_SIGMA = 4.0
"""How many times the usual deviation from its neighbours makes a box an outlier."""


@dataclass(frozen=True, slots=True)
class BackgroundConfig:
    """Mesh and source mask."""

    box_px: int = 128
    """Side of a box; smaller in images of fewer than ``min_boxes`` boxes."""
    min_boxes: int = 4
    """Boxes per axis in small images."""
    min_box_px: int = 32
    """No box is smaller than this."""
    block_px: int = 4
    """The sky is measured on the means of blocks of this side."""
    passes: int = 2
    """How often sources are found above the sky and left out of it."""
    square_blocks: tuple[int, ...] = (3, 9)
    """Sides of the squares, in blocks, over which faint light is summed to find sources; odd."""
    source_sigma: float = 3.0
    """A square brighter than this belongs to a source."""
    grow_blocks: int = 2
    """How far sources are grown."""
    min_used: float = 0.05
    """A box with a smaller part of its pixels free of sources takes its level from elsewhere."""


class Levels(NamedTuple):
    """What the blocks of each box say."""

    level: Floats
    """(ny_boxes, nx_boxes)."""
    sigma: Floats
    """Noise of the mean of a block."""


@dataclass(frozen=True, slots=True, eq=False)
class Grid:
    """Boxes of blocks of pixels."""

    y_edges: Ints
    """(ny_boxes + 1,) in blocks."""
    x_edges: Ints

    def surface(self, values: Floats, y: Floats, x: Floats) -> Image:
        """(y.size, x.size) spline through ``values`` of the boxes at positions in blocks."""
        rows, columns = spline_matrix(self.y_edges, y), spline_matrix(self.x_edges, x)
        return rows @ values.astype(np.float32) @ columns.T

    def block_surface(self, values: Floats) -> Image:
        """The surface at the centre of every block."""
        y, x = (np.arange(edges[-1], dtype=float) for edges in (self.y_edges, self.x_edges))
        return self.surface(values, y, x)

    def levels(self, means: Image, sources: Bools, upper: float, min_used: float) -> Levels | None:
        """Level and noise of the boxes, looking up to ``upper`` sigma above the sky.

        None when sources leave less than MIN_KNOWN of the boxes.
        """
        level = np.empty((self.y_edges.size - 1, self.x_edges.size - 1))
        sigma, used = np.empty_like(level), np.empty_like(level)
        shift = truncated_mean(-3.0, upper)
        box_levels(means, sources, self.y_edges, self.x_edges, upper, shift, level, sigma, used)
        unknown = used < min_used
        if unknown.mean() > 1.0 - MIN_KNOWN:
            return None
        return Levels(filled(level, unknown), filled(sigma, unknown))


@dataclass(frozen=True, slots=True)
class SubtractBackground:
    """Subtract the sky, not the galaxies."""

    config: BackgroundConfig

    def run(self, exposure: Exposure) -> tuple[Exposure, Image]:
        """The exposure without sky, and the sky (ny, nx) in its unit.

        First the clipped mean of each box, then the mode of what that leaves, from its fainter
        side, which holds in crowded fields; then, ``passes`` times, the clipped mean of what
        does not stand above the sky in sums over small and large squares. NO_DATA pixels become
        0. ``notes`` get the median level and pixel noise. Raises NoUsablePixels.
        """
        grid, levels = self.measure(exposure)
        y, x = ((np.arange(n) + 0.5) / self.config.block_px - 0.5 for n in exposure.shape)
        background = grid.surface(levels.level, y, x)
        image = np.empty_like(exposure.image)
        no_data = MaskPlane.NO_DATA.value

        def work(first: int, end: int) -> None:
            subtract_where(exposure.image, exposure.mask, no_data, background, first, end, image)

        over_strips(work, exposure.shape[0], 256)
        notes = {
            **exposure.notes,
            "SKYLEVEL": float(np.median(levels.level)),
            "SKYSIGMA": float(np.median(levels.sigma)) * self.config.block_px,
        }
        return exposure.replace(image=image, notes=notes), background

    def measure(self, exposure: Exposure) -> tuple[Grid, Levels]:
        """The sky in boxes after all passes."""
        cfg = self.config
        means = self._block_means(exposure)
        grid = Grid(*(self._edges(n, blocks) for n, blocks in zip(exposure.shape, means.shape)))
        nothing = np.zeros(means.shape, bool)
        # the mean first: a slope inside the boxes misleads the mode, not the mean
        levels = grid.levels(means, nothing, MEAN_WINDOW, 0.0)
        if levels is None or np.isnan(levels.level).any():
            raise NoUsablePixels("image", "no box holds sky")
        for i in range(1 + cfg.passes):
            rest = means - grid.block_surface(levels.level)
            if i == 0:
                found = grid.levels(rest, nothing, MODE_WINDOW, 0.0)
            else:
                sources = self._sources(rest, grid.block_surface(levels.sigma))
                found = grid.levels(rest, sources, MEAN_WINDOW, cfg.min_used)
            if found is None:
                # sources nearly everywhere: the mode is all there is, and uneven
                return grid, Levels(median_of_nine(levels.level), levels.sigma)
            levels = Levels(levels.level + found.level, found.sigma)
        return grid, levels

    def _block_means(self, exposure: Exposure) -> Image:
        size = self.config.block_px
        ny, nx = exposure.shape
        means = np.empty((-(-ny // size), -(-nx // size)), np.float32)

        def work(first: int, end: int) -> None:
            block_means(exposure.image, exposure.mask, EXCLUDED, size, first, end, means)

        over_strips(work, means.shape[0])
        return means

    def _sources(self, rest: Image, sigma: Image) -> Bools:
        """Which blocks belong to sources, given block means without sky and their noise."""
        cfg = self.config
        excess: Image = np.nan_to_num(rest / np.maximum(sigma, np.float32(1e-20)))
        # one bright block must not fill the whole large square
        np.clip(excess, -20.0, 50.0, out=excess)
        found = np.zeros_like(excess)
        sums = np.empty_like(excess)
        for side in cfg.square_blocks:
            square_sums(excess, side, sums)
            # what lies as far below goes too: the rest of the noise stays without bias
            found[np.abs(sums) > cfg.source_sigma * side] = 1.0
        square_sums(found, 2 * cfg.grow_blocks + 1, sums)
        grown: Bools = sums > 0.5
        return grown

    def _edges(self, n: int, blocks: int) -> Ints:
        """Borders of the boxes along an axis of n pixels, in blocks."""
        cfg = self.config
        boxes = min(max(cfg.min_boxes, n // cfg.box_px), max(1, n // cfg.min_box_px))
        return np.linspace(0, blocks, boxes + 1).astype(np.int64)


def truncated_mean(low: float, high: float) -> float:
    """Mean of the unit normal distribution between ``low`` and ``high``."""
    return float((norm.pdf(low) - norm.pdf(high)) / (norm.cdf(high) - norm.cdf(low)))


def filled(values: Floats, unknown: Bools) -> Floats:
    """A mesh with unknown boxes filled from the known ones and its outliers replaced.

    Filling weighs by distance to the power -4. An outlier differs by more than is common in this
    mesh from what its pairs of opposite neighbours say in the median, and becomes that; the mesh
    is continued linearly beyond its border. So slopes stay. nan when no box is known.
    """
    unknown = unknown | np.isnan(values)
    if unknown.all():
        return np.full(values.shape, np.nan)
    if unknown.any():
        ky, kx = np.nonzero(~unknown)
        y, x = np.nonzero(unknown)
        weight = ((y[:, None] - ky) ** 2 + (x[:, None] - kx) ** 2).astype(float) ** -2
        values = values.copy()
        values[unknown] = (weight * values[ky, kx]).sum(axis=1) / weight.sum(axis=1)
    if min(values.shape) < 2:
        return values
    p = np.pad(values, 1, mode="reflect", reflect_type="odd")
    pairs = (
        p[1:-1, :-2] + p[1:-1, 2:],
        p[:-2, 1:-1] + p[2:, 1:-1],
        p[:-2, :-2] + p[2:, 2:],
        p[2:, :-2] + p[:-2, 2:],
    )
    expected = 0.5 * np.median(pairs, axis=0)
    off = np.abs(values - expected)
    result: Floats = np.where(off > OUTLIER_SIGMA * MAD_TO_SIGMA * np.median(off), expected, values)
    return result


def median_of_nine(values: Floats) -> Floats:
    """Each element's median with its eight neighbours; a slope stays a slope at the border."""
    if min(values.shape) < 2:
        return values
    padded = np.pad(values, 1, mode="reflect", reflect_type="odd")
    smooth: Floats = median_filter(padded, 3)[1:-1, 1:-1]
    return smooth


def spline_matrix(edges: Ints, positions: Floats) -> Image:
    """(n_positions, n_boxes): natural cubic spline through values at the centres of the boxes.

    Linear beyond the outermost centres; constant for a single box.
    """
    centres = 0.5 * (edges[1:] + edges[:-1] - 1)
    if centres.size == 1:
        return np.ones((positions.size, 1), np.float32)
    spline = CubicSpline(centres, np.eye(centres.size), bc_type="natural")
    inside = np.clip(positions, centres[0], centres[-1])
    matrix = spline(inside) + spline(inside, 1) * (positions - inside)[:, None]
    return np.asarray(matrix, np.float32)
