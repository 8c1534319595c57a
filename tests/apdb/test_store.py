"""What every APDB must do, whatever database it is made of."""

import numpy as np
import pytest
from support.apdb import (
    DEC,
    FIELD,
    RA,
    TOPIC,
    assert_same_rows,
    mjd_of,
    observe,
    random_batch,
    visit_number,
    without,
)

from promptdia.apdb.errors import ApdbError, TransientError
from promptdia.apdb.pixels import ORDER, Region, sky_pixel
from promptdia.apdb.sql import SqlApdb
from promptdia.apdb.store import Apdb

ARCSEC = 1 / 3600
LATER = mjd_of(100)


def by(rows: np.ndarray, key: str) -> np.ndarray:
    return rows[np.argsort(rows[key])]


def test_every_value_comes_back_as_it_was_written(apdb: Apdb) -> None:
    batch = random_batch(200, seed=1)
    assert apdb.commit(batch)
    back = apdb.preload(FIELD, LATER)
    assert_same_rows(back.objects, by(batch.objects, "diaObjectId"))
    assert_same_rows(back.sources, by(batch.sources, "diaSourceId"))
    assert_same_rows(back.forced, by(batch.forced, "diaForcedSourceId"))
    assert apdb.check() == []


def test_infinite_errors_and_extreme_numbers_survive(apdb: Apdb) -> None:
    batch = random_batch(2, seed=2)
    batch.sources["psfFluxErr"] = [np.inf, np.finfo(np.float32).tiny]
    batch.sources["psfFlux"] = [-np.inf, np.finfo(np.float32).max]
    batch.sources["ssObjectId"], batch.sources["diaObjectId"][1] = [0, 2**63 - 1], 0
    batch = without(batch, objects=batch.objects[:1], forced=batch.forced[:1])
    apdb.commit(batch)
    back = apdb.preload(FIELD, LATER)
    assert_same_rows(back.sources, batch.sources[:1])  # the other belongs to no object here
    facts = apdb.explain(int(batch.sources["diaSourceId"][1])).facts["source"]
    assert facts["ssObjectId"] == 2**63 - 1
    assert facts["psfFlux"] == np.finfo(np.float32).max


def test_text_beyond_ascii_survives(apdb: Apdb) -> None:
    batch = random_batch(3, seed=21)
    batch.sources["reliabilityVersion"] = ["forêt 1", "", "森"]
    apdb.commit(batch)
    assert_same_rows(apdb.preload(FIELD, LATER).sources, batch.sources)


def test_what_was_measured_just_outside_a_region_comes_with_its_object(apdb: Apdb) -> None:
    batch = random_batch(1, seed=22)
    batch.objects["ra"], batch.objects["dec"] = RA, DEC + 0.1 - 2 * ARCSEC
    batch.sources["ra"], batch.sources["dec"] = RA, DEC + 0.1 + 5 * ARCSEC
    batch.forced["ra"], batch.forced["dec"] = RA, DEC + 0.1 + 5 * ARCSEC
    apdb.commit(batch)
    back = apdb.preload(FIELD, LATER)
    assert (back.objects.size, back.sources.size, back.forced.size) == (1, 1, 1)


@pytest.mark.parametrize("what", ["sources", "forced"])
def test_nothing_is_tied_to_an_object_far_away(apdb: Apdb, what: str) -> None:
    batch = random_batch(2, seed=23)
    getattr(batch, what)["dec"][1] += 11 * ARCSEC
    with pytest.raises(ApdbError, match="lies more than 10 arcsec from its object"):
        apdb.commit(batch)
    assert sum(apdb.countings().values()) == 0


