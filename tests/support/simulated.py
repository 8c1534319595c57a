"""One number for all the bytes that a simulated survey delivers."""

import hashlib

from promptdia.pipeline.sim import SURVEYS, SimulatedSurvey


def digest_of_tiny(seed: int) -> str:
    """SHA-256 of a frame, a calibration frame, the references and the truth of ``tiny``."""
    survey = SimulatedSurvey(SURVEYS["tiny"], seed)
    visit = survey.science_visits[1]
    parts = (
        survey.raw(visit, 1).pixels,
        survey.references(),
        survey.truth_objects(),
        survey.truth_epochs(visit, 1),
        next(iter(survey.calibration_frames(0))).frame.pixels,
    )
    return hashlib.sha256(b"".join(p.tobytes() for p in parts)).hexdigest()
