"""Pattern matching and the WCS fit."""

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import Sip
from numpy.testing import assert_allclose
from support.data import data_dir

from promptdia.tasks.astrometry import AstrometryConfig, SolveAstrometry, positions_at
from promptdia.tasks.errors import TaskError
from promptdia.tasks.kernels.star_pairs import pair_votes
from promptdia.tasks.matching import by_sector, star_pairs
from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.catalogs import REFERENCE, SOURCE
from promptdia.tasks.model.photo_calib import mag_to_njy
from promptdia.tasks.model.wcs import FitsWcs, separation_arcsec, tan_wcs
from promptdia.tasks.wcs_fit import PixelMap, composite_wcs, fit_pixel_map

MJD = 60000.0
SCALE = 0.2
SOLVE = SolveAstrometry(AstrometryConfig())


def case(
    seed: int,
    n: int,
    shape: tuple[int, int] = (1024, 1024),
    common: float = 0.7,
    spurious: float = 0.5,
    distortion: float = 2.0,
    with_flux: bool = True,
) -> tuple[Catalog, Catalog, FitsWcs]:
    """Sources and references whose ids tell the truth, and a first guess that is wrong by up
    to 60 arcsec, 1 degree and 10 per cent; ``distortion`` in pixels at the corners."""
    rng = np.random.default_rng(seed)
    size = np.array(shape[::-1])
    turn, scale = np.deg2rad(rng.uniform(-1, 1)), 1 + rng.uniform(-0.1, 0.1)
    rotation = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    cd = np.diag([-SCALE, SCALE]) / 3600
    towards, far = rng.uniform(0, 2 * np.pi), 60 / SCALE * np.sqrt(rng.uniform())
    shift = far * np.array([np.cos(towards), np.sin(towards)])
    guess = tan_wcs(150.0, 2.0, *((size - 1) / 2), cd, shape)
    truth = tan_wcs(150.0, 2.0, *((size - 1) / 2 + shift), cd @ rotation, shape)
    xy = rng.uniform(-0.3, 1.3, (int(2.56 * n), 2)) * size
    mag = rng.uniform(15, 20, len(xy))
    u = 2 * xy / size - 1
    bent = xy + distortion * u * (u**2).sum(axis=1, keepdims=True) / 2
    references = REFERENCE.empty(len(xy))
    references["id"] = np.arange(len(xy)) + 1
    references["ra"], references["dec"] = truth.pixel_to_sky(*bent.T)
    if with_flux:
        references["r_flux"] = mag_to_njy(mag + rng.normal(0, 0.2, mag.size))
    seen = ((xy > 0) & (xy < size)).all(axis=1) & (rng.uniform(size=mag.size) < common)
    n_seen, n_spurious = int(seen.sum()), int(spurious * seen.sum())
    sources = SOURCE.empty(n_seen + n_spurious)
    places = np.concatenate([xy[seen], rng.uniform(0, 1, (n_spurious, 2)) * size])
    sources["x"], sources["y"] = (places + rng.normal(0, 0.05, places.shape)).T
    sources["xErr"] = sources["yErr"] = 0.05
    if with_flux:
        all_mags = np.concatenate([mag[seen], rng.uniform(15, 20, n_spurious)])
        sources["psfFlux"] = 10 ** (-0.4 * (all_mags - 28))
    sources["id"][:n_seen] = references["id"][seen]
    references = references[rng.uniform(size=mag.size) < common]
    return rng.permutation(sources), rng.permutation(references), guess