def test_years_apart_and_in_any_order(apdb: Apdb) -> None:
    """Visits of many months, the oldest last; each is stored, and the window cuts."""
    for visit in (700_000, 1, 350_000, -900_000):
        batch = random_batch(5, seed=24 + abs(visit))
        ids = np.arange(5) + 10 * (visit + 10**6)
        for rows in (batch.sources, batch.objects, batch.forced):
            rows["diaObjectId"] = ids
        batch.sources["diaSourceId"] = batch.forced["diaForcedSourceId"] = ids
        for rows in (batch.sources, batch.forced):
            rows["midpointMjdTai"], rows["visit"] = mjd_of(visit), visit_number(visit)
        for name in ("firstDiaSourceMjdTai", "lastDiaSourceMjdTai"):
            batch.objects[name] = mjd_of(visit)
        batch = without(
            batch, visit=visit_number(visit), mjd_tai=mjd_of(visit), rejected=batch.rejected[:0]
        )
        assert apdb.commit(batch, out_of_order=True)
    assert apdb.check() == []
    everything = apdb.preload(FIELD, mjd_of(700_000), window_days=5000)
    year = apdb.preload(FIELD, mjd_of(700_000))
    assert (everything.sources.size, everything.forced.size) == (20, 20)
    assert (year.objects.size, year.sources.size, year.forced.size) == (20, 10, 10)


def test_an_empty_sky_gives_empty_tables(apdb: Apdb) -> None:
    back = apdb.preload(FIELD, LATER)
    assert (back.objects.size, back.sources.size, back.forced.size) == (0, 0, 0)
    assert apdb.check() == []


def test_only_objects_inside_the_region_come_back_with_all_their_sources(apdb: Apdb) -> None:
    batch = random_batch(300, seed=3)
    apdb.commit(batch)
    small = Region.circle(RA + 0.02, DEC, 0.02)
    back = apdb.preload(small, LATER)
    inside = small.contains(batch.objects["ra"], batch.objects["dec"])
    assert 5 < inside.sum() < 100
    assert_same_rows(back.objects, by(batch.objects[inside], "diaObjectId"))
    assert set(back.sources["diaObjectId"]) == set(batch.objects["diaObjectId"][inside])


@pytest.mark.parametrize("pointing", [(0.0, 0.0), (120.0, 89.99), (120.0, -90.0)])
def test_objects_are_found_over_ra_zero_and_at_the_poles(
    apdb: Apdb, pointing: tuple[float, float]
) -> None:
    region = Region.circle(*pointing, 0.1)
    step = np.array([-0.03, 0.0, 0.03])
    ra, dec = (pointing[0] + step) % 360, np.clip(pointing[1] + step, -90, 90)
    apdb.commit(observe(apdb, 1, ra, dec, region=region))
    assert apdb.preload(region, LATER).objects.size == 3


def test_the_history_reaches_back_a_window_and_withdrawn_rows_are_left_out(apdb: Apdb) -> None:
    for visit in (1, 2, 3):
        apdb.commit(observe(apdb, visit, [RA], [DEC]))
    assert apdb.preload(FIELD, mjd_of(3)).sources["visit"].tolist() == [
        visit_number(n) for n in (1, 2, 3)
    ]
    recent = apdb.preload(FIELD, mjd_of(3), window_days=0.0015).sources
    assert recent["visit"].tolist() == [visit_number(2), visit_number(3)]
    withdrawn = observe(apdb, 4, [RA + 0.01], [DEC])
    withdrawn.sources["timeWithdrawnMjdTai"] = 61200.0
    withdrawn.objects["nDiaSources"] = 0
    apdb.commit(withdrawn)
    assert visit_number(4) not in apdb.preload(FIELD, LATER).sources["visit"]


def test_a_night_builds_objects_with_light_curves(apdb: Apdb) -> None:
    rng = np.random.default_rng(4)
    ra, dec = RA + np.arange(20) * 0.002, np.full(20, DEC)
    for visit in range(1, 7):
        noise = rng.normal(0, 0.05 * ARCSEC, (2, 20))
        assert apdb.commit(observe(apdb, visit, ra + noise[0], dec + noise[1]))
    back = apdb.preload(FIELD, LATER)
    assert back.objects.size == 20
    assert (back.objects["nDiaSources"] == 6).all()
    assert (back.objects["r_psfFluxNdata"] == 6).all()
    assert (back.objects["lastDiaSourceMjdTai"] == mjd_of(6)).all()
    assert apdb.check() == []
    assert apdb.countings()["DiaSource"] == 120


