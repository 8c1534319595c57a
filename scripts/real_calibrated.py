"""Single-frame calibration of real frames: positions, fluxes and pictures on one page.

usage: scripts/real frames [--data DIR] [--root DIR] [--json]

HSC: centroids of 51 detectors matched to Gaia. lux2713 and saao: raw frames calibrated, each
star compared from frame to frame. Neither of these has a catalogue, so both are relative to
one of their own frames. The page is ROOT/frames.html.
"""

import argparse
import json
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from astropy.wcs import FITSFixedWarning
from real_frame_pages import draw_field, draw_matches, draw_repeats, write_page
from real_frames import CAMPAIGNS, DATA, ZERO_POINT, Campaign
from scipy.spatial import cKDTree

from promptdia.pipeline.bootstrap import bootstrap
from promptdia.pipeline.calib import build_calibrations
from promptdia.pipeline.errors import ConfigError, InputError, PromptdiaError
from promptdia.pipeline.ingest import ingest
from promptdia.pipeline.io.fits import read_exposure
from promptdia.pipeline.io.parquet import read_catalog
from promptdia.pipeline.refcat import read_references
from promptdia.pipeline.repository import Repository
from promptdia.pipeline.worker import calibrate_frame
from promptdia.tasks.astrometry import Astrometry, AstrometryConfig, SolveAstrometry
from promptdia.tasks.errors import TaskError
from promptdia.tasks.model.arrays import Catalog, Floats
from promptdia.tasks.model.catalogs import SOURCE
from promptdia.tasks.model.exposure import ScienceExposure
from promptdia.tasks.model.wcs import FitsWcs, separation_arcsec

HSC_SHAPE, HSC_MJD = (4176, 2048), 56744.291
WRONG_ARCSEC = 1.5
"""The header's WCS is right to 0.7 arcsec: a solution farther off is wrong."""
BRIGHT_SNR = 100.0
COMPARISON_STARS = 40
"""In the crowded field, the brightest so many, as in the truth table that came with it."""
SEEN_IN = 0.8
"""A star counts when it was measured in this part of the frames."""
LIMITS = {
    "hsc median residual, worst detector, mas": 30.0,
    "hsc detectors matched wrongly or not": 0.0,
    "lux2713 position rms per axis, px": 0.1,
    "lux2713 flux scatter of bright stars": 0.02,
    "saao flux scatter of comparison stars": 0.015,
}


