"""Simulated frames with their masters and their truth, as benchmarks need them."""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.spatial import cKDTree

from promptdia.pipeline.sim import SURVEYS, SimulatedSurvey, Survey
from promptdia.pipeline.sim.optics import PsfGrid
from promptdia.pipeline.sim.scene import Frame, Placed
from promptdia.tasks.calibrate import Calibrated, CalibrateImage
from promptdia.tasks.calibs import combine_bias, combine_dark, combine_flat, find_defects
from promptdia.tasks.isr import IsrConfig, RemoveSignature
from promptdia.tasks.model.arrays import Bools, Catalog, Floats
from promptdia.tasks.model.calibrations import Calibrations
from promptdia.tasks.model.exposure import Exposure, RawFrame


@dataclass(frozen=True, eq=False)
class Field:
    """One raw frame, what calibrates it, and what is really there."""

    raw: RawFrame
    calibrations: Calibrations
    references: Catalog
    frame: Frame
    psf: PsfGrid
    response: float
    """Mean sensitivity of the pixels, which the flat field takes for 1."""
    stars: Placed
    """Point sources on the frame: true pixels and fluxes."""

    def exposure(self) -> Exposure:
        """The frame in electrons, signature removed."""
        return RemoveSignature(IsrConfig()).run(self.raw, self.calibrations)

    def truth_of(self, x: Floats, y: Floats, radius: float = 1.0) -> tuple[Bools, np.ndarray]:
        """(n,) whether a true star lies within ``radius`` pixels of each position, and which."""
        tree = cKDTree(np.column_stack([self.stars.x, self.stars.y]))
        distance, row = tree.query(np.column_stack([x, y]), distance_upper_bound=radius)
        found = np.isfinite(distance)
        return found, np.where(found, row, 0)


@cache
def standard(seed: int, quick: bool) -> tuple[Field, ...]:
    """Two visits of one 4k detector, of a 1k detector when ``quick``; made once."""
    return tuple(simulate(survey_of(quick), seed, visits=2))


@cache
def calibrated(seed: int, quick: bool) -> tuple[Calibrated, ...]:
    """The visits of ``standard`` as the pipeline calibrates them."""
    run = CalibrateImage().run
    return tuple(run(field.exposure(), field.references) for field in standard(seed, quick))


def survey_of(quick: bool) -> Survey:
    """One 4k detector; ``quick``: one of 1k, with as many stars per pixel."""
    return SURVEYS["small" if quick else "ccd4k"]


def simulate(survey: Survey, seed: int, visits: int = 1) -> list[Field]:
    """The first science visits of the first detector of a survey."""
    sim = SimulatedSurvey(survey, seed)
    number = min(sim.instrument.detectors)
    calibrations, references = masters(sim, number), sim.references()
    fields = []
    for visit in sim.science_visits[:visits]:
        frame = sim.frame(visit, number)
        placed = frame.place(sim.truth_objects())
        stars = placed.only(placed.objects["kind"] == "star")
        raw = sim.raw(visit, number)
        response = float(sim.sensor(number).response.mean(dtype=float))
        fields.append(Field(raw, calibrations, references, frame, sim.psf(frame), response, stars))
    return fields


def masters(sim: SimulatedSurvey, number: int) -> Calibrations:
    """Master frames of one detector, combined from the survey's calibration frames."""
    taken = list(sim.calibration_frames(number))
    of = {kind: [c.frame for c in taken if c.kind == kind] for kind in ("bias", "dark", "flat")}
    bias = combine_bias(of["bias"])
    dark = combine_dark(of["dark"], bias)
    flat = combine_flat(of["flat"], bias, dark, taken[-1].band)
    return Calibrations(bias, dark, flat, find_defects(bias, dark, flat))
