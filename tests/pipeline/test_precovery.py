"""Precovery: a new object's first alert has a past, measured on what earlier visits stored."""

from pathlib import Path

import numpy as np
import pytest
from support.processed import (
    DETECTORS,
    NIGHT,
    VISITS,
    alerts_of,
    change_settings,
    promptdia,
    rows,
)

from promptdia.apdb.ids import unpack
from promptdia.apdb.schema.lsst import DIA_OBJECT
from promptdia.pipeline.io.fits import map_exposure, read_exposure
from promptdia.pipeline.repository import Repository
from promptdia.tasks.forced import ForcedConfig, ForcedPhotometry
from promptdia.tasks.model.exposure import DifferenceExposure, ScienceExposure


def first_alerts(root: Path, visit: int) -> list[dict]:
    """The alerts with which a visit founded objects."""
    return [
        alert
        for alert in alerts_of(root)
        if alert["diaSource"]["visit"] == visit
        and alert["diaSource"]["diaObjectId"] == alert["diaSourceId"]
    ]


def earlier(alert: dict) -> list[dict]:
    """Its forced points of visits before its own."""
    return [p for p in alert["prvDiaForcedSources"] if p["visit"] < alert["diaSource"]["visit"]]


def exposures(root: Path, visit: int, detector: int) -> tuple:
    repository = Repository(root)
    camera = repository.detector(detector)
    return (
        read_exposure(
            repository.product(visit, detector, "difference.fits"), camera, DifferenceExposure
        ),
        read_exposure(repository.product(visit, detector, "calexp.fits"), camera, ScienceExposure),
    )


def test_the_first_alert_of_an_object_has_the_points_of_every_visit_before(
    processed: Path,
) -> None:
    stored = [dict(row) for row in rows(processed)["DiaForcedSource"]]
    new = first_alerts(processed, VISITS[1]) + first_alerts(processed, VISITS[2])
    with_past = 0
    for alert in new:
        place = DIA_OBJECT.empty(1)
        place["diaObjectId"] = alert["diaSourceId"]
        place["ra"], place["dec"] = alert["diaSource"]["ra"], alert["diaSource"]["dec"]
        measured = {
            (visit, detector): row
            for visit in VISITS
            if visit < alert["diaSource"]["visit"]
            for detector in DETECTORS
            for row in ForcedPhotometry(ForcedConfig()).run(
                place, *exposures(processed, visit, detector)
            )
        }
        mine = [row for row in stored if row["diaObjectId"] == alert["diaSourceId"]]
        before = {
            (row["visit"], row["detector"]): row
            for row in mine
            if row["visit"] < alert["diaSource"]["visit"]
        }
        assert before.keys() == measured.keys()
        for where, row in before.items():
            for name in ("psfFlux", "psfFluxErr", "scienceFlux", "midpointMjdTai", "band"):
                assert row[name] == measured[where][name] or np.isnan(measured[where][name])
        assert {p["visit"] for p in earlier(alert)} == {visit for visit, _ in before}
        with_past += bool(before)
    assert with_past >= 3


def test_where_nothing_was_seen_the_points_are_limits(processed: Path) -> None:
    """Detection had found it above 5 sigma; most of what was not found lies below."""
    snr = np.array(
        [
            point["psfFlux"] / point["psfFluxErr"]
            for visit in VISITS[1:]
            for alert in first_alerts(processed, visit)
            for point in earlier(alert)
            if point["psfFlux"] is not None
        ]
    )
    assert snr.size >= 3
    assert np.median(np.abs(snr)) < 5


def test_ids_are_those_of_the_visit_that_made_them_and_unique(processed: Path) -> None:
    found = rows(processed)["DiaForcedSource"]
    ids = [row["diaForcedSourceId"] for row in found]
    assert len(set(ids)) == len(ids)
    for row in found:
        made_by = unpack(row["diaForcedSourceId"])
        early = row["visit"] != made_by.visit
        founded_by = unpack(row["diaObjectId"])
        assert not early or (made_by.visit, made_by.detector) == founded_by[:2]
        assert row["visit"] <= made_by.visit
    assert promptdia("apdb", processed, "check").status == 0


def test_no_days_mean_no_early_points(imaged: Path) -> None:
    change_settings(imaged, pipeline={"forced": {"precovery_days": 0}})
    assert promptdia("night", imaged, NIGHT, "--workers", 1).status == 0
    assert not any(earlier(alert) for v in VISITS for alert in first_alerts(imaged, v))
    assert promptdia("apdb", imaged, "check").status == 0


@pytest.mark.parametrize("damage", ["gone", "broken"])
def test_a_stored_difference_that_cannot_be_read_is_said_and_costs_only_its_points(
    imaged: Path, processed: Path, damage: str
) -> None:
    assert promptdia("visit", imaged, VISITS[0], "--workers", 1).status == 0
    repository = Repository(imaged)
    for detector in DETECTORS:
        path = repository.product(VISITS[0], detector, "difference.fits")
        path.unlink()
        if damage == "broken":
            path.write_bytes(b"SIMPLE")
    assert promptdia("visit", imaged, VISITS[1], "--workers", 1).status == 0
    said = [
        line
        for detector in DETECTORS
        for line in (repository.summary(VISITS[1], detector) or {})["precovery_missing"]
    ]
    assert said
    assert all("difference.fits" in line for line in said)
    assert not any(earlier(alert) for alert in first_alerts(imaged, VISITS[1]))
    assert {a["diaSourceId"] for a in first_alerts(imaged, VISITS[1])} == {
        a["diaSourceId"] for a in first_alerts(processed, VISITS[1])
    }
    assert promptdia("apdb", imaged, "check").status == 0


def test_a_mapped_exposure_measures_as_one_that_was_read(processed: Path) -> None:
    repository = Repository(processed)
    camera = repository.detector(0)
    read = exposures(processed, VISITS[0], 0)
    mapped = (
        map_exposure(
            repository.product(VISITS[0], 0, "difference.fits"), camera, DifferenceExposure
        ),
        map_exposure(repository.product(VISITS[0], 0, "calexp.fits"), camera, ScienceExposure),
    )
    places = DIA_OBJECT.empty(50)
    rng = np.random.default_rng(1)
    ny, nx = read[0].shape
    places["ra"], places["dec"] = read[0].wcs.pixel_to_sky(
        rng.uniform(-5, nx + 5, 50), rng.uniform(-5, ny + 5, 50)
    )
    some, others = (ForcedPhotometry(ForcedConfig()).run(places, *pair) for pair in (read, mapped))
    assert some.size > 30
    assert some.tobytes() == others.tobytes()
