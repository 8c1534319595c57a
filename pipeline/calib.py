"""Master calibration frames of a repository: every raw bias, dark and flat becomes a master."""

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from promptdia.pipeline.errors import InputError
from promptdia.pipeline.io.files import write_text
from promptdia.pipeline.io.fits import read_master, read_raw, write_defects, write_master
from promptdia.pipeline.io.sums import sha256
from promptdia.pipeline.pool import IN_PROCESS, Executor, ordered
from promptdia.pipeline.repository import Repository
from promptdia.tasks.calibs import (
    UnusableCalibration,
    combine_bias,
    combine_dark,
    combine_flat,
    find_defects,
    gain_and_read_noise,
)
from promptdia.tasks.errors import TaskError
from promptdia.tasks.model.calibrations import MasterFrame
from promptdia.tasks.model.exposure import RawFrame
from promptdia.tasks.model.visit import Visit

BELOW = ("bias", "dark")
"""What is subtracted before the next kind is combined, in this order."""


@dataclass(frozen=True)
class Built:
    """One product of ``promptdia calib``."""

    kind: str
    detector: int
    band: str
    n_inputs: int
    path: Path


@dataclass(frozen=True, eq=False)
class Input:
    """One ingested calibration frame."""

    path: Path
    raw: RawFrame
    source: tuple[str, str]
    """File name and SHA-256."""


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
    steps = repository.config.isr.readout
    masters: dict[Path, MasterFrame] = {}
    newest: dict[str, list[Input]] = {"bias": [], "dark": [], "flat": []}
    for kind in ("bias", "dark", "flat"):
        for group in _groups(_load(repository, kind, number), _validity(repository)):
            middle = _middle(group)
            newest[kind] = group[-2:]
            inputs = dict(frame.source for frame in group)
            frames = [frame.raw for frame in group]
            try:
                bias, dark = (_subtrahend(repository, k, kind, middle, number) for k in BELOW)
                if kind == "bias":
                    master = combine_bias(frames, inputs, steps)
                elif kind == "dark":
                    master = combine_dark(frames, bias, inputs, steps)
                else:
                    master = combine_flat(frames, bias, dark, middle.band, inputs, steps)
            except TaskError as error:
                first, last = group[0].path, group[-1].path.name
                raise InputError(f"{kind} frames {first} to {last}: {error}") from error
            master = replace(master, camera=repository.instrument.name)
            path = repository.master_path(kind, number, middle.band, middle.mjd_tai)
            _remove_superseded(path, master)
            write_master(path, master, middle.mjd_tai)
            masters[path] = master
            yield Built(kind, number, middle.band, len(frames), path)
    yield from _defects(repository, number, masters)
    yield from _noise(repository, number, newest["flat"], newest["bias"])


def _defects(
    repository: Repository, number: int, masters: dict[Path, MasterFrame]
) -> Iterator[Built]:
    """On the newest bias and dark and on all flats."""
    newest = {m.kind: path for path, m in masters.items() if m.kind in BELOW}
    flats = {path: m for path, m in masters.items() if m.kind == "flat"}
    flats = flats or _stored_flats(repository, number)
    if not newest and not flats:
        return
    bias, dark = (masters[newest[kind]] if kind in newest else None for kind in BELOW)
    defects = [find_defects(bias, dark, flat) for flat in flats.values() or [None]]
    inputs = {path.name: sha256(path) for path in [*newest.values(), *flats]}
    path = repository.defects_path(number)
    bad = np.logical_or.reduce(defects)
    write_defects(path, bad, repository.instrument.name, inputs)
    yield Built("defects", number, "", int(bad.sum()), path)


def _noise(
    repository: Repository, number: int, flats: list[Input], biases: list[Input]
) -> Iterator[Built]:
    """Gain and read noise of each amplifier from pairs, beside those that are used: the YAML's."""
    if len(flats) < 2 or len(biases) < 2:
        return
    content: dict[str, Any] = {"inputs": dict(frame.source for frame in flats + biases)}
    try:
        measured = gain_and_read_noise((flats[0].raw, flats[1].raw), (biases[0].raw, biases[1].raw))
        content["amplifiers"] = [
            {
                "gain": round(found.gain, 4),
                "gain_used": amplifier.gain,
                "read_noise": round(found.read_noise, 3),
                "read_noise_used": amplifier.read_noise,
            }
            for found, amplifier in zip(
                measured, repository.detector(number).amplifiers, strict=True
            )
        ]
    except UnusableCalibration as error:
        content["reason"] = str(error)
    path = repository.root / "calib" / "noise" / f"{number}.json"
    write_text(path, json.dumps(content, indent=1) + "\n")
    yield Built("noise", number, "", len(content["inputs"]), path)


def _load(repository: Repository, kind: str, number: int) -> list[Input]:
    detector = repository.detector(number)
    folder = repository.raw_calibration_folder(kind, number)
    return [
        Input(path, read_raw(path, detector), (path.name, sha256(path)))
        for path in sorted(folder.glob("*.fits"))
    ]


def _groups(frames: list[Input], days: float) -> list[list[Input]]:
    """By band and time: what lies further apart than a master holds makes two masters."""
    groups: list[list[Input]] = []
    for frame in sorted(frames, key=lambda f: (f.raw.visit.band, f.raw.visit.mjd_tai, f.path)):
        visit, first = frame.raw.visit, groups[-1][0].raw.visit if groups else None
        if first and first.band == visit.band and visit.mjd_tai - first.mjd_tai <= days:
            groups[-1].append(frame)
        else:
            groups.append([frame])
    return groups


def _middle(group: list[Input]) -> Visit:
    """The first frame's visit at the mean time of all."""
    mjd = float(np.mean([frame.raw.visit.mjd_tai for frame in group]))
    return replace(group[0].raw.visit, mjd_tai=mjd)


def _validity(repository: Repository) -> float:
    return repository.config.calibration_validity_days


def _subtrahend(
    repository: Repository, kind: str, of: str, visit: Visit, number: int
) -> MasterFrame | None:
    """The master to take from a dark or flat: the nearest valid one, None where there is none."""
    if BELOW.index(kind) >= ("bias", "dark", "flat").index(of):
        return None
    if not getattr(repository.config.isr, kind):
        return None
    with suppress(InputError):
        return repository.master(kind, visit, number)
    without = any(a.overscan is None for a in repository.detector(number).amplifiers)
    if kind == "bias" and without:
        raise InputError("without overscan a bias is needed, and none is valid; ingest bias frames")
    return None


def _remove_superseded(path: Path, master: MasterFrame) -> None:
    """Delete the masters of this label that hold nothing which this one does not."""
    label = path.name.rsplit("_", 1)[0]
    for old in sorted(path.parent.glob(f"{label}_*.fits")):
        if old != path and read_master(old).inputs.items() <= master.inputs.items():
            old.unlink()


def _stored_flats(repository: Repository, number: int) -> dict[Path, MasterFrame]:
    paths = sorted((repository.root / "calib" / "flat").glob(f"{number}-*.fits"))
    return {path: read_master(path) for path in paths}
