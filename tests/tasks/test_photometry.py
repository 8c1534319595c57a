"""The zero point."""

import numpy as np
import pytest
from numpy.testing import assert_allclose

from promptdia.tasks.astrometry import Astrometry
from promptdia.tasks.errors import TaskError, TooFewStars
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.catalogs import REFERENCE, SOURCE
from promptdia.tasks.model.wcs import tan_wcs
from promptdia.tasks.photometry import (
    ColourTerm,
    PhotometryConfig,
    SolvePhotometry,
    zero_point_calib,
)
from promptdia.tasks.summary import Fiducial, effective_time, photometry_numbers

SOLVE = SolvePhotometry(PhotometryConfig())
SHAPE = (1000, 1000)


def stars(n: int, zero_point: float, seed: int = 1) -> tuple[Catalog, Catalog, Astrometry]:
    rng = np.random.default_rng(seed)
    sources, references = SOURCE.empty(n), REFERENCE.empty(n)
    flux = 10 ** rng.uniform(3, 6, n)
    sources["psfFlux"] = flux * (1 + rng.normal(0, 0.01, n))
    sources["psfFluxErr"] = 0.01 * flux
    sources["x"], sources["y"] = rng.uniform(0, 1000, (2, n))
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
        got = SOLVE.run(sources, references, match, "r", SHAPE)
        pulls.append((got.photo_calib.zero_point - 27.123) / got.error_mag)
        assert got.used.sum() >= 0.9 * n - 1
    assert np.sqrt(np.mean(np.square(pulls))) < 1.8


def test_variables_saturated_stars_and_galaxies_do_not_pull() -> None:
    sources, references, match = stars(200, 28.0)
    sources["psfFlux"][:30] *= 0.5
    sources["psfFlux"][30:60] *= 3.0
    sources["flag_saturated"][30:45] = True
    sources["extendedness"][45:60] = 1.0
    got = SOLVE.run(sources, references, match, "r", SHAPE)
    assert_allclose(got.photo_calib.zero_point, 28.0, atol=0.004)
    assert not got.used[:60].any()
    assert_allclose(got.scatter_mag, 0.011, atol=0.003)


def test_stars_count_for_what_they_are_worth() -> None:
    """Faint ones, too bright by one per cent each, do not outvote the few bright ones."""
    sources, references, match = stars(400, 28.0)
    rng = np.random.default_rng(5)
    error = np.where(np.arange(400) < 60, 0.002, 0.02)
    truth = references["r_flux"] / zero_point_calib(28.0).njy_per_count
    biased = 1 + rng.normal(0, error) + np.where(error > 0.01, 0.01, 0.0)
    sources["psfFlux"], sources["psfFluxErr"] = truth * biased, truth * error
    got = SOLVE.run(sources, references, match, "r", SHAPE)
    assert_allclose(got.photo_calib.zero_point, 28.0, atol=0.0025)
    assert got.error_mag < 0.001


def test_light_that_all_fluxes_hold_alike_does_not_count_as_sensitivity() -> None:
    off = []
    for seed in range(20):
        sources, references, match = stars(100, 28.0, seed)
        truth = references["r_flux"] / zero_point_calib(28.0).njy_per_count
        error = np.hypot(0.005 * np.median(truth), np.sqrt(truth))
        sources["psfFluxErr"] = error
        added = 0.5 * error.min() + np.random.default_rng(seed).normal(0, error)
        sources["psfFlux"] = truth + added
        got = SOLVE.run(sources, references, match, "r", SHAPE)
        off.append(got.photo_calib.zero_point - 28.0)
    assert abs(np.mean(off)) < 0.0003


def test_a_band_without_fluxes_and_too_few_stars_are_named() -> None:
    sources, references, match = stars(5, 28.0)
    with pytest.raises(TaskError, match="has a flux in band i"):
        SOLVE.run(sources, references, match, "i", SHAPE)
    sources["psfFluxErr"][2:] = sources["psfFlux"][2:]
    with pytest.raises(TooFewStars, match="zero point found 2 usable stars, needs 3"):
        SOLVE.run(sources, references, match, "r", SHAPE)