class Repeats(NamedTuple):
    """Stars of many frames in the coordinates of one of them."""

    x: Floats
    """(n_stars,) mean position, pixels of the defining frame."""
    y: Floats
    position_rms: Floats
    """(n_stars,) pixels, per axis."""
    flux: Floats
    """(n_stars, n_frames), nan where not measured."""
    scatter: Floats
    """(n_stars,) relative, robust."""
    fwhm: Floats
    """(n_frames,) pixels."""

    def brightest(self, n: int) -> "Repeats":
        """The n stars of the highest typical flux."""
        rows = np.argsort(-np.nanmedian(self.flux, axis=1), kind="stable")[:n]
        return Repeats(*(column[rows] for column in self[:-1]), self.fwhm)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is there; returns the exit status."""
    args = _arguments(argv)
    base = args.data or Path(os.environ.get("PROMPTDIA_DATA") or DATA)
    root = args.root or Path("real-calibrated")
    found: dict[str, float] = {}
    sections: list[tuple[str, list[Path]]] = []
    try:
        for part in (hsc, lux, saao):
            numbers, title, pictures = part(base, root)
            found |= numbers
            sections.append((title, pictures))
    except PromptdiaError as error:
        print(f"promptdia: {error}", file=sys.stderr)
        return 2 if isinstance(error, ConfigError) else 1
    checks = [
        {"name": n, "value": round(v, 4), "needed": f"<= {LIMITS[n]:g}", "ok": v <= LIMITS[n]}
        for n, v in found.items()
    ]
    titles = [title for title, _ in sections]
    page = write_page(root / "frames.html", checks, sections)
    if args.json:
        print(json.dumps({"name": "frames", "checks": checks, "page": str(page)}))
        return 0
    for row in checks:
        verdict = "ok" if row["ok"] else "MISSED"
        print(f"{row['name']:<44} {row['value']:>8}  {row['needed']:<9} {verdict}")
    print(*titles, f"pictures: {page}", sep="\n")
    return 0


def hsc(base: Path, root: Path) -> tuple[dict[str, float], str, list[Path]]:
    """Every detector of one HSC exposure against Gaia."""
    folder = _there(base / "hsc_astrometry_1180")
    references = read_references(folder / "gaia_refCat.parquet")
    solve = SolveAstrometry(AstrometryConfig())
    solved: dict[str, Astrometry] = {}
    medians, wrong = [], 0
    for path in sorted(folder.glob("1180_*.fits")):
        sources, guess = hsc_detector(path)
        try:
            match = solve.run(sources, references, guess, HSC_SHAPE, HSC_MJD)
        except TaskError as error:
            print(f"promptdia: {path.name}: {error}", file=sys.stderr)
            wrong += 1
            continue
        centre = np.array([HSC_SHAPE[1] / 2]), np.array([HSC_SHAPE[0] / 2])
        moved = separation_arcsec(*match.wcs.pixel_to_sky(*centre), *guess.pixel_to_sky(*centre))
        wrong += bool(moved[0] > WRONG_ARCSEC)
        medians.append(1000 * float(np.median(match.separation_arcsec[match.used])))
        solved[path.stem] = match
    picture = draw_matches(solved, references, root / "hsc.png")
    return (
        {
            "hsc median residual, worst detector, mas": max(medians),
            "hsc detectors matched wrongly or not": float(wrong),
        },
        f"HSC, {len(solved)} detectors: residuals to Gaia, median {np.median(medians):.1f} mas",
        [picture],
    )


def hsc_detector(path: Path) -> tuple[Catalog, FitsWcs]:
    """Centroids of one detector and the WCS of its header."""
    with fits.open(path) as hdus, warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        header, table = hdus[0].header.copy(), hdus[1].data
        header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
        sources = SOURCE.empty(len(table))
        for name in ("x", "y", "xErr", "yErr"):
            sources[name] = table[name]
        return sources, FitsWcs.from_header(header)


def lux(base: Path, root: Path) -> tuple[dict[str, float], str, list[Path]]:
    """A night of a small telescope from raw, with its own bias and dark frames."""
    repository = calibrated(CAMPAIGNS["lux2713"], base, root / "lux2713")
    stars = repeats(repository, CAMPAIGNS["lux2713"].sky, np.inf)
    pictures = [
        draw_field(_first(repository), root / "lux2713-field.png"),
        draw_repeats(stars, root / "lux2713-repeats.png"),
    ]
    return (
        {
            "lux2713 position rms per axis, px": float(np.median(stars.position_rms)),
            "lux2713 flux scatter of bright stars": float(np.median(stars.scatter)),
        },
        f"lux2713, {stars.x.size} bright stars in {stars.fwhm.size} frames",
        pictures,
    )


def saao(base: Path, root: Path) -> tuple[dict[str, float], str, list[Path]]:
    """A crowded field over seventeen nights; frames with seeing under 7 pixels."""
    repository = calibrated(CAMPAIGNS["saao"], base, root / "saao")
    all_stars = repeats(repository, CAMPAIGNS["saao"].sky, 7.0)
    stars = all_stars.brightest(COMPARISON_STARS)
    pictures = [
        draw_field(_first(repository), root / "saao-field.png"),
        draw_repeats(all_stars, root / "saao-repeats.png"),
    ]
    return (
        {"saao flux scatter of comparison stars": float(np.median(stars.scatter))},
        f"saao, {stars.x.size} comparison stars in {stars.fwhm.size} frames (all "
        f"{all_stars.x.size} stars of S/N > {BRIGHT_SNR:g}: {np.median(all_stars.scatter):.1%})",
        pictures,
    )


def calibrated(campaign: Campaign, base: Path, root: Path) -> Repository:
    """A repository with every frame calibrated against the stars of one of them."""
    folder = _there(base / campaign.folder)
    if root.exists() and any(root.iterdir()):
        raise ConfigError(f"{root} exists and is not empty; give another --root or remove it")
    repository = Repository.create(root, campaign.instrument)
    files = sorted(path for pattern in campaign.frames for path in folder.glob(pattern))
    refused = ingest(repository, files, None, False).refused
    if campaign.master_flat:
        refused += ingest(repository, [folder / campaign.master_flat], "flat", True).refused
        build_calibrations(repository)
    if refused:
        raise InputError(refused[0][1])
    visits = {visit.id % 100_000: visit.id for visit in repository.visits()}
    bootstrap(repository, visits[campaign.sky], 0, ZERO_POINT)
    for visit in visits.values():
        outcome = calibrate_frame(root, visit, 0)
        if outcome.status != "done":
            print(f"promptdia: visit {visit}: {outcome.reason}", file=sys.stderr)
    return repository


def repeats(repository: Repository, sky: int, max_fwhm: float) -> Repeats:
    """Bright, unsaturated stars, followed from frame to frame by their place on the sky."""
    frames = [f for f in map(int, _visits(repository)) if _has_sources(repository, f)]
    exposures = {f: _exposure(repository, f) for f in frames}
    tables = {f: read_catalog(repository.product(f, 0, "sources.parquet"), SOURCE) for f in frames}
    fwhm = {f: _fwhm(tables[f]) for f in frames}
    frames = [f for f in frames if fwhm[f] < max_fwhm]
    first = next(f for f in frames if f % 100_000 == sky)
    stars = tables[first][_bright(tables[first])]
    wcs = exposures[first].wcs
    x, y, flux = (np.full((stars.size, len(frames)), np.nan) for _ in range(3))
    for k, frame in enumerate(frames):
        table = tables[frame]
        table = table[~table["flag_saturated"] & ~table["flag_edge"] & ~table["flag_bad"]]
        px, py = wcs.sky_to_pixel(table["ra"], table["dec"])
        near, row = cKDTree(np.column_stack([px, py])).query(
            np.column_stack([stars["x"], stars["y"]]), distance_upper_bound=2.0
        )
        seen = np.isfinite(near)
        x[seen, k], y[seen, k] = px[row[seen]], py[row[seen]]
        flux[seen, k] = table["psfFlux"][row[seen]]
    often = np.isfinite(flux).mean(axis=1) >= SEEN_IN
    x, y, flux = x[often], y[often], flux[often]
    spread = np.sqrt((np.nanvar(x, axis=1) + np.nanvar(y, axis=1)) / 2)
    middle = np.nanmedian(flux, axis=1, keepdims=True)
    scatter = 1.4826 * np.nanmedian(np.abs(flux / middle - 1), axis=1)
    return Repeats(
        np.nanmean(x, axis=1),
        np.nanmean(y, axis=1),
        spread,
        flux,
        scatter,
        np.array([fwhm[f] for f in frames]),
    )


def _bright(sources: Catalog) -> Any:
    good = sources["psfFlux"] > BRIGHT_SNR * sources["psfFluxErr"]
    for flag in ("flag_saturated", "flag_edge", "flag_bad", "flag_blended"):
        good &= ~sources[flag]
    return good


def _fwhm(sources: Catalog) -> float:
    used = sources["calib_psf_used"]
    return float(np.median(sources["fwhm"][used])) if used.any() else np.inf


def _visits(repository: Repository) -> list[int]:
    return [visit.id for visit in repository.visits()]


def _has_sources(repository: Repository, visit: int) -> bool:
    return repository.product(visit, 0, "sources.parquet").exists()


def _exposure(repository: Repository, visit: int) -> ScienceExposure:
    path = repository.product(visit, 0, "calexp.fits")
    return read_exposure(path, repository.detector(0), ScienceExposure)


def _first(repository: Repository) -> tuple[ScienceExposure, Catalog]:
    visit = next(v for v in _visits(repository) if _has_sources(repository, v))
    sources = read_catalog(repository.product(visit, 0, "sources.parquet"), SOURCE)
    return _exposure(repository, visit), sources


def _there(folder: Path) -> Path:
    if not folder.is_dir():
        raise ConfigError(f"no real data in {folder}; name the folder above it with --data")
    return folder


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/real frames", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder that holds the data sets' folders")
    parser.add_argument("--root", type=Path, help="folder to make (default: ./real-calibrated)")
    parser.add_argument("--json", action="store_true", help="print one JSON object and no more")
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
