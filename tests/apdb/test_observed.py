"""What earlier visits saw of a sky, points that come to them later, and moving objects."""

import numpy as np
import pytest
from support.apdb import (
    DEC,
    RA,
    Region,
    filled,
    mjd_of,
    observe,
    random_batch,
    visit_number,
    without,
)

from promptdia.apdb.errors import ApdbError
from promptdia.apdb.ids import dia_source_ids
from promptdia.apdb.schema.lsst import (
    DIA_FORCED_SOURCE,
    DIA_OBJECT,
    SS_OBJECT,
    SS_SOURCE,
    VISIT_DETECTOR,
)
from promptdia.apdb.sql import SqlApdb
from promptdia.apdb.ss_objects import CIRCUMSTANCES, SEEN, summarize_ss_objects
from promptdia.apdb.store import Batch

QUALITY = {"psfSigma": 1.5, "magLim": 23.5, "zeroPoint": 31.0}


def early_points(batch: Batch, visits: list[int], detector: int = 5) -> Batch:
    """The batch with a point of each of its objects on earlier visits."""
    points = []
    for visit in visits:
        rows = DIA_FORCED_SOURCE.empty(batch.sources.size)
        for name in ("diaObjectId", "ra", "dec", "band"):
            rows[name] = batch.sources[name]
        rows["visit"], rows["detector"] = visit_number(visit), detector
        rows["midpointMjdTai"], rows["timeProcessedMjdTai"] = mjd_of(visit), mjd_of(visit)
        rows["psfFlux"], rows["psfFluxErr"] = 1.0, 2.0
        points.append(rows)
    forced = np.concatenate(points)
    forced["diaForcedSourceId"] = dia_source_ids(
        batch.visit, batch.detector, np.arange(forced.size)
    )
    return without(batch, forced=forced)


def test_observed_are_the_done_detectors_of_a_time_and_place_oldest_first(apdb: SqlApdb) -> None:
    for visit in (2, 1, 3):
        batch = observe(apdb, visit, [RA], [DEC])
        apdb.commit(without(batch, quality=QUALITY), out_of_order=True)
    far = Region.circle(RA + 5, DEC, 0.1)
    apdb.commit(observe(apdb, 2, [RA + 5], [DEC], detector=6, region=far))
    apdb.record_status(visit_number(2), 7, "failed", "no stars", mjd_tai=mjd_of(2))
    near = Region.circle(RA + 0.15, DEC, 0.1)
    found = apdb.observed(near, mjd_of(1), mjd_of(3))
    assert [row.visit for row in found] == [visit_number(1), visit_number(2)]
    assert {row.detector for row in found} == {5}
    assert found[0].quality == pytest.approx(QUALITY)
    np.testing.assert_allclose([found[0].ra, found[0].dec, found[0].radius_deg], [RA, DEC, 0.1])
    assert apdb.observed(Region.circle(RA + 1, DEC, 0.1), mjd_of(0), mjd_of(9)) == []
    assert apdb.observed(near, mjd_of(3) + 1, mjd_of(9)) == []


def test_points_on_earlier_visits_are_counted_there(apdb: SqlApdb) -> None:
    for visit in (1, 2):
        apdb.commit(observe(apdb, visit, [RA], [DEC]))
    new = early_points(observe(apdb, 3, [RA + 0.01, RA - 0.01], [DEC, DEC]), [1, 2])
    assert apdb.commit(new)
    assert [row.n_dia_forced_sources for row in apdb.outcomes()] == [2, 2, 0]
    assert apdb.check() == []
    past = apdb.preload(new.region, mjd_of(4)).forced
    assert past["visit"].tolist() == [visit_number(1)] * 2 + [visit_number(2)] * 2
    assert not apdb.commit(new)  # a second time adds nothing
    assert [row.n_dia_forced_sources for row in apdb.outcomes()] == [2, 2, 0]