def test_a_colour_term_takes_the_colour_out() -> None:
    sources, references, match = stars(400, 28.0)
    colour = np.random.default_rng(2).uniform(0.0, 2.0, 400)
    references["g_flux"] = references["r_flux"] * 10 ** (-0.4 * colour)
    # the camera sees r + 0.1 (g - r)
    sources["psfFlux"] *= 10 ** (-0.4 * 0.1 * colour)
    references["g_flux"][:40] = np.nan
    bare = SOLVE.run(sources, references, match, "r", SHAPE)
    assert abs(bare.photo_calib.zero_point - 28.0) > 0.05
    assert bare.scatter_mag > 0.04
    terms = {"r": ColourTerm(("g", "r"), 0.1)}
    corrected = SolvePhotometry(PhotometryConfig(colour_terms=terms))
    got = corrected.run(sources, references, match, "r", SHAPE)
    assert_allclose(got.photo_calib.zero_point, 28.0, atol=0.003)
    assert_allclose(got.scatter_mag, 0.011, atol=0.003)
    assert not got.used[:40].any()
    references["g_flux"] = np.nan
    with pytest.raises(TaskError, match="has a flux in band r and the colour g-r"):
        corrected.run(sources, references, match, "r", SHAPE)


def tilted(slope: float) -> tuple[Catalog, Catalog, Astrometry]:
    """Fluxes that grow from left to right by ``slope`` magnitudes either way."""
    sources, references, match = stars(300, 28.0, 3)
    sources["psfFlux"] *= 10 ** (0.4 * slope * (sources["x"] / 500 - 1))
    return sources, references, match


@pytest.mark.parametrize("slope", [0.0, 0.02])
def test_a_trend_over_the_detector_is_measured(slope: float) -> None:
    sources, references, match = tilted(slope)
    flat = SolvePhotometry(PhotometryConfig(max_order=0))
    numbers = photometry_numbers(flat.run(sources, references, match, "r", SHAPE), sources, SHAPE)
    assert_allclose(numbers["zeroPointTrend"], slope / np.sqrt(3), atol=0.0015)
    assert (numbers["zeroPointTrendSigma"] > 5) == (slope > 0)
    few = photometry_numbers(
        SOLVE.run(sources[:5], references, _only(match, 5), "r", SHAPE), sources, (9, 9)
    )
    assert "zeroPointTrend" not in few


def test_a_clear_trend_is_taken_out_and_noise_is_not() -> None:
    sources, references, match = tilted(0.02)
    got = SOLVE.run(sources, references, match, "r", SHAPE)
    assert_allclose(got.excess, [0.0, 0.02 / 1.0857, 0.0], atol=0.0025)
    assert_allclose(got.photo_calib.zero_point, 28.0, atol=0.002)
    numbers = photometry_numbers(got, sources, SHAPE)
    assert numbers["zeroPointTrend"] < 0.002
    assert_allclose(numbers["zeroPointCorrection"], 0.02 / np.sqrt(3), atol=0.0015)
    for seed in range(20):
        assert SOLVE.run(*stars(100, 28.0, seed), "r", SHAPE).excess.size == 1


def test_the_effective_time_is_that_of_equal_depth() -> None:
    fiducial = Fiducial(psf_sigma=1.5, sky=30.0, zero_point=28.5)
    same = {
        "expTime": 40.0,
        "psfSigma": 1.5,
        "skyBg": 1200.0,
        "zeroPoint": 28.5 + 2.5 * np.log10(40.0),
    }
    assert_allclose(effective_time(same, fiducial)["effTime"], 40.0)
    # half the light, twice the sky, double width: S/N of a faint star at equal time, squared
    worse = same | {"psfSigma": 3.0, "skyBg": 2400.0, "zeroPoint": same["zeroPoint"] - 0.752575}
    numbers = effective_time(worse, fiducial)
    assert_allclose(numbers["effTime"], 40.0 * 0.5**2 / 2.0 / 4.0, rtol=1e-4)
    assert_allclose(numbers["effTimeZeroPointScale"], 0.25, rtol=1e-4)


def _only(match: Astrometry, n: int) -> Astrometry:
    rows = np.arange(n)
    return match._replace(source_index=rows, reference_index=rows, used=rows >= 0)
