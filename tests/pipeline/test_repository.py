"""Where things lie in a repository, and which settings hold in it."""

from pathlib import Path

import numpy as np
import pytest
import yaml
from numpy.testing import assert_array_equal
from support.camera_files import CAMERA, NX, NY, foreign_header, make_repository, write_foreign

from promptdia.pipeline.errors import ConfigError, InputError
from promptdia.pipeline.ingest import ingest
from promptdia.pipeline.io.fits import write_master
from promptdia.pipeline.repository import Repository
from promptdia.tasks.model.calibrations import MasterFrame
from promptdia.tasks.model.visit import Visit

VISIT = Visit(2024030400007, "r", 60374.0, 60.0, 157.5, -15.5)


def _settings(repository: Repository, **settings: object) -> Repository:
    path = repository.root / "promptdia.yaml"
    path.write_text(yaml.safe_dump({"instrument": "instrument.yaml", **settings}))
    return Repository(repository.root)


def _master(repository: Repository, kind: str, mjd: float, value: float, band: str = "") -> None:
    image = np.full((NY, NX), value, np.float32)
    write_master(
        repository.master_path(kind, 4, band, mjd),
        MasterFrame(kind, image, np.zeros_like(image), 4, band),
        mjd,
    )


def test_a_folder_that_is_no_repository_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"is not a promptdia repository .*promptdia init ROOT"):
        Repository(tmp_path)


def test_an_existing_repository_is_not_made_again(tmp_path: Path) -> None:
    make_repository(tmp_path)
    with pytest.raises(ConfigError, match="is already a promptdia repository"):
        Repository.create(tmp_path / "root", "lux2713")


def test_a_camera_of_ones_own_goes_into_the_repository(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    (tmp_path / "camera.yaml").unlink()
    assert Repository(repository.root).instrument.name == "hilltop"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"cannot write .*promptdia\.yaml"):
        Repository.create(tmp_path / "file" / "root", "lux2713")


def test_an_unknown_key_is_named_by_file_and_path(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    with pytest.raises(ConfigError, match=r"promptdia\.yaml: brokre: unknown key"):
        _settings(repository, brokre={})
    changed = _settings(repository, pipeline={"isr": {"darkk": False}})
    with pytest.raises(ConfigError, match=r"promptdia\.yaml: pipeline: isr\.darkk: unknown key"):
        _ = changed.config


def test_the_repository_overrides_the_camera_which_overrides_the_defaults(tmp_path: Path) -> None:
    camera = CAMERA + "pipeline: {isr: {bias: false, dark: false}}\n"
    changed = _settings(make_repository(tmp_path, camera), pipeline={"isr": {"dark": True}})
    isr = changed.config.isr
    assert (isr.bias, isr.dark, isr.flat) == (False, True, True)


def test_a_relative_database_lies_in_the_repository(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    assert repository.apdb_url == f"sqlite:///{(tmp_path / 'root' / 'apdb.sqlite').resolve()}"
    elsewhere = _settings(repository, apdb="sqlite:////data/apdb.sqlite")
    assert elsewhere.apdb_url == "sqlite:////data/apdb.sqlite"


def test_visits_come_in_time_order_and_by_night(tmp_path: Path) -> None:
    repository = make_repository(tmp_path)
    assert repository.visits() == []
    frames = ((3, "2024-03-05", "04:00:00"), (9, "2024-03-05", "03:00:00"))
    for frame, date, time in (*frames, (1, "2024-03-06", "03:00:00")):
        header = foreign_header(frame=frame, DATE=date, UT=time)
        ingest(repository, [write_foreign(tmp_path / f"{frame}.fits", header)])
    assert [v.id for v in repository.visits()] == [2024030400009, 2024030400003, 2024030500001]
    assert [v.id for v in repository.visits(20240305)] == [2024030500001]
    assert repository.detectors(2024030400009) == [4]
    with pytest.raises(ConfigError, match="has no visit 12; ingest its frames first"):
        repository.visit(12)


def test_the_master_nearest_in_time_is_taken(tmp_path: Path) -> None:
    repository = _settings(
        make_repository(tmp_path), pipeline={"isr": {"dark": False, "flat": False}}
    )
    for days, value in ((-50, 1.0), (10, 2.0), (70, 3.0)):
        _master(repository, "bias", VISIT.mjd_tai + days, value)
    given = repository.calibrations(VISIT, 4)
    assert given.bias is not None
    assert_array_equal(given.bias.image, 2.0)
    assert given.dark is None
    assert given.flat is None
    assert given.defects is None


def test_a_master_too_old_or_of_another_band_is_not_taken(tmp_path: Path) -> None:
    repository = _settings(
        make_repository(tmp_path), pipeline={"isr": {"bias": False, "dark": False}}
    )
    _master(repository, "flat", VISIT.mjd_tai, 1.0, "g")
    _master(repository, "flat", VISIT.mjd_tai - 61, 1.0, "r")
    with pytest.raises(
        InputError,
        match=r"no master flat for detector 4 in band r within 60 days of visit 2024030400007 "
        r".*or set pipeline\.isr\.flat: false",
    ):
        repository.calibrations(VISIT, 4)
