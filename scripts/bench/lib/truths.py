"""The PSF that a simulated frame was drawn with, as stamps."""

import numpy as np

from promptdia.pipeline.sim.optics import PsfGrid
from promptdia.tasks.model.arrays import Floats


def true_stamps(grid: PsfGrid, x: Floats, y: Floats, size: int) -> Floats:
    """(n, size, size) of the true PSF at each position; the sum is what lies in the stamp."""
    nodes = np.stack(
        [
            grid.drawable(p).drawImage(nx=size, ny=size, scale=1.0).array.astype(float)
            for p in grid.profiles
        ]
    )
    node, weight = grid.mix(x, y)
    stamps: Floats = np.einsum("nk,nkij->nij", weight, nodes[node])
    return stamps