def test_a_visit_detector_is_committed_once(apdb: Apdb) -> None:
    batch = random_batch(10, seed=5)
    assert apdb.status(batch.visit, batch.detector) is None
    assert apdb.commit(batch)
    counts = apdb.countings()
    assert not apdb.commit(batch)
    assert not apdb.commit(random_batch(7, seed=6))  # the same visit-detector, other content
    assert apdb.countings() == counts
    assert apdb.status(batch.visit, batch.detector) == "done"


def test_a_detector_without_sources_is_done_too(apdb: Apdb) -> None:
    assert apdb.commit(observe(apdb, 1, [], []))
    assert apdb.status(visit_number(1), 5) == "done"
    assert not apdb.commit(observe(apdb, 1, [], []))


def test_a_failure_is_recorded_until_a_commit_replaces_it(apdb: Apdb) -> None:
    visit = visit_number(1)
    assert apdb.record_status(visit, 5, "failed", "found 2 PSF stars, need 6", mjd_tai=mjd_of(1))
    assert apdb.record_status(visit, 6, "no_work", "no template")
    assert apdb.status(visit, 5) == "failed"
    assert [(o.detector, o.status, o.reason) for o in apdb.outcomes(visit)] == [
        (5, "failed", "found 2 PSF stars, need 6"),
        (6, "no_work", "no template"),
    ]
    assert apdb.commit(random_batch(3, seed=7))
    done = apdb.outcomes()[0]
    assert (done.status, done.reason, done.n_dia_sources, done.n_rejected) == ("done", "", 3, 1)
    assert not apdb.record_status(visit, 5, "failed", "too late")
    assert apdb.status(visit, 5) == "done"


def test_only_a_commit_can_make_a_visit_detector_done(apdb: Apdb) -> None:
    with pytest.raises(ApdbError, match="only commit"):
        apdb.record_status(visit_number(1), 5, "done", "")


def test_a_late_visit_is_refused_unless_it_is_said_to_be_late(apdb: Apdb) -> None:
    early = observe(apdb, 1, [RA, RA + 0.01], [DEC, DEC])
    apdb.commit(observe(apdb, 2, [RA], [DEC]))
    with pytest.raises(ApdbError, match=r"comes late: visit 2026030100002 .* --out-of-order"):
        apdb.commit(early)
    assert apdb.status(early.visit, 5) is None
    again = observe(apdb, 1, [RA, RA + 0.01], [DEC, DEC])
    assert apdb.commit(again, out_of_order=True)
    joined, alone = by(apdb.preload(FIELD, LATER).objects, "ra")
    assert (joined["nDiaSources"], alone["nDiaSources"]) == (2, 1)
    assert joined["firstDiaSourceMjdTai"] == mjd_of(1)
    assert joined["lastDiaSourceMjdTai"] == mjd_of(2)
    assert apdb.check() == []


def test_a_later_visit_of_another_field_makes_nothing_late(apdb: Apdb) -> None:
    elsewhere = Region.circle(RA + 0.25, DEC, 0.1)
    apdb.commit(observe(apdb, 2, [RA + 0.25], [DEC], region=elsewhere))
    assert apdb.commit(observe(apdb, 1, [RA], [DEC]))


