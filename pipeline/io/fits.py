"""Exposures, raw frames and master calibrations as FITS files.

An exposure file has PRIMARY (cards only), IMAGE, MASK, VARIANCE and, where known,
PSF; the mask's bits are named by MP_* cards as LSST writes them.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import numpy as np
from astropy.io import fits
from astropy.wcs import FITSFixedWarning

from promptdia.pipeline.errors import InputError
from promptdia.pipeline.io.files import whole_file
from promptdia.tasks.model.arrays import Bools, Mask
from promptdia.tasks.model.calibrations import MasterFrame
from promptdia.tasks.model.exposure import Exposure, RawFrame
from promptdia.tasks.model.mask import MaskPlane, mask_header
from promptdia.tasks.model.photo_calib import PhotoCalib
from promptdia.tasks.model.psf import GridPsf, PolynomialPsf, Psf, constant_psf
from promptdia.tasks.model.visit import Detector, Visit
from promptdia.tasks.model.wcs import FitsWcs, nominal_wcs

E = TypeVar("E", bound=Exposure)

VISIT_CARDS = {
    "VISIT": "id",
    "BAND": "band",
    "MJD-AVG": "mjd_tai",
    "EXPTIME": "exposure_s",
    "BORE-RA": "ra_deg",
    "BORE-DEC": "dec_deg",
    "BORE-ROT": "rotation_deg",
    "AIRMASS": "airmass",
    "OBSREASN": "observation_reason",
    "TARGET": "target_name",
}
"""FITS card of each field of Visit."""
MASTER_UNITS = {"bias": "electron", "dark": "electron/s", "flat": ""}
"""Of the pixels of a master frame."""
TEXT = ("band", "observation_reason", "target_name")


@contextmanager
def open_fits(path: Path, pixels: bool = True) -> Iterator[fits.HDUList]:
    """Read a FITS file; broken content becomes one sentence that names the file.

    All pixels are read on the way in, so that what the caller does is not taken for a broken
    file; ``pixels=False`` leaves them for who wants only the primary header.
    """
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise InputError(f"{path} does not exist") from None
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    with file, warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        hdus = _read_hdus(file, path, pixels)
        yield hdus
        hdus.close()


def _read_hdus(file: IO[bytes], path: Path, pixels: bool) -> fits.HDUList:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*truncated.*")
            hdus = fits.open(file, memmap=False, lazy_load_hdus=not pixels)
            if pixels:
                for hdu in hdus:
                    _ = hdu.data
            return hdus
    except (OSError, TypeError, EOFError, ValueError, RuntimeError) as error:
        raise InputError(f"{path} is not a readable FITS file: {_first_line(error)}") from error
    except (fits.VerifyError, UserWarning) as error:
        raise InputError(f"{path} is not a readable FITS file: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def visit_header(visit: Visit, detector: int) -> fits.Header:
    """The cards every promptdia file carries."""
    header = fits.Header()
    for card, name in VISIT_CARDS.items():
        value = getattr(visit, name)
        # FITS cards hold ASCII only
        header[card] = value.encode("ascii", "replace").decode() if name in TEXT else value
    header["DETECTOR"] = detector
    return header


def read_visit(header: fits.Header, path: Path) -> Visit:
    """The visit a promptdia file belongs to; a missing card is named."""
    values: dict[str, Any] = {}
    for card, name in VISIT_CARDS.items():
        if card in header:
            values[name] = header[card]
        elif name in ("id", "band", "mjd_tai", "exposure_s", "ra_deg", "dec_deg"):
            raise InputError(f"{path} has no {card} card; ingest the frame again")
    return Visit(**values)


def write_raw(path: Path, frame: RawFrame, original: fits.Header | None = None) -> None:
    """A raw frame with standard cards on top of the camera's own; the WCS is the assembled one."""
    header = _clean(original) if original is not None else fits.Header()
    header.update(visit_header(frame.visit, frame.detector.id))
    header.update(frame.wcs.to_header())
    pixels = frame.pixels
    whole = bool(np.all((pixels >= 0) & (pixels <= 65535) & (pixels == np.floor(pixels))))
    hdu = fits.PrimaryHDU(pixels.astype(np.uint16) if whole else pixels, header=header)
    with whole_file(path) as part:
        hdu.writeto(part, overwrite=True)


