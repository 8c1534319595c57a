"""Least-squares fits of point sources, trails and dipoles with the local PSF's pixels."""

import math

import numpy as np

from promptdia.tasks.kernels._jit import fast_kernel, kernel
from promptdia.tasks.kernels.psf_phot import TAPS, lanczos_weights
from promptdia.tasks.model.arrays import Floats, Image, Ints, Mask

POINT, LINE, DIPOLE = 3, 5, 12
"""Models, by the number of their parameters:
flux, x, y; and a, b, the vector from one end of a line to the other;
flux+, x+, y+, flux-, x-, y-, then a plane on science and one on the template."""
MAX_PARAMETERS = 6
COLUMNS = MAX_PARAMETERS + 3 + MAX_PARAMETERS**2
"""The first parameters; chi2, pixels, 1 if converged; covariance."""
MAX_ITERATIONS = 40
STEP = 1e-4


@fast_kernel
def add_psf(
    stamp: Floats,
    x: float,
    y: float,
    weight: float,
    lever: float,
    scratch: Floats,
    design: Floats,
    first_plane: int,
) -> None:
    """Add a star of ``weight`` to three planes: its light and the derivatives by x and y.

    The star is ``stamp`` centred at (x, y) of the (m, h, w) ``design``. With a non-zero
    ``lever`` the derivatives times lever go to two more planes. ``scratch`` is (2, size,
    size + 2 TAPS).
    """
    size = stamp.shape[0]
    half = size // 2
    height, width = design.shape[1], design.shape[2]
    cx, cy = math.floor(x), math.floor(y)
    taps = 2 * TAPS
    # tap k moves light by TAPS - k pixels, so that reading happens at 1 - (x - cx)
    w = np.empty((2, 3, taps))
    for axis in range(2):
        fraction = 1.0 - (x - cx) if axis == 0 else 1.0 - (y - cy)
        lanczos_weights(fraction, w[axis, 0])
        lanczos_weights(fraction + STEP, w[axis, 1])
        lanczos_weights(fraction - STEP, w[axis, 2])
        for k in range(taps):
            w[axis, 1, k] = (w[axis, 2, k] - w[axis, 1, k]) / (2.0 * STEP)
    wide = size + taps
    for j in range(size):
        for i in range(wide):
            scratch[0, j, i] = 0.0
            scratch[1, j, i] = 0.0
        for k in range(taps):
            v, d = w[0, 0, k], w[0, 1, k]
            for i in range(size):
                scratch[0, j, i + taps - k] += v * stamp[j, i]
                scratch[1, j, i + taps - k] += d * stamp[j, i]
    x0 = cx - half - TAPS
    y0 = cy - half - TAPS
    for j in range(size):
        for k in range(taps):
            row = y0 + j + taps - k
            if row < 0 or row >= height:
                continue
            v, d = weight * w[1, 0, k], weight * w[1, 1, k]
            for i in range(max(0, -x0), min(wide, width - x0)):
                light, by_x, by_y = v * scratch[0, j, i], v * scratch[1, j, i], d * scratch[0, j, i]
                design[first_plane, row, x0 + i] += light
                design[first_plane + 1, row, x0 + i] += by_x
                design[first_plane + 2, row, x0 + i] += by_y
                if lever != 0.0:
                    design[first_plane + 3, row, x0 + i] += lever * by_x
                    design[first_plane + 4, row, x0 + i] += lever * by_y


@kernel
def invert(matrix: Floats) -> bool:
    """Invert a symmetric positive matrix in place by Gauss-Jordan; False when it is not."""
    n = matrix.shape[0]
    for k in range(n):
        pivot = matrix[k, k]
        if not pivot > 0.0:
            return False
        matrix[k, k] = 1.0
        for j in range(n):
            matrix[k, j] /= pivot
        for i in range(n):
            if i != k:
                factor = matrix[i, k]
                matrix[i, k] = 0.0
                for j in range(n):
                    matrix[i, j] -= factor * matrix[k, j]
    return True


