"""The clipped mean of a stack of warps."""

import numpy as np

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Bools, Image, Mask

HALO = 3
"""Rows above and below the strip that clipping looks at."""
NEIGHBOUR_NOISE = 1.5
"""Variance of a sum of 3 x 3 interpolated pixels over the sum of their variances, with that of
the reference."""


@kernel
def steepest(image: Image, y: int, x: int) -> float:
    """Largest difference to one of the four neighbours."""
    middle = image[y, x]
    left, right = image[y, max(x - 1, 0)], image[y, min(x + 1, image.shape[1] - 1)]
    along = max(abs(middle - left), abs(middle - right))
    across = max(abs(middle - image[y - 1, x]), abs(middle - image[y + 1, x]))
    largest: float = max(along, across)
    return largest


@kernel
def combine_rows(
    images: Image,
    variances: Image,
    masks: Mask,
    weights: Image,
    peak_change: Image,
    avoid_bits: int,
    no_data_bit: int,
    clip: float,
    clip_near: float,
    out_image: Image,
    out_variance: Image,
    out_mask: Mask,
    out_count: np.ndarray,
) -> None:
    """Fill the strip between the HALO rows of ``images`` (n, rows + 2 HALO, nx).

    The reference is the lower median of the inputs. An input is rejected where it leaves the
    reference by ``clip`` sigma plus what seeing may do there: the reference's steepest slope
    to a neighbour plus ``peak_change`` (n,) of its brightness; or where the sum over 3 x 3
    pixels does so, which finds what is as wide as a PSF and too faint for a single pixel. Next
    to a rejected pixel ``clip_near`` sigma suffice. Pixels with an avoided bit take part only
    where all have one.
    """
    n, rows, nx = images.shape
    used = np.zeros((n, rows, nx), np.uint8)
    reference = np.zeros((rows, nx), np.float32)
    sample = np.empty(n, np.float32)
    for y in range(rows):
        for x in range(nx):
            clean = 0
            for i in range(n):
                known = (masks[i, y, x] & no_data_bit) == 0
                known = known and np.isfinite(images[i, y, x] + variances[i, y, x])
                if known:
                    used[i, y, x] = 1 if (masks[i, y, x] & avoid_bits) else 2
                    clean = max(clean, used[i, y, x])
            m = 0
            for i in range(n):
                used[i, y, x] = 1 if clean and used[i, y, x] == clean else 0
                if used[i, y, x]:
                    value = images[i, y, x]
                    k = m
                    while k > 0 and sample[k - 1] > value:
                        sample[k] = sample[k - 1]
                        k -= 1
                    sample[k] = value
                    m += 1
            if m:
                reference[y, x] = sample[(m - 1) // 2]
    around = np.zeros((rows, nx), np.float32)
    for y in range(1, rows - 1):
        for x in range(nx):
            for dy in range(-1, 2):
                for dx in range(-1, 2):
                    around[y, x] += reference[y + dy, min(max(x + dx, 0), nx - 1)]
    for step in range(2):
        before = used.copy()
        for y in range(2 + step, rows - 2 - step):
            for x in range(nx):
                middle = reference[y, x]
                for i in range(n):
                    if not before[i, y, x]:
                        continue
                    sigmas = clip
                    if step:
                        touched = False
                        for dy in range(-1, 2):
                            for dx in range(-1, 2):
                                xx = min(max(x + dx, 0), nx - 1)
                                touched = touched or before[i, y + dy, xx] == 3
                        if not touched:
                            continue
                        sigmas = clip_near
                    deviation = images[i, y, x] - middle
                    noise = variances[i, y, x]
                    room = steepest(reference, y, x) + peak_change[i] * abs(middle)
                    if abs(deviation) > sigmas * np.sqrt(noise) + room:
                        used[i, y, x] = 3
                        continue
                    # most pixels end here: the sum cannot be large where the middle is small
                    if step or deviation * deviation < noise:
                        continue
                    for dy in range(-1, 2):
                        for dx in range(-1, 2):
                            xx = x + dx
                            if (dy or dx) and 0 <= xx < nx and before[i, y + dy, xx]:
                                deviation += images[i, y + dy, xx] - reference[y + dy, xx]
                                noise += variances[i, y + dy, xx]
                    room = steepest(around, y, x) + peak_change[i] * abs(around[y, x])
                    if abs(deviation) > sigmas * np.sqrt(NEIGHBOUR_NOISE * noise) + room:
                        used[i, y, x] = 3
    for y in range(HALO, rows - HALO):
        for x in range(nx):
            total, noise, weight = 0.0, 0.0, 0.0
            bits, count = 0, 0
            for i in range(n):
                if used[i, y, x] == 1:
                    w = weights[i]
                    total += w * images[i, y, x]
                    noise += w * w * variances[i, y, x]
                    weight += w
                    bits |= masks[i, y, x]
                    count += 1
            if count:
                out_image[y - HALO, x] = total / weight
                out_variance[y - HALO, x] = noise / (weight * weight)
                out_mask[y - HALO, x] = bits
                out_count[y - HALO, x] = count


@kernel
def open_cells(weight: Image, cell: int) -> Bools:
    """(ny, nx) / cell rounded up: squares with a pixel that has no weight so far."""
    ny, nx = weight.shape
    found = np.zeros(((ny + cell - 1) // cell, (nx + cell - 1) // cell), np.bool_)
    for j in range(found.shape[0]):
        for i in range(found.shape[1]):
            for y in range(j * cell, min(j * cell + cell, ny)):
                for x in range(i * cell, min(i * cell + cell, nx)):
                    if weight[y, x] == 0:
                        found[j, i] = True
                        break
                if found[j, i]:
                    break
    return found


@kernel
def add_piece(
    image: Image,
    variance: Image,
    mask: Mask,
    no_data_bit: int,
    y0: int,
    x0: int,
    sum_image: Image,
    sum_variance: Image,
    sum_weight: Image,
    sum_mask: Mask,
) -> int:
    """Add a piece whose first pixel is (y0, x0) to running sums; returns its pixels with data.

    Weights are inverse variances. ``sum_variance`` gains weight x variance: a weighted mean of
    variances, because pieces share their data.
    """
    added = 0
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if (mask[y, x] & no_data_bit) == 0:
                w = np.float32(1) / variance[y, x]
                sum_image[y0 + y, x0 + x] += w * image[y, x]
                sum_variance[y0 + y, x0 + x] += np.float32(1)
                sum_weight[y0 + y, x0 + x] += w
                sum_mask[y0 + y, x0 + x] |= mask[y, x]
                added += 1
    return added


@kernel
def divide_sums(image: Image, variance: Image, weight: Image, mask: Mask, no_data_bit: int) -> None:
    """Turn the sums into means, in place; 0, inf and no data where nothing was added."""
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            if weight[y, x] > 0:
                image[y, x] /= weight[y, x]
                variance[y, x] /= weight[y, x]
            else:
                image[y, x] = 0
                variance[y, x] = np.inf
                mask[y, x] = no_data_bit