@pytest.mark.parametrize(
    ("n", "shape", "common", "spurious", "distortion", "with_flux"),
    [
        (100, (1024, 1024), 0.7, 0.5, 4.0, True),
        (100, (1024, 1024), 0.7, 0.5, 4.0, False),
        (15, (1024, 1024), 1.0, 0.0, 0.0, False),
        (300, (512, 512), 0.7, 0.5, 1.0, True),
        (2000, (2048, 4096), 0.7, 0.5, 10.0, True),
    ],
)
def test_a_wrong_first_guess_is_solved_and_every_pair_is_right(
    n: int,
    shape: tuple[int, int],
    common: float,
    spurious: float,
    distortion: float,
    with_flux: bool,
) -> None:
    for seed in range(3):
        sources, references, guess = case(seed, n, shape, common, spurious, distortion, with_flux)
        solved = SOLVE.run(sources, references, guess, shape, MJD)
        right = sources["id"][solved.source_index] == references["id"][solved.reference_index]
        assert right[solved.used].mean() > 0.97
        assert solved.rms_arcsec < 0.1 * SCALE
        assert solved.log10_false_alarm < -4
        own = sources["id"] > 0
        _, row, ref = np.intersect1d(sources["id"][own], references["id"], return_indices=True)
        assert solved.used.sum() > 0.8 * row.size
        here = sources[own][row]
        sky = solved.wcs.pixel_to_sky(here["x"], here["y"])
        apart = separation_arcsec(*sky, references["ra"][ref], references["dec"][ref])
        assert np.median(apart) < 0.1 * SCALE


@pytest.mark.parametrize(("mirrored", "turn_deg"), [(False, 180.0), (True, 0.0), (True, 37.0)])
def test_a_guess_of_any_angle_and_parity_is_solved(mirrored: bool, turn_deg: float) -> None:
    shape = (1024, 1024)
    sources, references, right = case(11, 60, shape)
    c, s = np.cos(np.deg2rad(turn_deg)), np.sin(np.deg2rad(turn_deg))
    flip = np.diag([-1.0 if mirrored else 1.0, 1.0])
    cd = np.asarray(right.wcs.pixel_scale_matrix) @ np.array([[c, -s], [s, c]]) @ flip
    guess = tan_wcs(150.0, 2.0, 511.5, 511.5, cd, shape)
    solved = SOLVE.run(sources, references, guess, shape, MJD)
    known = sources["id"][solved.source_index] == references["id"][solved.reference_index]
    assert known[solved.used].mean() > 0.97
    assert solved.rms_arcsec < 0.1 * SCALE
    with pytest.raises(TaskError, match=r"matched \d+ of|may be an accident"):
        SolveAstrometry(AstrometryConfig(blind=False)).run(sources, references, guess, shape, MJD)


def test_a_guess_with_distortion_keeps_it() -> None:
    rng = np.random.default_rng(12)
    shape = (1024, 1024)
    cd = np.diag([-SCALE, SCALE]) / 3600
    cubic = np.zeros((4, 4))
    cubic[3, 0] = cubic[1, 2] = 2e-8
    truth, guess = (tan_wcs(150.0, 2.0, x, 511.5, cd, shape) for x in (511.5, 531.5))
    for wcs in (truth, guess):
        wcs.wcs.wcs.ctype = ["RA---TAN-SIP", "DEC--TAN-SIP"]
        wcs.wcs.sip = Sip(cubic, cubic.T.copy(), None, None, wcs.wcs.wcs.crpix)
        wcs.wcs.wcs.set()
    sources, references = SOURCE.empty(12), REFERENCE.empty(12)
    sources["x"], sources["y"] = rng.uniform(20, 1000, (2, 12))
    references["ra"], references["dec"] = truth.pixel_to_sky(sources["x"], sources["y"])
    solved = SOLVE.run(sources, references, guess, shape, MJD)
    corner = np.array([0.0, 1023.0, 0.0, 1023.0]), np.array([0.0, 0.0, 1023.0, 1023.0])
    apart = separation_arcsec(*solved.wcs.pixel_to_sky(*corner), *truth.pixel_to_sky(*corner))
    assert apart.max() < 0.03