def read_raw(path: Path, detector: Detector) -> RawFrame:
    """A raw frame of the repository."""
    with open_fits(path) as hdus:
        header, data = hdus[0].header, hdus[0].data
        if data is None:
            raise InputError(f"{path} has no image in its primary HDU")
        visit = read_visit(header, path)
        wcs = _wcs(header) or nominal_wcs(visit, detector)
        pixels = np.ascontiguousarray(data, dtype=np.float32)
    return RawFrame(pixels, visit, detector, wcs)


def write_exposure(path: Path, exposure: Exposure) -> None:
    """An exposure with mask, variance, WCS, PSF and scale; whole or not at all."""
    header = visit_header(exposure.visit, exposure.detector.id)
    for key, value in exposure.notes.items():
        header[f"HIERARCH {key}" if len(key) > 8 else key.upper()] = value
    calibrated = exposure.photo_calib is not None
    header["BUNIT"] = "nJy" if calibrated else "electron"
    if exposure.photo_calib is not None:
        header["CALSCALE"] = (exposure.photo_calib.njy_per_count, "nJy per electron")
        header["CALERR"] = exposure.photo_calib.error
    wcs = exposure.wcs.to_header()
    header.update(wcs)
    mask_hdu = fits.ImageHDU(exposure.mask, header=_mask_cards(), name="MASK")
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(header=header),
            fits.ImageHDU(exposure.image, header=wcs, name="IMAGE"),
            mask_hdu,
            fits.ImageHDU(exposure.variance, name="VARIANCE"),
            *(_psf_hdus(exposure.psf) if exposure.psf is not None else []),
        ]
    )
    hdus["IMAGE"].header["BUNIT"] = header["BUNIT"]
    with whole_file(path) as part:
        hdus.writeto(part, overwrite=True)


def read_exposure(path: Path, detector: Detector, role: type[E]) -> E:
    """An exposure that promptdia wrote, in the role asked for."""
    with open_fits(path) as hdus:
        image, variance = (_native(hdus[name].data, np.float32) for name in ("IMAGE", "VARIANCE"))
        planes = image, read_mask(hdus["MASK"]), variance
        return _exposure(hdus, path, detector, role, planes, _notes(hdus[0].header))


def map_exposure(path: Path, detector: Detector, role: type[E]) -> E:
    """As ``read_exposure`` without notes, the pixels left in the file until somebody looks.

    For looking at a few places of many files, the latest of which stay open; the arrays are
    big-endian and cannot be changed.
    """
    try:
        age = path.stat().st_mtime_ns
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    keeps: Any = _map_exposure  # lru_cache takes no type for a Hashable
    return cast(E, keeps(path, age, detector, role))


@lru_cache(maxsize=256)
def _map_exposure(path: Path, _age: int, detector: Detector, role: type[Exposure]) -> Exposure:
    with open_fits(path, pixels=False) as hdus:
        try:
            image, mask, variance = (
                _mapped(path, hdus[name]) for name in ("IMAGE", "MASK", "VARIANCE")
            )
            return _exposure(hdus, path, detector, role, (image, mask, variance), {})
        except (KeyError, ValueError, OSError, TypeError) as error:
            reason = _first_line(error)
            raise InputError(f"{path} is not a readable FITS file: {reason}") from error


def _mapped(path: Path, hdu: Any) -> Any:
    info, (ny, nx) = hdu.fileinfo(), hdu.shape
    kind = ">i4" if hdu.header["BITPIX"] == 32 else ">f4"
    return np.memmap(path, np.dtype(kind), "r", info["datLoc"], (ny, nx))


def _exposure(
    hdus: fits.HDUList,
    path: Path,
    detector: Detector,
    role: type[E],
    planes: tuple[Any, Any, Any],
    notes: dict[str, Any],
) -> E:
    """The exposure of these (image, mask, variance) and the rest of its file."""
    header = hdus[0].header
    wcs = _wcs(header)
    if wcs is None:
        raise InputError(f"{path} has no celestial WCS (CTYPE1, CTYPE2)")
    calib = None
    if "CALSCALE" in header:
        calib = PhotoCalib(float(header["CALSCALE"]), float(header.get("CALERR", 0.0)))
    image, mask, variance = planes
    return role(
        image=image,
        mask=mask,
        variance=variance,
        wcs=wcs,
        visit=read_visit(header, path),
        detector=detector,
        psf=read_psf(hdus),
        photo_calib=calib,
        notes=notes,
    )


