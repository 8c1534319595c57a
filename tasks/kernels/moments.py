"""Windowed centroids and adaptive second moments, source by source."""

import math

import numpy as np

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Bools, Floats, Image

COLUMNS = 8
"""x, y, xErr, yErr, ixx, iyy, ixy, iterations (negative: the moments did not converge)."""
MIN_WEIGHT = 0.8
"""Least variance of the weight of the second moments, pixels squared."""


@kernel
def measure_moments(
    image: Image,
    variance: Image,
    bad: Bools,
    x: Floats,
    y: Floats,
    sigma: float,
    max_sigma: float,
    out: Floats,
) -> None:
    """Fill (n, 8) ``out``, columns as in ``COLUMNS``.

    Centroid: fixed point of the mean position under a circular Gaussian window of
    ``sigma`` (SExtractor's windowed position). Moments: the elliptical Gaussian that is
    its own best weight (Bernstein & Jarvis 2002, section 3), not wider than ``max_sigma``.
    """
    ny, nx = image.shape
    for n in range(x.size):
        cx, cy = x[n], y[n]
        radius = math.ceil(4.0 * sigma)
        s2 = sigma * sigma
        total = 0.0
        for _ in range(20):
            x0, x1 = max(0, int(cx) - radius), min(nx, int(cx) + radius + 2)
            y0, y1 = max(0, int(cy) - radius), min(ny, int(cy) + radius + 2)
            total = mx = my = vx = vy = 0.0
            for j in range(y0, y1):
                wy = math.exp(-0.5 * (j - cy) ** 2 / s2)
                for i in range(x0, x1):
                    if bad[j, i]:
                        continue
                    w = wy * math.exp(-0.5 * (i - cx) ** 2 / s2)
                    value = w * image[j, i]
                    total += value
                    mx += value * (i - cx)
                    my += value * (j - cy)
                    noise = w * w * variance[j, i]
                    vx += noise * (i - cx) ** 2
                    vy += noise * (j - cy) ** 2
            if not total > 0.0:
                break
            step_x, step_y = 2.0 * mx / total, 2.0 * my / total
            cx += step_x
            cy += step_y
            if step_x * step_x + step_y * step_y < 1e-8:
                break
            if (cx - x[n]) ** 2 + (cy - y[n]) ** 2 > s2 + 4.0:
                total = 0.0
                break
        if not total > 0.0:
            out[n, :] = np.nan
            out[n, 0] = x[n]
            out[n, 1] = y[n]
            out[n, 7] = -1.0
            continue
        out[n, 0] = cx
        out[n, 1] = cy
        out[n, 2] = 2.0 * math.sqrt(vx) / total
        out[n, 3] = 2.0 * math.sqrt(vy) / total
        _adapt(image, bad, cx, cy, s2, max_sigma, out[n])


@kernel
def _adapt(
    image: Image, bad: Bools, cx: float, cy: float, s2: float, max_sigma: float, out: Floats
) -> None:
    """Adaptive moments about (cx, cy), started from a circle of variance ``s2``."""
    ny, nx = image.shape
    a, b, c = s2, 0.0, s2
    out[7] = -2.0
    for iteration in range(40):
        # a weight narrower than the pixels would see one of them only
        wa, wc = max(a, MIN_WEIGHT), max(c, MIN_WEIGHT)
        wb = b * math.sqrt(a * c / (wa * wc))
        det = wa * wc - wb * wb
        ia, ib, ic = wc / det, -wb / det, wa / det
        rx = math.ceil(4.0 * math.sqrt(wa))
        ry = math.ceil(4.0 * math.sqrt(wc))
        total = qa = qb = qc = 0.0
        for j in range(max(0, int(cy) - ry), min(ny, int(cy) + ry + 2)):
            dy = j - cy
            for i in range(max(0, int(cx) - rx), min(nx, int(cx) + rx + 2)):
                if bad[j, i]:
                    continue
                dx = i - cx
                r2 = ia * dx * dx + 2.0 * ib * dx * dy + ic * dy * dy
                if r2 > 16.0:
                    continue
                value = math.exp(-0.5 * r2) * image[j, i]
                total += value
                qa += value * dx * dx
                qb += value * dx * dy
                qc += value * dy * dy
        if not total > 0.0:
            break
        qa, qb, qc = qa / total, qb / total, qc / total
        q_det = qa * qc - qb * qb
        if not (q_det > 0.0 and qa > 0.0):
            break
        # source = inverse(inverse(weighted moments) - inverse(weight)): exact for a Gaussian
        ja, jb, jc = qc / q_det - ia, -qb / q_det - ib, qa / q_det - ic
        j_det = ja * jc - jb * jb
        if not (j_det > 0.0 and ja > 0.0):
            # wider than the weight can tell: widen it and look again
            na, nb, nc = 2.0 * wa, 2.0 * wb, 2.0 * wc
        else:
            na, nb, nc = jc / j_det, -jb / j_det, ja / j_det
        if na > max_sigma * max_sigma or nc > max_sigma * max_sigma:
            break
        change = abs(na - a) + abs(nb - b) + abs(nc - c)
        a, b, c = na, nb, nc
        if a * c - b * b < 1e-3:
            break
        if change < 1e-4 * (a + c):
            out[7] = iteration + 1
            break
    out[4] = a
    out[5] = c
    out[6] = b