def test_eight_stars_are_enough() -> None:
    rng = np.random.default_rng(3)
    guess = tan_wcs(150.0, 2.0, 511.5, 511.5, np.diag([-SCALE, SCALE]) / 3600, (1024, 1024))
    truth = tan_wcs(150.01, 2.01, 515.0, 500.0, np.diag([-0.21, 0.21]) / 3600, (1024, 1024))
    sources, references = SOURCE.empty(8), REFERENCE.empty(8)
    sources["x"], sources["y"] = rng.uniform(50, 970, (2, 8))
    references["ra"], references["dec"] = truth.pixel_to_sky(sources["x"], sources["y"])
    solved = SOLVE.run(sources, references, guess, (1024, 1024), MJD)
    assert solved.used.sum() == 8
    assert solved.order == 1
    x, y = np.array([0.0, 1000.0]), np.array([1000.0, 0.0])
    apart = separation_arcsec(*solved.wcs.pixel_to_sky(x, y), *truth.pixel_to_sky(x, y))
    assert apart.max() < 0.01


@pytest.mark.parametrize("n", [8, 30, 60])
def test_unrelated_stars_are_never_matched(n: int) -> None:
    for seed in range(2):
        sources, _, guess = case(seed, n)
        _, references, _ = case(seed + 100, n)
        with pytest.raises(TaskError, match=r"matched \d+ of|may be an accident"):
            SOLVE.run(sources, references, guess, (1024, 1024), MJD)


def test_a_catalogue_elsewhere_is_named() -> None:
    sources, references, guess = case(1, 30)
    references["dec"] += 10.0
    with pytest.raises(TaskError, match="does not cover the field"):
        SOLVE.run(sources, references, guess, (1024, 1024), MJD)
    with pytest.raises(TaskError, match="none of 0 reference stars"):
        SOLVE.run(sources, references[:0], guess, (1024, 1024), MJD)


def test_proper_motions_are_applied_and_missing_ones_are_none() -> None:
    rows = REFERENCE.empty(2)
    rows["ra"], rows["dec"], rows["epochMjdTai"] = 10.0, 60.0, MJD - 3652.5
    rows["pmRa"][0], rows["pmDec"][0] = 1000.0, -500.0
    ra, dec = positions_at(rows, MJD)
    assert_allclose((ra - 10.0) * np.cos(np.deg2rad(60)) * 3600, [10.0, 0.0], atol=1e-6)
    assert_allclose((dec - 60.0) * 3600, [-5.0, 0.0], atol=1e-6)


def test_pair_votes_agree_with_a_plain_search() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.uniform(-100, 100, (2, 8, 2))
    max_log_scale, max_rotation, max_shift = 0.1, 0.2, 80.0
    one, other = star_pairs(a, 30.0), star_pairs(b, 30.0)
    other, first = by_sector(other, max_rotation)
    votes = np.empty((1000, 4))
    n = pair_votes(one, other, first, max_log_scale, max_rotation, max_shift, votes)
    za, zb = a @ [1, 1j], b @ [1, 1j]
    expected = []
    for j in range(8):
        for i in range(j):
            for m in range(8):
                for k in range(m):
                    if min(abs(za[j] - za[i]), abs(zb[m] - zb[k])) < 30.0:
                        continue
                    factor = (zb[m] - zb[k]) / (za[j] - za[i])
                    shift = (zb[k] + zb[m]) / 2 - factor * (za[i] + za[j]) / 2
                    vote = (np.log(abs(factor)), np.angle(factor), shift.real, shift.imag)
                    near = abs(vote[0]) <= max_log_scale and abs(vote[1]) <= max_rotation
                    if near and abs(shift) <= max_shift:
                        expected.append(vote)
    assert n == len(expected) > 0
    assert_allclose(sorted(map(tuple, votes[:n])), sorted(expected), atol=1e-9)
    room = np.empty((n - 1, 4))
    kept = pair_votes(one, other, first, max_log_scale, max_rotation, max_shift, room)
    assert kept == n - 1
    assert_allclose(room, votes[: n - 1])


