"""One pass that readies an exposure's planes for measurement."""

import math

import numpy as np

from promptdia.tasks.kernels._jit import kernel
from promptdia.tasks.model.arrays import Bools, Image, Mask


@kernel
def clean_pixels(
    image: Image,
    mask: Mask,
    variance: Image,
    defect: int,
    filled: int,
    never: int,
    out_image: Image,
    out_variance: Image,
    out_noise: Image,
    out_unusable: Bools,
) -> None:
    """Fill the outputs: image (0 where unusable), variance (1 there), its root, unusable.

    A pixel is unusable with a bit of ``never``, with one of ``defect`` and none of
    ``filled``, without finite image, or without finite positive variance.
    """
    for y in range(image.shape[0]):
        for x in range(image.shape[1]):
            bits = mask[y, x]
            value, noise = image[y, x], variance[y, x]
            broken = (bits & defect) != 0 and (bits & filled) == 0
            bad = broken or (bits & never) != 0
            bad = bad or not (noise > 0.0 and noise < np.inf and abs(value) < np.inf)
            out_unusable[y, x] = bad
            if bad:
                value, noise = np.float32(0.0), np.float32(1.0)
            out_image[y, x] = value
            out_variance[y, x] = noise
            out_noise[y, x] = math.sqrt(noise)
