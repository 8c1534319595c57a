"""Bad pixels in a subtraction: what stands in for them, and how far they reach."""

from dataclasses import dataclass

import numpy as np

from promptdia.tasks.kernels.masks import find_broken, merge_masks, spread
from promptdia.tasks.model.arrays import Floats, Image, Ints, Mask
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.parallel import over_strips

BROKEN = MaskPlane.SAT | MaskPlane.NO_DATA
MENDED = MaskPlane.BAD | MaskPlane.CR
"""Worthless unless interpolated."""
RENAMED = {
    MaskPlane.SAT: MaskPlane.SAT_TEMPLATE,
    MaskPlane.INJECTED: MaskPlane.INJECTED_TEMPLATE,
}
TEMPLATE_KEPT = (
    MaskPlane.BAD
    | MaskPlane.CR
    | MaskPlane.INTRP
    | MaskPlane.NO_DATA
    | MaskPlane.STREAK
    | MaskPlane.SPIKE
    | MaskPlane.HIGH_VARIANCE
    | MaskPlane.SUSPECT
)
NOT_INHERITED = MaskPlane.DETECTED | MaskPlane.DETECTED_NEGATIVE
NEAR = MaskPlane.NEAR_BRIGHT


@dataclass(frozen=True, slots=True, eq=False)
class Filled:
    """An image that may be convolved: finite, with plausible values for broken pixels."""

    image: Image
    broken_y: Ints
    broken_x: Ints


def broken_pixels(exposure: Exposure) -> Ints:
    """Flat indices, ascending, of pixels whose value says nothing about the sky."""
    ny, nx = exposure.shape
    found = {0: np.empty(0, int)}

    def strip(first: int, end: int) -> None:
        rows = slice(first, end)
        planes = BROKEN.value, MENDED.value, MaskPlane.INTRP.value
        found[first] = first * nx + find_broken(exposure.image[rows], exposure.mask[rows], *planes)

    over_strips(strip, ny, rows_per_strip=256)
    return np.concatenate([found[first] for first in sorted(found)])


def fill_broken(exposure: Exposure, other: Exposure, broken: Ints, other_broken: Ints) -> Filled:
    """Broken pixels take the other image's value, so that they leave no ring in a difference.

    Where both are broken a finite value (saturated) stays and the rest becomes 0.
    """
    y, x = np.unravel_index(broken, exposure.shape)
    own, theirs = exposure.image[y, x], other.image[y, x]
    own = np.where(np.isfinite(own), own, np.float32(0))
    image = exposure.image.copy()
    image[y, x] = np.where(np.isin(broken, other_broken, assume_unique=True), own, theirs)
    return Filled(image, y, x)


def merged_mask(science: Mask, template: Mask) -> Mask:
    """Both masks under the names that a difference uses, before anything is convolved."""
    merged = np.empty(science.shape, np.int32)
    kept = ~NOT_INHERITED.value, TEMPLATE_KEPT.value
    renamed = np.array([(old.value, new.value) for old, new in RENAMED.items()])
    over_strips(
        lambda a, b: merge_masks(science, template, kept, renamed, a, b, merged), science.shape[0]
    )
    return merged


def spread_mask(
    mask: Mask,
    filled: Filled,
    kernel: Floats,
    variance: Image,
    max_share: float,
    max_unknown_sigma: float,
) -> None:
    """Set in ``mask`` what the convolution of ``filled`` with ``kernel`` (k, k) does to it.

    A broken pixel's bits reach every pixel of which it and its like make more than
    ``max_share``. Around saturated ones NEAR_BRIGHT is set where what their unknown
    excess (as much as is seen) would add exceeds ``max_unknown_sigma``. EDGE is set where as
    much of the kernel lies outside the image.
    """
    y, x = filled.broken_y, filled.broken_x
    own = mask[y, x]
    saturated = has(own, MaskPlane.SAT | MaskPlane.SAT_TEMPLATE)
    unknown = np.where(saturated, np.abs(filled.image[y, x]), 0).astype(np.float32)
    share = (np.abs(kernel) / np.abs(kernel).sum()).astype(np.float32)
    half, width = share.shape[0] // 2, mask.shape[1]

    def strip(first: int, end: int) -> None:
        some = slice(*np.searchsorted(y, [first - half, end + half]))
        if some.start == some.stop:
            return
        out_share, out_unknown = (np.zeros((end - first, width), np.float32) for _ in range(2))
        out_bits = np.zeros((end - first, width), np.int32)
        spread(
            y[some], x[some], own[some], unknown[some], share, first,
            out_share, out_unknown, out_bits,
        )  # fmt: skip
        touched = out_share > 0
        reached = out_share[touched] > max_share
        bits = np.where(reached, out_bits[touched], 0)
        noise = max_unknown_sigma * np.sqrt(variance[first:end][touched])
        bits |= np.where(out_unknown[touched] > noise, NEAR.value, 0)
        mask[first:end][touched] |= bits

    over_strips(strip, mask.shape[0])
    edge = _edge_width(share, max_share)
    if edge:
        for rows, columns in (
            (slice(0, edge), slice(None)),
            (slice(-edge, None), slice(None)),
            (slice(None), slice(0, edge)),
            (slice(None), slice(-edge, None)),
        ):
            mask[rows, columns] |= MaskPlane.EDGE.value


def _edge_width(share: Image, max_share: float) -> int:
    """Pixels from the border inside which more than ``max_share`` of the kernel is outside."""
    columns, rows = share.sum(axis=0), share.sum(axis=1)
    h = share.shape[0] // 2
    widths = [
        next(d for d in range(h + 1) if profile[h + 1 + d :].sum() <= max_share)
        for profile in (columns, columns[::-1], rows, rows[::-1])
    ]
    return max(widths)
