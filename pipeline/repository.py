"""Where everything lies on disk: one class that knows the layout of a repository."""

import json
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from promptdia.pipeline.config import PipelineConfig, load_pipeline
from promptdia.pipeline.errors import ConfigError, InputError, NoWork
from promptdia.pipeline.instrument import Instrument, load_instrument
from promptdia.pipeline.io.files import write_text
from promptdia.pipeline.io.fits import (
    open_fits,
    read_defects,
    read_exposure,
    read_master,
    read_raw,
    read_visit,
    write_exposure,
)
from promptdia.pipeline.io.kafka import BrokerSettings
from promptdia.pipeline.yaml import build, read_yaml
from promptdia.tasks.model.calibrations import Calibrations, MasterFrame
from promptdia.tasks.model.exposure import RawFrame, ScienceExposure, TemplateExposure
from promptdia.tasks.model.visit import Detector, Visit
from promptdia.tasks.tiling import Tiling

CALIBRATION_KINDS = ("bias", "dark", "flat")


def in_time_order(visits: Iterable[Visit]) -> list[Visit]:
    """Visits by time, then id; those of unknown time last."""
    return sorted(visits, key=lambda v: (np.isnan(v.mjd_tai), np.nan_to_num(v.mjd_tai), v.id))


@dataclass(frozen=True)
class RepositorySettings:
    """The content of promptdia.yaml."""

    instrument: str
    """Name of a camera that ships with promptdia, or a YAML file relative to the repository."""
    pipeline: dict[str, Any] = field(default_factory=dict)
    """What differs from the pipeline's defaults."""
    apdb: str = "sqlite:///apdb.sqlite"
    """Database URL; a relative SQLite path is relative to the repository."""
    broker: BrokerSettings = field(default_factory=BrokerSettings)
    """Where alerts go when a command does not say."""


