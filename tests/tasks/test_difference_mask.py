import numpy as np
from numpy.testing import assert_allclose
from scipy.ndimage import convolve
from support.pairs import exposure_on

from promptdia.tasks.difference_mask import (
    broken_pixels,
    fill_broken,
    merged_mask,
    spread_mask,
)
from promptdia.tasks.kernels.difference import blend_variances
from promptdia.tasks.kernels.masks import spread
from promptdia.tasks.kernels.warp import BLOCK, dirty_blocks
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.psf import gaussian_stamp

SHAPE = (60, 70)
SAT, BAD, CR = MaskPlane.SAT.value, MaskPlane.BAD.value, MaskPlane.CR.value
NO_DATA, INTRP = MaskPlane.NO_DATA.value, MaskPlane.INTRP.value


def exposure(level: float = 100.0):
    return exposure_on(SHAPE)(np.full(SHAPE, level), np.full(SHAPE, 25.0))


def test_what_bad_pixels_contribute_equals_a_convolution_of_their_map():
    rng = np.random.default_rng(0)
    share = rng.random((7, 7)).astype(np.float32)
    bad = rng.random(SHAPE) < 0.05
    y, x = np.nonzero(bad)
    unknown = rng.random(y.size).astype(np.float32)
    out = np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.float32), np.zeros(SHAPE, np.int32)
    spread(y, x, np.full(y.size, BAD, np.int32), unknown, share, 0, *out)
    values = np.zeros(SHAPE)
    values[y, x] = unknown
    assert_allclose(out[0], convolve(bad.astype(float), share, mode="constant"), atol=1e-5)
    assert_allclose(out[1], convolve(values, share, mode="constant"), atol=1e-5)
    reached = convolve(bad.astype(float), np.ones((7, 7)), mode="constant") > 0.5
    assert ((out[2] == BAD) == reached).all()


def test_variances_are_blended_with_their_neighbours_mean():
    rng = np.random.default_rng(1)
    planes = [rng.uniform(1, 9, SHAPE).astype(np.float32) for _ in range(2)]
    planes[0][20, 20] = np.inf
    weights = rng.random((3, 3, 4)).astype(np.float32)
    out = np.empty(SHAPE, np.float32)
    blend_variances(*planes, weights, 30, 0, SHAPE[0], out)
    ring = np.full((3, 3), 1 / 8)
    ring[1, 1] = 0
    finite = [np.where(np.isfinite(p), p, 0) for p in planes]
    means = [convolve(p, ring, mode="nearest") for p in finite]
    means[0][19:22, 19:22] = finite[0][19:22, 19:22]  # next to a pixel that is not known
    yy, xx = np.indices(SHAPE) // 30
    w = weights[yy, xx]
    expected = w[..., 0] * finite[0] + w[..., 1] * means[0]
    expected += w[..., 2] * finite[1] + w[..., 3] * means[1]
    known = np.isfinite(planes[0])
    assert_allclose(out[known], expected[known], rtol=1e-5)
    assert np.isinf(out[20, 20])


def test_blocks_are_clean_touched_or_empty():
    image, variance = np.ones(SHAPE, np.float32), np.ones(SHAPE, np.float32)
    mask = np.zeros(SHAPE, np.int32)
    mask[:BLOCK, : 2 * BLOCK] = NO_DATA
    mask[40, 40] = BAD
    image[5, 69] = np.nan
    blocks = dirty_blocks(image, variance, mask, NO_DATA)
    expected = np.zeros_like(blocks)
    expected[0, :2], expected[40 // BLOCK, 40 // BLOCK], expected[0, 69 // BLOCK] = 2, 1, 1
    assert blocks.tolist() == expected.tolist()


def test_a_template_mask_is_renamed_and_what_was_detected_forgotten():
    science, template = np.zeros(SHAPE, np.int32), np.zeros(SHAPE, np.int32)
    science[1, 1] = SAT | MaskPlane.DETECTED.value
    template[1, 1], template[2, 2] = SAT | NO_DATA, MaskPlane.INJECTED.value | MaskPlane.EDGE.value
    merged = merged_mask(science, template)
    assert merged[1, 1] == SAT | MaskPlane.SAT_TEMPLATE.value | NO_DATA
    assert merged[2, 2] == MaskPlane.INJECTED_TEMPLATE.value
    assert np.count_nonzero(merged) == 2


def test_broken_pixels_take_the_other_images_value():
    one, other = exposure(), exposure(90.0)
    image, mask = one.image.copy(), one.mask.copy()
    image[10, 10], mask[10, 10] = np.nan, NO_DATA
    image[20, 20], mask[20, 20] = 5e4, SAT
    image[30, 30], mask[30, 30] = 777.0, BAD | INTRP
    image[40, 40], mask[40, 40] = -1e5, CR
    one = one.replace(image=image, mask=mask)
    broken = broken_pixels(one)
    assert list(zip(*np.unravel_index(broken, SHAPE))) == [(10, 10), (20, 20), (40, 40)]
    filled = fill_broken(one, other, broken, broken_pixels(other)).image
    assert_allclose([filled[10, 10], filled[20, 20], filled[40, 40]], 90.0)
    assert filled[30, 30] == 777.0
    both = fill_broken(one, other, broken, broken).image
    assert both[20, 20] == np.float32(5e4)
    assert both[10, 10] == 0.0


def test_bits_reach_as_far_as_the_kernel_carries_their_pixels():
    one = exposure()
    image, mask = one.image.copy(), one.mask.copy()
    mask[30, 30] = BAD
    image[15, 50], mask[15, 50] = 1e5, SAT
    one = one.replace(image=image, mask=mask)
    filled = fill_broken(one, one, broken_pixels(one), broken_pixels(one))
    kernel = gaussian_stamp(1.0, 11)
    result = merged_mask(np.zeros(SHAPE, np.int32), mask)
    spread_mask(result, filled, kernel, one.variance, 0.02, 1.0)
    yy, xx = np.indices(SHAPE)
    from_bad, from_sat = np.hypot(yy - 30, xx - 30), np.hypot(yy - 15, xx - 50)
    bad = result & BAD != 0
    assert bad[from_bad <= 2].all()
    assert not bad[from_bad > 3].any()
    assert result[15, 50] & MaskPlane.SAT_TEMPLATE.value
    assert not (result & SAT).any()
    # 1e5 exp(-r^2 / 2) / 2 pi falls below one sigma (5) at r = 4.0
    near = result & MaskPlane.NEAR_BRIGHT.value != 0
    assert near[from_sat <= 3.5].all()
    assert not near[from_sat > 4.5].any()
    edge = result & MaskPlane.EDGE.value != 0
    assert edge[0].all()
    assert edge[:, -1].all()
    assert not edge[3:-3, 3:-3].any()
