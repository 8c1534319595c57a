"""Where the halo of a saturated star spoils the difference."""

import numpy as np
from scipy import ndimage

from promptdia.tasks.model.arrays import Bools


def near_bright(saturated: Bools, fixed_px: float, per_radius: float, max_px: float) -> Bools:
    """Pixels around groups of saturated pixels, (ny, nx), those included.

    The margin of a group of area A is ``fixed_px + per_radius * sqrt(A / pi)``, at most
    ``max_px``: brighter stars saturate more pixels and have wider halos.
    """
    near = saturated.copy()
    if not saturated.any():
        return near
    labels, _ = ndimage.label(saturated, np.ones((3, 3)))
    area = np.bincount(labels.ravel())[1:]
    margins = np.minimum(fixed_px + per_radius * np.sqrt(area / np.pi), max_px)
    ny, nx = saturated.shape
    for label, (margin, (rows, columns)) in enumerate(
        zip(margins, ndimage.find_objects(labels)), 1
    ):
        pad = int(margin) + 1
        window = (
            slice(max(0, rows.start - pad), min(ny, rows.stop + pad)),
            slice(max(0, columns.start - pad), min(nx, columns.stop + pad)),
        )
        near[window] |= ndimage.distance_transform_edt(labels[window] != label) <= margin
    return near
