"""The sky that a difference has left: medians of blocks, clear of what changed."""

from dataclasses import dataclass

import numpy as np

from promptdia.tasks.kernels.background import block_means, square_sums
from promptdia.tasks.kernels.difference import block_medians
from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints
from promptdia.tasks.parallel import over_strips

LEAST_GOOD = 0.05
"""Of a block's pixels, for a level of its own."""
CELL_PX, SQUARE_CELLS = 3, 3
"""Light is summed over squares of cells that are as wide as a star."""
SOURCE_SIGMA = 3.5
"""A square this far from the sky is a source. The scatter is that of all squares, so that what
an uneven sky leaves is not taken for sources."""
GROWN_CELLS = 3
"""In squares of this side around a source's no pixel counts as sky."""
BRIGHTEST = 30.0
"""A cell counts with at most so many sigma: one hot pixel must not grow."""
SAMPLE = 50_000
"""Cells that tell the scatter, at least if there are as many."""


@dataclass(frozen=True, slots=True, eq=False)
class SkyMesh:
    """Levels at the middles of blocks, bilinear between them."""

    levels: Image
    """(ny_blocks, nx_blocks)."""
    row_weights: Image
    column_weights: Image
    """(ny, ny_blocks) and (nx, nx_blocks) of the levels on each row and column."""

    def on_rows(self, rows: slice) -> Image:
        """The sky on rows of the image."""
        sky: Image = self.row_weights[rows] @ (self.levels @ self.column_weights.T)
        return sky


def residual_sky(image: Image, good: Bools, block_px: int) -> SkyMesh:
    """Smooth background: medians of good pixels (every second row) of blocks.

    Taken twice, the second time without what stands out of the first. Else blocks of 32 px
    would take 1 to 2 % of the light of stars of FWHM 5 px, and 2 to 5 % at 7 px.
    """
    first = _mesh(image, good, block_px)
    return _mesh(image, good & ~_sources(image, good, first), block_px)


def _mesh(image: Image, good: Bools, block_px: int) -> SkyMesh:
    rows, columns = (np.linspace(0, n, max(1, round(n / block_px)) + 1).astype(int)
                     for n in image.shape)  # fmt: skip
    mesh = np.empty((rows.size - 1, columns.size - 1), np.float32)
    over_strips(
        lambda a, b: block_medians(image, good, rows, columns, LEAST_GOOD, a, b, mesh),
        mesh.shape[0],
        rows_per_strip=1,
    )
    unknown = np.isnan(mesh)
    mesh[unknown] = 0.0 if unknown.all() else np.nanmedian(mesh)
    return SkyMesh(mesh, _linear(rows), _linear(columns))


def _sources(image: Image, good: Bools, sky: SkyMesh) -> Bools:
    """(ny, nx) True in and around squares that are far above or below the sky."""
    means = np.empty([-(-n // CELL_PX) for n in image.shape], np.float32)

    def average(first: int, end: int) -> None:
        rows = slice(first * CELL_PX, end * CELL_PX)
        bad = (~good[rows]).astype(np.int32)
        block_means(image[rows], bad, 1, CELL_PX, 0, end - first, means[first:end])

    over_strips(average, means.shape[0])
    rows, columns = (
        weights[np.minimum(np.arange(n) * CELL_PX + CELL_PX // 2, len(weights) - 1)]
        for n, weights in zip(means.shape, (sky.row_weights, sky.column_weights))
    )
    means -= rows @ (sky.levels @ columns.T)
    known = np.isfinite(means)
    if not known.any():
        return np.zeros(image.shape, bool)
    brightest = np.float32(BRIGHTEST * _scatter(means[known]))
    sums, found = np.empty_like(means), np.zeros_like(means)
    square_sums(
        np.where(known, means.clip(-brightest, brightest), np.float32(0)), SQUARE_CELLS, sums
    )
    found[np.abs(sums) > SOURCE_SIGMA * _scatter(sums[known])] = 1
    square_sums(found, GROWN_CELLS, sums)
    cells = np.repeat(np.repeat(sums > 0.5, CELL_PX, axis=0), CELL_PX, axis=1)
    return cells[: image.shape[0], : image.shape[1]]


def _scatter(values: Floats | Image) -> float:
    return float(np.percentile(np.abs(values[:: 1 + values.size // SAMPLE]), 68.27))


def _linear(edges: Ints) -> Image:
    """(n, len(edges) - 1) weights of linear interpolation between the blocks' centres."""
    centres = (edges[:-1] + edges[1:] - 1) / 2.0
    return np.stack(
        [np.interp(np.arange(edges[-1]), centres, row) for row in np.eye(centres.size)], axis=1
    ).astype(np.float32)
