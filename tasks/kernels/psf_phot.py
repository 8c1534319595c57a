"""Loops of PSF photometry: blend stamps, shift them by a fraction of a pixel, fit fluxes."""

import math

import numpy as np

from promptdia.tasks.kernels._jit import fast_kernel, kernel
from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints

TAPS = 5
"""Lobes of the Lanczos window; a shift reads 2 x TAPS pixels per axis."""


@kernel
def lanczos_weights(fraction: float, out: Floats) -> None:
    """Weights, of unit sum, that read a row at ``fraction`` beyond tap number TAPS - 1.

    ``out`` is (2 TAPS,). Tap k lies at k - (TAPS - 1) pixels; 0 <= fraction < 1.
    """
    total = 0.0
    for k in range(2 * TAPS):
        t = math.pi * (k - (TAPS - 1) - fraction)
        w = 1.0
        if abs(t) > 1e-9:
            w = math.sin(t) / t * math.sin(t / TAPS) / (t / TAPS)
        out[k] = w
        total += w
    for k in range(2 * TAPS):
        out[k] /= total


@kernel
def blend_stamps(
    nodes: Floats, iy: Ints, ix: Ints, jy: Ints, jx: Ints, wy: Floats, wx: Floats, out: Floats
) -> None:
    """Bilinear mean of four (size, size) nodes per position; fills (n, size, size) ``out``.

    ``nodes`` is (ny, nx, size, size); (iy, ix) is the node below a position, (jy, jx) the one
    above, of weights ``wy`` and ``wx`` (n,).
    """
    size = nodes.shape[2]
    for n in range(out.shape[0]):
        a, b = nodes[iy[n], ix[n]], nodes[iy[n], jx[n]]
        c, d = nodes[jy[n], ix[n]], nodes[jy[n], jx[n]]
        u, v = wx[n], wy[n]
        for j in range(size):
            for i in range(size):
                low = a[j, i] * (1.0 - u) + b[j, i] * u
                high = c[j, i] * (1.0 - u) + d[j, i] * u
                out[n, j, i] = low * (1.0 - v) + high * v


@fast_kernel
def shift_many(stamps: Floats, dx: Floats, dy: Floats, out: Floats) -> None:
    """Write to ``out`` the (n, size, size) stamps whose light moved by (dx, dy) pixels.

    |dx|, |dy| <= 1; the outside of a stamp counts as dark.
    """
    size = stamps.shape[1]
    margin = 2 * TAPS
    wx, wy = np.empty(2 * TAPS), np.empty(2 * TAPS)
    row = np.zeros(size + 2 * margin)
    rows = np.zeros((size + 2 * margin, size))
    for n in range(stamps.shape[0]):
        # pixel i is read at i - dx, that is ``first`` + fraction pixels beyond i
        first_x, first_y = math.floor(-dx[n]), math.floor(-dy[n])
        lanczos_weights(-dx[n] - first_x, wx)
        lanczos_weights(-dy[n] - first_y, wy)
        x0, y0 = margin + first_x - (TAPS - 1), margin + first_y - (TAPS - 1)
        for j in range(size):
            row[margin : margin + size] = stamps[n, j]
            target = rows[j + margin]
            for i in range(size):
                value = 0.0
                for k in range(2 * TAPS):
                    value += wx[k] * row[x0 + i + k]
                target[i] = value
        for j in range(size):
            target = out[n, j]
            for i in range(size):
                value = 0.0
                for k in range(2 * TAPS):
                    value += wy[k] * rows[y0 + j + k, i]
                target[i] = value


@kernel
def fit_fluxes(
    image: Image,
    variance: Image,
    bad: Bools,
    stamps: Floats,
    x: Floats,
    y: Floats,
    radius: float,
    weighted: bool,
    out: Floats,
) -> None:
    """Least-squares amplitude of one stamp per position; fills (n, 5) ``out``.

    ``stamps`` lie at the whole pixels nearest to the positions, their light at the
    positions. Columns: flux, its error, chi2, pixels used, pixels lost. Pixels farther
    than ``radius`` from the position are left out. Weights are 1 / variance, or equal.
    """
    ny, nx = image.shape
    size = stamps.shape[1]
    half = size // 2
    for n in range(x.size):
        x0, y0 = int(np.rint(x[n])) - half, int(np.rint(y[n])) - half
        pd = pp = ppv = dd = dp = vp = 0.0
        used = lost = 0
        for j in range(size):
            for i in range(size):
                px, py = x0 + i, y0 + j
                if (px - x[n]) ** 2 + (py - y[n]) ** 2 > radius * radius:
                    continue
                if px < 0 or px >= nx or py < 0 or py >= ny or bad[py, px]:
                    lost += 1
                    continue
                v = float(variance[py, px])
                if not (v > 0.0 and v < 1e30):
                    lost += 1
                    continue
                p, d = stamps[n, j, i], float(image[py, px])
                w = 1.0 / v if weighted else 1.0
                pd += w * p * d
                pp += w * p * p
                ppv += w * w * p * p * v
                dd += d * d / v
                dp += d * p / v
                vp += p * p / v
                used += 1
        out[n, 3] = used
        out[n, 4] = lost
        if pp > 0.0:
            flux = pd / pp
            out[n, 0] = flux
            out[n, 1] = math.sqrt(ppv) / pp
            out[n, 2] = dd - 2.0 * flux * dp + flux * flux * vp
        else:
            out[n, :3] = np.nan
