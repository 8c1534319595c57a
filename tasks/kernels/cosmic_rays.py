"""Pixels sharper than the PSF allows, and the regions that grow from them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Bools, Floats, Image, Ints, Mask

CANDIDATE = np.uint8(1)
"""Flag of a pixel well above the mean of two opposite neighbours."""
RAY = np.uint8(2)
"""Flag of a cosmic-ray pixel."""


class Sharpness(NamedTuple):
    """When a pixel is sharper than a star, see ``sharp_value``."""

    step: int
    """Distance of the neighbours compared."""
    ratios: Floats
    """(4,) neighbour over peak up to which that is so, in row, column and the two diagonals."""
    threshold: float
    """How far it stands above them, sigma."""
    margin: float
    """How many of its errors each value is taken to the safe side of the arithmetic rule ..."""
    floor: float
    """... and the neighbours to that of the geometric one; inf turns that one off."""
    directions: int
    """In how many directions of four."""


class Bump(NamedTuple):
    """When a pixel stands above a star's profile, see ``bump_value``."""

    threshold: float
    """Sigma of the pixel and of the profile."""
    blend: float
    """Part of the profile that may be wrong, as where stars overlap."""
    floor: float
    """Least value of the nearest neighbours, sigma."""
    directions: int
    """In how many directions of four."""


@kernel
def find_candidates(
    image: Image, variance: Image, threshold: float, first: int, end: int, flags: NDArray[np.uint8]
) -> None:
    """Set CANDIDATE in rows [first, end) where a pixel stands out from opposite neighbours.

    A pixel stands out when in one of the four directions it is ``threshold`` sigma above the
    mean of its two neighbours, sigma being its own. The image's border is left out.
    """
    ny, nx = image.shape
    limit = 4.0 * threshold * threshold
    for y in range(max(first, 1), min(end, ny - 1)):
        for x in range(1, nx - 1):
            row = image[y, x - 1] + image[y, x + 1]
            column = image[y - 1, x] + image[y + 1, x]
            up = image[y - 1, x - 1] + image[y + 1, x + 1]
            down = image[y - 1, x + 1] + image[y + 1, x - 1]
            d = 2.0 * image[y, x] - min(min(row, column), min(up, down))
            if d > 0.0 and d * d > limit * variance[y, x]:
                flags[y, x] = CANDIDATE


@kernel
def sharp_value(
    image: Image, variance: Image, y: int, x: int, sky: float, rule: Sharpness
) -> float:
    """What (y, x) would hold without its cosmic ray; nan when the pixel is no cosmic ray.

    In ``rule.directions`` of the four directions the pixel must stand ``rule.threshold`` sigma
    above its two neighbours, and these must be lower than next to a star. No positive sum of
    Gaussians of the PSF's width w has, a step s from a pixel, neighbours whose geometric mean is
    below exp(-s^2 / 2 w^2) of that pixel (by Cauchy and Schwarz); so the arithmetic mean has not
    either, which is the weaker statement on a slope but the safer one in noise. The value is the
    mean of the lowest two directions: one may lie along another track.
    """
    ny, nx = image.shape
    step = rule.step
    if y < step or x < step or y >= ny - step or x >= nx - step:
        return np.nan
    own = image[y, x] - sky
    error = np.sqrt(variance[y, x])
    height = own - rule.margin * error
    if height <= 0.0:
        return np.nan
    sharp = 0
    lowest = second = np.inf
    for direction in range(4):
        dx = 0 if direction == 1 else step
        dy = 0 if direction == 0 else (-step if direction == 3 else step)
        left, right = image[y - dy, x - dx] - sky, image[y + dy, x + dx] - sky
        left_variance, right_variance = variance[y - dy, x - dx], variance[y + dy, x + dx]
        value = 0.5 * (left + right)
        upper = value + rule.margin * 0.5 * np.sqrt(left_variance + right_variance)
        slope = np.sqrt(
            (max(left, 0.0) + rule.floor * np.sqrt(left_variance))
            * (max(right, 0.0) + rule.floor * np.sqrt(right_variance))
        )
        limit = rule.ratios[direction] * height
        if own - value > rule.threshold * error and upper < limit:
            sharp += 1
        elif own - slope > rule.threshold * error and slope < limit:
            sharp += 1
            value = slope
        if value < lowest:
            lowest, second = value, lowest
        elif value < second:
            second = value
    if sharp < rule.directions:
        return np.nan
    estimate: float = sky + min(0.5 * (lowest + second), own)
    return estimate