def test_a_clock_that_runs_backwards_matters_to_nothing(apdb: Apdb) -> None:
    """When something was processed is noted, and decides nothing."""
    for visit, now in ((1, 61200.0), (2, 61100.5), (3, 40000.0), (4, np.nan)):
        batch = observe(apdb, visit, [RA], [DEC])
        batch.sources["timeProcessedMjdTai"] = now if now == now else 61000.0
        assert apdb.commit(without(batch, now_mjd_tai=now))
    back = apdb.preload(FIELD, LATER)
    assert back.objects["nDiaSources"].tolist() == [4]
    assert back.sources["midpointMjdTai"].tolist() == [mjd_of(n) for n in (1, 2, 3, 4)]
    assert [e.visit for e in apdb.unsent(TOPIC)] == [visit_number(n) for n in (1, 2, 3, 4)]
    assert apdb.check() == []


def test_detectors_of_one_visit_are_never_late(apdb: Apdb) -> None:
    apdb.commit(observe(apdb, 1, [RA], [DEC], detector=5))
    assert apdb.commit(observe(apdb, 1, [RA + 0.01], [DEC], detector=6))


def test_a_batch_made_from_an_outdated_sky_must_be_made_again(apdb: Apdb) -> None:
    apdb.commit(observe(apdb, 1, [RA], [DEC]))
    one = observe(apdb, 2, [RA], [DEC], detector=5)
    other = observe(apdb, 2, [RA + 0.1 * ARCSEC], [DEC], detector=6)
    assert apdb.commit(one)
    with pytest.raises(TransientError, match="was changed by another process"):
        apdb.commit(other)
    assert apdb.commit(observe(apdb, 2, [RA + 0.1 * ARCSEC], [DEC], detector=6))
    objects = apdb.preload(FIELD, LATER).objects
    assert objects["nDiaSources"].tolist() == [3]


def test_two_that_see_a_new_source_at_once_found_one_object(apdb: Apdb) -> None:
    one = observe(apdb, 1, [RA], [DEC], detector=5)
    other = observe(apdb, 1, [RA + 0.2 * ARCSEC], [DEC], detector=6)
    assert apdb.commit(one)
    with pytest.raises(TransientError, match="preload and associate again"):
        apdb.commit(other)
    assert apdb.commit(observe(apdb, 1, [RA + 0.2 * ARCSEC], [DEC], detector=6))
    assert apdb.countings()["DiaObject"] == 1


def test_changes_far_away_do_not_stop_a_batch(apdb: Apdb) -> None:
    one = observe(apdb, 1, [RA], [DEC], detector=5)
    other = observe(apdb, 1, [RA + 10 * ARCSEC], [DEC], detector=6)
    assert apdb.commit(one)
    assert apdb.commit(other)
    assert apdb.check() == []


def spoil(field: str, row: int, column: str, value: object):
    def change(batch):
        rows = getattr(batch, field).copy()
        rows[column][row] = value
        return without(batch, **{field: rows})

    return change


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (spoil("sources", 0, "ra", np.nan), "ra nan, dec .* is no position"),
        (spoil("sources", 1, "midpointMjdTai", np.nan), "has no midpointMjdTai"),
        (spoil("objects", 0, "dec", -90.1), "dec -90.1 is no position"),
        (spoil("rejected", 0, "rule", ""), "names no rule"),
        (spoil("sources", 0, "visit", 20260301_00009), "is of another visit or detector"),
        (spoil("forced", 0, "detector", 9), "detector 9, which is not done"),
        (spoil("sources", 0, "diaObjectId", 0), "exactly one of them must be set"),
        (spoil("sources", 0, "ssObjectId", 4), "exactly one of them must be set"),
        (spoil("sources", 0, "diaObjectId", 12345), "a source belongs to object 12345"),
        (spoil("forced", 0, "diaObjectId", 12345), "a forced source belongs to object 12345"),
        (lambda b: without(b, payloads=[b"x"]), "1 alerts for 4 sources"),
        (lambda b: without(b, left_out=[1]), "1 counts left out for 4 sources"),
        (lambda b: without(b, sources=b.sources[[0, 0]], payloads=()), "occurs 2 times"),
    ],
)
def test_a_batch_that_contradicts_itself_leaves_no_trace(
    apdb: Apdb, change: object, complaint: str
) -> None:
    with pytest.raises(ApdbError, match=complaint):
        apdb.commit(change(random_batch(4, seed=8)))
    assert sum(apdb.countings().values()) == 0


