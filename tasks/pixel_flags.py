"""Which mask planes a source touches: anywhere in its footprint, or in its middle."""

from typing import NamedTuple

import numpy as np

from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints, Mask
from promptdia.tasks.model.mask import MaskPlane

ANYWHERE = {
    "pixelFlags_bad": MaskPlane.BAD,
    "pixelFlags_cr": MaskPlane.CR,
    "pixelFlags_edge": MaskPlane.EDGE,
    "pixelFlags_nodata": MaskPlane.NO_DATA,
    "pixelFlags_interpolated": MaskPlane.INTRP,
    "pixelFlags_saturated": MaskPlane.SAT,
    "pixelFlags_suspect": MaskPlane.SUSPECT | MaskPlane.NEAR_BRIGHT,
    "pixelFlags_streak": MaskPlane.STREAK,
    "pixelFlags_injected": MaskPlane.INJECTED,
    "pixelFlags_injected_template": MaskPlane.INJECTED_TEMPLATE,
}
CENTER = {
    "pixelFlags_crCenter": MaskPlane.CR,
    "pixelFlags_nodataCenter": MaskPlane.NO_DATA,
    "pixelFlags_interpolatedCenter": MaskPlane.INTRP,
    "pixelFlags_saturatedCenter": MaskPlane.SAT,
    "pixelFlags_suspectCenter": MaskPlane.SUSPECT | MaskPlane.NEAR_BRIGHT,
    "pixelFlags_streakCenter": MaskPlane.STREAK,
    "pixelFlags_injectedCenter": MaskPlane.INJECTED,
    "pixelFlags_injected_templateCenter": MaskPlane.INJECTED_TEMPLATE,
    "badCenter": MaskPlane.BAD,
    "edgeCenter": MaskPlane.EDGE,
    "satTemplateCenter": MaskPlane.SAT_TEMPLATE,
    "spikeCenter": MaskPlane.SPIKE,
    "nearBrightCenter": MaskPlane.NEAR_BRIGHT,
}
CENTER_ALL = {
    "interpolatedCenterAll": MaskPlane.INTRP,
    "highVarianceCenterAll": MaskPlane.HIGH_VARIANCE,
}
"""Set only when all the central pixels are."""


class TouchedPlanes(NamedTuple):
    """Mask bits by source, (n,) each."""

    anywhere: Mask
    center: Mask
    """In the 3 x 3 pixels around the centroid; outside the image counts as EDGE."""
    center_all: Mask
    """In every one of those pixels."""
    off_image: Bools


def touched_planes(mask: Mask, pixels: Ints, starts: Ints, x: Floats, y: Floats) -> TouchedPlanes:
    """What lies under footprints (flat indices, one after the other) and centroids (n,)."""
    ny, nx = mask.shape
    cx, cy = np.rint(x).astype(np.int64), np.rint(y).astype(np.int64)
    off = (cx < 0) | (cx >= nx) | (cy < 0) | (cy >= ny)
    step = np.arange(-1, 2)
    py, px = cy[:, None, None] + step[:, None], cx[:, None, None] + step
    inside = (py >= 0) & (py < ny) & (px >= 0) & (px < nx)
    near = mask[np.clip(py, 0, ny - 1), np.clip(px, 0, nx - 1)]
    near = np.where(inside, near, MaskPlane.EDGE.value).reshape(x.size, 9)
    anywhere = np.bitwise_or.reduceat(mask.ravel()[pixels], starts) if x.size else near[:, 0]
    return TouchedPlanes(
        anywhere,
        np.bitwise_or.reduce(near, axis=1),
        np.bitwise_and.reduce(near, axis=1),
        off,
    )


def fill_flags(sources: Catalog, touched: TouchedPlanes) -> None:
    """Set the flag columns named above, in place."""
    for columns, bits in (
        (ANYWHERE, touched.anywhere),
        (CENTER, touched.center),
        (CENTER_ALL, touched.center_all),
    ):
        for name, planes in columns.items():
            sources[name] = (bits & planes.value) != 0
    sources["pixelFlags_offimage"] = touched.off_image
    sources["pixelFlags_edge"] |= touched.off_image
    sources["pixelFlags"] = touched.off_image
