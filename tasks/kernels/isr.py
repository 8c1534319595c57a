"""Bias, dark, variance and flat in one pass over the pixels."""

import numpy as np

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Image, Mask


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
