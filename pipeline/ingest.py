"""Bring frames into a repository: translated headers, untouched pixels, one file per detector."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io.fits import Header

from promptdia.pipeline.errors import ConfigError, InputError
from promptdia.pipeline.headers import Translator
from promptdia.pipeline.io.fits import (
    MASTER_UNITS,
    celestial,
    first_image,
    open_fits,
    read_mask,
    read_psf,
    write_exposure,
    write_master,
    write_raw,
)
from promptdia.pipeline.io.sums import sha256
from promptdia.pipeline.refcat import read_references, store_references
from promptdia.pipeline.repository import CALIBRATION_KINDS, Repository
from promptdia.pipeline.templates import store_template
from promptdia.tasks.model.arrays import Image, Mask
from promptdia.tasks.model.calibrations import MasterFrame
from promptdia.tasks.model.exposure import RawFrame, ScienceExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.photo_calib import AB_ZERO_NJY, PhotoCalib
from promptdia.tasks.model.visit import Detector, Visit
from promptdia.tasks.model.wcs import FitsWcs, nominal_wcs
from promptdia.tasks.robust import MAD_TO_SIGMA

KINDS = ("raw", "calexp", *CALIBRATION_KINDS, "template", "refcat")
FITS_SUFFIXES = (".fits", ".fit", ".fts", ".fits.fz", ".fits.gz", ".fit.gz", ".fz")


@dataclass
class Ingested:
    """What became of each file."""

    stored: list[tuple[Path, str, Path]] = field(default_factory=list)
    """Source, kind, destination."""
    refused: list[tuple[Path, str]] = field(default_factory=list)
    """Source and the reason."""


def ingest(
    repository: Repository, paths: Iterable[Path], kind: str | None = None, combined: bool = False
) -> Ingested:
    """Store every file; one that cannot be read is refused by name and the others go on.

    ``kind`` overrides what the header says. ``combined`` marks bias, dark or flat files
    that are masters already (assembled, electrons or mean 1).
    """
    if kind is not None and kind not in KINDS:
        raise ConfigError(f"cannot ingest as {kind}; known are {', '.join(KINDS)}")
    result = Ingested()
    for path in _files(paths, kind):
        try:
            for what, destination in _store(repository, path, kind, combined):
                result.stored.append((path, what, destination))
        except InputError as error:
            result.refused.append((path, str(error)))
    return result


def _files(paths: Iterable[Path], kind: str | None) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(p for p in path.iterdir() if p.name.endswith(FITS_SUFFIXES))
        elif path.exists() or kind == "refcat":
            yield path
        else:
            raise ConfigError(f"{path} does not exist")


def _store(
    repository: Repository, path: Path, kind: str | None, combined: bool
) -> Iterator[tuple[str, Path]]:
    if kind == "refcat":
        folder = repository.root / "refcat"
        store_references(folder, read_references(path))
        yield "refcat", folder
    elif kind == "template":
        for destination in store_template(repository, read_calibrated(repository, path)):
            yield "template", destination
    elif kind == "calexp":
        science = read_calibrated(repository, path)
        destination = repository.calexp_path(science.visit.id, science.detector.id)
        _refuse_another(path, destination, "IMAGE", science.image)
        write_exposure(destination, science)
        yield "calexp", destination
    elif combined:
        yield _store_master(repository, path, kind)
    else:
        yield from _store_raw(repository, path, kind)


def _store_raw(repository: Repository, path: Path, kind: str | None) -> Iterator[tuple[str, Path]]:
    instrument = repository.instrument
    with open_fits(path) as hdus:
        several = instrument.extensions
        numbers: list[int | None] = [*sorted(several)] if several else [None]
        for number in numbers:
            named = several[number] if number is not None else (None,)
            parts = [first_image(hdus, extension, path) for extension in named]
            header = hdus[0].header.copy(strip=True)
            header.update(parts[0].header)
            translate = Translator(instrument, header, path)
            what = kind or translate.get("kind")
            detector = _detector(repository, translate, number)
            pixels = _pixels([part.data for part in parts], detector, path)
            if what == "raw":
                yield what, _write_visit_frame(repository, translate, detector, pixels, header)
            elif what in CALIBRATION_KINDS:
                stand_in = _calibration_visit(translate, what)
                frame = RawFrame(pixels, stand_in, detector, nominal_wcs(stand_in, detector))
                folder = repository.raw_calibration_folder(what, detector.id)
                destination = folder / f"{path.name.split('.')[0]}.fits"
                _refuse_another(path, destination, "PRIMARY", pixels)
                write_raw(destination, frame, header)
                yield what, destination
            else:
                raise InputError(f"{path}: image kind is {what!r}, must be raw, bias, dark or flat")


def _detector(repository: Repository, translate: Translator, number: int | None = None) -> Detector:
    """The detector that a file names, or ``number``; a file of another camera is refused."""
    camera = translate.get("camera")
    if camera not in ("", repository.instrument.name):
        raise InputError(
            f"{translate.path} is of camera {camera}, "
            f"this repository's is {repository.instrument.name}"
        )
    try:
        return repository.detector(number if number is not None else translate.get("detector"))
    except ConfigError as error:
        raise InputError(f"{translate.path}: {error}") from error


def _pixels(parts: Sequence[Any], detector: Detector, path: Path) -> Image:
    """The raw array; parts that hold an amplifier each side by side, cut to what it reads."""
    if len(parts) > 1:
        boxes = [[b for b in (a.data, a.overscan) if b] for a in detector.amplifiers]
        ends = [0, *(max(b.x1 for b in of) for of in boxes)]
        height = max(b.y1 for of in boxes for b in of)
        for number, (part, x0, x1) in enumerate(zip(parts, ends, ends[1:])):
            if part.shape[0] < height or part.shape[1] < x1 - x0:
                raise InputError(
                    f"{path}: the image of amplifier {number} is {part.shape}, "
                    f"detector {detector.id} needs ({height}, {x1 - x0})"
                )
        parts = [part[:height, : x1 - x0] for part, x0, x1 in zip(parts, ends, ends[1:])]
        parts = [np.hstack(parts)]
    pixels: Image = np.ascontiguousarray(parts[0], dtype=np.float32)
    _require_amplifiers(pixels, detector, path)
    return pixels


def _require_amplifiers(pixels: Image, detector: Detector, path: Path) -> None:
    nx = max(b.x1 for a in detector.amplifiers for b in (a.data, a.overscan) if b)
    ny = max(b.y1 for a in detector.amplifiers for b in (a.data, a.overscan) if b)
    if pixels.shape[0] < ny or pixels.shape[1] < nx:
        raise InputError(
            f"{path} is {pixels.shape}, the amplifiers of detector {detector.id} need ({ny}, {nx})"
        )


def _refuse_another(path: Path, destination: Path, name: str, pixels: Image) -> None:
    """Two files under one name are one lost; the same file again, or a broken one's, is welcome."""
    try:
        with open_fits(destination) as hdus:
            known = hdus[name].data
    except InputError:
        return
    if not np.array_equal(known, pixels, equal_nan=True):
        raise InputError(
            f"{path} would take the place of another frame, {destination}; give each its own "
            "name (header.visit or header.sequence in the instrument's YAML), or remove the old one"
        )


