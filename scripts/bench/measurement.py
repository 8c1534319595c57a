"""Detection and measurement on simulated differences of known truth.

White noise, a Moffat PSF and 1,000 changes on 4k x 4k pixels for the times (1k x 1k with
--quick), beside photutils on the same pixels; grids of dipoles and trails for values and
errors; faint streaks, empty fields and scattered sources for what must and must not be found.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from lib.results import Checks, Rows, check, parser, publish

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests"))
from support.dia_scene import SCALE_ARCSEC, DiaScene, grid_positions

from promptdia.tasks.detect import DetectConfig, DetectDiaSources, Detections, usable
from promptdia.tasks.glints import GlintConfig, find_glints
from promptdia.tasks.measure import MeasureConfig, MeasureDiaSources
from promptdia.tasks.model.arrays import Bools, Catalog, Floats
from promptdia.tasks.psf_photometry import PsfFlux, psf_flux
from promptdia.tasks.streaks import StreakConfig, find_streaks

SIGMA_PER_MAD = 1.4826
FIT_RADIUS_PX = 9.0
MATCH_PX = 6.0
NO_DOUBT = DetectConfig(
    streaks=None,
    max_tail=None,
    registration_error_px=0.0,
    flux_error=0.0,
    max_doubt=1.0,
    background_cell_px=0,
)
"""Finds dipoles, which the defaults take for residuals; there is no background to remove."""
Result = tuple[Checks, Rows]


class Timed(NamedTuple):
    """Of the best of three calls."""

    cpu_s: float
    wall_s: float
    result: Any


def timed(call: Callable[[], Any], repeats: int = 3) -> Timed:
    """CPU seconds of all threads and wall seconds; the first call also loads the kernels."""
    runs = []
    for _ in range(repeats):
        cpu, wall = time.process_time(), time.perf_counter()
        result = call()
        runs.append(Timed(time.process_time() - cpu, time.perf_counter() - wall, result))
    return min(runs, key=lambda run: run.cpu_s)


def clock(seed: int, quick: bool) -> Result:
    """Detection and measurement of many changes, and PSF photometry beside photutils."""
    n_side, spacing = (8, 128) if quick else (32, 128)
    scene = DiaScene(shape=(n_side * spacing,) * 2, seed=seed)
    x, y = grid_positions(n_side, spacing, seed)
    # off the grid, whose rows would be streaks
    random = np.random.default_rng(seed)
    x, y = (v + random.uniform(-45, 45, v.size) for v in (x, y))
    snr = np.linspace(8, 60, x.size)
    for k in range(x.size):
        constant = scene.flux_of(100.0) * (k % 3 == 0)
        flux = scene.flux_of(snr[k])
        scene.add_star(x[k], y[k], flux * (k % 5 > 0) + constant, flux * (k % 5 == 0) + constant)
    difference, science, matched = scene.exposures()
    found = timed(lambda: DetectDiaSources(DetectConfig()).run(difference, science, matched))
    detections: Detections = found.result
    rows = timed(lambda: MeasureDiaSources(MeasureConfig()).run(detections, science, matched))
    bad = ~usable(science)
    psf = science.require_psf()
    many = np.tile(x, 1 if quick else 10), np.tile(y, 1 if quick else 10)

    def forced(at: tuple[Floats, Floats]) -> PsfFlux:
        return psf_flux(science.image, science.variance, bad, psf, *at, FIT_RADIUS_PX)

    ours = timed(lambda: forced(many))
    per_source = 1e6 * ours.cpu_s / many[0].size
    n = len(detections.peaks)
    what = f"{scene.shape[0]} px, {n} candidates"
    table: Rows = [
        {"what": f"detection, {what}", "cpu_s": found.cpu_s, "wall_s": found.wall_s},
        {"what": f"measurement, {what}", "cpu_s": rows.cpu_s, "wall_s": rows.wall_s},
        {"what": "PSF flux at a place", "us_per_source": per_source},
    ]
    some = x[:100], y[:100]
    mine, row = forced(some), {"what": "PSF flux at a place, photutils PSFPhotometry"}
    try:
        peer = timed(lambda: photutils_fluxes(scene, psf.stamps(*some)[0], *some), repeats=1)
    except ImportError as absent:
        table.append({**row, "reason": str(absent)})
    else:
        difference_sigma = np.abs(mine.flux - peer.result) / mine.flux_err
        table.append(
            {
                **row,
                "us_per_source": 1e6 * peer.cpu_s / some[0].size,
                "times_ours": 1e6 * peer.cpu_s / some[0].size / per_source,
                "median_difference_sigma": float(np.median(difference_sigma)),
            }
        )
    return [
        check(f"detect and measure {n} candidates, CPU s", found.cpu_s + rows.cpu_s, "<= 1.5"),
        check("PSF photometry, us per source", per_source, "<= 20"),
    ], table


def photutils_fluxes(scene: DiaScene, stamp: Floats, x: Floats, y: Floats) -> Floats:
    """PSFPhotometry of the science image at fixed places."""
    from astropy.table import Table
    from photutils.psf import ImagePSF, PSFPhotometry

    model = ImagePSF(stamp)
    model.x_0.fixed = model.y_0.fixed = True
    side = 2 * int(FIT_RADIUS_PX) + 1
    fit = PSFPhotometry(model, (side, side), aperture_radius=4.0)
    found = fit(
        scene.science,
        error=np.full(scene.shape, scene.noise),
        init_params=Table({"x": x, "y": y}),
    )
    return np.asarray(found["flux_fit"], float)


def dipoles(seed: int, quick: bool) -> Result:
    """Stars that moved by a part of the PSF's width between template and science."""
    n_side = 8 if quick else 24
    scene = DiaScene(shape=(64 * n_side,) * 2, seed=seed)
    x, y = grid_positions(n_side, 64, seed)
    random = np.random.default_rng(seed + 1)
    length = random.uniform(0.3, 1.2, x.size) * scene.fwhm
    angle = random.uniform(0, 2 * np.pi, x.size)
    flux = np.array([scene.flux_of(s) for s in random.uniform(40, 150, x.size)])
    for k in range(x.size):
        a, b = length[k] * np.cos(angle[k]), length[k] * np.sin(angle[k])
        scene.add_dipole(x[k], y[k], a, b, flux[k])
    sources, near = measured(scene, x, y)
    is_dipole = near & sources["isDipole"]
    rows = sources[is_dipole]
    # the PSF's stamp has unit sum, the stars' wings reach beyond it
    seen = flux[is_dipole] * scene.stamp_light
    pull = (rows["dipoleMeanFlux"] - seen) / rows["dipoleMeanFluxErr"]
    balance = rows["dipoleFluxDiff"] / rows["dipoleFluxDiffErr"]
    off = rows["dipoleLength"] / pixel_arcsec(scene) - length[is_dipole]
    return [
        check("dipoles called dipoles", float(is_dipole.mean()), ">= 0.95"),
        check("dipole mean flux pull, width", width(pull), "0.85 to 1.15"),
        check("dipole flux difference pull, width", width(balance), "0.85 to 1.15"),
        check("dipole separation off, median px", float(np.median(off)), "-0.05 to 0.05"),
    ], [
        {
            "what": "dipoles",
            "n": x.size,
            "mean_flux_pull_median": float(np.median(pull)),
            "separation_scatter_px": width(off),
        }
    ]