def test_ids_that_are_taken_are_refused_and_nothing_is_written(apdb: Apdb) -> None:
    apdb.commit(random_batch(4, seed=9))
    counts = apdb.countings()
    other = random_batch(4, seed=10, visit=2)
    other.sources["diaSourceId"] = random_batch(4, seed=9).sources["diaSourceId"]
    with pytest.raises(ApdbError, match="already holds one of these rows"):
        apdb.commit(other)
    assert apdb.countings() == counts


def test_alerts_go_from_committed_to_archived_to_sent(apdb: Apdb) -> None:
    batch = random_batch(5, seed=11)
    apdb.commit(batch)
    waiting = apdb.unsent(TOPIC)
    assert [e.dia_source_id for e in waiting] == batch.sources["diaSourceId"].tolist()
    assert [e.payload for e in waiting] == list(batch.payloads)
    assert [e.position for e in waiting] == [0, 1, 2, 3, 4]
    assert apdb.unsent("other topic") == []

    assert apdb.mark_archived(batch.visit, batch.detector) == 5
    assert apdb.mark_archived(batch.visit, batch.detector) == 0
    assert {(e.state, e.payload) for e in apdb.outbox(batch.visit, batch.detector)} == {
        ("archived", None)
    }
    assert apdb.mark_sent(batch.sources["diaSourceId"][:3]) == 3
    assert apdb.mark_sent(batch.sources["diaSourceId"][:3]) == 0
    assert [e.position for e in apdb.unsent(TOPIC)] == [3, 4]
    assert apdb.mark_archived(batch.visit, batch.detector) == 0  # sent stays sent
    assert apdb.countings()["Outbox.sent"] == 3


def test_alerts_leave_in_the_order_of_the_sky(apdb: Apdb) -> None:
    for visit, detector in ((1, 6), (1, 5), (2, 5)):
        place = RA + 0.01 * detector
        apdb.commit(observe(apdb, visit, [place, place + 0.002], [DEC, DEC], detector=detector))
    order = [(e.visit - visit_number(0), e.detector, e.position) for e in apdb.unsent(TOPIC)]
    assert order == [(1, 5, 0), (1, 5, 1), (1, 6, 0), (1, 6, 1), (2, 5, 0), (2, 5, 1)]


def test_many_alerts_can_be_marked_at_once(apdb: Apdb) -> None:
    batch = random_batch(2500, seed=12)
    apdb.commit(batch)
    assert apdb.mark_sent(batch.sources["diaSourceId"]) == 2500
    assert apdb.unsent(TOPIC) == []


def archived(apdb: Apdb, n: int, seed: int) -> list[int]:
    batch = random_batch(n, seed=seed)
    apdb.commit(batch)
    apdb.mark_archived(batch.visit, batch.detector)
    return batch.sources["diaSourceId"].tolist()


def test_a_batch_that_is_sent_is_known_until_it_is_settled(apdb: Apdb) -> None:
    ids = archived(apdb, 5, seed=16)
    assert apdb.sending(TOPIC) is None
    apdb.begin_sending(TOPIC, ids[:4], {0: 7, 3: 0})
    note = apdb.sending(TOPIC)
    assert note is not None
    assert (note.dia_source_ids, note.offsets) == (frozenset(ids[:4]), {0: 7, 3: 0})
    assert apdb.sending("other topic") is None
    assert [e.dia_source_id for e in apdb.unsent(TOPIC)] == ids[4:]
    assert "is being sent" in " ".join(apdb.explain(ids[0]).story)
    assert apdb.check() == []

    apdb.mark_sent(np.array(ids[:1]))
    assert apdb.settle(TOPIC, np.array(ids[1:3])) == 1
    assert apdb.sending(TOPIC) is None
    assert [e.dia_source_id for e in apdb.unsent(TOPIC)] == ids[3:]
    assert apdb.countings()["Outbox.sent"] == 3