def _require_shape(plane: Image | Mask, name: str, detector: Detector, path: Path) -> None:
    if plane.shape != detector.shape:
        raise InputError(
            f"{path}: {name} is {plane.shape}, detector {detector.id} is {detector.shape}"
        )


def _write_visit_frame(
    repository: Repository, translate: Translator, detector: Detector, pixels: Image, header: Header
) -> Path:
    visit = translate.visit()
    if not visit.exposure_s > 0:
        raise InputError(f"{translate.path}: exposure time is {visit.exposure_s} s, must be > 0")
    wcs, first = celestial(header), detector.amplifiers[0]
    if wcs is None or first.flip_x or first.flip_y:  # a header's WCS is that of the raw pixels
        wcs = nominal_wcs(visit, detector)
    else:
        wcs = wcs.shifted(first.data.x0 - first.target.x0, first.data.y0 - first.target.y0)
    destination = repository.raw_path(visit.id, detector.id)
    _refuse_another(translate.path, destination, "PRIMARY", pixels)
    write_raw(destination, RawFrame(pixels, visit, detector, wcs), header)
    return destination


def _calibration_visit(translate: Translator, kind: str) -> Visit:
    """A stand-in visit that holds date, band and exposure time of a calibration frame."""
    exposure: float = translate.get("exposure_s") if kind != "bias" else 0.0
    band: str = translate.get("band") if kind == "flat" else ""
    mjd = translate.midpoint(exposure)
    return Visit(0, band, mjd, exposure, 0.0, 0.0)


def _store_master(repository: Repository, path: Path, kind: str | None) -> tuple[str, Path]:
    if kind not in CALIBRATION_KINDS:
        raise ConfigError("--combined goes with --as bias, --as dark or --as flat")
    with open_fits(path) as hdus:
        hdu = first_image(hdus, None, path)
        header = hdus[0].header.copy(strip=True)
        header.update(hdu.header)
        translate = Translator(repository.instrument, header, path)
        detector = _detector(repository, translate)
        image = np.ascontiguousarray(hdu.data, dtype=np.float32)
        _require_shape(image, "the master", detector, path)
        _require_unit(image, kind, str(header.get("BUNIT", "")).strip(), path)
        band = translate.get("band") if kind == "flat" else ""
        dated = any(translate.has(q) for q in ("mjd_mid", "mjd_start"))
        mjd = translate.midpoint(0.0) if dated else _mean_date(repository)
    master = MasterFrame(
        kind,
        image,
        np.zeros_like(image),
        detector.id,
        band,
        {path.name: sha256(path)},
        repository.instrument.name,
    )
    destination = repository.master_path(kind, detector.id, band, mjd)
    write_master(destination, master, mjd)
    return kind, destination


