"""Cosmic rays on simulated stars: what is found, what is falsely found, and which stars suffer.

Recall is over pixels in which a track left more than 5 sigma of the pixel's noise (that of
stars and sky included), purity over pixels found: those in which it left more than 1 sigma.
The saturated and the image's border do not count. A star is lost when a pixel within 2 px of
its centre is taken for a ray and no track passed within 1 px of that pixel.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from lib.results import Checks, Rows, check, verdict
from scipy.ndimage import binary_dilation, label, maximum_filter

from promptdia.pipeline.sim import SURVEYS, SimulatedSurvey
from promptdia.pipeline.sim.cosmic import add_cosmic_rays
from promptdia.pipeline.sim.surveys import Night, Population
from promptdia.tasks.background import BackgroundConfig, SubtractBackground
from promptdia.tasks.cosmic_rays import CosmicRayConfig, FindCosmicRays
from promptdia.tasks.model.arrays import Bools, Floats, Ints
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.sources import DetectSources, SourceConfig

PIXEL_ARCSEC = 0.3
"""Of survey small."""
READ_NOISE = 7.0
FULL_WELL = 90_000.0
TRACKS_PER_MPX = 25
"""Those of a 100 s exposure at the rate of the simulated surveys."""
MANY_TRACKS_PER_MPX = 100
CASES = (
    (1.5, TRACKS_PER_MPX),
    (1.8, TRACKS_PER_MPX),
    (1.8, MANY_TRACKS_PER_MPX),
    (2.5, TRACKS_PER_MPX),
    (2.5, MANY_TRACKS_PER_MPX),
    (4.0, TRACKS_PER_MPX),
)
"""FWHM in pixels, and tracks per million pixels."""
ENOUGH_TRACKS = 60
"""With fewer, one track is more than the part that may be missed allows."""
NEAR = np.ones((3, 3))


@dataclass(frozen=True, eq=False)
class Scene:
    """An exposure and what is really on it."""

    exposure: Exposure
    """Electrons, sky subtracted."""
    sky: Floats
    tracks: Floats
    """Electrons of cosmic rays."""
    noise: Floats
    """Of each pixel without them."""
    x: Ints
    y: Ints
    """Pixels of the stars."""


def checks(seed: int, quick: bool) -> tuple[Checks, Rows]:
    """Recall, purity and lost stars by the width of the PSF, beside astroscrappy."""
    results: Checks = []
    rows: Rows = []
    for fwhm, density in CASES[1:2] if quick else CASES:
        scenes = [scene(fwhm, seed + i, density) for i in range(1 if quick else 4)]
        case = f"FWHM {fwhm} px, {density} tracks per Mpx"
        measured = [_seeing(s.exposure) for s in scenes]

        def ours(s: Scene, width: float) -> Bools:
            return FindCosmicRays(CosmicRayConfig()).find(s.exposure, width)[0]

        row = judged(f"cosmic rays, {case}", ours, scenes, measured)
        rows.append(row | {"fwhm_measured": float(np.mean(measured))})
        try:
            import astroscrappy  # noqa: F401  # only whether it is there
        except ImportError as absent:
            rows.append({"what": "cosmic rays, astroscrappy", "reason": str(absent)})
        else:
            rows.append(judged(f"  astroscrappy, {case}", _astroscrappy, scenes, measured))
        if fwhm >= 1.8:
            for part in ("recall", "purity"):
                name, n = f"cosmic rays {part}, {case}", int(row["tracks"])
                found = verdict(name, row[part], ">= 0.95", n, ENOUGH_TRACKS, "tracks")
                results, rows = results + found[0], rows + found[1]
            results.append(check(f"stars lost, {case}", row["stars_lost"], "<= 0.001"))
    return results, rows


def scene(fwhm_px: float, seed: int, tracks_per_mpx: float = TRACKS_PER_MPX) -> Scene:
    """One crowded detector of 1k at that seeing, struck by cosmic rays."""
    seeing = fwhm_px * PIXEL_ARCSEC
    survey = replace(
        SURVEYS["small"],
        nights=(
            Night(20260930, 1, template=True),
            Night(20261110, 1, seeing_arcsec=(seeing, seeing)),
        ),
        population=Population(stars_to_21=60.0, galaxies_to_24=10.0, faintest=24.0),
    )
    sim = SimulatedSurvey(survey, seed)
    number = min(sim.instrument.detectors)
    frame = sim.frame(sim.science_visits[0], number)
    rng = np.random.default_rng(seed)
    light = sim.light(frame).astype(float)
    tracks = add_cosmic_rays(np.zeros(light.shape, np.float32), 1.0, tracks_per_mpx, rng)
    counted = rng.poisson(light) + tracks + rng.normal(0.0, READ_NOISE, light.shape)
    saturated = binary_dilation(counted > FULL_WELL, NEAR)
    image = np.minimum(counted, FULL_WELL).astype(np.float32)
    exposure = Exposure(
        image,
        np.where(saturated, MaskPlane.SAT.value, 0).astype(np.int32),
        np.maximum(image + READ_NOISE**2, READ_NOISE**2 / 4).astype(np.float32),
        frame.wcs,
        frame.conditions.visit,
        frame.detector,
    )
    flat, sky = SubtractBackground(BackgroundConfig()).run(exposure)
    placed = frame.place(sim.truth_objects())
    x, y = (np.rint(v[placed.objects["kind"] == "star"]).astype(int) for v in (placed.x, placed.y))
    inside = (x >= 0) & (x < frame.detector.nx) & (y >= 0) & (y < frame.detector.ny)
    return Scene(flat, sky, tracks, np.sqrt(light + READ_NOISE**2), x[inside], y[inside])


def judged(
    what: str, find: Callable[[Scene, float], Bools], scenes: list[Scene], fwhm: list[float]
) -> dict[str, float | str]:
    """Recall, purity, lost stars, tracks of which nothing was found, and CPU time."""
    start = time.process_time()
    masks = [find(s, width) for s, width in zip(scenes, fwhm)]
    seconds = time.process_time() - start
    counts = np.sum([_counts(s, found) for s, found in zip(scenes, masks)], axis=0)
    wanted, hit, found, true, stars, lost, tracks, missed = counts
    return {
        "what": what,
        "recall": hit / wanted,
        "purity": true / max(found, 1),
        "stars_lost": lost / stars,
        "stars": int(stars),
        "tracks": int(tracks),
        "tracks_missed": int(missed),
        "seconds": seconds / len(scenes),
    }


def _counts(s: Scene, found: Bools) -> list[float]:
    usable = ~has(s.exposure.mask, MaskPlane.SAT)
    usable[[0, -1]] = usable[:, [0, -1]] = False
    found = found & usable
    wanted = (s.tracks > 5.0 * s.noise) & usable
    true = found & (s.tracks > s.noise)
    groups, n = label(wanted, NEAR)
    seen = np.unique(groups[found & (groups > 0)]).size
    stray = found & ~binary_dilation(s.tracks > s.noise, NEAR)
    lost = maximum_filter(stray, 5)[s.y, s.x]
    return [
        wanted.sum(), (found & wanted).sum(), found.sum(), true.sum(),
        lost.size, lost.sum(), n, n - seen,
    ]  # fmt: skip


def _seeing(exposure: Exposure) -> float:
    return float(DetectSources(SourceConfig()).seeing(exposure))


def _astroscrappy(s: Scene, fwhm: float) -> Bools:
    import astroscrappy

    found: Bools = astroscrappy.detect_cosmics(
        (s.exposure.image + s.sky).astype(np.float32),
        inmask=has(s.exposure.mask, MaskPlane.SAT),
        gain=1.0,
        readnoise=READ_NOISE,
        satlevel=FULL_WELL,
        psfmodel="gauss",
        psffwhm=fwhm,
    )[0]
    return found
