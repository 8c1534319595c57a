"""FITS files as some observatory's camera would write them, and a repository for that camera."""

from pathlib import Path

import numpy as np
from astropy.io import fits

from promptdia.pipeline.repository import Repository
from promptdia.tasks.model.arrays import Floats

NX, NY = 48, 40
BIAS_ADU = 1000

CAMERA = """
name: hilltop
detectors:
  - id: 4
    size: [48, 40]
    pixel_scale: 0.5
    amplifiers:
      - data: [0, 48, 0, 40]
        target: [0, 48, 0, 40]
        overscan: [48, 52, 0, 40]
        gain: 2.0
        read_noise: 6.0
        saturation: 60000
header:
  kind: {key: OBSTYPE, map: {OBJECT: raw, ZERO: bias, DARK: dark, SKYFLAT: flat}}
  detector: {value: 4}
  sequence: {key: FRAMENO}
  band: {key: FILTER, map: {Clear: r, Blue: g}}
  mjd_start: {key: DATE+UT, unit: isot, scale: utc}
  exposure_s: {key: EXPOSED}
  ra: {key: TELRA}
  dec: {key: TELDEC}
  target: {key: FIELD, default: ""}
"""

MOSAIC = """
name: twochips
detectors:
  - id: 1
    size: [48, 40]
    pixel_scale: 0.5
    extension: IM1
    center: [-12, 0]
    amplifiers:
      - {data: [0, 48, 0, 40], target: [0, 48, 0, 40], gain: 2, read_noise: 6, saturation: 6e4}
  - id: 2
    size: [48, 40]
    pixel_scale: 0.5
    extension: IM2
    center: [12, 0]
    amplifiers:
      - {data: [0, 48, 0, 40], target: [0, 48, 0, 40], gain: 2, read_noise: 6, saturation: 6e4}
"""


def make_repository(folder: Path, camera: str = CAMERA) -> Repository:
    """An empty repository in ``folder``/root for a camera given as YAML."""
    path = folder / "camera.yaml"
    path.write_text(camera)
    return Repository.create(folder / "root", str(path))


def counts(seed: int = 0, level: float = 200.0, overscan: int = 4) -> Floats:
    """(NY, NX + overscan) whole ADU: bias everywhere, ``level`` more on the data section."""
    pixels = np.random.default_rng(seed).normal(BIAS_ADU, 3.0, (NY, NX + overscan))
    pixels[:, :NX] += level
    return np.rint(pixels)


def foreign_header(kind: str = "OBJECT", frame: int = 7, **cards: object) -> fits.Header:
    """What the hilltop camera writes; keyword arguments replace cards, None drops one."""
    header = fits.Header()
    header["OBSTYPE"] = kind
    header["FRAMENO"] = frame
    header["FILTER"] = "Clear  "
    header["DATE"] = "2024-03-05"
    header["UT"] = "03:20:30.5"
    header["EXPOSED"] = 60.0
    header["TELRA"] = "10:30:00.0"
    header["TELDEC"] = "-15:30:00"
    header["FIELD"] = "M 104"
    for name, value in cards.items():
        if value is None:
            del header[name]
        else:
            header[name] = value
    return header


def write_foreign(path: Path, header: fits.Header, pixels: Floats | None = None) -> Path:
    """A 16-bit frame of the hilltop camera."""
    data = (counts() if pixels is None else pixels).astype(np.uint16)
    fits.PrimaryHDU(data, header=header).writeto(path)
    return path


def calibrated_header(**cards: object) -> fits.Header:
    """The cards that a calibrated frame from elsewhere must carry, and a celestial WCS."""
    header = fits.Header()
    header["VISIT"] = 2024030500007
    header["DETECTOR"] = 4
    header["BAND"] = "r"
    header["MJD-AVG"] = 60374.25
    header["EXPTIME"] = 60.0
    header["BORE-RA"] = 157.5
    header["BORE-DEC"] = -15.5
    header["PHOTZP"] = 27.0
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = 157.5, -15.5
    header["CRPIX1"], header["CRPIX2"] = NX / 2 + 0.5, NY / 2 + 0.5
    header["CD1_1"], header["CD2_2"] = -0.5 / 3600, 0.5 / 3600
    header["CD1_2"], header["CD2_1"] = 0.0, 0.0
    for name, value in cards.items():
        key = name.replace("_", "-") if name.startswith(("MJD", "DATE", "BORE")) else name
        if value is None:
            del header[key]
        else:
            header[key] = value
    return header
