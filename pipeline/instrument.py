"""A camera, described by one YAML file: geometry, electronics, filters, header translation."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from promptdia.pipeline.errors import ConfigError
from promptdia.pipeline.yaml import build, read_yaml
from promptdia.tasks.model.visit import Amplifier, Box, Detector


@dataclass(frozen=True)
class AmplifierSpec:
    """One readout channel; boxes are [x0, x1, y0, y1], 0-based, end exclusive."""

    data: tuple[int, int, int, int]
    """Light-sensitive pixels in the raw array."""
    target: tuple[int, int, int, int]
    """The same pixels on the assembled detector."""
    gain: float
    """Electrons per ADU."""
    read_noise: float
    """Electrons."""
    saturation: float
    """ADU, bias included."""
    overscan: tuple[int, int, int, int] | None = None
    flip_x: bool = False
    flip_y: bool = False
    linearity: tuple[float, ...] = ()
    """c2, c3, ...: v ADU above the overscan stand for v + c2 v^2 + c3 v^3 + ..."""
    extension: str | int | None = None
    """FITS extension of this amplifier, where each has its own; its boxes lie there."""


@dataclass(frozen=True)
class DetectorSpec:
    """One CCD."""

    id: int
    size: tuple[int, int]
    """nx, ny of the assembled image."""
    pixel_scale: float
    """Arcsec per pixel."""
    amplifiers: tuple[AmplifierSpec, ...]
    name: str = ""
    center: tuple[float, float] = (0.0, 0.0)
    """Arcsec from the boresight, +x west and +y north at rotation 0."""
    rotation: float = 0.0
    """Degrees, counter-clockwise in the focal plane."""
    flip: bool = False
    """True when the image is mirrored."""
    extension: str | int | None = None
    """FITS extension of this detector in files that hold several."""
    crosstalk: tuple[tuple[float, ...], ...] = ()
    """Row v, column s: ADU in amplifier v per ADU in amplifier s; pixels at the same place of
    their data boxes are read at the same time."""


@dataclass(frozen=True)
class HeaderRule:
    """Where one quantity stands in a foreign header. Give one of key, value, filename."""

    key: str | None = None
    """Header card; two names joined by ``+`` are joined with a ``T`` (date and time)."""
    value: str | float | int | None = None
    """The same for every frame of this camera."""
    filename: str | None = None
    """Regular expression; its first group is the value."""
    map: dict[str, str | float | int] = field(default_factory=dict)
    """Translation of the value found, spaces trimmed."""
    unit: str = ""
    """deg (default) or hourangle, for ra; isot or mjd (default), for times."""
    scale: str = "tai"
    """Time scale of the value: tai or utc."""
    default: str | float | int | None = None
    """Taken when the card is absent."""


@dataclass(frozen=True)
class InstrumentSpec:
    """The whole YAML file."""

    name: str
    detectors: tuple[DetectorSpec, ...]
    header: dict[str, HeaderRule] = field(default_factory=dict)
    """Per quantity: kind, camera, detector, sequence, visit, band, mjd_start, mjd_mid, exposure_s,
    ra, dec, rotation, airmass, reason, target, photzp. Absent: promptdia's own card."""
    binning: int = 1
    """Frames are binned by this; sizes, boxes and pixel scales are those of unbinned ones."""
    pipeline: dict[str, Any] = field(default_factory=dict)
    """Pipeline settings this camera needs; a repository's own settings go on top."""


@dataclass(frozen=True)
class Instrument:
    """A camera as the pipeline sees it."""

    name: str
    detectors: dict[int, Detector]
    header: dict[str, HeaderRule]
    extensions: dict[int, tuple[str | int, ...]]
    """FITS extensions of a detector, for files that hold several: one for the whole detector, or
    one per amplifier, which lie side by side in the repository's frames."""
    pipeline: dict[str, Any]

    def detector(self, number: int) -> Detector:
        """The detector of that id."""
        try:
            return self.detectors[number]
        except KeyError:
            known = ", ".join(str(i) for i in sorted(self.detectors))
            raise ConfigError(
                f"instrument {self.name} has no detector {number}; it has {known}"
            ) from None


