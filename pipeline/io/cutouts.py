"""Cutouts as the FITS bytes that Rubin's alerts carry, and back.

Three HDUs: PRIMARY (float32, nJy), UNCERT (float32 variance) and PSFIMAGE (float64).
astropy's CCDData.read opens them. The bytes are put together here because a
general FITS writer takes a hundred times longer, three times per alert.
"""

import io
import warnings
from functools import lru_cache

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyUserWarning

from promptdia.pipeline.errors import InputError
from promptdia.tasks.model.arrays import Floats, Image
from promptdia.tasks.package import Alert, Cutout, CutoutFrame

_BLOCK = 2880

_Card = tuple[str, bool | int | float | str]


def cutouts_fits(alert: Alert, look_alike: bool = False) -> tuple[bytes, bytes, bytes]:
    """The difference, science and template cutouts of an alert.

    ``look_alike`` leaves out CTYPE, CUNIT and RADESYS, as Rubin does; the WCS is then
    linear and most readers ignore it.
    """
    header = _primary_header(alert.science.frame, alert.science.image.shape, look_alike)
    difference, science, template = (
        b"".join((header, _pixels(c.image, ">f4"), _extensions(c)))
        for c in (alert.difference, alert.science, alert.template)
    )
    return difference, science, template


def read_cutout(data: bytes) -> Cutout:
    """The cutout in FITS bytes; InputError when they are not a cutout."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", AstropyUserWarning)
            with fits.open(io.BytesIO(data), memmap=False) as hdus:
                planes = {hdu.name: np.asarray(hdu.data) for hdu in hdus}
                frame = _read_frame(hdus[0].header)
        image, variance, psf = planes["PRIMARY"], planes["UNCERT"], planes["PSFIMAGE"]
    except KeyError as error:
        raise InputError(f"cutout lacks {error}") from error
    except (OSError, TypeError, ValueError, IndexError, AstropyUserWarning) as error:
        raise InputError(f"cutout of {len(data)} bytes is no FITS file: {error}") from error
    return Cutout(
        frame, image.astype(np.float32), variance.astype(np.float32), psf.astype(np.float64)
    )


def _primary_header(frame: CutoutFrame, shape: tuple[int, ...], look_alike: bool) -> bytes:
    # FITS counts pixels from 1, and CUTMIN is the pixel before the first one.
    cards: list[_Card] = [
        ("SIMPLE", True),
        ("BITPIX", -32),
        ("NAXIS", 2),
        ("NAXIS1", shape[1]),
        ("NAXIS2", shape[0]),
        ("EXTEND", True),
        ("CUTMINX", frame.x0 - 1),
        ("CUTMINY", frame.y0 - 1),
        ("ROTPA", float(frame.rotation_deg)),
        ("BUNIT", "nJy"),
        ("WCSAXES", 2),
        ("CRPIX1", float(frame.x - frame.x0 + 1)),
        ("CRPIX2", float(frame.y - frame.y0 + 1)),
        ("PC1_1", float(frame.cd[0, 0])),
        ("PC1_2", float(frame.cd[0, 1])),
        ("PC2_1", float(frame.cd[1, 0])),
        ("PC2_2", float(frame.cd[1, 1])),
        ("CDELT1", 1.0),
        ("CDELT2", 1.0),
        ("CRVAL1", float(frame.ra)),
        ("CRVAL2", float(frame.dec)),
        ("LATPOLE", 90.0),
        ("MJDREF", 0.0),
    ]
    if not look_alike:
        cards += [
            ("CTYPE1", "RA---TAN"),
            ("CTYPE2", "DEC--TAN"),
            ("CUNIT1", "deg"),
            ("CUNIT2", "deg"),
            ("RADESYS", "ICRS"),
        ]
    return _header(cards)


def _extensions(cutout: Cutout) -> bytes:
    return b"".join(
        (
            _extension_header("UNCERT", -32, cutout.variance.shape),
            _pixels(cutout.variance, ">f4"),
            _extension_header("PSFIMAGE", -64, cutout.psf.shape),
            _pixels(cutout.psf, ">f8"),
        )
    )


@lru_cache(maxsize=256)
def _extension_header(name: str, bitpix: int, shape: tuple[int, ...]) -> bytes:
    cards: list[_Card] = [
        ("XTENSION", "IMAGE"),
        ("BITPIX", bitpix),
        ("NAXIS", 2),
        ("NAXIS1", shape[1]),
        ("NAXIS2", shape[0]),
        ("PCOUNT", 0),
        ("GCOUNT", 1),
    ]
    if name == "UNCERT":
        cards.append(("UTYPE", "VarianceUncertainty"))
    return _header([*cards, ("EXTNAME", name)])


def _header(cards: list[_Card]) -> bytes:
    text = "".join(f"{key:<8}= {_value(value):<70}" for key, value in cards) + f"{'END':<80}"
    return text.ljust(-len(text) % _BLOCK + len(text)).encode("ascii")


def _value(value: bool | int | float | str) -> str:
    if isinstance(value, str):
        return f"'{value:<8}'"
    if isinstance(value, bool):
        return f"{'T' if value else 'F':>20}"
    if isinstance(value, int):
        return f"{value:>20}"
    # The fixed format has 20 columns: as many digits as fit, at least 13.
    text = next(t for digits in (17, 16, 15, 14, 13) if len(t := _digits(value, digits)) <= 20)
    return f"{text:>20}"


def _digits(value: float, digits: int) -> str:
    text = f"{value:.{digits}G}"
    if "." in text:
        return text
    return text.replace("E", ".0E") if "E" in text else f"{text}.0"


def _pixels(image: Image | Floats, dtype: str) -> bytes:
    data = image.astype(dtype).tobytes()
    return data + bytes(-len(data) % _BLOCK)


def _read_frame(header: fits.Header) -> CutoutFrame:
    x0, y0 = int(header["CUTMINX"]) + 1, int(header["CUTMINY"]) + 1
    return CutoutFrame(
        x0=x0,
        y0=y0,
        x=header["CRPIX1"] - 1 + x0,
        y=header["CRPIX2"] - 1 + y0,
        ra=header["CRVAL1"],
        dec=header["CRVAL2"],
        cd=np.array([[header.get(f"PC{i}_{j}", float(i == j)) for j in (1, 2)] for i in (1, 2)]),
        rotation_deg=header.get("ROTPA", np.nan),
    )