def test_only_one_batch_of_archived_unsent_alerts_can_be_under_way(apdb: Apdb) -> None:
    ids = archived(apdb, 4, seed=17)
    committed = random_batch(1, seed=18, visit=2).sources["diaSourceId"].tolist()
    apdb.commit(random_batch(1, seed=18, visit=2))
    apdb.mark_sent(np.array(ids[:1]))
    for wrong in (ids[:1], committed, [12345]):
        with pytest.raises(ApdbError, match=r"1 of 2 alerts .* are not archived, or are sent"):
            apdb.begin_sending(TOPIC, [ids[1], *wrong], {0: 0})
        assert apdb.sending(TOPIC) is None
    apdb.begin_sending(TOPIC, ids[1:2], {0: 0})
    with pytest.raises(ApdbError, match="an earlier batch for topic alerts is not settled"):
        apdb.begin_sending(TOPIC, ids[2:3], {0: 0})
    assert apdb.sending(TOPIC).dia_source_ids == {ids[1]}


def test_sources_and_rejected_detections_are_found_by_place_and_visit(apdb: Apdb) -> None:
    batch = random_batch(6, seed=19)
    batch.rejected["ra"][:2] = RA + 0.04, np.nan
    apdb.commit(batch)
    here = Region.circle(RA, DEC, ARCSEC)
    assert apdb.find(here, batch.visit).tolist() == batch.rejected["diaSourceId"][2:].tolist()
    assert apdb.find(here, batch.visit + 1).size == 0
    source = batch.sources[3]
    near = Region.circle(source["ra"] + ARCSEC / 2, source["dec"], ARCSEC)
    assert apdb.find(near, batch.visit).tolist() == [source["diaSourceId"]]


def test_a_history_by_ids_reaches_back_to_the_start(apdb: Apdb) -> None:
    for visit in (1, 2):
        apdb.commit(observe(apdb, visit, [RA, RA + 0.01], [DEC, DEC]))
    everything = apdb.preload(FIELD, LATER)
    one = everything.objects["diaObjectId"][:1]
    history = apdb.history(one)
    assert_same_rows(history.objects, everything.objects[:1])
    mine = everything.sources["diaObjectId"] == one
    assert_same_rows(history.sources, everything.sources[mine])
    assert apdb.objects()["nDiaSources"].tolist() == [2, 2]
    assert apdb.history(np.zeros(0, np.int64)).objects.size == 0


def test_all_rows_come_out_by_sky_pixel(apdb: Apdb) -> None:
    batch = random_batch(300, seed=20)
    apdb.commit(batch)
    parts = list(apdb.partitions(max_rows=40))
    for name, rows, key in (
        ("DiaObject", batch.objects, "diaObjectId"),
        ("DiaSource", batch.sources, "diaSourceId"),
        ("DiaForcedSource", batch.forced, "diaForcedSourceId"),
    ):
        mine = [p for p in parts if p.schema.name == name]
        assert max(p.rows.size for p in mine) <= 40
        assert_same_rows(by(np.concatenate([p.rows for p in mine]), key), by(rows, key))
        for p in mine:
            pixels = sky_pixel(p.rows["ra"], p.rows["dec"]) >> 2 * (ORDER - p.order)
            assert (pixels == p.pixel).all()
    assert next(iter(apdb.partitions(10**6))).rows.size == 300


