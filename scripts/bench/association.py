"""How right association is, and how fast.

A simulated month (catalogue level, 5 % of the objects have a neighbour within 2 arcsec) graded
against its truth by both methods; real LSSTComCam sources against LSST's own association, at
0.5 arcsec, where LSST's radius was; and the time of association and of object summaries beside
astropy and pandas doing less. Milliseconds are medians.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from lib.association_grade import associate_all, comcam_sources, grade_month, pair_agreement
from lib.results import Checks, Rows, check, parser, publish
from lib.sky_month import Month, observe

from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE, DIA_OBJECT, DIA_SOURCE
from promptdia.tasks.associate import AssociateConfig, AssociateSources
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.summarize import SummarizeObjects

METHODS = ("closest", "likelihood")
MONTHS = {"5 % blends": Month(), "10 % blends": Month(blended=0.10)}


def month_rows(seed: int, quick: bool) -> tuple[Checks, Rows]:
    """Several months of each kind; the check is of all their sources together."""
    checks: Checks = []
    rows: Rows = []
    for name, month in MONTHS.items():
        if quick:
            month = replace(month, n_objects=300, side_arcsec=280.0, nights=8, false_per_visit=3.0)
        months = [observe(month, seed + k) for k in range(1 if quick else 3)]
        for method in METHODS:
            grades = [grade_month(visits, AssociateConfig(method=method)) for visits in months]
            n = np.array([grade.n_sources for grade in grades])
            correct, majority, blended = (
                float(np.average([getattr(grade, key) for grade in grades], weights=n))
                for key in ("correct", "majority", "correct_blended")
            )
            rows.append(
                {
                    "what": f"{name}, {method}",
                    "sources": int(n.sum()),
                    "correct": round(correct, 4),
                    "worst month": round(min(grade.correct for grade in grades), 4),
                    "in blends": round(blended, 4),
                    "majority": round(majority, 4),
                    "duplicate objects": sum(grade.n_duplicates for grade in grades),
                }
            )
            if name == "5 % blends":
                checks.append(check(f"association_correct, {name}, {method}", correct, ">= 0.995"))
    return checks, rows


def comcam_rows() -> tuple[Checks, Rows]:
    """Pair completeness and purity against LSST's association."""
    found = comcam_sources()
    if found is None:
        return [], [
            {"what": "LSSTComCam", "reason": "no data; name their folder in PROMPTDIA_DATA"}
        ]
    visits, lsst = found
    checks: Checks = []
    rows: Rows = []
    for radius in (0.5, 1.0):
        for method in METHODS:
            config = AssociateConfig(radius_arcsec=radius, method=method)
            ours = associate_all(visits, config)["diaObjectId"]
            complete, pure = pair_agreement(ours, lsst)
            what = f'LSSTComCam, {radius}", {method}'
            rows.append(
                {
                    "what": what,
                    "pair completeness": round(complete, 4),
                    "pair purity": round(pure, 4),
                }
            )
            if (radius, method) == (0.5, "closest"):
                checks.append(check(f"{what}, pair completeness", complete, ">= 0.995"))
                checks.append(check(f"{what}, pair purity", pure, ">= 0.995"))
    return checks, rows


def speed_rows(seed: int, quick: bool) -> tuple[Checks, Rows]:
    """Association of 1,000 sources with 10,000 objects; summaries of 1,000 with 100 points."""
    rng = np.random.default_rng(seed)
    sources, objects = crowd(rng, 1000, 10_000)
    checks: Checks = []
    rows: Rows = []
    repeats = 3 if quick else 15
    for method in METHODS:
        task = AssociateSources(AssociateConfig(method=method))
        ms = median_ms(partial(task.run, sources, objects), repeats)
        rows.append({"what": f"associate 1,000 with 10,000, {method}", "ms": ms})
        checks.append(check(f"associate 1,000 with 10,000, {method}, ms", ms, "<= 10"))
    rows.append(
        peer("pairs alone, astropy search_around_sky", lambda: _astropy(sources, objects), 3)
    )
    known = objects[:1000]
    history, forced = (
        light_curves(rng, known, schema, 100) for schema in (DIA_SOURCE, DIA_FORCED_SOURCE)
    )
    summarize = SummarizeObjects().run
    for what, points in (("", forced[:0]), (" and 100 forced", forced)):
        ms = median_ms(partial(summarize, known, history, points), repeats)
        rows.append({"what": f"summarize 1,000 of 100 points{what}", "ms": ms})
        checks.append(check(f"summarize 1,000 of 100 points{what}, ms", ms, "<= 30"))
    rows.append(peer("mean, std, min, max, count, pandas groupby", lambda: _pandas(history), 3))
    return checks, rows


