"""An exposure on another pixel grid."""

import numpy as np
from scipy import ndimage

from promptdia.tasks.kernels.warp import CELL, dirty_blocks, warp_cells
from promptdia.tasks.model.arrays import Bools, Floats
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.psf import GridPsf, Psf
from promptdia.tasks.model.wcs import FitsWcs
from promptdia.tasks.parallel import over_strips
from promptdia.tasks.resampling import RESAMPLED, kept_variance, sinc_table, times_resampled

MISSING = MaskPlane.NO_DATA | MaskPlane.BAD | MaskPlane.CR
"""Pixels whose value is not used unless it was interpolated."""
PSF_NODE_PX = 512
"""At most this far apart are the nodes of a warped PSF."""


def warp(
    exposure: Exposure, wcs: FitsWcs, shape: tuple[int, int], wanted: Bools | None = None
) -> Exposure:
    """The exposure interpolated to the grid of ``wcs``; NO_DATA where it does not reach.

    Windowed sinc of 8 x 8 pixels, through coordinates that are exact every 32 pixels and
    bilinear between. Fluxes are kept: values scale with the pixel area. A mask bit is set
    where a pixel that has it carries more than 5 % of the weight. The variance is that of one
    pixel, averaged over sub-pixel offsets; how far neighbours are correlated is in the note
    ``resampled`` (see promptdia.tasks.resampling). ``wanted``, (ny, nx) / CELL rounded
    up, says which cells of the output to fill; None means all.
    """
    grid_x, grid_y = input_grid(exposure, wcs, shape)
    before = float(exposure.notes.get(RESAMPLED, 0.0))
    after = before + times_resampled(_kept_at(grid_x, grid_y))
    scale = float((kept_variance(after) / kept_variance(before))[0])
    image, variance = np.empty(shape, np.float32), np.empty(shape, np.float32)
    mask = np.empty(shape, np.int32)
    source = (
        np.ascontiguousarray(exposure.image, np.float32),
        np.ascontiguousarray(exposure.variance, np.float32),
        np.ascontiguousarray(exposure.mask, np.int32),
    )
    dirty = dirty_blocks(*source, MaskPlane.NO_DATA.value)
    cells = np.ones((grid_x.shape[0] - 1, grid_x.shape[1] - 1), np.uint8)
    if wanted is not None:
        cells[:] = wanted
    over_strips(
        lambda first, end: warp_cells(
            *source, dirty, grid_x, grid_y, cells, sinc_table(),
            MISSING.value, MaskPlane.INTRP.value, MaskPlane.NO_DATA.value, scale,
            first, end, image, variance, mask,
        ),
        grid_x.shape[0] - 1,
        rows_per_strip=2,
    )  # fmt: skip
    psf = None
    if exposure.psf is not None:
        psf = warp_psf(exposure.psf, grid_x, grid_y, exposure.shape, shape)
    notes = {**exposure.notes, RESAMPLED: after}
    return Exposure.of(
        exposure, image=image, variance=variance, mask=mask, wcs=wcs, psf=psf, notes=notes
    )


def input_grid(exposure: Exposure, wcs: FitsWcs, shape: tuple[int, int]) -> tuple[Floats, Floats]:
    """Input (x, y) of every CELL-th output pixel, one node past the end; nan far outside."""
    nodes = [np.arange(-(-n // CELL) + 1) * float(CELL) for n in shape]
    y, x = np.meshgrid(*nodes, indexing="ij")
    ra, dec = (v.ravel() for v in wcs.pixel_to_sky(x, y))
    # a distortion polynomial may fold far sky back onto the detector: ask it only nearby
    rough = np.stack(exposure.wcs.wcs.wcs_world2pix(ra, dec, 0))
    ny, nx = exposure.shape
    margin = 0.1 * max(ny, nx) + 4 * CELL
    near = (np.abs(rough[0] - nx / 2) < nx / 2 + margin) & (
        np.abs(rough[1] - ny / 2) < ny / 2 + margin
    )
    grid = np.full((2, x.size), np.nan)
    if near.any():
        grid[:, near] = exposure.wcs.sky_to_pixel(ra[near], dec[near])
    return grid[0].reshape(x.shape), grid[1].reshape(x.shape)


def warp_psf(
    psf: Psf, grid_x: Floats, grid_y: Floats, shape: tuple[int, int], out_shape: tuple[int, int]
) -> GridPsf | None:
    """The PSF on the output grid; None when no node falls near the input.

    Each stamp is interpolated through the local linear map; nodes outside the input
    take the stamp of its nearest edge.
    """
    rows, columns = (_node_index(n, g) for n, g in zip(out_shape, grid_x.shape))
    y, x = np.meshgrid(rows, columns, indexing="ij")
    at_x, at_y = grid_x[y, x].ravel(), grid_y[y, x].ravel()
    known = np.isfinite(at_x + at_y)
    jacobian = np.stack(
        [np.gradient(g, CELL, axis=a)[y, x].ravel() for g in (grid_y, grid_x) for a in (0, 1)]
    ).T.reshape(-1, 2, 2)
    known &= np.isfinite(jacobian).all(axis=(1, 2))
    if not known.any():
        return None
    inside = (np.clip(at_x, 0, shape[1] - 1), np.clip(at_y, 0, shape[0] - 1))
    stamps = psf.stamps(inside[0][known], inside[1][known])
    scale = np.sqrt(np.median(np.abs(np.linalg.det(jacobian[known]))))
    size = 2 * int(np.ceil(psf.size / scale / 2 - 0.5)) + 1
    warped = np.stack([_affine(s, j, size) for s, j in zip(stamps, jacobian[known])])
    # a node without input takes the stamp of the nearest one that has it
    every = np.stack([y.ravel(), x.ravel()], axis=1)
    nearest = np.argmin(((every[:, None] - every[known][None]) ** 2).sum(axis=2), axis=1)
    nodes = warped[nearest].reshape(rows.size, columns.size, size, size)
    return GridPsf(nodes, columns * float(CELL), rows * float(CELL))


def _kept_at(grid_x: Floats, grid_y: Floats) -> float:
    """Mean sum of squared weights, from one quasi-random pixel in each cell."""
    table = sinc_table().astype(float)
    squares = (table**2).sum(axis=1)
    kept = 1.0
    u = (np.arange(grid_x[1:, 1:].size).reshape(grid_x[1:, 1:].shape) * 0.6180339887) % 1.0
    u = np.floor(u * CELL) / CELL
    for grid in (grid_x, grid_y):
        at = grid[:-1, :-1] + u * (grid[1:, 1:] - grid[:-1, :-1])
        at = at[np.isfinite(at)]
        if at.size:
            phase = np.rint((at - np.floor(at)) * (squares.size - 1)).astype(int)
            kept *= float(squares[phase].mean())
    return kept


def _node_index(n: int, n_grid: int) -> np.ndarray:
    """Grid nodes that carry a PSF stamp, first and last included."""
    n_nodes = max(2, -(-n // PSF_NODE_PX) + 1)
    return np.unique(np.rint(np.linspace(0, n_grid - 1, n_nodes)).astype(int))


def _affine(stamp: Floats, jacobian: Floats, size: int) -> Floats:
    """A stamp seen through d(input)/d(output) in the order (y, x), with the same sum."""
    middle = np.array([stamp.shape[0] // 2, stamp.shape[1] // 2])
    offset = middle - jacobian @ np.array([size // 2, size // 2])
    seen = ndimage.affine_transform(
        stamp, jacobian, offset=offset, output_shape=(size, size), order=3
    )
    same: Floats = seen * (stamp.sum() / seen.sum())
    return same