@fast_kernel
def add_normal(
    n_planes: int,
    design: Floats,
    residual: Floats,
    weight: Floats,
    columns: Ints,
    matrix: Floats,
    vector: Floats,
) -> float:
    """Add one image's part to the normal equations; returns its chi squared.

    The first ``n_planes`` of ``design`` hold derivatives by the parameters ``columns``.
    """
    chi2 = 0.0
    weighted = np.empty(residual.shape)
    for j in range(residual.shape[0]):
        for i in range(residual.shape[1]):
            chi2 += weight[j, i] * residual[j, i] * residual[j, i]
    for p in range(n_planes):
        total = 0.0
        for j in range(residual.shape[0]):
            for i in range(residual.shape[1]):
                weighted[j, i] = weight[j, i] * design[p, j, i]
                total += weighted[j, i] * residual[j, i]
        vector[columns[p]] += total
        for q in range(p + 1):
            total = 0.0
            for j in range(residual.shape[0]):
                for i in range(residual.shape[1]):
                    total += weighted[j, i] * design[q, j, i]
            matrix[columns[p], columns[q]] += total
            if p != q:
                matrix[columns[q], columns[p]] += total
    return chi2


@kernel
def cut_window(
    image: Image,
    variance: Image,
    claims: Mask,
    claim: int,
    x0: int,
    y0: int,
    factor: float,
    data: Floats,
    weight: Floats,
) -> int:
    """Fill ``data`` and ``factor`` over variance from the pixels at (x0, y0) on.

    Only pixels that nobody but ``claim`` claims (0: free) count; returns how many.
    """
    count = 0
    for j in range(data.shape[0]):
        for i in range(data.shape[1]):
            py, px = y0 + j, x0 + i
            data[j, i] = 0.0
            weight[j, i] = 0.0
            if 0 <= py < image.shape[0] and 0 <= px < image.shape[1]:
                v = float(variance[py, px])
                mine = claims[py, px] == 0 or claims[py, px] == claim
                if mine and v > 0.0 and v < 1e30:
                    data[j, i] = image[py, px]
                    weight[j, i] = factor / v
                    count += 1
    return count


@kernel
def build_model(
    model: int, k: int, p: Floats, stamp: Floats, scratch: Floats, design: Floats, light: Floats
) -> None:
    """Fill ``light`` of image ``k`` and its derivatives, in the order of the parameters."""
    for q in range(design.shape[0]):
        for j in range(light.shape[0]):
            for i in range(light.shape[1]):
                design[q, j, i] = 0.0
    stars = 2 if model == DIPOLE and k == 0 else 1
    if model == LINE:
        stars = min(240, max(3, math.ceil(math.hypot(p[3], p[4]))))
    for star in range(stars):
        x, y, weight, lever, plane = p[1], p[2], 1.0, 0.0, 0
        if model == LINE:
            # points with the variance of the continuous line
            lever = ((star + 0.5) / stars - 0.5) * stars / math.sqrt(stars * stars - 1.0)
            x, y, weight = x + lever * p[3], y + lever * p[4], 1.0 / stars
        elif model == DIPOLE and (star == 1 or k == 2):
            x, y, weight, plane = p[4], p[5], 1.0 if k == 2 else -1.0, 3 * star
        add_psf(stamp, x, y, weight, lever, scratch, design, plane)
    for j in range(light.shape[0]):
        for i in range(light.shape[1]):
            light[j, i] = 0.0
    for star in range(2 if model == DIPOLE and k == 0 else 1):
        flux = p[3] if model == DIPOLE and (star == 1 or k == 2) else p[0]
        for j in range(light.shape[0]):
            for i in range(light.shape[1]):
                light[j, i] += flux * design[3 * star, j, i]
                for q in range(1, 5 if model == LINE else 3):
                    design[3 * star + q, j, i] *= flux
    if model == DIPOLE and k > 0:
        for j in range(light.shape[0]):
            for i in range(light.shape[1]):
                design[3, j, i] = 1.0
                design[4, j, i] = i / light.shape[1] - 0.5
                design[5, j, i] = j / light.shape[0] - 0.5
                for q in range(3, 6):
                    light[j, i] += p[3 * k + q] * design[q, j, i]


