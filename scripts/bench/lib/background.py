"""A big galaxy and the halo of a bright star: how much of their light the sky takes away."""

import numpy as np
from lib.results import Checks, Rows, verdict

from promptdia.pipeline.instrument import load_instrument
from promptdia.tasks.background import BackgroundConfig, SubtractBackground
from promptdia.tasks.model.arrays import Bools, Floats, Image
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.visit import Visit
from promptdia.tasks.model.wcs import nominal_wcs

SIZE = 1024
SKY, READ_NOISE = 1200.0, 7.0
GALAXY_SCALE_PX, GALAXY_FLUX = 20.0, 3e6
"""An exponential disc of 34 px half-light radius, r = 16 in a 30 s visit of survey small."""
STAR_FLUX, STAR_FWHM_PX, STAR_BETA = 3e7, 3.0, 2.5
"""A Moffat star whose halo can be seen out to 100 px; its core is saturated."""
SCENES = 8
"""The wings of other stars in the halo make single scenes differ by 2 % of its light."""
FULL_WELL = 90_000.0


def checks(seed: int, quick: bool) -> tuple[Checks, Rows]:
    """Part of the light lost to the sky: of the galaxy within 4 scale lengths, of the halo."""
    scenes = [scene(seed, number) for number in range(2 if quick else SCENES)]
    subtract = SubtractBackground(BackgroundConfig())
    mine = averaged("sky, promptdia", [judged(subtract.run(e)[1], light) for e, light in scenes])
    results: Checks = []
    rows: Rows = [mine]
    for name, value, needed in (
        ("galaxy light lost to the sky", mine["galaxy_lost"], "-0.01 to 0.01"),
        ("star's halo lost to the sky", mine["halo_lost"], "-0.03 to 0.03"),
    ):
        found = verdict(name, float(value), needed, len(scenes), SCENES, "scenes")
        results, rows = results + found[0], rows + found[1]
    try:
        from photutils.background import Background2D, MedianBackground, SExtractorBackground
    except ImportError as absent:
        return results, [*rows, {"what": "sky, photutils", "reason": str(absent)}]
    for estimator in (MedianBackground(), SExtractorBackground()):
        theirs = [
            Background2D(
                exposure.image, 128, mask=exposure.mask != 0, filter_size=3, bkg_estimator=estimator
            ).background
            for exposure, _ in scenes
        ]
        each = [judged(sky, light) for sky, (_, light) in zip(theirs, scenes)]
        rows.append(averaged(f"sky, photutils {type(estimator).__name__}", each))
    return results, rows


def averaged(what: str, scenes: list[dict[str, float]]) -> dict[str, float | str]:
    """Mean of each number over the scenes, and the scatter of the first two."""
    row: dict[str, float | str] = {"what": what, "scenes": len(scenes)}
    for name in scenes[0]:
        values = [one[name] for one in scenes]
        row[name] = float(np.mean(values))
        if name.endswith("_lost"):
            row[f"{name}_scatter"] = float(np.std(values))
    return row


def scene(seed: int, number: int) -> tuple[Exposure, dict[str, Image]]:
    """A galaxy, a bright star and 400 others on a sloped sky; the light of the two and the sky."""
    rng = np.random.default_rng((seed, number))
    y, x = np.mgrid[:SIZE, :SIZE].astype(float)
    sky = SKY * (1.0 + 0.04 * x / SIZE - 0.03 * (y / SIZE) ** 2)
    r = np.hypot((x - 330.0) / 0.8, (y - 360.0) * 0.8)
    disc = GALAXY_FLUX / (2 * np.pi * GALAXY_SCALE_PX**2) * np.exp(-r / GALAXY_SCALE_PX)
    star = moffat(np.hypot(x - 700.0, y - 690.0), STAR_FLUX)
    field = np.zeros((SIZE, SIZE))
    for x0, y0, flux in zip(*rng.uniform(0, SIZE - 1, (2, 400)), 10 ** rng.uniform(2.5, 5.0, 400)):
        near = np.s_[max(0, int(y0) - 40) : int(y0) + 41, max(0, int(x0) - 40) : int(x0) + 41]
        field[near] += moffat(np.hypot(x[near] - x0, y[near] - y0), flux)
    counted = rng.poisson(sky + disc + star + field) + rng.normal(0.0, READ_NOISE, sky.shape)
    image = np.minimum(counted, FULL_WELL).astype(np.float32)
    mask = np.where(image >= FULL_WELL, MaskPlane.SAT.value, 0).astype(np.int32)
    variance = np.maximum(image + READ_NOISE**2, 1.0).astype(np.float32)
    detector = load_instrument("sim-small").detector(0)
    visit = Visit(2026111000001, "r", 61354.0, 30.0, 150.0, -12.0)
    exposure = Exposure(image, mask, variance, nominal_wcs(visit, detector), visit, detector)
    return exposure, {"sky": sky, "galaxy": disc, "halo": star, "r_galaxy": r}


def moffat(r: Floats, flux: float) -> Floats:
    """Light per pixel of a star at distance ``r`` of its centre."""
    alpha = STAR_FWHM_PX / 2 / np.sqrt(2 ** (1 / STAR_BETA) - 1)
    profile: Floats = (
        flux * (STAR_BETA - 1) / (np.pi * alpha**2) * (1 + (r / alpha) ** 2) ** (-STAR_BETA)
    )
    return profile


def judged(background: Image, light: dict[str, Image]) -> dict[str, float]:
    """What the sky model holds beyond the sky, over the light of galaxy and halo; its noise."""
    excess = background - light["sky"]
    sigma = float(np.sqrt(SKY + READ_NOISE**2))
    galaxy: Bools = light["r_galaxy"] < 4.0 * GALAXY_SCALE_PX
    # the halo: where it is between a fifth of the noise and five times the noise
    halo: Bools = (light["halo"] > 0.2 * sigma) & (light["halo"] < 5.0 * sigma)
    far = (light["halo"] + light["galaxy"]) < 0.02 * sigma
    return {
        "galaxy_lost": float(excess[galaxy].sum() / light["galaxy"][galaxy].sum()),
        "halo_lost": float(excess[halo].sum() / light["halo"][halo].sum()),
        "elsewhere_sigma": float(excess[far].std() / sigma),
        "elsewhere_bias_sigma": float(excess[far].mean() / sigma),
    }