def load_instrument(name: str | Path) -> Instrument:
    """Read a camera: one of those shipped, by name, or a YAML file of your own."""
    return _assemble(build(InstrumentSpec, read_yaml(_find(name)), f"instrument {name}"))


def known_instruments() -> list[str]:
    """Names of the cameras that promptdia ships."""
    folder = files("promptdia.configs.instruments")
    return sorted(p.name[:-5] for p in folder.iterdir() if p.name.endswith(".yaml"))


def _find(name: str | Path) -> Path:
    if str(name).endswith((".yaml", ".yml")):
        return Path(name)
    if str(name) not in known_instruments():
        raise ConfigError(
            f"no instrument named {name}; known are {', '.join(known_instruments())}, "
            "or give the path of a YAML file"
        )
    return Path(str(files("promptdia.configs.instruments") / f"{name}.yaml"))


def _assemble(spec: InstrumentSpec) -> Instrument:
    detectors = {d.id: _detector(d, spec.binning) for d in spec.detectors}
    if len(detectors) != len(spec.detectors):
        raise ConfigError(f"instrument {spec.name} lists a detector id twice")
    extensions = {d.id: _extensions(d) for d in spec.detectors}
    given = {number: found for number, found in extensions.items() if found}
    return Instrument(spec.name, detectors, spec.header, given, spec.pipeline)


def _extensions(spec: DetectorSpec) -> tuple[str | int, ...]:
    own = () if spec.extension is None else (spec.extension,)
    of_amplifiers = tuple(a.extension for a in spec.amplifiers if a.extension is not None)
    if not of_amplifiers:
        return own
    if own or len(of_amplifiers) != len(spec.amplifiers):
        raise ConfigError(
            f"detector {spec.id}: give extension for the detector or for each of its amplifiers"
        )
    return of_amplifiers


def _detector(spec: DetectorSpec, binning: int) -> Detector:
    if binning < 1:
        raise ConfigError(f"binning is {binning}, must be at least 1")
    if any(a.linearity and a.overscan is None for a in spec.amplifiers):
        raise ConfigError(f"detector {spec.id}: linearity counts from the overscan, give both")
    nx, ny = _binned(spec.size, binning)
    n = len(spec.amplifiers)
    if spec.crosstalk and [len(row) for row in spec.crosstalk] != [n] * n:
        raise ConfigError(
            f"detector {spec.id}: crosstalk must be {n} rows of {n}, one per amplifier"
        )
    return Detector(
        id=spec.id,
        name=spec.name or str(spec.id),
        nx=nx,
        ny=ny,
        pixel_scale_arcsec=spec.pixel_scale * binning,
        amplifiers=tuple(_amplifiers(spec, binning)),
        offset_x_arcsec=spec.center[0],
        offset_y_arcsec=spec.center[1],
        rotation_deg=spec.rotation,
        flip=spec.flip,
        crosstalk=spec.crosstalk,
    )


def _amplifiers(spec: DetectorSpec, binning: int) -> Iterator[Amplifier]:
    """Those of extensions of their own side by side, as ``ingest`` puts them."""
    across = 0
    for amplifier in spec.amplifiers:
        made = _amplifier(amplifier, binning, across)
        if amplifier.extension is not None:
            across = max(b.x1 for b in (made.data, made.overscan) if b)
        yield made


def _amplifier(spec: AmplifierSpec, binning: int, across: int) -> Amplifier:
    def box(edges: tuple[int, int, int, int]) -> Box:
        x0, x1, y0, y1 = _binned(edges, binning)
        return Box(x0 + across, x1 + across, y0, y1)

    return Amplifier(
        data=box(spec.data),
        target=Box(*_binned(spec.target, binning)),
        overscan=box(spec.overscan) if spec.overscan else None,
        gain=spec.gain,
        read_noise=spec.read_noise,
        saturation=spec.saturation,
        flip_x=spec.flip_x,
        flip_y=spec.flip_y,
        linearity=spec.linearity,
    )


def _binned(pixels: Iterable[int], binning: int) -> tuple[int, ...]:
    for n in pixels:
        if n % binning:
            raise ConfigError(f"{n} pixels cannot be binned by {binning} without a rest")
    return tuple(n // binning for n in pixels)
