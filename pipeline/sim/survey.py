"""The simulated survey as a whole: visits, raw and calibration frames, references, truth."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import galsim
import numpy as np

from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.instrument import load_instrument
from promptdia.pipeline.sim.camera import Sensor, bleed, build_sensor, collect, read_out
from promptdia.pipeline.sim.cosmic import add_cosmic_rays
from promptdia.pipeline.sim.epochs import changing, frame_truth
from promptdia.pipeline.sim.observing import mjd_of_night, plan
from promptdia.pipeline.sim.optics import PsfGrid, field_corners, psf_grid, true_wcs
from promptdia.pipeline.sim.plates import galaxy_plates, galaxy_shapes, star_plates
from promptdia.pipeline.sim.references import reference_catalog
from promptdia.pipeline.sim.scene import Frame, light
from promptdia.pipeline.sim.seeds import generator
from promptdia.pipeline.sim.sky import Region, populate
from promptdia.pipeline.sim.surveys import Survey
from promptdia.tasks.model.arrays import Catalog, Image
from promptdia.tasks.model.exposure import RawFrame
from promptdia.tasks.model.visit import Detector, Visit
from promptdia.tasks.model.wcs import local_cd, nominal_wcs

FLAT_EXPOSURE_S = 5.0
EDGE_ARCSEC = 20.0
"""The sky is populated this far beyond what any visit sees."""


@dataclass(frozen=True, slots=True, eq=False)
class CalibrationFrame:
    """One bias, dark or flat as the camera wrote it."""

    kind: str
    """bias, dark or flat."""
    exposure_s: float
    band: str
    """Only for flats, else ''."""
    mjd: float
    """Middle of the exposure, TAI."""
    frame: RawFrame


class SimulatedSurvey:
    """Everything a survey of that seed delivers; each frame is drawn when asked for.

    A frame depends only on (survey, seed, visit, detector): not on what was asked before.
    """

    def __init__(self, survey: Survey, seed: int) -> None:
        self.survey = survey
        self.seed = seed
        self.instrument = load_instrument(survey.instrument)
        self.conditions = {c.visit.id: c for c in plan(survey, seed)}
        self._corners = field_corners(list(self.instrument.detectors.values()))
        self._radius_arcsec = float(np.hypot(*self._corners).max())
        self._sensors: dict[int, Sensor] = {}

    @property
    def visits(self) -> list[Visit]:
        """All, in time order."""
        return [c.visit for c in self.conditions.values()]

    @property
    def template_visits(self) -> list[int]:
        """Ids of the visits meant for templates."""
        return [c.visit.id for c in self.conditions.values() if c.template]

    @property
    def science_visits(self) -> list[int]:
        """Ids of the other visits."""
        return [c.visit.id for c in self.conditions.values() if not c.template]

    def references(self) -> Catalog:
        """The reference catalogue, REFERENCE."""
        return reference_catalog(self._objects, self.survey.bands, self.seed)

    def truth_objects(self) -> Catalog:
        """Everything in the sky, TRUTH_OBJECT."""
        return self._objects.copy()

    def truth_epochs(self, visit: int, detector: int) -> Catalog:
        """The changing objects on one frame, TRUTH_EPOCH."""
        return frame_truth(self.frame(visit, detector), self._objects)

    def frame(self, visit: int, detector: int) -> Frame:
        """How that frame really was: conditions, true WCS, light per nJy."""
        if visit not in self.conditions:
            raise ConfigError(
                f"survey {self.survey.name} has no visit {visit}; its first is {self.visits[0].id}"
            )
        camera, conditions = self.instrument.detector(detector), self.conditions[visit]
        wcs = true_wcs(self.survey, conditions, camera, self._radius_arcsec, self.seed)
        return Frame(self.survey, conditions, camera, wcs, self._radius_arcsec)

    def psf(self, frame: Frame) -> PsfGrid:
        """The true PSF of that frame."""
        return psf_grid(self.survey, frame.conditions, frame.detector, self._radius_arcsec)

    def light(self, frame: Frame) -> Image:
        """(ny, nx) electrons that frame would expect with a perfect detector, sky included."""
        placed, grid = frame.place(self._objects), self.psf(frame)
        to_pixel = local_cd(frame.wcs, *frame.detector_centre)[0] * 3600.0
        is_changing = changing(placed.objects)
        galaxies = galaxy_plates(grid, self._galaxy_shapes, to_pixel)
        return light(
            frame, placed.only(~is_changing), placed.only(is_changing), star_plates(grid), galaxies
        )

    def raw(self, visit: int, detector: int) -> RawFrame:
        """The frame as the camera wrote it, with the WCS that its header promises."""
        frame, sensor = self.frame(visit, detector), self.sensor(detector)
        observed, rng = frame.conditions.visit, generator(self.seed, "noise", visit, detector)
        electrons = collect(sensor, self.light(frame), observed.exposure_s, rng)
        electrons = bleed(electrons, sensor.full_well)
        rate = self.survey.cosmic_rays
        electrons = add_cosmic_rays(electrons, observed.exposure_s, rate, rng)
        pixels = read_out(sensor, electrons, rng)
        return RawFrame(pixels, observed, frame.detector, nominal_wcs(observed, frame.detector))

    def sensor(self, detector: int) -> Sensor:
        """The CCD with its flaws."""
        if detector not in self._sensors:
            camera = self.instrument.detector(detector)
            self._sensors[detector] = build_sensor(camera, self._radius_arcsec, self.seed)
        return self._sensors[detector]

    def calibration_frames(self, detector: int) -> Iterator[CalibrationFrame]:
        """Biases, darks and flats per band, taken the afternoon before the first night."""
        survey = self.survey
        plans = [("bias", 0.0, "")] * survey.n_bias
        plans += [("dark", survey.dark_exposure_s, "")] * survey.n_dark
        plans += [("flat", FLAT_EXPOSURE_S, band) for band in survey.bands] * survey.n_flat
        for number, (kind, exposure_s, band) in enumerate(plans, start=1):
            visit = self._calibration_visit(kind, exposure_s, band, number)
            yield self._calibration_frame(visit, self.instrument.detector(detector))

    def _calibration_visit(self, kind: str, exposure_s: float, band: str, number: int) -> Visit:
        first = self.survey.nights[0].day_obs
        return Visit(
            id=first * 100_000 + 90_000 + number,
            band=band,
            mjd_tai=mjd_of_night(first) - 0.2 + number * 0.002,
            exposure_s=exposure_s,
            ra_deg=0.0,
            dec_deg=0.0,
            observation_reason=kind,
        )

    def _calibration_frame(self, visit: Visit, detector: Detector) -> CalibrationFrame:
        kind, sensor = visit.observation_reason, self.sensor(detector.id)
        rng = generator(self.seed, "calibration", visit.id, detector.id)
        lamp = None
        if kind == "flat":
            level = self.survey.flat_electrons * rng.uniform(0.95, 1.05)
            lamp = np.full(detector.shape, level, np.float32)
        electrons = np.zeros(detector.shape, np.float32)
        if kind != "bias":
            electrons = collect(sensor, lamp, visit.exposure_s, rng)
            rate = self.survey.cosmic_rays
            electrons = add_cosmic_rays(electrons, visit.exposure_s, rate, rng)
        frame = RawFrame(
            read_out(sensor, electrons, rng), visit, detector, nominal_wcs(visit, detector)
        )
        return CalibrationFrame(kind, visit.exposure_s, visit.band, visit.mjd_tai, frame)

    @cached_property
    def _objects(self) -> Catalog:
        survey = self.survey
        turned = self._radius_arcsec * np.sin(np.deg2rad(survey.rotation_deg))
        margin = turned + survey.dither_arcsec + 3.0 * survey.pointing_error_arcsec + EDGE_ARCSEC
        east, north = (float(v) + margin for v in np.abs(self._corners).max(axis=1))
        region = Region(survey.ra_deg, survey.dec_deg, (east, north))
        return populate(survey, region, list(self.conditions.values()), self.seed)

    @cached_property
    def _galaxy_shapes(self) -> list[galsim.GSObject]:
        n = self.survey.population.galaxy_shapes
        return galaxy_shapes(n, generator(self.seed, "shapes"))