def test_a_source_explains_itself(apdb: Apdb) -> None:
    apdb.commit(observe(apdb, 1, [RA], [DEC]))
    apdb.commit(observe(apdb, 2, [RA + 0.3 * ARCSEC], [DEC]))
    founder, follower = (int(i) for i in apdb.preload(FIELD, LATER).sources["diaSourceId"])
    first, second = (" ".join(apdb.explain(i).story) for i in (founder, follower))
    assert "detection 0 of visit 2026030100001, detector 5" in first
    assert "founded an object" in first
    assert f"associated with object {founder}" in second
    assert "S/N 10, flux 100 nJy" in second
    assert "Its alert for topic 'alerts' waits to be written to its file." in second
    assert "has 2 sources, from MJD 61100.00100 to 61100.00200" in second


def test_a_rejected_detection_explains_what_stopped_it(apdb: Apdb) -> None:
    batch = random_batch(4, seed=13)
    batch.rejected["rule_value"], batch.rejected["rule_limit"] = 4.2, 5.0
    batch.rejected["ra"][0] = np.nan  # a detection may be rejected for having no position
    apdb.commit(batch)
    for id in batch.rejected["diaSourceId"]:
        story = " ".join(apdb.explain(int(id)).story)
        assert "rule too_faint stopped it (4.2, limit 5)" in story
    assert apdb.check() == []


def test_an_unknown_id_is_explained_by_what_became_of_its_visit(apdb: Apdb) -> None:
    id = int(random_batch(1, seed=14).sources["diaSourceId"][0])
    assert "knows nothing" in " ".join(apdb.explain(id).story)
    apdb.record_status(visit_number(1), 5, "failed", "no stars")
    assert "is failed: no stars" in " ".join(apdb.explain(id).story)
    assert "names no visit" in " ".join(apdb.explain(-3).story)


BREAKING = {
    'DELETE FROM "DiaObject"': "belongs to an object that does not exist",
    'DELETE FROM "DiaSource"': "has no source",
    'UPDATE "DiaSource" SET "diaObjectId" = NULL': "exactly one of diaObjectId and ssObjectId",
    'UPDATE "DiaSource" SET visit = 1': "of a visit-detector that is not done",
    'UPDATE "DiaObject" SET "nDiaSources" = 7': "counts other sources than it has",
    'UPDATE "DiaObject" SET "lastDiaSourceMjdTai" = 1': "other first and last times",
    'UPDATE "DiaObject" SET "firstDiaSourceMjdTai" = NULL': "other first and last times",
    'DELETE FROM "Outbox"': "has no alert in the outbox",
    'UPDATE "Outbox" SET "diaSourceId" = "diaSourceId" + 1000': "is of no source",
    'DELETE FROM "DiaForcedSource"': "counts other forced sources",
    'DELETE FROM "Ledger"': "counts other rejected detections",
    'UPDATE "Ledger" SET id = (SELECT min("diaSourceId") FROM "DiaSource") + id - '
    '(SELECT min(id) FROM "Ledger")': "both rejected and alerted",
    "UPDATE \"Outbox\" SET state = 'sending'": "nothing says from where on",
    'INSERT INTO "Merged" SELECT "diaObjectId", "diaObjectId", 1 FROM "DiaObject"': (
        "was merged into another and is still there"
    ),
    'INSERT INTO "Merged" VALUES (1, 2, 3)': "was merged into one that does not exist",
    'UPDATE "DiaForcedSource" SET "diaForcedSourceId" = 1': "forced source id 1 occurs twice",
    'UPDATE "DiaSource" SET "diaObjectId" = (SELECT min("diaObjectId") FROM "DiaObject")': (
        "got two sources from one visit-detector"
    ),
}


@pytest.mark.parametrize("damage", BREAKING)
def test_each_broken_invariant_is_found(apdb: SqlApdb, damage: str) -> None:
    apdb.commit(random_batch(4, seed=15))
    assert apdb.check() == []
    with apdb._transaction(write=True) as connection:
        connection.exec_driver_sql(damage)
    assert any(BREAKING[damage] in sentence for sentence in apdb.check())
