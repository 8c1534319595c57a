"""What was observed and with what: visits, detectors, amplifiers."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Visit:
    """One exposure of the whole camera."""

    id: int
    """yyyymmddNNNNN: day of observation and sequence number."""
    band: str
    """One of u g r i z y."""
    mjd_tai: float
    """Midpoint of the exposure, MJD in TAI."""
    exposure_s: float
    ra_deg: float
    """Boresight, ICRS."""
    dec_deg: float
    rotation_deg: float = 0.0
    """Position angle of the focal plane's +y axis, north through east."""
    airmass: float = 1.0
    observation_reason: str = ""
    target_name: str = ""

    @property
    def day_obs(self) -> int:
        """Day of observation, yyyymmdd."""
        return self.id // 100_000


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle of pixels, 0-based, end exclusive."""

    x0: int
    x1: int
    y0: int
    y1: int

    @property
    def slices(self) -> tuple[slice, slice]:
        """Index for an array [y, x]."""
        return slice(self.y0, self.y1), slice(self.x0, self.x1)

    @property
    def size(self) -> tuple[int, int]:
        """(nx, ny)."""
        return self.x1 - self.x0, self.y1 - self.y0


@dataclass(frozen=True, slots=True)
class Amplifier:
    """One readout channel."""

    data: Box
    """Where its light-sensitive pixels lie in the raw array."""
    target: Box
    """Where they go in the assembled detector."""
    overscan: Box | None
    """Serial overscan in the raw array; None when the camera has none."""
    gain: float
    """Electrons per ADU."""
    read_noise: float
    """Electrons."""
    saturation: float
    """ADU (bias included) from which a pixel counts as saturated."""
    flip_x: bool = False
    flip_y: bool = False
    linearity: tuple[float, ...] = ()
    """c2, c3, ...: a signal of v ADU above the overscan stands for v + c2 v^2 + c3 v^3 + ...;
    none where the amplifier is linear."""


@dataclass(frozen=True, slots=True)
class Detector:
    """One CCD of the camera and its place in the focal plane."""

    id: int
    name: str
    nx: int
    ny: int
    """Size of the assembled image."""
    pixel_scale_arcsec: float
    amplifiers: tuple[Amplifier, ...]
    offset_x_arcsec: float = 0.0
    """Detector centre from the boresight along the focal plane's +x (west at rotation 0)."""
    offset_y_arcsec: float = 0.0
    rotation_deg: float = 0.0
    """Of the detector's axes in the focal plane, counter-clockwise."""
    flip: bool = False
    """True when the image is mirrored: east is right of north."""
    crosstalk: tuple[tuple[float, ...], ...] = ()
    """Row v, column s: ADU that appear in amplifier v per ADU in amplifier s, in the pixel at the
    same place of its data box; none where there is no crosstalk."""

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx) of the assembled image."""
        return self.ny, self.nx

    @property
    def read_noise(self) -> float:
        """Mean read noise over the amplifiers, electrons."""
        return sum(a.read_noise for a in self.amplifiers) / len(self.amplifiers)

    @property
    def gain(self) -> float:
        """Mean gain over the amplifiers, electrons per ADU."""
        return sum(a.gain for a in self.amplifiers) / len(self.amplifiers)