def trails(seed: int, quick: bool) -> Result:
    """Uniform lines of 2 to 12 FWHM."""
    n_side = 6 if quick else 24
    scene = DiaScene(shape=(112 * n_side,) * 2, seed=seed)
    x, y = grid_positions(n_side, 112, seed)
    random = np.random.default_rng(seed + 2)
    length = random.uniform(2, 12, x.size) * scene.fwhm
    angle = random.uniform(0, np.pi, x.size)
    # surface brightness counts: a long trail needs more light to be seen
    snr = random.uniform(20, 60, x.size) * np.sqrt(length / scene.fwhm)
    for k in range(x.size):
        a, b = length[k] * np.cos(angle[k]), length[k] * np.sin(angle[k])
        scene.add_trail(x[k], y[k], a, b, scene.flux_of(snr[k]))
    sources, near = measured(scene, x, y)
    fitted = near & (sources["trailNdata"] > 0)
    rows, scale = sources[fitted], pixel_arcsec(scene)
    pull = (rows["trailLength"] / scale - length[fitted]) / (rows["trailLengthErr"] / scale)
    flux = np.array([scene.flux_of(s) for s in snr[fitted]])
    flux_pull = (rows["trailFlux"] - flux) / rows["trailFluxErr"]
    true_angle = position_angle(scene, x, y, length, angle)[fitted]
    turn = (rows["trailAngle"] - true_angle + 90) % 180 - 90
    turn_pull = turn / rows["trailAngleErr"]
    return [
        check("trails fitted as trails", float(fitted.mean()), ">= 0.95"),
        check("trail length pull, width", width(pull), "0.85 to 1.15"),
        check("trail angle pull, width", width(turn_pull), "0.85 to 1.15"),
        check("trail flux pull, width", width(flux_pull), "0.85 to 1.15"),
    ], [
        {
            "what": "trails",
            "n": x.size,
            "length_pull_median": float(np.median(pull)),
            "angle_pull_median": float(np.median(turn_pull)),
            "flux_pull_median": float(np.median(flux_pull)),
        }
    ]