def test_points_on_a_visit_that_is_not_done_are_refused_whole(apdb: SqlApdb) -> None:
    new = early_points(observe(apdb, 3, [RA], [DEC]), [1])
    with pytest.raises(ApdbError, match=f"visit {visit_number(1)} detector 5, which is not done"):
        apdb.commit(new)
    assert apdb.countings()["DiaForcedSource"] == 0
    assert apdb.countings()["DiaSource"] == 0


def test_points_of_known_objects_on_earlier_visits_are_refused(apdb: SqlApdb) -> None:
    apdb.commit(observe(apdb, 1, [RA], [DEC]))
    again = early_points(observe(apdb, 2, [RA], [DEC]), [1])
    with pytest.raises(ApdbError, match="forced source 0 is of another visit or detector"):
        apdb.commit(again)


def moving(batch: Batch, ss_id: int, phase: float) -> Batch:
    """The batch with its first source taken for a Solar System object."""
    sources = batch.sources[:1].copy()
    sources["diaObjectId"], sources["ssObjectId"] = 0, ss_id
    known = SS_SOURCE.empty(1)
    known["diaSourceId"], known["ssObjectId"] = sources["diaSourceId"], ss_id
    for name in ("eclLambda", "eclBeta", "galLon", "galLat"):
        known[name] = 1.0
    known["designation"], known["phaseAngle"] = "2026 SA1", phase
    return without(
        batch, sources=sources, objects=DIA_OBJECT.empty(), ss_sources=known, payloads=()
    )


def test_a_solar_system_object_sums_up_all_its_sources(apdb: SqlApdb) -> None:
    for visit, phase in ((1, 10.0), (2, 12.0), (4, 11.0)):
        apdb.commit(moving(observe(apdb, visit, [RA], [DEC]), 77, phase))
    apdb.commit(moving(observe(apdb, 5, [RA], [DEC]), 78, 3.0))
    with apdb._transaction() as connection:
        rows = apdb._backend.read(connection, SS_OBJECT, 'ORDER BY "ssObjectId"')
    assert rows["ssObjectId"].tolist() == [77, 78]
    assert rows["nObs"].tolist() == rows["r_nObs"].tolist() == [3, 1]
    assert (rows["r_phaseAngleMin"][0], rows["r_phaseAngleMax"][0]) == (10.0, 12.0)
    assert rows["firstObservationMjdTai"][0] == mjd_of(1)
    np.testing.assert_allclose(rows["arc"][0], mjd_of(4) - mjd_of(1), rtol=1e-6)
    assert rows["designation"].tolist() == ["2026 SA1"] * 2
    assert apdb.check() == []


def test_unknown_values_of_moving_sources_leave_unknown_summaries() -> None:
    seen = filled(SEEN.empty(3), diaSourceId=[3, 1, 2], ssObjectId=[9, 9, 8], band="g")
    seen["midpointMjdTai"], seen["extendedness"] = [3.0, 1.0, 2.0], [0.2, np.nan, np.nan]
    nine, eight = summarize_ss_objects(seen, CIRCUMSTANCES.empty())[::-1]
    assert (nine["nObs"], nine["arc"], nine["g_nObs"], nine["r_nObs"]) == (2, 2.0, 2, 0)
    assert nine["extendednessMedian"] == nine["extendednessMin"] == np.float32(0.2)
    assert np.isnan(eight["extendednessMedian"])
    assert np.isnan(nine["g_phaseAngleMin"])


def test_the_summary_of_a_detector_has_the_columns_of_its_schema(apdb: SqlApdb) -> None:
    apdb.commit(without(random_batch(5, seed=1), quality={**QUALITY, "unheard_of": 1.0}))
    with apdb._transaction() as connection:
        [row] = apdb._backend.read(connection, VISIT_DETECTOR, "")
    assert (row["status"], row["nDiaSources"], row["nRejected"]) == ("done", 5, 2)
    assert row["magLim"] == np.float32(23.5)
    assert np.isnan(row["skyBg"])
