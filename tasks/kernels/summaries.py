"""One pass over the history of many objects: fluxes per band, and places."""

import math

import numpy as np

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Floats, Ints

FLUX_COLUMNS = ("Mean", "MeanErr", "Sigma", "Min", "Max", "MaxSlope", "ErrMean")
"""What the first axis of ``flux_summaries`` holds; the number of points comes last."""


@kernel
def flux_summaries(
    owner: Ints, band: Ints, time: Floats, flux: Floats, err: Floats, n_bands: int, n_objects: int
) -> Floats:
    """(8, n_bands, n_objects) of FLUX_COLUMNS and the number of points; nan where undefined.

    The measurements are (n,) in time order; ``owner`` is the index of the object, ``band``
    that of the filter, negative for none. Used are finite fluxes of positive error. The mean
    has weight 1/err**2; the standard deviation is about the plain mean, of n - 1 degrees
    of freedom (Welford 1962); the slope is the steepest rise between successive points.
    """
    sums = np.zeros((4, n_bands, n_objects))  # weights, errors, plain mean, squares about it
    last = np.zeros((2, n_bands, n_objects))
    out = np.full((8, n_bands, n_objects), np.nan)
    out[7] = 0.0
    for k in range(owner.size):
        o, b, f, e = owner[k], band[k], flux[k], err[k]
        if o < 0 or b < 0 or not (e > 0 and math.isfinite(e) and math.isfinite(f)):
            continue
        out[7, b, o] += 1
        n = out[7, b, o]
        weight = 1.0 / (e * e)
        sums[0, b, o] += weight
        sums[1, b, o] += e
        away = f - sums[2, b, o]
        sums[2, b, o] += away / n
        sums[3, b, o] += away * (f - sums[2, b, o])
        if n == 1:
            out[0, b, o], out[3, b, o], out[4, b, o] = weight * f, f, f
        else:
            out[0, b, o] += weight * f
            out[3, b, o], out[4, b, o] = min(out[3, b, o], f), max(out[4, b, o], f)
            if time[k] > last[0, b, o]:
                slope = (f - last[1, b, o]) / (time[k] - last[0, b, o])
                if not slope <= out[5, b, o]:
                    out[5, b, o] = slope
        last[0, b, o], last[1, b, o] = time[k], f
    for b in range(n_bands):
        for o in range(n_objects):
            n = out[7, b, o]
            if n > 0:
                out[0, b, o] /= sums[0, b, o]
                out[1, b, o] = 1.0 / math.sqrt(sums[0, b, o])
                out[6, b, o] = sums[1, b, o] / n
            if n > 1:
                out[2, b, o] = math.sqrt(sums[3, b, o] / (n - 1))
    return out


@kernel
def places(
    owner: Ints,
    ra: Floats,
    dec: Floats,
    ra_err: Floats,
    dec_err: Floats,
    cov: Floats,
    unknown_err: float,
    floor: float,
    n_objects: int,
) -> Floats:
    """(6, n_objects): number of sources, ra, dec, raErr, decErr, covariance; in degrees.

    Weighted mean of unit vectors, so that poles and ra 0 are places like any other. The
    weight is one over the mean variance, widened by ``floor``; the errors (of ra times
    cos dec) are those of the sources, propagated. A source without positive finite errors
    gets ``unknown_err``; a covariance that its errors do not allow counts as 0.
    """
    sums = np.zeros((7, n_objects))
    n_seen = np.zeros(n_objects)
    for k in range(owner.size):
        o = owner[k]
        if o < 0:
            continue
        x, y, xy = ra_err[k], dec_err[k], cov[k]
        if not (x > 0 and y > 0 and math.isfinite(x) and math.isfinite(y)):
            x, y, xy = unknown_err, unknown_err, 0.0
        xx, yy = x * x, y * y
        if not xy * xy <= xx * yy:
            xy = 0.0
        weight = 1.0 / ((xx + yy) / 2 + floor * floor)
        a, d = math.radians(ra[k]), math.radians(dec[k])
        sums[0, o] += weight * math.cos(d) * math.cos(a)
        sums[1, o] += weight * math.cos(d) * math.sin(a)
        sums[2, o] += weight * math.sin(d)
        sums[3, o] += weight
        sums[4, o] += weight * weight * xx
        sums[5, o] += weight * weight * yy
        sums[6, o] += weight * weight * xy
        n_seen[o] += 1
    out = np.full((6, n_objects), np.nan)
    for o in range(n_objects):
        out[0, o] = n_seen[o]
        if n_seen[o] > 0:
            x, y, z, total = sums[0, o], sums[1, o], sums[2, o], sums[3, o]
            out[1, o] = math.degrees(math.atan2(y, x)) % 360.0
            out[2, o] = math.degrees(math.atan2(z, math.hypot(x, y)))
            out[3, o] = math.sqrt(sums[4, o]) / total
            out[4, o] = math.sqrt(sums[5, o]) / total
            out[5, o] = sums[6, o] / (total * total)
    return out