def read_mask(hdu: Any) -> Mask:
    """A mask plane in our bits, translated from the MP_* cards of its header."""
    data: Mask = _native(hdu.data, np.int32)
    named = {k[3:]: int(v) for k, v in hdu.header.items() if k.startswith("MP_")}
    own = {plane.name: plane.value for plane in MaskPlane}
    if not named or all(own.get(name) == 1 << bit for name, bit in named.items()):
        return data
    mask = np.zeros(data.shape, np.int32)
    for name, bit in named.items():
        if name in own:
            mask |= np.where((data >> bit) & 1, own[name], 0).astype(np.int32)
    return mask


def read_psf(hdus: fits.HDUList) -> Psf | None:
    """The PSF of an exposure file; a plain 2-d PSF extension holds everywhere."""
    if "PSF" not in hdus:
        return None
    header, data = hdus["PSF"].header, np.asarray(hdus["PSF"].data, float)
    kind = header.get("PSFTYPE", "CONSTANT")
    if kind == "POLYNOMIAL":
        limits = (header["PSFXMIN"], header["PSFXMAX"]), (header["PSFYMIN"], header["PSFYMAX"])
        return PolynomialPsf(data, int(header["PSFORDER"]), *limits)
    if kind == "GRID":
        x, y = (np.asarray(hdus[name].data, float) for name in ("PSF_X", "PSF_Y"))
        return GridPsf(data, x, y)
    return constant_psf(data)


def write_master(path: Path, master: MasterFrame, mjd: float) -> None:
    """A master calibration frame with the list of its inputs and their checksums."""
    header = fits.Header({"KIND": master.kind, "DETECTOR": master.detector})
    header["BAND"], header["MJD"], header["CAMERA"] = master.band, mjd, master.camera
    header["BUNIT"], header["OVERSCAN"] = MASTER_UNITS[master.kind], master.overscan
    hdus = fits.HDUList(
        [
            fits.PrimaryHDU(header=header),
            fits.ImageHDU(master.image, name="IMAGE"),
            fits.ImageHDU(master.variance, name="VARIANCE"),
            _input_table(master.inputs),
        ]
    )
    with whole_file(path) as part:
        hdus.writeto(part, overwrite=True)


def read_master(path: Path) -> MasterFrame:
    """A master calibration frame; InputError for other files and for masters in another unit."""
    with open_fits(path) as hdus:
        missing = [name for name in ("IMAGE", "VARIANCE", "INPUTS") if name not in hdus]
        if missing or hdus[0].header.get("KIND") not in MASTER_UNITS:
            raise InputError(
                f"{path} is no master frame (no {', '.join(missing) or 'known KIND'}); "
                "bring it in with promptdia ingest --combined"
            )
        header, rows = hdus[0].header, hdus["INPUTS"].data
        unit, wanted = str(header.get("BUNIT", "")), MASTER_UNITS[header["KIND"]]
        if unit != wanted:
            raise InputError(
                f"{path} is in {unit or 'no unit'}, a master {header['KIND']} must be in "
                f"{wanted or 'no unit'}"
            )
        return MasterFrame(
            kind=header["KIND"],
            image=_native(hdus["IMAGE"].data, np.float32),
            variance=_native(hdus["VARIANCE"].data, np.float32),
            detector=int(header["DETECTOR"]),
            band=header["BAND"],
            camera=str(header.get("CAMERA", "")),
            overscan=str(header.get("OVERSCAN", "")),
            inputs={str(f): str(s) for f, s in zip(rows["file"], rows["sha256"])},
        )


