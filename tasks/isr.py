"""Instrument signature removal: the raw frame becomes electrons with variance and mask."""

from dataclasses import dataclass

import numpy as np

from promptdia.tasks.errors import NoUsablePixels, TaskError
from promptdia.tasks.interpolate import coordinates, fill_in_place
from promptdia.tasks.kernels.isr import correct_rows
from promptdia.tasks.model.arrays import Image, Mask
from promptdia.tasks.model.calibrations import Calibrations, MasterFrame
from promptdia.tasks.model.exposure import Exposure, RawFrame
from promptdia.tasks.model.mask import MaskPlane, has
from promptdia.tasks.parallel import over_strips
from promptdia.tasks.readout import (
    OverscanMode,
    Readout,
    ReadoutSteps,
    WrongShape,
    overscan_mode,
    read_out,
)

FLAT_STRIDE = 8
"""Every 8th pixel along each axis tells the level of a flat."""
UNUSABLE = MaskPlane.BAD | MaskPlane.SAT | MaskPlane.NO_DATA


@dataclass(frozen=True, slots=True)
class IsrConfig:
    """Which steps are done, in the order of the fields."""

    suspect_fraction: float = 0.9
    """SUSPECT from this part of the saturation on."""
    overscan: OverscanMode = "amplifier"
    """One level per ``amplifier``, one per ``row``, or ``none``."""
    crosstalk: bool = True
    """Subtract what amplifiers see of each other, where the camera has coefficients."""
    linearity: bool = True
    """Straighten the response, where the camera has coefficients."""
    bias: bool = True
    """Subtract the master bias, where there is one."""
    dark: bool = True
    """Subtract the master dark times the exposure time, where there is one."""
    flat: bool = True
    """Divide by the master flat, where there is one."""
    min_flat: float = 0.05
    """A pixel with less sensitivity than this is BAD."""
    defects: bool = True
    """Mark the known defects BAD, where they are known."""
    interpolate: bool = True
    """Fill BAD, SAT and NO_DATA pixels from their neighbours; the planes stay set."""

    @property
    def readout(self) -> ReadoutSteps:
        """The steps that frames and masters have in common."""
        return ReadoutSteps(self.overscan, self.crosstalk, self.linearity)


class WrongCalibration(TaskError):
    """A master frame that does not belong to the frame it should correct."""


@dataclass(frozen=True, slots=True)
class RemoveSignature:
    """Take out what the camera put in."""

    config: IsrConfig

    def run(self, raw: RawFrame, calib: Calibrations) -> Exposure:
        """The assembled exposure in electrons, sky included; ``notes`` say what was done.

        The variance is that of the electrons counted (sky and dark current included) plus the
        read noise and the errors of the masters, carried through the flat. Raises WrongShape,
        WrongCalibration, or NoUsablePixels for a frame without a single good pixel.
        """
        cfg = self.config
        readout = read_out(raw, cfg.readout, cfg.suspect_fraction)
        masters = self._masters(raw, calib)
        self._correct(readout, masters, raw.visit.exposure_s)
        image, variance, mask = readout.image, readout.read_variance, readout.mask
        if cfg.defects and calib.defects is not None:
            _require_shape("defects", calib.defects.shape, raw)
            mask[calib.defects] |= MaskPlane.BAD.value
        gap = has(mask, UNUSABLE)
        if gap.all():
            raise NoUsablePixels("frame", "every pixel is bad, saturated or without data")
        pixels = coordinates(gap)
        if cfg.interpolate:
            fill_in_place(image, variance, mask, pixels, gap)
        lost = has(mask[pixels], MaskPlane.NO_DATA)
        variance[pixels[0][lost], pixels[1][lost]] = np.inf
        notes = self._notes(raw, readout, masters, calib, mask[pixels])
        return Exposure(image, mask, variance, raw.wcs, raw.visit, raw.detector, notes=notes)

    def _correct(
        self, readout: Readout, masters: dict[str, MasterFrame], exposure_s: float
    ) -> None:
        """Apply the masters to the planes of ``readout``, whose variance becomes the image's."""
        bias, dark, flat = (_planes(masters.get(kind)) for kind in ("bias", "dark", "flat"))

        def work(first: int, end: int) -> None:
            correct_rows(
                readout.image,
                readout.read_variance,
                readout.mask,
                bias,
                dark,
                exposure_s,
                flat,
                self.config.min_flat,
                MaskPlane.BAD.value,
                MaskPlane.NO_DATA.value,
                first,
                end,
            )

        over_strips(work, readout.image.shape[0], 256)

    def _masters(self, raw: RawFrame, calib: Calibrations) -> dict[str, MasterFrame]:
        """The masters that are wanted and given, checked against the frame."""
        wanted = (
            ("bias", self.config.bias, calib.bias),
            ("dark", self.config.dark, calib.dark),
            ("flat", self.config.flat, calib.flat),
        )
        masters = {kind: master for kind, use, master in wanted if use and master is not None}
        for kind, master in masters.items():
            _require_match(kind, master, raw)
        if "bias" in masters:
            _require_level(masters["bias"], overscan_mode(raw.detector, self.config.overscan))
        return masters

    def _notes(
        self,
        raw: RawFrame,
        readout: Readout,
        masters: dict[str, MasterFrame],
        calib: Calibrations,
        flagged: Mask,
    ) -> dict[str, str | float | int | bool]:
        amplifiers = raw.detector.amplifiers
        return {
            "ISROVSC": overscan_mode(raw.detector, self.config.overscan),
            "ISROLEV": readout.overscan_adu,
            "ISRXTALK": self.config.crosstalk and bool(raw.detector.crosstalk),
            "ISRLIN": self.config.linearity and any(a.linearity for a in amplifiers),
            "ISRBIAS": "bias" in masters,
            "ISRDARK": "dark" in masters,
            "ISRFLAT": "flat" in masters,
            "ISRDEFE": self.config.defects and calib.defects is not None,
            "ISRINTP": self.config.interpolate,
            "NPIXSAT": int(has(flagged, MaskPlane.SAT).sum()),
            "NPIXBAD": int(has(flagged, MaskPlane.BAD).sum()),
            "NPIXNODA": int(has(flagged, MaskPlane.NO_DATA).sum()),
        }