def streaks(seed: int, quick: bool) -> Result:
    """Lines of half a sigma per pixel in noise, and noise alone."""
    side, n_empty = 1024, 4 if quick else 20
    random = np.random.default_rng(seed + 3)
    ones, good = np.ones((side, side), np.float32), np.ones((side, side), bool)
    yy, xx = np.mgrid[:side, :side] - side / 2
    invented = found = 0
    for _ in range(n_empty):
        noise = random.standard_normal((side, side), dtype=np.float32)
        invented += len(find_streaks(noise, ones, good, StreakConfig()))
        angle, offset = random.uniform(0, np.pi), random.uniform(-side / 4, side / 4)
        across = xx * np.sin(angle) - yy * np.cos(angle) - offset
        light = (0.5 * np.exp(-0.5 * (across / 2) ** 2)).astype(np.float32)
        seen = find_streaks(noise + light, ones, good, StreakConfig())
        covered = [s.mask((side, side))[np.abs(across) < 3].mean() for s in seen]
        found += max(covered, default=0.0) > 0.9
    return [
        check("streaks of 0.5 sigma per pixel found and covered", found / n_empty, ">= 0.95"),
        check(f"streaks invented in {n_empty} empty fields", invented, "== 0"),
    ], [{"what": "streaks", "n": n_empty, "found": int(found)}]


def glints(seed: int, quick: bool) -> Result:
    """Scattered sources with and without a row of ten among them."""
    random = np.random.default_rng(seed + 4)
    trials = 10 if quick else 100
    flagged, in_row = 0, []
    for trial in range(trials):
        x, y = random.uniform(0, 4000, (2, (50, 200, 500)[trial % 3]))
        flagged += bool(find_glints(x, y, GlintConfig()).any())
        t, angle = np.linspace(-300, 300, 10), random.uniform(0, np.pi)
        row_x = random.uniform(500, 3500) + t * np.cos(angle) + random.normal(0, 0.7, 10)
        row_y = random.uniform(500, 3500) + t * np.sin(angle) + random.normal(0, 0.7, 10)
        glint = find_glints(np.append(x, row_x), np.append(y, row_y), GlintConfig())
        in_row.append(glint[x.size :].mean())
    return [
        check(f"random skies of {trials} with a row of glints", flagged, "<= 1"),
        check("glints in a row of ten flagged", float(np.mean(in_row)), ">= 0.95"),
    ], [{"what": "glints", "n": trials}]


def measured(scene: DiaScene, x: Floats, y: Floats) -> tuple[Catalog, Bools]:
    """The row nearest to each place, (n,), and whether it is near at all."""
    difference, science, matched = scene.exposures()
    found = DetectDiaSources(NO_DOUBT).run(difference, science, matched)
    config = replace(MeasureConfig(), glints=None)
    sources = MeasureDiaSources(config).run(found, science, matched)
    distance = np.hypot(sources["x"] - x[:, None], sources["y"] - y[:, None])
    return sources[distance.argmin(axis=1)], distance.min(axis=1) < MATCH_PX


def pixel_arcsec(scene: DiaScene) -> float:
    """Scale of the scene's WCS, whose axes are slightly turned."""
    return float(np.hypot(SCALE_ARCSEC, 0.02))


def position_angle(scene: DiaScene, x: Floats, y: Floats, length: Floats, angle: Floats) -> Floats:
    """Degrees east of north of the true lines, 0 to 180."""
    a, b = length * np.cos(angle) / 2, length * np.sin(angle) / 2
    (ra0, dec0), (ra1, dec1) = (
        scene.wcs.pixel_to_sky(x + sign * a, y + sign * b) for sign in (-1, 1)
    )
    east = (ra1 - ra0) * np.cos(np.deg2rad(dec0))
    turned: Floats = np.rad2deg(np.arctan2(east, dec1 - dec0)) % 180.0
    return turned


def width(pulls: Floats) -> float:
    """Robust standard deviation."""
    return float(SIGMA_PER_MAD * np.median(np.abs(pulls - np.median(pulls))))


PARTS = {"clock": clock, "dipoles": dipoles, "trails": trails, "streaks": streaks, "glints": glints}


def main() -> None:
    """Print a table, or one JSON object."""
    arguments = parser(__doc__, "smaller fields, fewer trials")
    arguments.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    args = arguments.parse_args()
    checks: Checks = []
    rows: Rows = []
    for name in args.only:
        found = PARTS[name](args.seed, args.quick)
        checks, rows = checks + found[0], rows + found[1]
    packages = ("promptdia", "numpy", "numba", "scipy", "sep", "photutils")
    publish("measurement", checks, rows, packages, args.json)


if __name__ == "__main__":
    main()