def _require_unit(image: Image, kind: str, unit: str, path: Path) -> None:
    """A master's unit by its BUNIT; a flat's by its level, since flats of mean 1 have no unit."""
    wanted = MASTER_UNITS[kind]
    if kind == "flat":
        level = float(np.nanmedian(image))
        if not 0.5 < level < 2.0:
            raise InputError(f"{path}: the flat has median {level:g}, must be divided by its mean")
    elif unit and unit not in (
        wanted.replace("electron", e) for e in ("electron", "electrons", "e-")
    ):
        raise InputError(f"{path}: the master {kind} is in {unit}, must be in {wanted}")


def _mean_date(repository: Repository) -> float:
    dates = [v.mjd_tai for v in repository.visits() if np.isfinite(v.mjd_tai)]
    if not dates:
        raise InputError("an undated master frame takes the date of the visits: ingest them first")
    return float(np.mean(dates))


def read_calibrated(repository: Repository, path: Path) -> ScienceExposure:
    """A calibrated frame from elsewhere in nJy (architecture: the calibrated-frame contract)."""
    with open_fits(path) as hdus:
        names = {hdu.name for hdu in hdus}
        hdu = hdus["IMAGE"] if "IMAGE" in names else first_image(hdus, None, path)
        header = hdus[0].header.copy(strip=True)
        header.update(hdu.header)
        translate = Translator(repository.instrument, header, path)
        detector = _detector(repository, translate)
        wcs = celestial(header)
        if wcs is None:
            raise InputError(
                f"{path} has no celestial WCS (CTYPE1, CTYPE2); a calibrated frame needs one"
            )
        image = np.ascontiguousarray(hdu.data, dtype=np.float32)
        _require_shape(image, "IMAGE", detector, path)
        scale = _nanojansky_per_count(translate)
        mask = read_mask(hdus["MASK"]) if "MASK" in names else _mask_from(translate, image)
        if "VARIANCE" in names:
            variance = np.ascontiguousarray(hdus["VARIANCE"].data, dtype=np.float32)
        else:
            variance = _variance_from(translate, image)
        _require_shape(mask, "MASK", detector, path)
        _require_shape(variance, "VARIANCE", detector, path)
        return _in_njy(
            image, mask, variance, scale, wcs, translate.visit(), detector, read_psf(hdus)
        )


def _in_njy(
    image: Image,
    mask: Mask,
    variance: Image,
    scale: float,
    wcs: FitsWcs,
    visit: Visit,
    detector: Detector,
    psf: object,
) -> ScienceExposure:
    lost = ~np.isfinite(image) | ~np.isfinite(variance) | (variance <= 0)
    return ScienceExposure(
        image=np.where(lost, 0.0, image * scale).astype(np.float32),
        mask=np.where(lost, mask | MaskPlane.NO_DATA.value, mask).astype(np.int32),
        variance=np.where(lost, np.inf, variance * scale**2).astype(np.float32),
        wcs=wcs,
        visit=visit,
        detector=detector,
        psf=psf,  # type: ignore[arg-type]  # what read_psf returned
        photo_calib=PhotoCalib(scale),
        notes={"origin": "calexp"},
    )


def _nanojansky_per_count(translate: Translator) -> float:
    if str(translate.header.get("BUNIT", "")).strip() == "nJy":
        return 1.0
    if not translate.has("photzp"):
        raise InputError(
            f"{translate.path} has neither BUNIT = 'nJy' nor PHOTZP (AB magnitude of one count)"
        )
    return float(10 ** (0.4 * (AB_ZERO_NJY - translate.get("photzp"))))


def _required(translate: Translator, card: str, absent: str) -> float:
    if card not in translate.header:
        raise InputError(f"{translate.path} has neither {absent} nor the card {card} to make it")
    return float(translate.header[card])


def _mask_from(translate: Translator, image: Image) -> Mask:
    saturation = _required(translate, "SATURATE", "a MASK extension")
    with np.errstate(invalid="ignore"):
        return np.where(image >= saturation, MaskPlane.SAT.value, 0).astype(np.int32)


def _variance_from(translate: Translator, image: Image) -> Image:
    """Poisson noise of the counts over a sky whose noise is the image's own robust scatter."""
    gain = _required(translate, "GAIN", "a VARIANCE extension")
    good = image[np.isfinite(image)]
    if good.size == 0:
        raise InputError(f"{translate.path} has no finite pixel")
    middle = np.median(good)
    sigma = MAD_TO_SIGMA * np.median(np.abs(good - middle))
    with np.errstate(invalid="ignore"):
        variance: Image = (sigma**2 + np.maximum(image - middle, 0) / gain).astype(np.float32)
    return variance