def write_defects(path: Path, defects: Bools, camera: str, inputs: dict[str, str]) -> None:
    """A map of bad pixels with the masters it was found on and their checksums."""
    header = fits.Header({"CAMERA": camera})
    image = fits.PrimaryHDU(defects.astype(np.uint8), header=header)
    with whole_file(path) as part:
        fits.HDUList([image, _input_table(inputs)]).writeto(part, overwrite=True)


def read_defects(path: Path) -> tuple[Bools, str]:
    """(ny, nx) True on bad pixels, and the camera's name; empty when nobody said."""
    with open_fits(path) as hdus:
        bad: Bools = np.asarray(hdus[0].data, dtype=bool)
        return bad, str(hdus[0].header.get("CAMERA", ""))


def _input_table(inputs: dict[str, str]) -> fits.BinTableHDU:
    return fits.BinTableHDU.from_columns(
        [
            fits.Column("file", "128A", array=np.array(list(inputs), "U128")),
            fits.Column("sha256", "64A", array=np.array(list(inputs.values()), "U64")),
        ],
        name="INPUTS",
    )


def first_image(hdus: fits.HDUList, extension: str | int | None, path: Path) -> Any:
    """The HDU of ``extension``, or the first that holds a 2-d image."""
    if extension is not None:
        if extension not in hdus and not (
            isinstance(extension, int) and 0 <= extension < len(hdus)
        ):
            raise InputError(f"{path} has no extension {extension}")
        return hdus[extension]
    for hdu in hdus:
        if hdu.is_image and hdu.data is not None and hdu.data.ndim == 2:
            return hdu
    raise InputError(f"{path} holds no 2-d image")


def celestial(header: fits.Header) -> FitsWcs | None:
    """The celestial WCS of a header, None when it has none."""
    return _wcs(header)


def _wcs(header: fits.Header) -> FitsWcs | None:
    if not str(header.get("CTYPE1", "")).startswith(("RA", "DEC")):
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FITSFixedWarning)
        return FitsWcs.from_header(header)


def _mask_cards() -> fits.Header:
    # names of more than eight letters are HIERARCH cards, as LSST writes them
    named = mask_header().items()
    return fits.Header({f"HIERARCH {k}" if len(k) > 8 else k: bit for k, bit in named})


def _psf_hdus(psf: Psf) -> list[fits.ImageHDU]:
    if isinstance(psf, PolynomialPsf):
        cards = fits.Header({"PSFTYPE": "POLYNOMIAL", "PSFORDER": psf.order})
        cards["PSFXMIN"], cards["PSFXMAX"] = psf.x_range
        cards["PSFYMIN"], cards["PSFYMAX"] = psf.y_range
        return [fits.ImageHDU(psf.coefficients, header=cards, name="PSF")]
    if isinstance(psf, GridPsf):
        return [
            fits.ImageHDU(psf.nodes, header=fits.Header({"PSFTYPE": "GRID"}), name="PSF"),
            fits.ImageHDU(psf.x, name="PSF_X"),
            fits.ImageHDU(psf.y, name="PSF_Y"),
        ]
    raise TypeError(f"cannot write a PSF of type {type(psf).__name__}")


_STANDARD = {*VISIT_CARDS, "DETECTOR", "BUNIT", "CALSCALE", "CALERR", "EXTEND"}


def _notes(header: fits.Header) -> dict[str, Any]:
    wcs_like = set(FitsWcs.from_header(header).to_header()) if "CTYPE1" in header else set()
    skip = _STANDARD | wcs_like | {"SIMPLE", "BITPIX", "NAXIS", "COMMENT", "HISTORY", ""}
    return {k.lower(): v for k, v in header.items() if k not in skip and k[:1] != "_"}


def _clean(header: fits.Header) -> fits.Header:
    """A foreign header without its structural cards and old WCS."""
    kept = header.copy(strip=True)
    for key in list(kept):
        if key.startswith(("CTYPE", "CRPIX", "CRVAL", "CD1_", "CD2_", "PC1_", "PC2_", "CDELT")) or (
            key in ("CROTA1", "CROTA2", "BZERO", "BSCALE", "DATASUM", "CHECKSUM", "")
        ):
            kept.remove(key, remove_all=True)
    return kept


def _native(data: Any, dtype: Any) -> Any:
    return np.ascontiguousarray(data, dtype=dtype)
