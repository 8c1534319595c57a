"""Loops of PSF photometry: shift a stamp by a fraction of a pixel, fit its flux."""

import math

import numpy as np

from promptdia.tasks.kernels._jit import fast_kernel, kernel
from promptdia.tasks.model.arrays import Bools, Floats, Image

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
        if abs(t) < 1e-9:
            w = 1.0
        else:
            w = math.sin(t) / t * math.sin(t / TAPS) / (t / TAPS)
        out[k] = w
        total += w
    for k in range(2 * TAPS):
        out[k] /= total


@fast_kernel
def shift_one(stamp: Floats, dx: float, dy: float, padded: Floats, out: Floats) -> None:
    """Write to ``out`` the stamp whose light moved by (dx, dy) pixels, |dx|, |dy| <= 1.

    ``padded`` is scratch of (size + 2 TAPS, size) whose first and last TAPS rows are
    zero; the outside of the stamp counts as dark.
    """
    size = stamp.shape[0]
    wx, wy = np.empty(2 * TAPS), np.empty(2 * TAPS)
    # pixel i is read at i - dx, that is first + fraction pixels beyond i
    first_x, first_y = math.floor(-dx), math.floor(-dy)
    lanczos_weights(-dx - first_x, wx)
    lanczos_weights(-dy - first_y, wy)
    row = np.zeros(size + 4 * TAPS)
    for j in range(size):
        for i in range(size):
            row[i + 2 * TAPS] = stamp[j, i]
        for i in range(size):
            out[j, i] = 0.0
        for k in range(2 * TAPS):
            w = wx[k]
            start = 2 * TAPS + first_x + k - (TAPS - 1)
            for i in range(size):
                out[j, i] += w * row[start + i]
    for j in range(size):
        for i in range(size):
            padded[j + TAPS, i] = out[j, i]
            out[j, i] = 0.0
    for j in range(size):
        for k in range(2 * TAPS):
            source = j + TAPS + first_y + k - (TAPS - 1)
            if source < 0 or source >= padded.shape[0]:
                continue
            w = wy[k]
            for i in range(size):
                out[j, i] += w * padded[source, i]


@kernel
def shift_many(stamps: Floats, dx: Floats, dy: Floats, out: Floats) -> None:
    """``shift_one`` for (n, size, size) stamps."""
    size = stamps.shape[1]
    padded = np.zeros((size + 2 * TAPS, size))
    for n in range(stamps.shape[0]):
        shift_one(stamps[n], dx[n], dy[n], padded, out[n])


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

    Columns: flux, its error, chi2, pixels used, pixels lost. Pixels farther than
    ``radius`` from the position are left out. Weights are 1 / variance, or equal.
    """
    ny, nx = image.shape
    size = stamps.shape[1]
    half = size // 2
    padded = np.zeros((size + 2 * TAPS, size))
    model = np.zeros((size, size))
    for n in range(x.size):
        if not (abs(x[n]) < 1e7 and abs(y[n]) < 1e7):
            out[n, :3] = np.nan
            out[n, 3] = 0.0
            out[n, 4] = size * size
            continue
        cx, cy = round(x[n]), round(y[n])
        shift_one(stamps[n], x[n] - cx, y[n] - cy, padded, model)
        pd = 0.0
        pp = 0.0
        ppv = 0.0
        used = 0
        lost = 0
        for j in range(size):
            py = cy + j - half
            for i in range(size):
                px = cx + i - half
                if (px - x[n]) ** 2 + (py - y[n]) ** 2 > radius * radius:
                    continue
                if px < 0 or px >= nx or py < 0 or py >= ny or bad[py, px]:
                    lost += 1
                    continue
                v = float(variance[py, px])
                if not (v > 0.0 and v < 1e30):
                    lost += 1
                    continue
                w = 1.0 / v if weighted else 1.0
                p = model[j, i]
                pd += w * p * image[py, px]
                pp += w * p * p
                ppv += w * w * p * p * v
                used += 1
        out[n, 3] = used
        out[n, 4] = lost
        if not pp > 0.0:
            out[n, :3] = np.nan
            continue
        flux = pd / pp
        chi2 = 0.0
        for j in range(size):
            py = cy + j - half
            for i in range(size):
                px = cx + i - half
                if (px - x[n]) ** 2 + (py - y[n]) ** 2 > radius * radius:
                    continue
                if px < 0 or px >= nx or py < 0 or py >= ny or bad[py, px]:
                    continue
                v = float(variance[py, px])
                if v > 0.0 and v < 1e30:
                    residual = image[py, px] - flux * model[j, i]
                    chi2 += residual * residual / v
        out[n, 0] = flux
        out[n, 1] = math.sqrt(ppv) / pp
        out[n, 2] = chi2
