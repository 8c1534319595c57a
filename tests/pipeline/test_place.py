"""explain --at, apdb dedup and apdb export on a processed night."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from support.processed import VISITS, promptdia

from promptdia.apdb.schema.lsst import DIA_SOURCE, REJECTED
from promptdia.apdb.sql import SqlApdb
from promptdia.pipeline.io.fits import read_exposure
from promptdia.pipeline.io.parquet import read_catalog
from promptdia.pipeline.repository import Repository
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.exposure import DifferenceExposure
from promptdia.tasks.model.mask import MaskPlane
from promptdia.tasks.model.wcs import separation_arcsec

VISIT = VISITS[0]


def rows(root: Path, name: str, schema: object) -> Catalog:
    path = Repository(root).product(VISIT, 0, name)
    return read_catalog(path, schema)  # type: ignore[arg-type]


def at(root: Path, ra: float, dec: float, visit: int = VISIT) -> str:
    ran = promptdia("explain", root, "--at", f"{ra:.8f}", f"{dec:.8f}", visit)
    assert (ran.status, ran.err) == (0, "")
    return ran.out


def empty_place(root: Path) -> tuple[float, float]:
    """A position on detector 0 with no detection near and no mask plane set around it."""
    repository = Repository(root)
    path = repository.product(VISIT, 0, "difference.fits")
    difference = read_exposure(path, repository.detector(0), DifferenceExposure)
    found = [
        rows(root, "dia_sources.parquet", DIA_SOURCE),
        rows(root, "rejected.parquet", REJECTED),
    ]
    rng = np.random.default_rng(1)
    while True:
        x, y = rng.uniform(100, 400, 2)
        box = difference.mask[int(y) - 5 : int(y) + 6, int(x) - 5 : int(x) + 6]
        ra, dec = (float(v) for v in difference.wcs.pixel_to_sky(np.array(x), np.array(y)))
        away = [separation_arcsec(ra, dec, f["ra"], f["dec"]) for f in found]
        if not box.any() and min(a.min(initial=np.inf) for a in away) > 5:
            return ra, dec


def test_an_alerted_source_tells_its_story_at_its_place(processed: Path) -> None:
    found = rows(processed, "dia_sources.parquet", DIA_SOURCE)
    source = found[np.argmax(found["snr"])]
    said = at(processed, source["ra"], source["dec"] + 0.5 / 3600)
    assert f'0.50" away: {source["diaSourceId"]} is detection' in said
    assert "Its alert for topic" in said
    said = at(processed, source["ra"], source["dec"])
    assert str(MaskPlane.DETECTED.name) in said
    assert f"{source['psfFlux']:.1f} ± {source['psfFluxErr']:.1f} nJy" in said
    assert "Forced PSF flux on the difference, where detection needs S/N 5: " in said


def test_a_rejected_detection_names_its_rule(processed: Path) -> None:
    rejected = rows(processed, "rejected.parquet", REJECTED)
    row = rejected[np.isfinite(rejected["ra"])][0]
    said = at(processed, row["ra"], row["dec"])
    assert f"was not alerted: rule {row['rule']} stopped it" in said


def test_an_empty_place_has_a_forced_flux_of_little_significance(processed: Path) -> None:
    said = at(processed, *empty_place(processed))
    assert f'Nothing was detected within 2" in visit {VISIT}.' in said
    assert "no mask plane set" in said
    snr = float(said.split("needs S/N 5: ")[1].split("S/N ")[1].split(".\n")[0])
    assert abs(snr) < 5


def test_places_and_visits_that_were_not_seen_are_named(processed: Path) -> None:
    assert "No processed detector of visit" in at(processed, 10.0, -89.5)
    for arguments, complaint in (
        (("10", "95", VISIT), "dec 95.0 is no position"),
        (("ten", "5", VISIT), "--at needs RA and DEC in degrees and a visit"),
        (("10", "5", "20200101000001"), "has no visit 20200101000001"),
    ):
        ran = promptdia("explain", processed, "--at", *arguments)
        assert ran.status == 2
        assert complaint in ran.complaint


def test_a_detector_that_failed_says_why(imaged: Path) -> None:
    source = rows(imaged, "dia_sources.parquet", DIA_SOURCE)[0]
    store = SqlApdb.create(Repository(imaged).apdb_url)
    store.record_status(VISIT, 0, "failed", "found 2 PSF stars, need 6")
    said = at(imaged, source["ra"], source["dec"])
    assert "Detector 0 is failed: found 2 PSF stars, need 6" in said


def test_explain_wants_an_id_or_a_place() -> None:
    assert promptdia("explain", "nowhere").status == 2
    assert promptdia("explain", "nowhere", 5, "--at", 1, 2, 3).status == 2


def test_the_database_can_be_exported_and_cleaned_from_the_command_line(
    night: Path, tmp_path: Path
) -> None:
    exported = promptdia("apdb", night, "export", tmp_path / "sky")
    assert (exported.status, exported.err) == (0, "")
    files = (tmp_path / "sky" / "dia_object").rglob("Npix=*")
    n = sum(pq.ParquetFile(file).metadata.num_rows for file in files)
    assert f"{n} rows in {tmp_path / 'sky' / 'dia_object'}" in exported.out
    assert promptdia("apdb", night, "export", tmp_path / "sky").status == 2
    first, second = (promptdia("apdb", night, "dedup") for _ in range(2))
    assert (first.status, second.status) == (0, 0)
    assert "0 objects merged" in second.out
    assert promptdia("apdb", night, "check").status == 0
