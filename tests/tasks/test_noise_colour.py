"""What interpolation did to the noise of a frame, read from the frame alone."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import ndimage
from support.dia_scene import DiaScene, grid_positions

from promptdia.tasks.model.exposure import ScienceExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.noise_colour import measured_resampling
from promptdia.tasks.resampling import PHASES, kept_variance, sinc_table


def frame(dx: float, dy: float, *, stars: bool = True) -> ScienceExposure:
    """White noise, perhaps with stars, read ``dx`` and ``dy`` pixels beside the pixels."""
    scene = DiaScene(shape=(400, 420), seed=4)
    if stars:
        random = np.random.default_rng(5)
        for x, y in zip(*grid_positions(9, 44, seed=6)):
            scene.add_star(x, y, scene.flux_of(random.exponential(30.0)))
    science = scene.exposures()[1]
    image = science.image
    for axis, offset in ((1, dx), (0, dy)):
        image = ndimage.correlate1d(image, sinc_table()[int(offset * PHASES)], axis=axis)
    return science.replace(image=image)


@pytest.mark.parametrize(("dx", "dy"), [(0.5, 0.5), (0.25, 0.0), (0.4, 0.1)])
@pytest.mark.parametrize("stars", [False, True])
def test_the_variance_that_one_interpolation_left_is_found(
    dx: float, dy: float, stars: bool
) -> None:
    left = np.prod([(sinc_table()[int(d * PHASES)].astype(float) ** 2).sum() for d in (dx, dy)])
    found = kept_variance(measured_resampling(frame(dx, dy, stars=stars)))[0]
    assert_allclose(found, left, atol=0.04)


@pytest.mark.parametrize("stars", [False, True])
def test_white_noise_was_not_interpolated(stars: bool) -> None:
    assert measured_resampling(frame(0.0, 0.0, stars=stars)) < 0.06


def test_a_frame_without_empty_pixels_counts_as_white() -> None:
    science = frame(0.5, 0.5)
    science.mask[:, 12:] |= MaskPlane.BAD.value
    assert measured_resampling(science) == 0.0
