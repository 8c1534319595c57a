"""Raw calibration frames become masters, and masters find the frames they are for."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from numpy.testing import assert_allclose, assert_array_equal
from support.camera_files import (
    CAMERA,
    NX,
    NY,
    counts,
    foreign_header,
    make_repository,
    write_foreign,
)

from promptdia.pipeline.calib import build_calibrations
from promptdia.pipeline.errors import ConfigError, InputError
from promptdia.pipeline.ingest import ingest
from promptdia.pipeline.io.fits import read_master
from promptdia.pipeline.io.sums import sha256
from promptdia.pipeline.repository import Repository

VISIT = 2024030400007


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return make_repository(tmp_path)


def test_bias_dark_and_flat_become_masters(repository: Repository, tmp_path: Path) -> None:
    frames = {"ZERO": (0.0, 0.0), "DARK": (60.0, 10.0), "SKYFLAT": (5.0, 20000.0)}
    for kind, (seconds, level) in frames.items():
        for n in range(3):
            write_foreign(
                tmp_path / f"{kind.lower()}{n}.fits",
                foreign_header(kind, EXPOSED=seconds),
                counts(n, level),
            )
    result = ingest(repository, sorted(tmp_path.glob("*.fits")))
    assert result.refused == []
    assert sorted({kind for _, kind, _ in result.stored}) == ["bias", "dark", "flat"]
    made = {b.kind: b for b in build_calibrations(repository)}
    assert {k: made[k].n_inputs for k in ("bias", "dark", "flat")} == {
        "bias": 3,
        "dark": 3,
        "flat": 3,
    }
    assert made["flat"].band == "r"
    dark, flat = read_master(made["dark"].path), read_master(made["flat"].path)
    assert_allclose(np.median(dark.image), 10.0 * 2.0 / 60.0, rtol=0.1)  # ADU, gain, seconds
    assert_allclose(np.median(flat.image), 1.0, atol=0.01)
    assert list(dark.inputs) == ["dark0.fits", "dark1.fits", "dark2.fits"]
    assert dark.camera == "hilltop"
    noise = json.loads(made["noise"].path.read_text())
    assert "no photon noise" in noise["reason"]
    assert sorted(noise["inputs"]) == [f"{k}{n}.fits" for k in ("skyflat", "zero") for n in (1, 2)]
    ingest(repository, [write_foreign(tmp_path / "light.fits", foreign_header())])
    given = repository.calibrations(repository.visit(VISIT), 4)
    assert given.bias is not None
    assert given.flat is not None
    assert given.defects is not None


def test_a_master_from_elsewhere_is_used_as_it_is(repository: Repository, tmp_path: Path) -> None:
    ingest(repository, [write_foreign(tmp_path / "light.fits", foreign_header())])
    flat = np.random.default_rng(1).normal(1, 0.01, (NY, NX)).astype(np.float32)
    path = tmp_path / "flat.fits"
    fits.PrimaryHDU(flat).writeto(path)
    refused = ingest(repository, [path], "flat", combined=True).refused
    assert "has no FILTER (band)" in refused[0][1]
    fits.PrimaryHDU(flat, header=fits.Header({"FILTER": "Clear"})).writeto(path, overwrite=True)
    assert ingest(repository, [path], "flat", combined=True).refused == []
    [built] = build_calibrations(repository)
    assert built.kind == "defects"
    with pytest.raises(InputError, match="no master bias for detector 4 within 60 days"):
        repository.calibrations(repository.visit(VISIT), 4)
    [stored] = (repository.root / "calib" / "flat").glob("*.fits")
    assert_array_equal(read_master(stored).image, flat)


def test_a_master_of_the_wrong_size_is_refused(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "flat.fits"
    fits.PrimaryHDU(np.ones((10, 10), np.float32)).writeto(path)
    result = ingest(repository, [path], "flat", combined=True)
    assert "(10, 10), detector 4 is (40, 48)" in result.refused[0][1]


@pytest.mark.parametrize(
    ("kind", "level", "cards", "reason"),
    [
        ("bias", 3.0, {"BUNIT": "adu"}, "the master bias is in adu, must be in electron"),
        ("dark", 3.0, {"BUNIT": "electron"}, "is in electron, must be in electron/s"),
        ("flat", 21000.0, {}, "the flat has median 21000, must be divided by its mean"),
        ("flat", 0.0, {}, "the flat has median 0, must be divided by its mean"),
        ("bias", 3.0, {"CAMERA": "valley"}, "is of camera valley, this repository's is hilltop"),
    ],
)
def test_a_master_in_the_wrong_unit_or_of_another_camera_is_refused(
    repository: Repository,
    tmp_path: Path,
    kind: str,
    level: float,
    cards: dict[str, str],
    reason: str,
) -> None:
    path = tmp_path / "master.fits"
    header = fits.Header({"FILTER": "Clear", "DATE": "2024-03-05", "UT": "03:20:30.5", **cards})
    fits.PrimaryHDU(np.full((NY, NX), level, np.float32), header=header).writeto(path)
    [(_, said)] = ingest(repository, [path], kind, combined=True).refused
    assert reason in said
    assert "\n" not in said


def test_masters_copied_from_another_camera_are_refused(
    repository: Repository, tmp_path: Path
) -> None:
    write_biases(repository, tmp_path)
    (tmp_path / "valley").mkdir()
    other = make_repository(tmp_path / "valley", CAMERA.replace("hilltop", "valley"))
    shutil.copytree(repository.root / "calib", other.root / "calib")
    ingest(other, [write_foreign(tmp_path / "light.fits", foreign_header())])
    with pytest.raises(InputError, match="is a bias of camera hilltop, this repository's is valle"):
        other.master("bias", other.visit(VISIT), 4)


def test_files_that_are_no_masters_or_in_another_unit_are_refused(
    repository: Repository, tmp_path: Path
) -> None:
    write_biases(repository, tmp_path)
    [path] = (repository.root / "calib" / "bias").glob("*.fits")
    ingest(repository, [write_foreign(tmp_path / "light.fits", foreign_header())])
    assert read_master(path).overscan == "amplifier"
    with fits.open(path) as hdus:
        hdus[0].header["BUNIT"] = "adu"
        hdus.writeto(path, overwrite=True)
    with pytest.raises(InputError, match="is in adu, a master bias must be in electron"):
        repository.master("bias", repository.visit(VISIT), 4)
    fits.PrimaryHDU(np.ones((NY, NX), np.float32)).writeto(path, overwrite=True)
    with pytest.raises(InputError, match=r"is no master frame \(no IMAGE, VARIANCE, INPUTS\)"):
        repository.master("bias", repository.visit(VISIT), 4)


def test_defects_list_the_masters_they_were_found_on_and_their_camera(
    repository: Repository, tmp_path: Path
) -> None:
    write_biases(repository, tmp_path)
    [master] = (repository.root / "calib" / "bias").glob("*.fits")
    path = repository.defects_path(4)
    with fits.open(path) as hdus:
        assert [tuple(row) for row in hdus["INPUTS"].data] == [(master.name, sha256(master))]
        hdus[0].header["CAMERA"] = "valley"
        hdus.writeto(path, overwrite=True)
    with pytest.raises(InputError, match=r"are defects of camera valley, this repository's is hil"):
        repository.defects(4)


def write_biases(repository: Repository, folder: Path, nights: tuple[str, ...] = ("05",)) -> None:
    """Two biases in each of these nights of March or, with a dash, of another month."""
    for night in nights:
        for n in (1, 2):
            date = f"2024-{night}" if "-" in night else f"2024-03-{night}"
            header = foreign_header("ZERO", DATE=date)
            path = folder / f"zero{night}_{n}.fits"
            if not path.exists():
                write_foreign(path, header, counts(n, 0.0))
    ingest(repository, sorted(folder.glob("zero*.fits")))
    build_calibrations(repository)


def test_frames_of_two_seasons_make_two_masters_and_a_longer_list_replaces_a_shorter(
    repository: Repository, tmp_path: Path
) -> None:
    write_biases(repository, tmp_path, ("05", "09-05"))
    masters = repository.root / "calib" / "bias"
    assert [read_master(p).inputs.keys() for p in sorted(masters.glob("4_*.fits"))] == [
        {"zero05_1.fits", "zero05_2.fits"},
        {"zero09-05_1.fits", "zero09-05_2.fits"},
    ]
    write_biases(repository, tmp_path, ("05", "06", "09-05"))
    assert [len(read_master(p).inputs) for p in sorted(masters.glob("4_*.fits"))] == [4, 2]


def test_without_overscan_flats_need_a_bias(tmp_path: Path) -> None:
    camera = CAMERA.replace("        overscan: [48, 52, 0, 40]\n", "")
    repository = make_repository(tmp_path, camera)
    for n in (1, 2):
        header = foreign_header("SKYFLAT", EXPOSED=5.0)
        write_foreign(tmp_path / f"flat{n}.fits", header, counts(n, 9000.0, overscan=0))
    ingest(repository, sorted(tmp_path.glob("flat*.fits")))
    with pytest.raises(InputError, match=r"flat frames .*flat1\.fits to flat2.* a bias is needed"):
        build_calibrations(repository)


def test_a_dark_flat_is_named(repository: Repository, tmp_path: Path) -> None:
    header = foreign_header("SKYFLAT", EXPOSED=5.0)
    ingest(repository, [write_foreign(tmp_path / "flat1.fits", header, counts(1, 0.0))])
    with pytest.raises(InputError, match=r"flat frame flat1\.fits has median signal"):
        build_calibrations(repository)


def test_combined_needs_a_kind(repository: Repository, tmp_path: Path) -> None:
    path = tmp_path / "flat.fits"
    fits.PrimaryHDU(np.ones((NY, NX), np.float32)).writeto(path)
    with pytest.raises(ConfigError, match="--combined goes with --as bias"):
        ingest(repository, [path], combined=True)
