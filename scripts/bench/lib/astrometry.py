"""The WCS against the one that the frame was drawn with, and first guesses that are wrong."""

import time
from collections.abc import Iterator

import numpy as np
from lib.fields import Field, calibrated, standard
from lib.results import Checks, Rows, check, verdict

from promptdia.tasks.astrometry import AstrometryConfig, SolveAstrometry
from promptdia.tasks.errors import TaskError
from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.wcs import FitsWcs, separation_arcsec, tan_wcs

BRIGHT_SNR = 100.0
OFFSET_ARCSEC, ROTATION_DEG, SCALE_ERROR = 60.0, 1.0, 0.1
"""How wrong the first guesses are, at most."""
WRONG_ARCSEC = 0.1
"""A solution farther than this from the truth, anywhere on the detector, is wrong."""
ENOUGH_STARS = 100
"""With fewer, a WCS is known in the corners no better than its limit."""


def checks(seed: int, quick: bool) -> tuple[Checks, Rows]:
    """Positions of bright stars, the WCS itself, and random pointing errors."""
    results: Checks = []
    rows: Rows = []
    for field, done in zip(standard(seed, quick), calibrated(seed, quick)):
        east, north = star_offsets_mas(field, done.sources)
        absolute = wcs_errors_mas(field, done.science.wcs)
        rows.append(
            {
                "what": f"astrometry of visit {done.science.visit.id}",
                "stars": int(east.size),
                "rms_east_mas": _rms(east),
                "rms_north_mas": _rms(north),
                "wcs_rms_mas": _rms(absolute),
                "wcs_worst_mas": float(absolute.max()),
            }
        )
    worst_axis = max(max(r["rms_east_mas"], r["rms_north_mas"]) for r in rows)
    worst = max(r["wcs_worst_mas"] for r in rows)
    least = min(int(r["stars"]) for r in rows)
    for name, value, needed in (
        ("astrometry rms per axis, S/N > 100, mas", worst_axis, "<= 10"),
        ("astrometry WCS error anywhere, mas", worst, "<= 20"),
    ):
        found = verdict(name, value, needed, least, ENOUGH_STARS)
        results, rows = results + found[0], rows + found[1]
    more = guesses(seed, standard(seed, quick)[0], calibrated(seed, quick)[0].sources, quick)
    return results + more[0], rows + more[1]


def star_offsets_mas(field: Field, sources: Catalog) -> tuple[Floats, Floats]:
    """Measured less true position of bright, undisturbed stars, east and north."""
    good = sources["psfFlux"] > BRIGHT_SNR * sources["psfFluxErr"]
    for flag in ("flag_saturated", "flag_bad", "flag_edge", "flag_blended"):
        good &= ~sources[flag]
    stars = sources[good]
    found, row = field.truth_of(stars["x"], stars["y"])
    stars, row = stars[found], row[found]
    ra, dec = field.frame.wcs.pixel_to_sky(field.stars.x[row], field.stars.y[row])
    cos_dec = np.cos(np.deg2rad(dec))
    return (stars["ra"] - ra) * cos_dec * 3.6e6, (stars["dec"] - dec) * 3.6e6


def wcs_errors_mas(field: Field, wcs: FitsWcs) -> Floats:
    """Separation of the solved from the true WCS on a grid that reaches the corners."""
    ny, nx = field.raw.detector.shape
    x, y = (v.ravel() for v in np.meshgrid(np.linspace(0, nx - 1, 9), np.linspace(0, ny - 1, 9)))
    apart = separation_arcsec(*wcs.pixel_to_sky(x, y), *field.frame.wcs.pixel_to_sky(x, y))
    return 1000.0 * apart


def guesses(seed: int, field: Field, sources: Catalog, quick: bool) -> tuple[Checks, Rows]:
    """Random pointing errors, and a catalogue that cannot match."""
    n, solved, wrong = (20 if quick else 200), 0, 0
    solve, shape = SolveAstrometry(AstrometryConfig()), field.raw.detector.shape
    mjd = field.raw.visit.mjd_tai
    seconds = []
    for guess in wrong_guesses(field, n, seed):
        start = time.process_time()
        try:
            wcs = solve.run(sources, field.references, guess, shape, mjd).wcs
        except TaskError:
            continue
        finally:
            seconds.append(time.process_time() - start)
        right = wcs_errors_mas(field, wcs).max() < 1000.0 * WRONG_ARCSEC
        solved, wrong = solved + right, wrong + (not right)
    elsewhere = field.references.copy()
    rng = np.random.default_rng(seed)
    for name in ("ra", "dec"):
        elsewhere[name] = rng.permutation(elsewhere[name])
    start = time.process_time()
    try:
        solve.run(sources, elsewhere, field.raw.wcs, shape, mjd)
        wrong += 1
        refused = "matched by accident"
    except TaskError as refusal:
        refused = str(refusal)
    rows = [
        {
            "what": f"match of {n} wrong guesses, {sources.size} sources",
            "seconds": float(np.median(seconds)),
            "longest_s": max(seconds),
        },
        {
            "what": "match with shuffled references",
            "seconds": time.process_time() - start,
            "outcome": refused,
        },
    ]
    return [
        check("wrong guesses solved, part", solved / n, ">= 1"),
        check("solved wrongly", wrong, "== 0"),
    ], rows


def wrong_guesses(field: Field, n: int, seed: int) -> Iterator[FitsWcs]:
    """Nominal WCSs whose middle is moved off the true one, turned and stretched about it."""
    rng = np.random.default_rng(seed)
    ny, nx = field.raw.detector.shape
    middle = np.array([(nx - 1) / 2]), np.array([(ny - 1) / 2])
    ra, dec = (float(v[0]) for v in field.frame.wcs.pixel_to_sky(*middle))
    nominal = np.asarray(field.raw.wcs.wcs.pixel_scale_matrix)
    for _ in range(n):
        turn = np.deg2rad(rng.uniform(-ROTATION_DEG, ROTATION_DEG))
        scale = 1.0 + rng.uniform(-SCALE_ERROR, SCALE_ERROR)
        c, s = scale * np.cos(turn), scale * np.sin(turn)
        angle = rng.uniform(0.0, 2.0 * np.pi)
        far = OFFSET_ARCSEC * np.sqrt(rng.uniform()) / 3600.0
        east, north = far * np.sin(angle) / np.cos(np.deg2rad(dec)), far * np.cos(angle)
        cd = nominal @ np.array([[c, -s], [s, c]])
        yield tan_wcs(
            ra + east, dec + north, float(middle[0][0]), float(middle[1][0]), cd, (ny, nx)
        )


def _rms(values: Floats) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
