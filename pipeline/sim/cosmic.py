"""Tracks of charged particles in the silicon."""

import numpy as np

from promptdia.tasks.model.arrays import Floats, Image

THICKNESS_PX = 10.0
"""Of the silicon, 100 micrometres in pixels of 10."""
ELECTRONS_PER_PX = 800.0
"""Most probable charge freed per pixel of path by a minimum-ionising particle."""
DIFFUSION_PX = 0.25
STEPS_PER_PX = 8
WORM_FRACTION = 0.2
"""Slow electrons that wander, the rest are muons on straight lines."""


def add_cosmic_rays(
    electrons: Image, exposure_s: float, per_second_mpx: float, rng: np.random.Generator
) -> Image:
    """The image with the tracks an exposure collects; neither PSF nor flat field touch them."""
    ny, nx = electrons.shape
    struck = electrons.copy()
    for _ in range(rng.poisson(per_second_mpx * exposure_s * nx * ny / 1e6)):
        x, y, charge = _worm(rng) if rng.random() < WORM_FRACTION else _muon(rng)
        column = np.floor(rng.uniform(0, nx) + x + rng.normal(0, DIFFUSION_PX, x.size)).astype(int)
        line = np.floor(rng.uniform(0, ny) + y + rng.normal(0, DIFFUSION_PX, x.size)).astype(int)
        inside = (column >= 0) & (column < nx) & (line >= 0) & (line < ny)
        np.add.at(struck, (line[inside], column[inside]), charge[inside])
    return struck


def _muon(rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """A straight track; zenith angles as cos^2, so most are short and a few are long."""
    tangent = np.tan(np.arccos(rng.uniform(0.08, 1.0) ** (1.0 / 3.0)))
    length, angle = THICKNESS_PX * tangent, rng.uniform(0.0, 2 * np.pi)
    path = float(np.hypot(length, THICKNESS_PX))
    n = int(np.ceil(STEPS_PER_PX * path))
    along = np.linspace(0.0, length, n)
    return along * np.cos(angle), along * np.sin(angle), _charge(n, rng)


def _worm(rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """A curly track of a few to some tens of pixels."""
    n = int(STEPS_PER_PX * rng.uniform(4.0, 25.0))
    heading = rng.uniform(0.0, 2 * np.pi) + np.cumsum(rng.normal(0.0, 0.18, n))
    return (
        np.cumsum(np.cos(heading)) / STEPS_PER_PX,
        np.cumsum(np.sin(heading)) / STEPS_PER_PX,
        _charge(n, rng),
    )


def _charge(n: int, rng: np.random.Generator) -> Floats:
    """Per step, with the long tail of ionisation losses (Moyal 1955: -ln of a squared normal)."""
    fluctuation = -np.log(rng.normal(size=n) ** 2 + 1e-6)
    per_step = ELECTRONS_PER_PX / STEPS_PER_PX
    charge: Floats = np.rint(per_step * np.maximum(0.3, 1.0 + 0.25 * fluctuation))
    return charge
