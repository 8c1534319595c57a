"""Photometric pixels whatever the electronics: one simulated sky through four cameras."""

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from lib.fields import Field, simulate
from lib.photometry import ENOUGH_STARS, repeatability, zero_point
from lib.results import Checks, Rows, check, verdict

from promptdia.pipeline.sim import SURVEYS, SimulatedSurvey, Survey
from promptdia.pipeline.sim.scene import sky_image
from promptdia.pipeline.sim.surveys import Night, Population
from promptdia.tasks.calibrate import Calibrated, CalibrateImage
from promptdia.tasks.model.arrays import Floats
from promptdia.tasks.model.mask import MaskPlane, has

OVERSCAN = 32
APERTURE_PX = 5
"""Side of the square apertures."""
FAINT = 0.1
"""An aperture is empty with less true light than this part of its noise."""
SPOILT = ~(MaskPlane.SUSPECT | MaskPlane.DETECTED)
"""An aperture with any other plane is left out."""


@dataclass(frozen=True)
class Variant:
    """One way to read the same detector."""

    name: str
    columns: int = 1
    rows: int = 1
    """Amplifiers across and up; the upper row is read from the top."""
    overscan: int = OVERSCAN
    binning: int = 1


VARIANTS = (
    Variant("1 amplifier"),
    Variant("16 amplifiers", 8, 2),
    Variant("no overscan", overscan=0),
    Variant("2x binned", 2, 1, binning=2),
)


def checks(seed: int, quick: bool) -> tuple[Checks, Rows]:
    """Noise of empty apertures, zero point and repeatability, each for every camera."""
    results: Checks = []
    rows: Rows = []
    for variant in VARIANTS[1::2] if quick else VARIANTS:
        size = 512 if quick else 1024
        with tempfile.TemporaryDirectory() as folder:
            survey = survey_through(variant, size, Path(folder))
            fields = simulate(survey, seed, visits=2)
            light = [true_light(survey, seed, field) for field in fields]
        done = [CalibrateImage().run(field.exposure(), field.references) for field in fields]
        pulls = np.concatenate([empty_pulls(*each) for each in zip(done, light)])
        width = float(pulls[np.abs(pulls) < 5.0].std())
        offsets = [float(zero_point(*pair)["zero_point_mmag"]) for pair in zip(fields, done)]
        scatter, noise, stars = repeatability(*done)
        rows.append(
            {
                "what": f"pixels, {variant.name}",
                "apertures": int(pulls.size),
                "pull_width": width,
                "pull_mean": float(pulls.mean()),
                "zero_point_mmag": max(offsets, key=abs),
                "stars": stars,
                "scatter_mmag": scatter,
                "photon_noise_mmag": noise,
            }
        )
        results.append(check(f"{variant.name}: pull of empty apertures", width, "0.98 to 1.02"))
        for name, value, needed in (
            ("zero point, mmag", max(map(abs, offsets)), "<= 3"),
            ("repeatability, mmag", scatter, "<= 5"),
        ):
            found = verdict(f"{variant.name}: {name}", value, needed, stars, ENOUGH_STARS)
            results, rows = results + found[0], rows + found[1]
    return results, rows


def survey_through(variant: Variant, size: int, folder: Path) -> Survey:
    """Two visits of a moderately crowded sky with a camera of ``size`` (binned) pixels a side."""
    path = folder / "camera.yaml"
    path.write_text(yaml.safe_dump(camera(variant, size * variant.binning)))
    sky = Population(stars_to_21=12.0, galaxies_to_24=6.0, faintest=24.0, galaxy_shapes=12)
    return replace(
        SURVEYS["small"],
        name="variant",
        instrument=str(path),
        nights=(Night(20260930, 1, template=True), Night(20261110, 2, seeing_arcsec=(0.8, 1.0))),
        population=sky,
        dither_arcsec=5.0,
    )


def camera(variant: Variant, size: int) -> dict[str, Any]:
    """An instrument as its YAML has it; every other amplifier is less sensitive and noisier."""
    nx, ny = size // variant.columns, size // variant.rows
    scan = variant.overscan * variant.binning
    amplifiers = []
    for number in range(variant.columns * variant.rows):
        row, column = divmod(number, variant.columns)
        x0, y0 = column * (nx + scan), row * ny
        amplifiers.append(
            {
                "data": [x0, x0 + nx, y0, y0 + ny],
                "target": [column * nx, (column + 1) * nx, y0, y0 + ny],
                "overscan": [x0 + nx, x0 + nx + scan, y0, y0 + ny] if scan else None,
                "gain": 1.5 + 0.2 * (number % 2),
                "read_noise": 6.0 + 2.0 * (number % 2),
                "saturation": 60000,
                "flip_y": row > 0,
                "linearity": [3e-7, 1e-12],
            }
        )
    n = len(amplifiers)
    crosstalk = 2e-4 * (1.0 - np.eye(n)) / (1 + np.abs(np.subtract.outer(range(n), range(n))))
    detector = {
        "id": 0,
        "size": [size, size],
        "pixel_scale": 0.3 / variant.binning,
        "amplifiers": amplifiers,
        "crosstalk": crosstalk.tolist() if n > 1 else [],
    }
    # without overscan nobody knows where zero is, so the response cannot be straightened
    for amplifier in amplifiers:
        if not scan:
            del amplifier["linearity"]
    return {"name": "variant", "binning": variant.binning, "detectors": [detector]}


def true_light(survey: Survey, seed: int, field: Field) -> Floats:
    """(ny, nx) electrons expected of stars and galaxies alone."""
    return SimulatedSurvey(survey, seed).light(field.frame) - sky_image(field.frame)


def empty_pulls(done: Calibrated, light: Floats) -> Floats:
    """Flux over its error in squares without light."""
    science = done.science
    scale = science.photo_calib.njy_per_count if science.photo_calib else 1.0
    flux, variance, bad, source = (
        _sums(plane)
        for plane in (science.image, science.variance, has(science.mask, SPOILT), light * scale)
    )
    empty = (bad == 0) & (source < FAINT * np.sqrt(variance))
    pulls: Floats = (flux / np.sqrt(variance))[empty]
    return pulls


def _sums(plane: Any) -> Floats:
    """Sums over squares of APERTURE_PX a side."""
    ny, nx = (n // APERTURE_PX * APERTURE_PX for n in plane.shape)
    cut = np.asarray(plane, float)[:ny, :nx]
    squares = cut.reshape(ny // APERTURE_PX, APERTURE_PX, nx // APERTURE_PX, APERTURE_PX)
    sums: Floats = squares.sum(axis=(1, 3))
    return sums