@kernel
def add_shared_noise(
    design: Floats, weight: Floats, columns: Ints, static_weight: float, matrix: Floats
) -> None:
    """Add to ``matrix`` the covariance of the right-hand side of a dipole's normal equations.

    ``design`` is (3, 6, h, w) and ``weight`` (3, h, w), those of difference, science and
    template. The difference's noise is that of the other two subtracted: what it adds to a
    parameter is added to, or taken off, what they add. Where one of them is missing the
    difference stands alone.
    """
    n = matrix.shape[0]
    first, second = np.empty(n), np.empty(n)
    for j in range(weight.shape[1]):
        for i in range(weight.shape[2]):
            wd, ws, wt = weight[0, j, i], weight[1, j, i], weight[2, j, i]
            both = ws > 0.0 and wt > 0.0
            vs = static_weight / ws if ws > 0.0 else 0.0
            vt = static_weight / wt if wt > 0.0 else 0.0
            alone = 1.0 / wd if wd > 0.0 and not both else 0.0
            share = math.sqrt(1.0 / (wd * (vs + vt))) if wd > 0.0 and both else 0.0
            for q in range(n):
                first[q] = 0.0
                second[q] = 0.0
            for q in range(6):
                first[columns[0, q]] += share * wd * design[0, q, j, i]
                second[columns[0, q]] -= share * wd * design[0, q, j, i]
                first[columns[1, q]] += ws * design[1, q, j, i]
                second[columns[2, q]] += wt * design[2, q, j, i]
            for a in range(n):
                for b in range(n):
                    matrix[a, b] += vs * first[a] * first[b] + vt * second[a] * second[b]
            for a in range(6 if alone > 0.0 else 0):
                for b in range(6):
                    matrix[a, b] += alone * wd * wd * design[0, a, j, i] * design[0, b, j, i]


@kernel
def marquardt_step(matrix: Floats, vector: Floats, damping: float, base: Floats, p: Floats) -> bool:
    """Set ``p`` to ``base`` plus the damped step; False when the matrix is singular."""
    damped = matrix.copy()
    for i in range(vector.size):
        damped[i, i] *= 1.0 + damping
    if not invert(damped):
        return False
    for i in range(vector.size):
        step = 0.0
        for j in range(vector.size):
            step += damped[i, j] * vector[j]
        p[i] = base[i] + step
    return True


