"""Higher moments of drawn stars against integrals, residual correlations against plain sums."""

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.linalg import sqrtm
from support.frames import make_exposure

from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.catalogs import SOURCE
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.psf import constant_psf
from promptdia.tasks.star_shapes import (
    higher_moments,
    residual_correlations,
    star_shape_numbers,
)

MOMENTS = np.array([[5.0, 1.2], [1.2, 3.5]])


def drawn(skew: float, n: int = 4) -> tuple[Exposure, Catalog]:
    """Stars exp(-r^2 / 2) (1 + skew (u^3 - 3 u)) with (u, v) in units of MOMENTS."""
    rng = np.random.default_rng(1)
    y, x = np.mgrid[:60, : 60 * n].astype(float)
    image = np.zeros(x.shape)
    stars = SOURCE.empty(n)
    root = np.linalg.inv(np.real(sqrtm(MOMENTS)))
    for k in range(n):
        x0, y0 = 60 * k + 30 + rng.uniform(-0.5, 0.5), 30 + rng.uniform(-0.5, 0.5)
        u, v = np.einsum("ij,jyx->iyx", root, np.stack([x - x0, y - y0]))
        image += 1e4 * np.exp(-0.5 * (u**2 + v**2)) * (1 + skew * (u**3 - 3 * u))
        stars["x"][k], stars["y"][k] = x0, y0
    stars["ixx"], stars["iyy"], stars["ixy"] = MOMENTS[0, 0], MOMENTS[1, 1], MOMENTS[0, 1]
    return make_exposure(image, 100.0), stars


@pytest.mark.parametrize("skew", [0.0, 0.1])
def test_higher_moments_are_those_of_the_integrals(skew: float) -> None:
    got = higher_moments(*drawn(skew))
    # under exp(-r^2) the means of u^2, u^4, u^6 are 1/2, 3/4, 15/8
    wanted = {"Coma1": -0.75, "Coma2": 0.0, "Trefoil1": 0.75, "Trefoil2": 0.0}
    for name, factor in wanted.items():
        assert_allclose(got[f"star{name}Median"], factor * skew, atol=2e-4)
    assert_allclose(got["starKurtosisMedian"], 2.0, atol=1e-3)
    assert_allclose([got["starE41Median"], got["starE42Median"]], 0.0, atol=1e-3)


def test_stars_with_bad_pixels_do_not_count() -> None:
    exposure, stars = drawn(0.1)
    image, mask = exposure.image.copy(), exposure.mask.copy()
    image[30, 30], mask[30, 30] = 5e5, MaskPlane.BAD.value
    spoiled = exposure.replace(image=image, mask=mask)
    assert_allclose(higher_moments(spoiled, stars)["starComa1Median"], -0.075, atol=1e-3)
    assert higher_moments(spoiled, stars[:1]) == {}
    stars["ixx"] = np.nan
    assert higher_moments(exposure, stars) == {}


def test_correlations_are_those_of_a_plain_sum() -> None:
    rng = np.random.default_rng(2)
    grid = np.arange(25) - 12.0
    stamp = np.exp(-0.5 * (grid[:, None] ** 2 + grid**2) / 4.0)
    psf = constant_psf(stamp / stamp.sum())
    stars = SOURCE.empty(60)
    stars["x"], stars["y"] = rng.uniform(0, 2000, (2, 60))
    e1, e2 = 0.02 + rng.normal(0, 0.01, 60), -0.01 + rng.normal(0, 0.01, 60)
    stars["ixx"], stars["iyy"], stars["ixy"] = 4 * (1 + e1), 4 * (1 - e1), 4 * e2
    got = residual_correlations(stars, psf, 4.71, 0.3)
    sums = {"1": [], "2": [], "3": [], "4": []}
    for i in range(60):
        for j in range(i):
            apart = 0.005 * np.hypot(stars["x"][i] - stars["x"][j], stars["y"][i] - stars["y"][j])
            row = (e1[i] * e1[j], e2[i] * e2[j], (e1[i] * e2[j] + e2[i] * e1[j]) / 2)
            for name, inside in zip("1234", (apart < 1, apart >= 5, apart < 5, 5 <= apart < 20)):
                if inside:
                    sums[name].append(row)
    for name, rows in sums.items():
        assert len(rows) > 20
        values = [got[f"psfTE{name}{part}"] for part in ("e1", "e2", "ex")]
        assert_allclose(values, np.mean(rows, axis=0), rtol=1e-3, atol=1e-7)
    few = residual_correlations(stars[:4], psf, 4.71, 0.3)
    assert few == {}


def test_without_stars_or_a_psf_there_are_no_numbers() -> None:
    exposure, stars = drawn(0.0)
    assert star_shape_numbers(exposure, stars, 2.0) == {}
    psf = constant_psf(np.full((5, 5), 1 / 25))
    assert star_shape_numbers(exposure.replace(psf=psf), stars[:0], 2.0) == {}
    numbers = star_shape_numbers(exposure.replace(psf=psf), stars, 2.0)
    assert_allclose(numbers["psfApCorrSigmaScaledDelta"], 0.0, atol=1e-12)
