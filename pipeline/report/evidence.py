"""What the truth report compares: truth, alerts, outcomes; and the limits it applies."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints

STATIONARY = ("supernova", "variable")
MOVING = ("asteroid",)
POINTS = STATIONARY + MOVING


@dataclass(frozen=True, slots=True)
class TruthConfig:
    """Limits of the definitions."""

    match_radius_arcsec: float = 1.0
    """Farthest an alert may lie from its truth."""
    complete_snr: float = 6.0
    """Completeness, usable fraction and flux pulls count epochs from this S/N on."""
    real_snr: float = 3.0
    """An alert is real when its true epoch reaches this S/N."""
    faintest_snr: float = 1.0
    """Fainter epochs cannot be the cause of a detection and are not matched."""
    bright_snr: float = 20.0
    """Astrometry and flux bias use epochs from this S/N on."""
    longest_point_arcsec: float = 2.0
    """An asteroid drawn out longer than this counts as a trail."""
    streak_radius_arcsec: float = 2.0
    """An alert this near to a trail or a satellite's track lies on it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one visit-detector ended: its summary.json."""

    visit: int
    detector: int
    status: str
    """done, no_work or failed."""
    reason: str = ""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Task: seconds, in the order of execution."""
    template_visits: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """All that the report compares."""

    epochs: Catalog
    """TRUTH_EPOCH rows (pipeline.sim.truth) of every visit, the template's visits included."""
    sigma_njy: Floats
    """(n_epochs,) error of the PSF flux on the difference at each epoch; nan where none is."""
    usable: Bools
    """(n_epochs,) True where the epoch lies inside and on unmasked pixels."""
    alerts: Catalog
    """DIA_SOURCE rows that were alerted, with diaObjectId (0 for none)."""
    rejected: Catalog
    """REJECTED rows: detections that were not alerted, with the rule that stopped each."""
    outcomes: Sequence[Outcome]
    n_dia_objects: int
    committed: Ints
    """Ids of the alerts that the APDB holds."""
    delivered: Ints
    """Ids read back from the stream, as often as they came."""
