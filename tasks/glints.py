"""Rows of glints: a tumbling satellite flashes along a straight line."""

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from promptdia.tasks.model.arrays import Bools, Floats


@dataclass(frozen=True, slots=True)
class GlintConfig:
    """When sources in a row are no coincidence."""

    radius_px: float = 500.0
    """Sources of one row lie within this distance of its middle one."""
    tolerance_px: float = 3.0
    """Largest distance of a source from the line."""
    min_points: int = 5
    """Fewest sources in a row."""
    max_chance: float = 1e-3
    """Most rows of that length that a random sky may show per detector."""


def find_glints(x: Floats, y: Floats, config: GlintConfig) -> Bools:
    """Which of the positive sources at (x, y) pixels, (n,), belong to a row of glints.

    Every pair of neighbours spans a line. A row counts when, among as many sources
    scattered at random over the same neighbourhood, fewer than ``max_chance`` of all the
    pairs tried would find as many on their line.
    """
    glint = np.zeros(x.size, bool)
    if x.size < config.min_points:
        return glint
    places = np.column_stack([x, y])
    neighbours = cKDTree(places).query_ball_point(places, config.radius_px)
    n_pairs = sum(len(near) - 1 for near in neighbours)
    for anchor, near in enumerate(neighbours):
        others = np.array([k for k in sorted(near) if k != anchor], int)
        if others.size < config.min_points - 1:
            continue
        offsets = places[others] - places[anchor]
        distance = np.hypot(*offsets.T)
        apart = distance > 4 * config.tolerance_px
        direction = offsets[apart] / distance[apart, None]
        across = np.abs(direction[:, :1] * offsets[:, 1] - direction[:, 1:] * offsets[:, 0])
        on_line = across <= config.tolerance_px
        rows = _improbable(on_line.sum(axis=1), others.size, n_pairs, config)
        if rows.any():
            glint[anchor] = True
            glint[others[on_line[rows].any(axis=0)]] = True
    return glint


def _improbable(on_line: Floats, n_near: int, n_pairs: int, config: GlintConfig) -> Bools:
    """Which lines through the anchor hold too many of its ``n_near`` neighbours for chance.

    The second source of the pair lies on its line for certain; the others fall on it with
    the share that the line has of the neighbourhood.
    """
    share = min(1.0, 4 * config.tolerance_px / (np.pi * config.radius_px))
    extra = np.arange(n_near)
    ratio = (n_near - 1 - extra) / (extra + 1) * share / max(1 - share, 1e-12)
    chance = (1 - share) ** (n_near - 1) * np.cumprod(np.append(1.0, ratio[:-1]))
    at_least = np.cumsum(chance[::-1])[::-1]
    few = on_line + 1 < config.min_points
    return ~few & (at_least[np.minimum(on_line - 1, n_near - 1)] * n_pairs < config.max_chance)
