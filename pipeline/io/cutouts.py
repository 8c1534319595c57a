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

_WCSLIB_DIGITS = 14

_Card = tuple[str, bool | int | float | str, str]
"""Keyword, value and comment."""


def cutouts_fits(alert: Alert, look_alike: bool = False) -> tuple[bytes, bytes, bytes]:
    """The difference, science and template cutouts of an alert.

    ``look_alike`` writes a header as Rubin's to the byte: no CTYPE, CUNIT and RADESYS, so that
    the WCS is linear and most readers ignore it, and numbers of the WCS with 14 digits.
    """
    difference, science, template = map(b"".join, cutout_parts(alert, look_alike))
    return difference, science, template


def cutout_parts(alert: Alert, look_alike: bool = False) -> list[list[bytes]]:
    """``cutouts_fits`` in pieces, for who joins them with something else."""
    header = _primary_header(alert.science.frame, alert.science.image.shape, look_alike)
    return [
        [
            header,
            *_pixels(cutout.image, ">f4"),
            _extension_header("UNCERT", -32, cutout.variance.shape),
            *_pixels(cutout.variance, ">f4"),
            _extension_header("PSFIMAGE", -64, cutout.psf.shape),
            *_pixels(cutout.psf, ">f8"),
        ]
        for cutout in (alert.difference, alert.science, alert.template)
    ]


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
    place: list[_Card] = [
        ("SIMPLE", True, "conforms to FITS standard"),
        ("BITPIX", -32, "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", shape[1], ""),
        ("NAXIS2", shape[0], ""),
        ("EXTEND", True, ""),
        ("CUTMINX", frame.x0 - 1, ""),
        ("CUTMINY", frame.y0 - 1, ""),
        ("ROTPA", float(frame.rotation_deg), "Pos angle in deg of focal plane +Y wrt North"),
        ("BUNIT", "nJy", ""),
    ]
    wcs: list[_Card] = [
        ("WCSAXES", 2, "Number of coordinate axes"),
        ("CRPIX1", float(frame.x - frame.x0 + 1), "Pixel coordinate of reference point"),
        ("CRPIX2", float(frame.y - frame.y0 + 1), "Pixel coordinate of reference point"),
        ("PC1_1", float(frame.cd[0, 0]), "Coordinate transformation matrix element"),
        ("PC1_2", float(frame.cd[0, 1]), "Coordinate transformation matrix element"),
        ("PC2_1", float(frame.cd[1, 0]), "Coordinate transformation matrix element"),
        ("PC2_2", float(frame.cd[1, 1]), "Coordinate transformation matrix element"),
        ("CDELT1", 1.0, "Coordinate increment at reference point"),
        ("CDELT2", 1.0, "Coordinate increment at reference point"),
        ("CRVAL1", float(frame.ra), "Coordinate value at reference point"),
        ("CRVAL2", float(frame.dec), "Coordinate value at reference point"),
        ("LATPOLE", 90.0, "[deg] Native latitude of celestial pole"),
        ("MJDREF", 0.0, "[d] MJD of fiducial time"),
    ]
    if look_alike:
        return _block(_text(place) + _text(wcs, _WCSLIB_DIGITS))
    celestial: list[_Card] = [
        ("CTYPE1", "RA---TAN", "Right ascension, gnomonic projection"),
        ("CTYPE2", "DEC--TAN", "Declination, gnomonic projection"),
        ("CUNIT1", "deg", "Units of coordinate increment and value"),
        ("CUNIT2", "deg", "Units of coordinate increment and value"),
        ("RADESYS", "ICRS", "Equatorial coordinate system"),
    ]
    return _block(_text(place + wcs + celestial))


@lru_cache(maxsize=256)
def _extension_header(name: str, bitpix: int, shape: tuple[int, ...]) -> bytes:
    cards: list[_Card] = [
        ("XTENSION", "IMAGE", "Image extension"),
        ("BITPIX", bitpix, "array data type"),
        ("NAXIS", 2, "number of array dimensions"),
        ("NAXIS1", shape[1], ""),
        ("NAXIS2", shape[0], ""),
        ("PCOUNT", 0, "number of parameters"),
        ("GCOUNT", 1, "number of groups"),
    ]
    if name == "UNCERT":
        cards.append(("UTYPE", "VarianceUncertainty", ""))
    return _block(_text([*cards, ("EXTNAME", name, "extension name")]))


def _block(text: str) -> bytes:
    text += f"{'END':<80}"
    return text.ljust(-len(text) % _BLOCK + len(text)).encode("ascii")


def _text(cards: list[_Card], digits: int = 16) -> str:
    return "".join([f"{_card(key, _value(value, digits), c):<80}" for key, value, c in cards])


def _card(key: str, value: str, comment: str) -> str:
    return f"{key:<8}= {value:<20} / {comment}" if comment else f"{key:<8}= {value}"


def _value(value: bool | int | float | str, digits: int = 16) -> str:
    if isinstance(value, str):
        return f"'{value:<8}'"
    if isinstance(value, bool):
        return f"{'T' if value else 'F':>20}"
    if isinstance(value, int):
        return f"{value:>20}"
    # The fixed format has 20 columns: as many digits as fit, at least 13.
    text = next(t for n in range(digits, 0, -1) if len(t := _digits(value, n)) <= 20)
    return f"{text:>20}"


def _digits(value: float, digits: int) -> str:
    text = f"{value:.{digits}G}"
    if "." in text:
        return text
    return text.replace("E", ".0E") if "E" in text else f"{text}.0"


def _pixels(image: Image | Floats, dtype: str) -> tuple[bytes, bytes]:
    """Pixels and what fills their last block."""
    data = image.astype(dtype).tobytes()
    return data, bytes(-len(data) % _BLOCK)


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
