import numpy as np
from numpy.testing import assert_allclose

from promptdia.tasks.kernels._jit import fast_kernel
from promptdia.tasks.kernels._vector import LANES, separable_sum


@fast_kernel
def sums(pixels, width, weights, first, across, along, out):
    for i in range(out.size):
        out[i] = separable_sum(pixels, first[i], width, weights, across[i], along[i])


def test_the_vector_sum_is_the_plain_sum_anywhere_in_the_image():
    rng = np.random.default_rng(3)
    image = rng.normal(100, 30, (40, 53)).astype(np.float32)
    table = rng.normal(0, 1, (17, LANES)).astype(np.float32)
    y, x = rng.integers(0, 40 - LANES + 1, 300), rng.integers(0, 53 - LANES + 1, 300)
    y[0], x[0] = 40 - LANES, 53 - LANES  # up to the very last pixel
    row, column = rng.integers(0, 17, (2, 300))
    out = np.empty(300, np.float32)
    first = y * 53 + x
    sums(image.ravel(), 53, table.ravel(), first, column * LANES, row * LANES, out)
    boxes = np.lib.stride_tricks.sliding_window_view(image, (LANES, LANES))[y, x]
    expected = np.einsum("nj,nk,njk->n", table[row], table[column], boxes.astype(float))
    size = np.einsum("nj,nk,njk->n", *np.abs((table[row], table[column])), np.abs(boxes))
    assert_allclose(out / size, expected / size, rtol=0, atol=1e-6)