@kernel
def bump_value(image: Image, variance: Image, y: int, x: int, sky: float, rule: Bump) -> float:
    """The same for a pixel on a star: it must stand above the star's profile.

    The profile is a parabola in the logarithm, through the four nearest pixels of a direction
    (exact for a Gaussian of any width and centre). Where they hold no light there is none.
    """
    ny, nx = image.shape
    if y < 2 or x < 2 or y >= ny - 2 or x >= nx - 2:
        return np.nan
    own, noise = image[y, x] - sky, variance[y, x]
    if own * own <= rule.threshold * rule.threshold * noise or own <= 0.0:
        return np.nan
    found = 0
    lowest = np.inf
    for direction in range(4):
        dx = 0 if direction == 1 else 1
        dy = 0 if direction == 0 else (-1 if direction == 3 else 1)
        left, right = image[y - dy, x - dx] - sky, image[y + dy, x + dx] - sky
        left_variance, right_variance = variance[y - dy, x - dx], variance[y + dy, x + dx]
        if max(left, right) < 2.0 * rule.floor * np.sqrt(right_variance):
            continue
        left = max(left, rule.floor * np.sqrt(left_variance))
        right = max(right, rule.floor * np.sqrt(right_variance))
        # farther out the noise only keeps the logarithm finite
        least = 0.5 * np.sqrt(variance[y - 2 * dy, x - 2 * dx])
        far_left = max(image[y - 2 * dy, x - 2 * dx] - sky, least)
        far_right = max(image[y + 2 * dy, x + 2 * dx] - sky, least)
        profile = (left * right) ** (4.0 / 6.0) / (far_left * far_right) ** (1.0 / 6.0)
        relative = left_variance / left**2 + right_variance / right**2
        error = np.sqrt(noise + (4.0 / 6.0 * profile) ** 2 * relative)
        if own - (1.0 + rule.blend) * profile > rule.threshold * error:
            found += 1
            lowest = min(lowest, profile)
    return sky + min(lowest, own) if found >= rule.directions else np.nan


@kernel
def grow_rays(
    image: Image,
    variance: Image,
    mask: Mask,
    forbidden: int,
    level: Image,
    box: int,
    ys: Ints,
    xs: Ints,
    seed: Sharpness,
    neighbour: Sharpness,
    bump: Bump,
    iterations: int,
    edge: Sharpness,
    flags: NDArray[np.uint8],
) -> None:
    """Find the rays among the candidates (ys, xs) and grow them; sets RAY in ``flags``.

    ``image`` is overwritten with the estimates without rays. Candidates must pass ``seed``;
    ``iterations`` times the pixels next to a ray join that pass ``neighbour`` or ``bump``, and
    once those that pass ``edge``. Pixels that touch a ``forbidden`` mask bit are never rays.
    ``level`` is the sky, one value per ``box`` x ``box`` pixels.
    """
    ny, nx = image.shape
    rays = [(0, 0)]
    rays.clear()
    for i in range(ys.size):
        y, x = ys[i], xs[i]
        if _touches(mask, y, x, forbidden):
            continue
        value = sharp_value(image, variance, y, x, level[y // box, x // box], seed)
        if not np.isnan(value):
            flags[y, x] |= RAY
            image[y, x] = value
            rays.append((y, x))
    begin = 0
    for iteration in range(iterations + 1):
        last = iteration == iterations
        if last:
            begin = 0
        end = len(rays)
        for k in range(begin, end):
            cy, cx = rays[k]
            for y in range(max(cy - 1, 1), min(cy + 2, ny - 1)):
                for x in range(max(cx - 1, 1), min(cx + 2, nx - 1)):
                    if flags[y, x] & RAY or _touches(mask, y, x, forbidden):
                        continue
                    sky = level[y // box, x // box]
                    if last:
                        value = sharp_value(image, variance, y, x, sky, edge)
                    else:
                        value = sharp_value(image, variance, y, x, sky, neighbour)
                        if np.isnan(value):
                            value = bump_value(image, variance, y, x, sky, bump)
                    if not np.isnan(value):
                        flags[y, x] |= RAY
                        image[y, x] = value
                        rays.append((y, x))
        begin = end


@kernel
def strong_regions(
    image: Image,
    cleaned: Image,
    variance: Image,
    ys: Ints,
    xs: Ints,
    min_sum: float,
    min_snr: float,
    flags: NDArray[np.uint8],
) -> tuple[Bools, int]:
    """Which of the pixels (ys, xs) are in a ray of enough light, and how many such rays there are.

    Rays are 8-connected RAY pixels of ``flags``, which are used up; their light is ``image``
    less ``cleaned``, and must be ``min_sum`` and ``min_snr`` times its error.
    """
    ny, nx = image.shape
    keep = np.zeros(flags.shape, np.bool_)
    n = 0
    for i in range(ys.size):
        if not flags[ys[i], xs[i]] & RAY:
            continue
        flags[ys[i], xs[i]] = 0
        region = [(ys[i], xs[i])]
        light = noise = 0.0
        k = 0
        while k < len(region):
            cy, cx = region[k]
            k += 1
            light += image[cy, cx] - cleaned[cy, cx]
            noise += variance[cy, cx]
            for y in range(max(cy - 1, 0), min(cy + 2, ny)):
                for x in range(max(cx - 1, 0), min(cx + 2, nx)):
                    if flags[y, x] & RAY:
                        flags[y, x] = 0
                        region.append((y, x))
        if light >= min_sum and light >= min_snr * np.sqrt(noise):
            n += 1
            for cy, cx in region:
                keep[cy, cx] = True
    return keep, n


@kernel
def _touches(mask: Mask, y: int, x: int, forbidden: int) -> bool:
    for yy in range(y - 1, y + 2):
        for xx in range(x - 1, x + 2):
            if mask[yy, xx] & forbidden:
                return True
    return False
