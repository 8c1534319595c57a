"""Master calibration frames of a repository: every raw bias, dark and flat becomes a master."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits

from promptdia.pipeline.errors import InputError
from promptdia.pipeline.io.files import whole_file
from promptdia.pipeline.io.fits import read_master, read_raw, write_master
from promptdia.pipeline.io.sums import sha256
from promptdia.pipeline.pool import IN_PROCESS, Executor, ordered
from promptdia.pipeline.repository import Repository
from promptdia.tasks.calibs import combine_bias, combine_dark, combine_flat, find_defects
from promptdia.tasks.model.arrays import Bools
from promptdia.tasks.model.calibrations import MasterFrame
from promptdia.tasks.model.exposure import RawFrame


@dataclass(frozen=True)
class Built:
    """One product of ``promptdia calib``."""

    kind: str
    detector: int
    band: str
    n_inputs: int
    path: Path


def build_calibrations(repository: Repository, executor: Executor = IN_PROCESS) -> list[Built]:
    """Combine all ingested calibration frames, detector by detector, and find the defects."""
    jobs = [(repository.root, number) for number in sorted(repository.instrument.detectors)]
    built = [made for of_detector in ordered(executor, _build, jobs) for made in of_detector]
    if not built:
        raise InputError(
            f"{repository.root / 'calib'} holds no bias, dark or flat frames; ingest some first"
        )
    return built


def _build(root: Path, number: int) -> list[Built]:
    return list(_one(Repository(root), number))


def _one(repository: Repository, number: int) -> Iterator[Built]:
    bias = dark = None
    masters: list[MasterFrame] = []
    for kind in ("bias", "dark", "flat"):
        groups = _by_band(_load(repository, kind, number))
        for band, group in sorted(groups.items()):
            frames = [frame for frame, _ in group]
            inputs = dict(pair for _, pair in group)
            if kind == "bias":
                master = bias = combine_bias(frames, inputs=inputs)
            elif kind == "dark":
                master = dark = combine_dark(frames, bias, inputs=inputs)
            else:
                master = combine_flat(frames, bias, dark, band, inputs=inputs)
            mjd = float(np.mean([f.visit.mjd_tai for f in frames]))
            path = repository.master_path(kind, number, band, mjd)
            write_master(path, master, mjd)
            masters.append(master)
            yield Built(kind, number, band, len(frames), path)
    flats = [m for m in masters if m.kind == "flat"] or _stored_flats(repository, number)
    if bias is not None or dark is not None or flats:
        defects = find_defects(bias, dark, flats[0] if flats else None)
        for flat in flats[1:]:
            defects = defects | find_defects(bias, dark, flat)
        yield _write_defects(repository, number, defects)


def _load(repository: Repository, kind: str, number: int) -> list[tuple[RawFrame, tuple[str, str]]]:
    detector = repository.detector(number)
    folder = repository.raw_calibration_folder(kind, number)
    return [
        (read_raw(path, detector), (path.name, sha256(path)))
        for path in sorted(folder.glob("*.fits"))
    ]


def _by_band(
    frames: list[tuple[RawFrame, tuple[str, str]]],
) -> dict[str, list[tuple[RawFrame, tuple[str, str]]]]:
    groups: dict[str, list[tuple[RawFrame, tuple[str, str]]]] = {}
    for frame, source in frames:
        groups.setdefault(frame.visit.band, []).append((frame, source))
    return groups


def _stored_flats(repository: Repository, number: int) -> list[MasterFrame]:
    paths = sorted((repository.root / "calib" / "flat").glob(f"{number}-*.fits"))
    return [read_master(path) for path in paths]


def _write_defects(repository: Repository, number: int, defects: Bools) -> Built:
    path = repository.defects_path(number)
    with whole_file(path) as part:
        fits.PrimaryHDU(defects.astype(np.uint8)).writeto(part, overwrite=True)
    return Built("defects", number, "", int(defects.sum()), path)
