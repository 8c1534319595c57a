"""The clipped mean of a stack of warps."""

import numpy as np

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Image, Mask

HALO = 2
"""Rows above and below the strip that clipping looks at."""


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
    to a neighbour plus ``peak_change`` (n,) of its brightness. Next to a rejected pixel
    ``clip_near`` sigma suffice. Pixels with an avoided bit take part only where all have one.
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
    for step in range(2):
        before = used.copy() if step else used
        edge = HALO if step else 1
        for y in range(edge, rows - edge):
            for x in range(nx):
                middle = reference[y, x]
                left, right = reference[y, max(x - 1, 0)], reference[y, min(x + 1, nx - 1)]
                slope = max(
                    max(abs(middle - left), abs(middle - right)),
                    max(abs(middle - reference[y - 1, x]), abs(middle - reference[y + 1, x])),
                )
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
                    room = slope + peak_change[i] * abs(middle)
                    limit = sigmas * np.sqrt(variances[i, y, x]) + room
                    if abs(images[i, y, x] - middle) > limit:
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