class Repository:
    """A directory made by ``promptdia init``."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root)
        path = self.root / "promptdia.yaml"
        if not path.exists():
            raise ConfigError(
                f"{self.root} is not a promptdia repository (no promptdia.yaml); "
                "make one with: promptdia init ROOT --instrument NAME"
            )
        self.settings = build(RepositorySettings, read_yaml(path), str(path))

    @classmethod
    def create(cls, root: Path, instrument: str, apdb: str | None = None) -> "Repository":
        """Make the directory and its promptdia.yaml; refuses to touch one that exists."""
        if (root / "promptdia.yaml").exists():
            raise ConfigError(f"{root} is already a promptdia repository")
        load_instrument(instrument)
        settings: dict[str, Any] = {"instrument": instrument}
        if instrument.endswith((".yaml", ".yml")):
            settings["instrument"] = "instrument.yaml"
            write_text(root / "instrument.yaml", Path(instrument).read_text(encoding="utf-8"))
        if apdb:
            settings["apdb"] = apdb
        write_text(root / "promptdia.yaml", yaml.safe_dump(settings, sort_keys=False))
        return cls(root)

    @cached_property
    def instrument(self) -> Instrument:
        """The camera."""
        name = self.settings.instrument
        own_file = name.endswith((".yaml", ".yml"))
        return load_instrument(self.root / name if own_file else name)

    @cached_property
    def config(self) -> PipelineConfig:
        """Pipeline settings: defaults, then the camera's, then the repository's own."""
        return load_pipeline(
            (f"instrument {self.instrument.name}: pipeline", self.instrument.pipeline),
            (f"{self.root / 'promptdia.yaml'}: pipeline", self.settings.pipeline),
        )

    @cached_property
    def tiling(self) -> Tiling:
        """The sky patches of this camera's templates."""
        detectors = self.instrument.detectors
        first = detectors[min(detectors)]
        largest = max(max(d.shape) for d in detectors.values())
        return Tiling(first.pixel_scale_arcsec, max_side_px=largest + 200)

    @property
    def apdb_url(self) -> str:
        """Database URL with a relative SQLite path made absolute."""
        url, prefix = self.settings.apdb, "sqlite:///"
        path = url.removeprefix(prefix)
        if url.startswith(prefix) and not path.startswith(("/", "file:", ":memory:")):
            return f"{prefix}{(self.root / path).resolve()}"
        return url

    # ---- visits and frames

    def visits(self, day_obs: int | None = None) -> list[Visit]:
        """All visits in time order, or those of one night."""
        ids = {int(p.name) for kind in ("raw", "calexp") for p in self._numbered(self.root / kind)}
        if day_obs is not None:
            ids = {i for i in ids if i // 100_000 == day_obs}
        return in_time_order(self.visit(i) for i in ids)

    def visit(self, visit: int) -> Visit:
        """The visit of that id, from the first of its frames whose header can be read.

        When there is none, only the id is known and the time is nan: processing such a visit
        says of each frame what is wrong with it.
        """
        files = [
            path
            for kind in ("raw", "calexp")
            for path in sorted((self.root / kind / str(visit)).glob("*.fits"))
        ]
        if not files:
            raise ConfigError(f"{self.root} has no visit {visit}; ingest its frames first")
        for path in files:
            with suppress(InputError), open_fits(path, pixels=False) as hdus:
                return read_visit(hdus[0].header, path)
        return Visit(visit, "", np.nan, np.nan, np.nan, np.nan)

    def detectors(self, visit: int) -> list[int]:
        """Ids of the detectors with a frame in this visit."""
        return sorted(
            {
                int(path.stem)
                for kind in ("raw", "calexp")
                for path in (self.root / kind / str(visit)).glob("*.fits")
                if path.stem.isdigit()
            }
        )

    def raw_path(self, visit: int, detector: int) -> Path:
        """Where the raw frame lies."""
        return self.root / "raw" / str(visit) / f"{detector}.fits"

    def calexp_path(self, visit: int, detector: int) -> Path:
        """Where a calibrated frame brought from elsewhere lies."""
        return self.root / "calexp" / str(visit) / f"{detector}.fits"

    def raw(self, visit: int, detector: int) -> RawFrame:
        """The raw frame."""
        return read_raw(self.raw_path(visit, detector), self.instrument.detector(detector))

    def calexp(self, visit: int, detector: int) -> ScienceExposure:
        """The calibrated frame brought from elsewhere."""
        path = self.calexp_path(visit, detector)
        return read_exposure(path, self.instrument.detector(detector), ScienceExposure)

    # ---- calibrations

    def raw_calibration_folder(self, kind: str, detector: int) -> Path:
        """Where ingested bias, dark or flat frames of a detector lie."""
        return self.root / "calib" / kind / "raw" / str(detector)

    def master_path(self, kind: str, detector: int, band: str, mjd: float) -> Path:
        """Where a master frame lies."""
        label = f"{detector}-{band}" if band else str(detector)
        return self.root / "calib" / kind / f"{label}_{mjd:.3f}.fits"

    def calibrations(self, visit: Visit, detector: int) -> Calibrations:
        """The masters valid for a frame; one that ISR asks for and is not there is an error."""
        isr = self.config.isr
        wanted = {"bias": isr.bias, "dark": isr.dark, "flat": isr.flat}
        frames = {k: self.master(k, visit, detector) for k, asked in wanted.items() if asked}
        return Calibrations(**frames, defects=self.defects(detector))

    def defects(self, detector: int) -> np.ndarray | None:
        """Bad pixels of a detector, (ny, nx) bool; None before ``promptdia calib``."""
        path = self.defects_path(detector)
        if not path.exists():
            return None
        bad, camera = read_defects(path)
        self._require_camera(camera, f"{path} are defects")
        return bad

    def defects_path(self, detector: int) -> Path:
        """Where the defect map of a detector lies."""
        return self.root / "calib" / "defects" / f"{detector}.fits"

    def master(self, kind: str, visit: Visit, detector: int) -> MasterFrame:
        """The bias, dark or flat nearest in time to a frame; an InputError when none is valid."""
        label = f"{detector}-{visit.band}" if kind == "flat" else str(detector)
        dated = [
            (abs(float(path.stem.rsplit("_", 1)[1]) - visit.mjd_tai), path)
            for path in sorted((self.root / "calib" / kind).glob(f"{label}_*.fits"))
        ]
        days = self.config.calibration_validity_days
        valid = [pair for pair in dated if pair[0] <= days]
        if not valid:
            what = f"{kind} for detector {detector}"
            if kind == "flat":
                what += f" in band {visit.band}"
            raise InputError(
                f"no master {what} within {days:g} days of visit {visit.id} in "
                f"{self.root / 'calib' / kind}; ingest {kind} frames and run promptdia calib, "
                f"or set pipeline.isr.{kind}: false"
            )
        master = read_master(min(valid)[1])
        self._require_camera(master.camera, f"{min(valid)[1]} is a {kind}")
        return master

    def _require_camera(self, camera: str, what: str) -> None:
        if camera not in ("", self.instrument.name):
            raise InputError(
                f"{what} of camera {camera}, this repository's is {self.instrument.name}"
            )

    # ---- templates

    def template_path(self, band: str, patch: int) -> Path:
        """Where the template coadd of a patch lies."""
        return self.root / "templates" / band / f"{patch}.fits"

    def templates(self, science: ScienceExposure) -> list[TemplateExposure]:
        """The template coadds that may overlap an exposure; NoWork when there are none."""
        patches = self.tiling.patches_of(science.wcs, science.shape)
        paths = [self.template_path(science.visit.band, patch.id) for patch in patches]
        found = [path for path in paths if path.exists()]
        if not found:
            raise NoWork(
                f"no template in band {science.visit.band} on this sky "
                f"(patches {', '.join(str(patch.id) for patch in patches)} in "
                f"{self.root / 'templates'}); build one with promptdia template"
            )
        return [read_exposure(path, science.detector, TemplateExposure) for path in found]

    def write_template(self, band: str, patch: int, template: TemplateExposure) -> None:
        """Store the coadd of a patch."""
        write_exposure(self.template_path(band, patch), template)

    # ---- products

    def product(self, visit: int, detector: int, name: str) -> Path:
        """Where a product of a visit-detector lies, e.g. ``difference.fits``."""
        return self.root / "products" / str(visit) / str(detector) / name

    def alerts_path(self, visit: int, detector: int) -> Path:
        """Where the alerts of a visit-detector are kept."""
        return self.root / "alerts" / str(visit) / f"{detector}.avro"

    def summary(self, visit: int, detector: int) -> dict[str, Any] | None:
        """summary.json of a visit-detector, None before it was processed."""
        path = self.product(visit, detector, "summary.json")
        if not path.exists():
            return None
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return content

    def detector(self, number: int) -> Detector:
        """The detector of that id."""
        return self.instrument.detector(number)

    @staticmethod
    def _numbered(folder: Path) -> list[Path]:
        if not folder.is_dir():
            return []
        return sorted(p for p in folder.iterdir() if p.name.isdigit() and any(p.glob("*.fits")))
