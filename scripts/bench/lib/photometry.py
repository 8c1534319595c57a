"""Zero point against the truth, and repeatability between two visits."""

import numpy as np
from lib.fields import Field, calibrated, standard
from lib.results import Checks, Rows, verdict
from scipy.spatial import cKDTree

from promptdia.tasks.calibrate import Calibrated
from promptdia.tasks.model.arrays import Bools, Catalog, Floats
from promptdia.tasks.model.photo_calib import AB_ZERO_NJY
from promptdia.tasks.model.psf import polynomial_terms

BRIGHT_SNR = 100.0
MAG_PER_LN = 2.5 / np.log(10.0)
MATCH_ARCSEC = 0.3
ENOUGH_STARS = 100
"""With fewer, chance alone moves zero points and scatters by a third of their limits."""


def checks(seed: int, quick: bool) -> tuple[Checks, Rows]:
    """Zero point of each visit, and how well bright stars repeat from one to the other."""
    rows: Rows = [
        zero_point(field, done)
        for field, done in zip(standard(seed, quick), calibrated(seed, quick))
    ]
    scatter, noise, n = repeatability(*calibrated(seed, quick))
    rows.append(
        {
            "what": "repeatability, two visits",
            "stars": n,
            "scatter_mmag": scatter,
            "photon_noise_mmag": noise,
            "beyond_noise_mmag": float(np.sqrt(max(scatter**2 - noise**2, 0.0))),
        }
    )
    visits = rows[:-1]
    least = min(n, *(int(r["stars"]) for r in visits))
    results: Checks = []
    for name, value, needed in (
        ("zero point error, mmag", max(abs(r["zero_point_mmag"]) for r in visits), "<= 3"),
        ("flux of bright stars, mmag", max(abs(r["flux_mmag"]) for r in visits), "<= 3"),
        ("repeatability, S/N > 100, mmag", scatter, "<= 5"),
    ):
        found = verdict(name, value, needed, least, ENOUGH_STARS)
        results, rows = results + found[0], rows + found[1]
    return results, rows


def zero_point(field: Field, done: Calibrated) -> dict[str, float | str]:
    """What a count is worth, and what the PSF fluxes of bright stars come to, less the truth.

    The trend is the largest deviation over the detector of a quadratic fitted to the stars.
    """
    per_njy = field.frame.electrons_per_njy * field.response
    truth = AB_ZERO_NJY + 2.5 * np.log10(per_njy)
    stars = done.sources[bright(done.sources)]
    found, row = field.truth_of(stars["x"], stars["y"])
    stars, flux = stars[found], field.stars.flux_njy[row[found]]
    off = -2500.0 * np.log10(stars["psfFlux"] / flux)
    typical = np.abs(off - np.median(off)) < 50.0
    ny, nx = field.raw.detector.shape
    terms = polynomial_terms(2 * stars["x"] / nx - 1, 2 * stars["y"] / ny - 1, 2)
    fit = np.linalg.lstsq(terms[typical], off[typical], rcond=None)[0]
    u, v = (g.ravel() for g in np.meshgrid(np.linspace(-1, 1, 9), np.linspace(-1, 1, 9)))
    surface = polynomial_terms(u, v, 2) @ fit
    return {
        "what": f"photometry of visit {done.science.visit.id}",
        "stars": int(stars.size),
        "zero_point_mmag": 1000.0 * (done.summary["zeroPoint"] - truth),
        "flux_mmag": float(np.median(off)),
        "flux_scatter_mmag": robust(off),
        "trend_mmag": float(np.abs(surface - np.median(surface)).max()),
    }


def repeatability(first: Calibrated, second: Calibrated) -> tuple[float, float, int]:
    """Scatter and photon noise (mmag) of one measurement, and the number of stars."""
    a, b = (done.sources[bright(done.sources)] for done in (first, second))
    scale = np.cos(np.deg2rad(float(np.median(a["dec"]))))
    sky = [np.column_stack([s["ra"] * scale, s["dec"]]) for s in (a, b)]
    distance, row = cKDTree(sky[1]).query(sky[0], distance_upper_bound=MATCH_ARCSEC / 3600)
    near = np.isfinite(distance)
    a, b = a[near], b[row[near]]
    apart = 2500.0 * np.log10(a["psfFlux"] / b["psfFlux"])
    noise = 1000.0 * MAG_PER_LN * np.hypot(*(s["psfFluxErr"] / s["psfFlux"] for s in (a, b)))
    return robust(apart) / np.sqrt(2), float(np.median(noise)) / np.sqrt(2), int(a.size)


def bright(sources: Catalog) -> Bools:
    """S/N above 100, undisturbed, alone."""
    good: Bools = sources["psfFlux"] > BRIGHT_SNR * sources["psfFluxErr"]
    for flag in ("flag_saturated", "flag_bad", "flag_edge", "flag_blended"):
        good &= ~sources[flag]
    return good & ~(sources["extendedness"] > 0.5)


def robust(values: Floats) -> float:
    """Standard deviation from the median absolute deviation about the median."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))