@kernel
def fit_stars(
    images: tuple[Image, Image, Image],
    variances: tuple[Image, Image, Image],
    claims: tuple[Mask, Mask, Mask],
    stamps: Floats,
    own: Ints,
    start: Floats,
    model: int,
    static_weight: float,
    max_move: float,
    out: Floats,
) -> None:
    """Fit a ``model`` at each of n places; fills (n, COLUMNS) ``out``.

    The planes are those of difference, science and template; only DIPOLE looks at the
    last two, which count ``static_weight`` times as much. ``claims`` are 0 where a pixel
    is free, else the number of the source it belongs to, negative if it is unusable; a
    fit uses what is free or its ``own`` (n,). ``stamps`` is (3, n, size, size), ``start``
    (n, 6) parameters of which the fluxes do not matter. A fit fails when a star moves
    more than ``max_move`` or a line outgrows its window. Levenberg-Marquardt, weights
    1 / variance. A dipole's covariance knows that its three images share their noise.
    """
    size = stamps.shape[2]
    half = size // 2
    n_images = 3 if model == DIPOLE else 1
    n_planes = min(model, 6)
    # which parameters the planes of each image belong to
    columns = np.empty((3, 6), np.int64)
    for q in range(6):
        columns[0, q] = q
        columns[1, q] = q if q < 3 else q + 3
        columns[2, q] = q + 3 if q < 3 else q + 6
    scratch = np.empty((2, size, size + 2 * TAPS))
    matrix, kept = np.empty((model, model)), np.empty((model, model))
    vector, kept_vector = np.empty(model), np.empty(model)
    p, best = np.zeros(model), np.zeros(model)
    for n in range(start.shape[0]):
        for q in range(COLUMNS):
            out[n, q] = np.nan
        out[n, MAX_PARAMETERS + 1] = 0.0
        out[n, MAX_PARAMETERS + 2] = 0.0
        other_x, other_y = start[n, 1], start[n, 2]
        spare_x = spare_y = 0
        if model == DIPOLE:
            other_x, other_y = start[n, 4], start[n, 5]
        elif model == LINE:
            spare_x = math.ceil(0.7 * abs(start[n, 3])) + 2
            spare_y = math.ceil(0.7 * abs(start[n, 4])) + 2
        x0 = round(min(start[n, 1], other_x)) - half - spare_x
        y0 = round(min(start[n, 2], other_y)) - half - spare_y
        width = round(max(start[n, 1], other_x)) + half + spare_x + 1 - x0
        height = round(max(start[n, 2], other_y)) + half + spare_y + 1 - y0
        data, weight = np.empty((3, height, width)), np.empty((3, height, width))
        design, light = np.empty((n_images, 6, height, width)), np.empty((height, width))
        count = 0
        for k in range(n_images):
            factor = static_weight if k > 0 else 1.0
            count += cut_window(
                images[k], variances[k], claims[k], own[n], x0, y0, factor, data[k], weight[k]
            )
        for q in range(model):
            p[q] = start[n, q] if q < MAX_PARAMETERS else 0.0
        p[0] = 0.0
        p[1] -= x0
        p[2] -= y0
        if model == DIPOLE:
            p[3] = 0.0
            p[4] -= x0
            p[5] -= y0
        chi2_best = np.inf
        damping = 1e-3
        done = False
        for iteration in range(MAX_ITERATIONS if count > 2 * model else 0):
            for i in range(model):
                vector[i] = 0.0
                for j in range(model):
                    matrix[i, j] = 0.0
            chi2 = 0.0
            for k in range(n_images):
                build_model(model, k, p, stamps[k, n], scratch, design[k], light)
                for j in range(height):
                    for i in range(width):
                        light[j, i] = data[k, j, i] - light[j, i]
                chi2 += add_normal(
                    n_planes, design[k], light, weight[k], columns[k], matrix, vector
                )
            for i in range(model):
                if matrix[i, i] == 0.0:
                    matrix[i, i] = 1.0  # positions wait until there are fluxes
            if chi2 <= chi2_best:
                done = iteration > 1 and chi2_best - chi2 < 1e-3
                chi2_best = chi2
                damping *= 0.1
                for i in range(model):
                    best[i] = p[i]
                    kept_vector[i] = vector[i]
                    for j in range(model):
                        kept[i, j] = matrix[i, j]
                if done:
                    break
            else:
                damping *= 10.0
                if damping > 1e6:
                    break
            if not marquardt_step(kept, kept_vector, damping, best, p):
                break
            moved = math.hypot(p[1] + x0 - start[n, 1], p[2] + y0 - start[n, 2])
            if model == DIPOLE:
                moved = max(moved, math.hypot(p[4] + x0 - other_x, p[5] + y0 - other_y))
            if moved > max_move:
                break
            if model == LINE and (
                abs(p[3]) > 2 * (spare_x + half) or abs(p[4]) > 2 * (spare_y + half)
            ):
                break
        for i in range(min(model, MAX_PARAMETERS)):
            out[n, i] = best[i]
        out[n, 1] += x0
        out[n, 2] += y0
        if model == DIPOLE:
            out[n, 4] += x0
            out[n, 5] += y0
        out[n, MAX_PARAMETERS] = chi2_best
        out[n, MAX_PARAMETERS + 1] = count
        if done and invert(kept):
            out[n, MAX_PARAMETERS + 2] = 1.0
            if model == DIPOLE:
                # the last model that was built is the best one
                matrix[:] = 0.0
                add_shared_noise(design, weight, columns, static_weight, matrix)
                kept[:] = np.dot(kept, np.dot(matrix, kept))
            for i in range(min(model, MAX_PARAMETERS)):
                for j in range(min(model, MAX_PARAMETERS)):
                    out[n, MAX_PARAMETERS + 3 + MAX_PARAMETERS * i + j] = kept[i, j]
