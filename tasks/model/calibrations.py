"""Master calibration frames and the set that holds for one detector on one date."""

from dataclasses import dataclass, field

from promptdia.tasks.model.arrays import Bools, Image


@dataclass(frozen=True, slots=True, eq=False)
class MasterFrame:
    """A combined bias, dark or flat on the assembled detector."""

    kind: str
    """bias (electrons), dark (electrons per second) or flat (mean 1)."""
    image: Image
    """(ny, nx)."""
    variance: Image
    """Of ``image``, in its unit squared."""
    detector: int
    band: str = ""
    """Only for flats."""
    inputs: dict[str, str] = field(default_factory=dict)
    """File name and SHA-256 of each frame that went in."""
    camera: str = ""
    """Name of the instrument; empty when nobody said."""
    overscan: str = ""
    """What was subtracted: ``amplifier``, ``row`` or ``none``; empty when nobody said."""


@dataclass(frozen=True, slots=True, eq=False)
class Calibrations:
    """What ISR may use; None where the camera needs none or its frames come corrected."""

    bias: MasterFrame | None = None
    dark: MasterFrame | None = None
    flat: MasterFrame | None = None
    defects: Bools | None = None
    """(ny, nx) True on bad pixels."""