def counting_variance(electrons: Image, read_variance: Image) -> Image:
    """Variance of a pixel that counted ``electrons``: Poisson plus read noise, (ny, nx).

    A count below zero lowers the sum, so that its mean over an empty frame is right, but not
    below a quarter of the read noise squared.
    """
    result: Image = np.maximum(read_variance + electrons, 0.25 * read_variance)
    return result


def _planes(master: MasterFrame | None) -> tuple[Image, Image]:
    """Image and variance as the kernel wants them, empty for no master."""
    if master is None:
        return np.empty((0, 0), np.float32), np.empty((0, 0), np.float32)
    return (
        np.ascontiguousarray(master.image, np.float32),
        np.ascontiguousarray(master.variance, np.float32),
    )


def _require_match(kind: str, master: MasterFrame, raw: RawFrame) -> None:
    if master.kind != kind:
        raise WrongCalibration(f"the {kind} given is a master {master.kind}")
    if master.detector != raw.detector.id:
        raise WrongCalibration(
            f"master {kind} is of detector {master.detector}, the frame of {raw.detector.id}"
        )
    if kind == "flat" and master.band and raw.visit.band and master.band != raw.visit.band:
        raise WrongCalibration(
            f"master flat is in band {master.band}, the frame in {raw.visit.band}"
        )
    _require_shape(f"master {kind}", master.image.shape, raw)
    _require_shape(f"variance of the master {kind}", master.variance.shape, raw)
    if kind == "flat":
        level = float(np.nanmedian(master.image[::FLAT_STRIDE, ::FLAT_STRIDE]))
        # all zero is a dead detector and has its own sentence
        if level and not 0.2 < level < 5.0:
            raise WrongCalibration(
                f"master flat has median {level:.3g}, must be divided by its mean"
            )


def _require_level(bias: MasterFrame, mode: str) -> None:
    """A bias from which the level is taken does not go with a frame from which it is not."""
    if bias.overscan and (bias.overscan == "none") != (mode == "none"):
        raise WrongCalibration(
            f"master bias was made with overscan {bias.overscan}, the frame is read with {mode}; "
            "run promptdia calib again"
        )


def _require_shape(what: str, shape: tuple[int, ...], raw: RawFrame) -> None:
    if shape != raw.detector.shape:
        raise WrongShape(f"{what} has shape {shape}, the detector {raw.detector.shape}")
