"""A simulated survey: sky, camera, raw frames, calibration frames, references and truth."""

from promptdia.pipeline.sim.survey import CalibrationFrame, SimulatedSurvey
from promptdia.pipeline.sim.surveys import SURVEYS, Survey

__all__ = ["SURVEYS", "CalibrationFrame", "SimulatedSurvey", "Survey"]
