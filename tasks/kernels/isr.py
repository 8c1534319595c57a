"""From raw counts to electrons, and bias, dark, variance and flat, each in one pass."""

import numpy as np

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Floats, Image, Ints, Mask


@kernel
def read_rows(
    raw: Image,
    corners: Ints,
    levels: Image,
    victim: int,
    crosstalk: Floats,
    linearity: Floats,
    gain: float,
    limits: tuple[float, float],
    bits: tuple[int, int, int],
    target: tuple[int, int, int, int],
    flip: tuple[bool, bool],
    first: int,
    end: int,
    image: Image,
    mask: Mask,
) -> None:
    """Fill the ``target`` (x0, x1, y0, y1) of one amplifier in ``image`` and ``mask``.

    Of the target's rows in the order of reading, [first, end) are done. ``corners`` (n, 2) are
    x0, y0 of every amplifier's data in ``raw``, ``levels`` (n, rows) what lies under them in
    ADU. From the signal goes ``crosstalk`` (n,) times that of the others at the same place; then
    it is straightened by ``linearity`` (c2, c3, ...) and multiplied by ``gain``. ``limits`` are
    the raw ADU of saturation and suspicion, ``bits`` those of SAT, SUSPECT and NO_DATA; a pixel
    is nan and NO_DATA where it has no number.
    """
    saturation, suspicion = limits
    x0, x1, y0, y1 = target
    flip_x, flip_y = flip
    width = x1 - x0
    signal = np.empty(width)
    for y in range(first, end):
        row = raw[corners[victim, 1] + y, corners[victim, 0] :]
        to_y = y1 - 1 - y if flip_y else y0 + y
        for x in range(width):
            signal[x] = row[x] - levels[victim, y]
        for source in range(crosstalk.size):
            if crosstalk[source] != 0.0:
                other = raw[corners[source, 1] + y, corners[source, 0] :]
                level, factor = levels[source, y], crosstalk[source]
                for x in range(width):
                    ghost = factor * (other[x] - level)
                    signal[x] -= ghost if abs(ghost) < np.inf else 0.0
        for x in range(width):
            counts, v = row[x], signal[x]
            if linearity.size > 0:
                excess = 0.0
                for k in range(linearity.size - 1, -1, -1):
                    excess = (excess + linearity[k]) * v
                v += excess * v
            v *= gain
            flags = 0
            if counts >= suspicion:
                flags |= bits[1]
            if counts >= saturation:
                flags |= bits[0]
            if not np.isfinite(v):
                flags |= bits[2]
                v = np.nan
            to_x = x1 - 1 - x if flip_x else x0 + x
            image[to_y, to_x] = v
            mask[to_y, to_x] = flags


@kernel
def correct_rows(
    image: Image,
    variance: Image,
    mask: Mask,
    bias: tuple[Image, Image],
    dark: tuple[Image, Image],
    exposure_s: float,
    flat: tuple[Image, Image],
    min_flat: float,
    bad: int,
    no_data: int,
    first: int,
    end: int,
) -> None:
    """Correct rows [first, end) of ``image``, ``variance`` and ``mask`` in place.

    ``variance`` holds the read noise squared and becomes that of the corrected image. Each
    master is its image and variance, both of shape (0, 0) when it is not to be used; where it
    is not finite, or the flat below ``min_flat``, the pixel gets the ``bad`` bit. What is
    still not finite becomes 0 of infinite variance with the ``no_data`` bit.
    """
    has_bias, has_dark, has_flat = bias[0].size > 0, dark[0].size > 0, flat[0].size > 0
    for y in range(first, end):
        for x in range(image.shape[1]):
            value, read, error = image[y, x], variance[y, x], np.float32(0)
            bits = mask[y, x]
            if has_bias:
                if np.isfinite(bias[0][y, x]) and np.isfinite(bias[1][y, x]):
                    value -= bias[0][y, x]
                    error += bias[1][y, x]
                else:
                    bits |= bad
            # the electrons counted, dark current included, have Poisson noise
            noise = max(read + value, np.float32(0.25) * read)
            if has_dark:
                if np.isfinite(dark[0][y, x]) and np.isfinite(dark[1][y, x]):
                    value -= np.float32(dark[0][y, x] * exposure_s)
                    error += np.float32(dark[1][y, x] * exposure_s * exposure_s)
                else:
                    bits |= bad
            noise += error
            if has_flat:
                f = flat[0][y, x]
                if f >= min_flat and np.isfinite(f) and np.isfinite(flat[1][y, x]):
                    value /= f
                    # var(i/f) = (var(i) + (i/f)^2 var(f)) / f^2
                    noise = (noise + value * value * flat[1][y, x]) / (f * f)
                else:
                    bits |= bad
            if not (np.isfinite(value) and np.isfinite(noise)):
                bits |= no_data
                value, noise = np.float32(0), np.float32(np.inf)
            image[y, x] = value
            variance[y, x] = noise
            mask[y, x] = bits
