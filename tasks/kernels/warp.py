"""Interpolation with separable weights through a grid of coordinates."""

import numpy as np

from promptdia.tasks.kernels._jit import fast_kernel
from promptdia.tasks.kernels._vector import LANES, separable_sum
from promptdia.tasks.model.arrays import Floats, Image, Mask

CELL = 32
"""Pixels between nodes of the coordinate grid."""
BLOCK = 8
"""Side of the blocks of ``dirty_blocks``."""


@fast_kernel
def dirty_blocks(image: Image, variance: Image, mask: Mask, no_data_bit: int) -> np.ndarray:
    """(ny_blocks, nx_blocks) uint8 state of each block of the input.

    0 clean, 1 some pixel has a mask bit or is not finite, 2 every pixel has no data.
    """
    ny, nx = image.shape
    dirty = np.zeros(((ny + BLOCK - 1) // BLOCK, (nx + BLOCK - 1) // BLOCK), np.uint8)
    for by in range(dirty.shape[0]):
        for bx in range(dirty.shape[1]):
            some, every, unknown = np.int32(0), np.int32(-1), np.float32(0)
            for y in range(by * BLOCK, min(by * BLOCK + BLOCK, ny)):
                for x in range(bx * BLOCK, min(bx * BLOCK + BLOCK, nx)):
                    some |= mask[y, x]
                    every &= mask[y, x]
                    # nan from what is not finite
                    unknown += (image[y, x] + variance[y, x]) * np.float32(0)
            touched = some != 0 or unknown != 0
            empty = (every & no_data_bit) != 0
            dirty[by, bx] = 2 if empty else (1 if touched else 0)
    return dirty


@fast_kernel
def warp_cells(
    image: Image,
    variance: Image,
    mask: Mask,
    dirty: np.ndarray,
    grid_x: Floats,
    grid_y: Floats,
    wanted: np.ndarray,
    table: Image,
    missing_bits: int,
    interpolated_bit: int,
    no_data_bit: int,
    variance_scale: float,
    first: int,
    end: int,
    out_image: Image,
    out_variance: Image,
    out_mask: Mask,
) -> None:
    """Fill rows of cells ``first`` to ``end`` of the output.

    ``grid_x`` and ``grid_y`` (ny_cells + 1, nx_cells + 1) are input coordinates of output
    pixels (CELL i, CELL j), nan where there is no input; ``wanted`` (ny_cells, nx_cells) is 0
    where a cell need not be filled: it holds "no data", as every pixel without input does.
    ``dirty`` is of the input, per BLOCK: the footprint of a pixel touches two at most.
    ``table`` (phases + 1, LANES) holds the weights for every sub-pixel offset.
    A tap is missing outside the input, where not finite, and where a missing bit is set
    without the interpolated one; what remains is renormalised while it has half of the weight.
    """
    ny, nx = image.shape
    oy, ox = out_image.shape
    phases = table.shape[0] - 1
    reach = LANES // 2 - 1
    weights = table.ravel()
    pixels = image.ravel()
    noise = variance.ravel()
    for cy in range(first, end):
        for cx in range(grid_x.shape[1] - 1):
            for y in range(cy * CELL, min(cy * CELL + CELL, oy)):
                out_image[y, cx * CELL : cx * CELL + CELL] = 0
                out_variance[y, cx * CELL : cx * CELL + CELL] = np.inf
                out_mask[y, cx * CELL : cx * CELL + CELL] = no_data_bit
            if wanted[cy, cx] == 0:
                continue
            ax, bx = grid_x[cy, cx], grid_x[cy, cx + 1]
            dx, ex = grid_x[cy + 1, cx], grid_x[cy + 1, cx + 1]
            ay, by = grid_y[cy, cx], grid_y[cy, cx + 1]
            dy, ey = grid_y[cy + 1, cx], grid_y[cy + 1, cx + 1]
            low_x, high_x = min(min(ax, bx), min(dx, ex)), max(max(ax, bx), max(dx, ex))
            low_y, high_y = min(min(ay, by), min(dy, ey)), max(max(ay, by), max(dy, ey))
            if not (high_x >= -0.5 and low_x < nx and high_y >= -0.5 and low_y < ny):
                continue
            if not (ax + bx + dx + ex + ay + by + dy + ey < 1e12):
                continue
            # area of an output pixel in input pixels, mean over the cell
            area = abs((ex - ax) * (dy - by) - (dx - bx) * (ey - ay)) * 0.5 / (CELL * CELL)
            scale = np.float32(area)
            noise_scale = np.float32(area * area * variance_scale)
            x0, x1 = int(np.floor(low_x)) - reach, int(np.floor(high_x)) + reach + 1
            y0, y1 = int(np.floor(low_y)) - reach, int(np.floor(high_y)) + reach + 1
            careful = x0 < 0 or y0 < 0 or x1 >= nx or y1 >= ny
            empty = True
            for block_y in range(max(y0, 0) // BLOCK, min(y1, ny - 1) // BLOCK + 1):
                for block_x in range(max(x0, 0) // BLOCK, min(x1, nx - 1) // BLOCK + 1):
                    careful = careful or dirty[block_y, block_x] != 0
                    empty = empty and dirty[block_y, block_x] == 2
            if empty:
                continue
            for y in range(cy * CELL, min(cy * CELL + CELL, oy)):
                v = (y - cy * CELL) / CELL
                left_x, right_x = ax + (dx - ax) * v, bx + (ex - bx) * v
                left_y, right_y = ay + (dy - ay) * v, by + (ey - by) * v
                step_x, step_y = (right_x - left_x) / CELL, (right_y - left_y) / CELL
                for i in range(min(CELL, ox - cx * CELL)):
                    xs, ys = left_x + step_x * i, left_y + step_y * i
                    ix, iy = int(np.floor(xs)), int(np.floor(ys))
                    fx, fy = xs - ix, ys - iy
                    kx = LANES * int(fx * phases + 0.5)
                    ky = LANES * int(fy * phases + 0.5)
                    x = cx * CELL + i
                    clean = True
                    if careful:
                        y0, y1, x0, x1 = iy - reach, iy + reach + 1, ix - reach, ix + reach + 1
                        clean = x0 >= 0 and y0 >= 0 and x1 < nx and y1 < ny
                        if clean:
                            y0, y1, x0, x1 = y0 // BLOCK, y1 // BLOCK, x0 // BLOCK, x1 // BLOCK
                            clean = (
                                dirty[y0, x0] | dirty[y0, x1] | dirty[y1, x0] | dirty[y1, x1]
                            ) == 0
                    if clean:
                        lowest = (iy - reach) * nx + ix - reach
                        total = separable_sum(pixels, lowest, nx, weights, kx, ky)
                        at = np.uint64(iy * nx + ix)
                        below = at + np.uint64(nx)
                        one = np.uint64(1)
                        gx, gy = np.float32(fx), np.float32(fy)
                        top = noise[at] + gx * (noise[at + one] - noise[at])
                        bottom = noise[below] + gx * (noise[below + one] - noise[below])
                        out_image[y, x] = total * scale
                        out_variance[y, x] = (top + gy * (bottom - top)) * noise_scale
                        out_mask[y, x] = 0
                        continue
                    total = np.float32(0)
                    kept = np.float32(0)
                    bits = 0
                    for j in range(LANES):
                        py = iy - reach + j
                        for k in range(LANES):
                            px = ix - reach + k
                            if py < 0 or px < 0 or py >= ny or px >= nx:
                                continue
                            w = weights[ky + j] * weights[kx + k]
                            m = mask[py, px]
                            if abs(w) > 0.05:
                                bits |= m
                            lost = (m & missing_bits) != 0 and (m & interpolated_bit) == 0
                            if not (lost or not np.isfinite(image[py, px])):
                                total += w * image[py, px]
                                kept += w
                    near_x, near_y = int(np.floor(xs + 0.5)), int(np.floor(ys + 0.5))
                    inside = 0 <= near_x < nx and 0 <= near_y < ny
                    if not inside or kept < 0.5:
                        out_mask[y, x] = bits | no_data_bit
                        continue
                    near = mask[near_y, near_x]
                    lost = (near & missing_bits) != 0 and (near & interpolated_bit) == 0
                    if lost or not np.isfinite(image[near_y, near_x] + variance[near_y, near_x]):
                        out_mask[y, x] = bits | no_data_bit
                        continue
                    out_image[y, x] = total / kept * scale
                    out_variance[y, x] = variance[near_y, near_x] * noise_scale
                    out_mask[y, x] = bits & ~no_data_bit
