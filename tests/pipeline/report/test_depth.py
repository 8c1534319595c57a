"""Depth of a difference image at given positions."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from promptdia.pipeline.report.depth import depth_at
from promptdia.tasks.model.exposure import DifferenceExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.psf import constant_psf, gaussian_stamp
from promptdia.tasks.model.visit import Detector, Visit
from promptdia.tasks.model.wcs import nominal_wcs

VISIT = Visit(2026010200001, "r", 61042.1, 30.0, 150.0, 2.0)
DETECTOR = Detector(0, "d0", 100, 80, 0.2, ())


@pytest.fixture
def difference() -> DifferenceExposure:
    """White noise of 10 nJy per pixel and a PSF with sigma 2 pixels."""
    mask = np.zeros((80, 100), np.int32)
    mask[40, 50] = MaskPlane.CR.value
    mask[10:20, 10:20] = MaskPlane.NO_DATA.value
    variance = np.full((80, 100), 100.0, np.float32)
    variance[10:20, 10:20] = np.inf
    return DifferenceExposure(
        np.zeros((80, 100), np.float32),
        mask,
        variance,
        nominal_wcs(VISIT, DETECTOR),
        VISIT,
        DETECTOR,
        constant_psf(gaussian_stamp(2.0, 25)),
    )


def test_depth_is_the_noise_over_the_psfs_equivalent_area(difference: DifferenceExposure) -> None:
    sigma, usable = depth_at(difference, np.array([70.0]), np.array([60.3]))
    assert_allclose(sigma, 10.0 * np.sqrt(4 * np.pi * 2.0**2), rtol=0.01)
    assert usable.tolist() == [True]


def test_masked_and_outside_positions_are_not_usable(difference: DifferenceExposure) -> None:
    x = np.array([49.4, 47.0, 14.0, -3.0, 99.4, np.nan])
    y = np.array([41.2, 40.0, 14.0, 30.0, 79.0, 5.0])
    sigma, usable = depth_at(difference, x, y)
    assert usable.tolist() == [False, True, False, False, False, False]
    assert np.isfinite(sigma).tolist() == [True, True, True, False, True, False]
    assert sigma[2] > 3 * sigma[1]
