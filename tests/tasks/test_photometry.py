"""The zero point."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from promptdia.tasks.astrometry import Astrometry
from promptdia.tasks.errors import TaskError, TooFewStars
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.catalogs import REFERENCE, SOURCE
from promptdia.tasks.model.wcs import tan_wcs
from promptdia.tasks.photometry import PhotometryConfig, SolvePhotometry, zero_point_calib

SOLVE = SolvePhotometry(PhotometryConfig())


def stars(n: int, zero_point: float, seed: int = 1) -> tuple[Catalog, Catalog, Astrometry]:
    rng = np.random.default_rng(seed)
    sources, references = SOURCE.empty(n), REFERENCE.empty(n)
    flux = 10 ** rng.uniform(3, 6, n)
    sources["psfFlux"] = flux * (1 + rng.normal(0, 0.01, n))
    sources["psfFluxErr"] = 0.01 * flux
    references["r_flux"] = flux * zero_point_calib(zero_point).njy_per_count
    rows = np.arange(n)
    wcs = tan_wcs(0, 0, 0, 0, np.eye(2), (10, 10))
    match = Astrometry(wcs, rows, rows, rows >= 0, np.zeros(n), 0.0, 1, -99.0)
    return sources, references, match


@pytest.mark.parametrize("n", [3, 10, 1000])
def test_the_zero_point_is_within_its_error(n: int) -> None:
    pulls = []
    for seed in range(20):
        sources, references, match = stars(n, 27.123, seed)
        got = SOLVE.run(sources, references, match, "r")
        pulls.append((got.photo_calib.zero_point - 27.123) / got.error_mag)
        assert got.used.sum() >= 0.9 * n - 1
    assert np.sqrt(np.mean(np.square(pulls))) < 1.8


def test_variables_saturated_stars_and_galaxies_do_not_pull() -> None:
    sources, references, match = stars(200, 28.0)
    sources["psfFlux"][:30] *= 0.5
    sources["psfFlux"][30:60] *= 3.0
    sources["flag_saturated"][30:45] = True
    sources["extendedness"][45:60] = 1.0
    got = SOLVE.run(sources, references, match, "r")
    assert_allclose(got.photo_calib.zero_point, 28.0, atol=0.004)
    assert not got.used[:60].any()
    assert_allclose(got.scatter_mag, 0.011, atol=0.003)


def test_a_band_without_fluxes_and_too_few_stars_are_named() -> None:
    sources, references, match = stars(5, 28.0)
    with pytest.raises(TaskError, match="has a flux in band i"):
        SOLVE.run(sources, references, match, "i")
    sources["psfFluxErr"][2:] = sources["psfFlux"][2:]
    with pytest.raises(TooFewStars, match="zero point found 2 usable stars, needs 3"):
        SOLVE.run(sources, references, match, "r")