def crowd(rng: np.random.Generator, n_sources: int, n_objects: int) -> tuple[Catalog, Catalog]:
    """Objects on 0.2 x 0.2 degrees and sources 0.1 arcsec from some of them."""
    objects = DIA_OBJECT.empty(n_objects)
    objects["diaObjectId"] = rng.permutation(n_objects) + 1
    objects["ra"], objects["dec"] = rng.uniform(10, 10.2, n_objects), rng.uniform(0, 0.2, n_objects)
    objects["raErr"] = objects["decErr"] = 0.05 / 3600
    objects["validityStartMjdTai"] = 60000.0
    objects["firstDiaSourceMjdTai"] = objects["lastDiaSourceMjdTai"] = 60000.0
    objects["nDiaSources"] = 1
    chosen = rng.permutation(n_objects)[:n_sources]
    sources = DIA_SOURCE.empty(n_sources)
    sources["diaSourceId"] = np.arange(n_sources) + 10**9
    for name in ("ra", "dec"):
        sources[name] = objects[name][chosen] + rng.normal(0, 0.1 / 3600, n_sources)
    sources["raErr"] = sources["decErr"] = 0.1 / 3600
    sources["midpointMjdTai"] = sources["timeProcessedMjdTai"] = 60001.0
    return sources, objects


def light_curves(rng: np.random.Generator, objects: Catalog, schema: Any, points: int) -> Catalog:
    """``points`` measurements of each object in six bands, in time order."""
    rows = schema.empty(objects.size * points)
    rows[schema.columns[0].name] = np.arange(rows.size) + 1
    rows["diaObjectId"] = np.tile(objects["diaObjectId"], points)
    for name in ("ra", "dec"):
        rows[name] = np.tile(objects[name], points) + rng.normal(0, 0.1 / 3600, rows.size)
    if schema is DIA_SOURCE:
        rows["raErr"] = rows["decErr"] = 0.1 / 3600
    rows["midpointMjdTai"] = np.repeat(60000.0 + np.arange(points), objects.size)
    rows["band"] = np.repeat(np.array(list("ugrizy"))[np.arange(points) % 6], objects.size)
    for name in ("psfFlux", "scienceFlux"):
        rows[name] = rng.normal(1000, 100, rows.size)
        rows[f"{name}Err"] = rng.uniform(20, 50, rows.size)
    return rows


def median_ms(call: Callable[[], Any], repeats: int) -> float:
    """Median wall milliseconds, after a first call that compiles."""
    call()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return round(1000 * float(np.median(times)), 2)


def peer(what: str, call: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """The time of a library that does less, or why there is none."""
    try:
        return {"what": what, "ms": median_ms(call, repeats)}
    except ImportError as absent:
        return {"what": what, "reason": str(absent)}


def _astropy(sources: Catalog, objects: Catalog) -> Any:
    from astropy import units
    from astropy.coordinates import SkyCoord, search_around_sky

    one, two = (SkyCoord(rows["ra"], rows["dec"], unit="deg") for rows in (sources, objects))
    return search_around_sky(one, two, 1.0 * units.arcsec)


def _pandas(history: Catalog) -> Any:
    import pandas as pd

    names = ("diaObjectId", "band", "psfFlux", "psfFluxErr")
    frame = pd.DataFrame({name: np.ascontiguousarray(history[name]) for name in names})
    grouped = frame.groupby(["diaObjectId", "band"])["psfFlux"]
    return grouped.agg(["mean", "std", "min", "max", "count"])


def main() -> None:
    """Print a table, or one JSON object."""
    arguments = parser(__doc__, "one small month")
    args = arguments.parse_args()
    checks: Checks = []
    rows: Rows = []
    for found in (
        month_rows(args.seed, args.quick),
        comcam_rows(),
        speed_rows(args.seed, args.quick),
    ):
        checks, rows = checks + found[0], rows + found[1]
    packages = ("promptdia", "numpy", "numba", "scipy", "astropy", "pandas")
    publish("association", checks, rows, packages, args.json)


if __name__ == "__main__":
    main()