def test_the_order_follows_the_distortion_and_outliers_are_dropped() -> None:
    rng = np.random.default_rng(6)
    xy = rng.uniform(0, 1000, (60, 2))
    u = xy / 500 - 1
    noise = rng.normal(0, 0.02, xy.shape)
    for power, order in ((1, 1), (2, 2), (3, 3)):
        target = xy + 3.0 * u**power + noise
        target[:3] += 5.0
        fit = fit_pixel_map(xy, target, np.full(60, 4e-4), (1000, 1000), 3)
        assert fit.map.order == order
        assert not fit.used[:3].any()
        assert fit.used[3:].mean() > 0.9
        assert np.abs(fit.residuals[fit.used]).max() < 0.1


@pytest.mark.parametrize("order", [1, 2, 3])
def test_a_composite_wcs_survives_a_fits_header(order: int) -> None:
    rng = np.random.default_rng(7)
    shape = (2000, 1000)
    guess = tan_wcs(10.0, -60.0, 5000.0, -8000.0, np.diag([-5e-5, 5e-5]), shape)
    coefficients = rng.normal(0, 2.0, ((order + 1) * (order + 2) // 2, 2))
    # terms: 1, u, ..., v, ...: the identity, then a distortion of pixels
    coefficients[0] += [499.5, 999.5]
    coefficients[1, 0] += 499.5
    coefficients[order + 1, 1] += 999.5
    pixel_map = PixelMap(coefficients, order, shape)
    wcs = composite_wcs(guess, pixel_map)
    again = FitsWcs.from_header(wcs.to_header())
    xy = rng.uniform(0, 1, (200, 2)) * [999, 1999]
    expected = guess.pixel_to_sky(*pixel_map(xy).T)
    for candidate in (wcs, again):
        assert separation_arcsec(*candidate.pixel_to_sky(*xy.T), *expected).max() < 1e-3
        assert_allclose(np.column_stack(candidate.sky_to_pixel(*expected)), xy, atol=1e-3)
    assert ("SIP" in again.wcs.wcs.ctype[0]) == (order > 1)


def gaia(path: str) -> Catalog:
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)

    def column(name: str) -> Floats:
        return np.asarray(table[name].to_numpy(zero_copy_only=False), float)

    known = np.isfinite(column("coord_ra"))
    rows = REFERENCE.empty(known.sum())
    mas = np.rad2deg(1.0) * 3.6e6
    rows["id"] = np.arange(rows.size) + 1
    rows["ra"], rows["dec"] = (np.rad2deg(column(f"coord_{c}")[known]) for c in ("ra", "dec"))
    rows["pmRa"], rows["pmDec"] = (column(f"pm_{c}")[known] * mas for c in ("ra", "dec"))
    rows["raErr"], rows["decErr"] = (
        column(f"coord_{c}Err")[known] * mas / 1000 for c in ("ra", "dec")
    )
    rows["epochMjdTai"] = column("epoch")[known]
    rows["r_flux"] = column("phot_g_mean_flux")[known]
    return rows


@pytest.mark.filterwarnings("ignore")
def test_real_hsc_detectors_are_matched_to_gaia() -> None:
    folder = data_dir("hsc_astrometry_1180")
    references = gaia(str(folder / "gaia_refCat.parquet"))
    medians = []
    for path in [*sorted(folder.glob("1180_*.fits"))[::10], folder / "1180_62.fits"]:
        with fits.open(path) as hdus:
            header, table = hdus[0].header.copy(), hdus[1].data
            header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
            sources = SOURCE.empty(len(table))
            for name in ("x", "y", "xErr", "yErr"):
                sources[name] = table[name]
        guess = FitsWcs.from_header(header)
        solved = SOLVE.run(sources, references, guess, (4176, 2048), 56744.291)
        medians.append(np.median(solved.separation_arcsec[solved.used]))
        centre = np.array([1024.0]), np.array([2088.0])
        moved = separation_arcsec(*solved.wcs.pixel_to_sky(*centre), *guess.pixel_to_sky(*centre))
        assert moved[0] < 1.5, path
    assert np.median(medians) < 0.015
    assert np.max(medians) < 0.03
