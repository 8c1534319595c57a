"""The simulated night stream: real in form, true to itself, and on time."""

import numpy as np
import pytest

from promptdia.pipeline.broker import EmbeddedBroker
from promptdia.pipeline.errors import ApdbError, ConfigError
from promptdia.pipeline.io.avro import decode, encode_alerts
from promptdia.pipeline.io.cutouts import read_cutout
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings, read_topic
from promptdia.pipeline.sim.stream_alerts import NightStream
from promptdia.pipeline.sim.stream_sky import FIELDS_PER_BLOCK, field_of_visit, light_curves
from promptdia.pipeline.streaming import VisitSent, stream_night
from promptdia.tasks.package import Alert

STREAM = NightStream(seed=5, alerts_per_visit=400)
WIDE, AGAIN = 3, 3 + FIELDS_PER_BLOCK


def alerts_of(stream: NightStream, index: int) -> list[Alert]:
    return [alert for detector in stream.visit(index) for alert in detector]


@pytest.fixture(scope="module")
def wide() -> list[Alert]:
    return alerts_of(STREAM, WIDE)


def test_a_visit_has_the_number_of_alerts_asked_for_with_ids_of_their_own(
    wide: list[Alert],
) -> None:
    assert len(wide) == 400
    assert len({a.id for a in wide}) == 400
    assert {int(a.source["visit"][0]) for a in wide} == {2026112000004}
    owners = [(a.source["diaObjectId"][0] != 0, a.source["ssObjectId"][0] != 0) for a in wide]
    assert set(owners) == {(True, False), (False, True)}
    assert len(alerts_of(NightStream(alerts_per_visit=7), 0)) == 7


def test_the_same_seed_gives_the_same_bytes_and_another_one_others(wide: list[Alert]) -> None:
    again = next(STREAM.visit(WIDE))
    other = next(NightStream(seed=6, alerts_per_visit=400).visit(WIDE))
    ours = wide[: len(again)]
    assert encode_alerts(again) == encode_alerts(ours)
    assert encode_alerts(other) != encode_alerts(ours)


def test_an_object_seen_again_has_the_history_that_was_sent_before(wide: list[Alert]) -> None:
    before = {int(a.source["diaObjectId"][0]): a for a in wide if a.object.size}
    returned = 0
    for alert in alerts_of(STREAM, AGAIN):
        first = before.get(int(alert.source["diaObjectId"][0]))
        if first is not None:
            returned += 1
            sent = np.concatenate([first.prv_sources, first.source])
            assert alert.prv_sources.tobytes() == sent.tobytes()
            assert alert.prv_forced[:-1].tobytes() == first.prv_forced.tobytes()
            assert alert.object["nDiaSources"][0] == first.object["nDiaSources"][0] + 1
    assert returned > 100


def test_history_is_as_long_as_a_year_of_visits_makes_it(wide: list[Alert]) -> None:
    lengths = [a.prv_sources.size for a in wide]
    assert min(lengths) == 0
    assert 10 < max(lengths) <= 120
    deep = [a.prv_sources.size for a in alerts_of(NightStream(alerts_per_visit=40), 0)]
    assert 200 < max(deep) <= 400
    for alert in wide:
        times = alert.prv_sources["midpointMjdTai"]
        assert (np.diff(times) > 0).all()
        assert (times < alert.source["midpointMjdTai"]).all()


def test_light_curves_are_detected_where_their_flux_says(wide: list[Alert]) -> None:
    field, epoch = field_of_visit(1, 20261120, WIDE, 37.0)
    curves = light_curves(field, 4000, np.random.default_rng(1))
    assert ((np.abs(curves.flux) >= 5 * curves.err) == curves.detected).all()
    assert 0.4 < curves.detected[:, epoch].mean() < 0.9
    assert 0.1 < (curves.flux[curves.detected] < 0).mean() < 0.5
    for alert in wide:
        assert (alert.prv_sources["snr"] >= 5).all()


def test_the_difference_cutout_shows_the_flux_that_the_alert_tells(wide: list[Alert]) -> None:
    pulls = []
    for alert in (decode(m) for m in encode_alerts(wide[:120])):
        cutout, source = read_cutout(alert["cutoutDifference"]), alert["diaSource"]
        frame, image = cutout.frame, np.nan_to_num(cutout.image.astype(float))
        y, x = np.indices(image.shape)
        star = np.exp(
            -0.5 * ((x + frame.x0 - frame.x) ** 2 + (y + frame.y0 - frame.y) ** 2) / 1.9**2
        )
        star /= star.sum()
        flux = (image * star).sum() / (star**2).sum()
        pulls.append((flux - source["psfFlux"]) / source["psfFluxErr"])
    assert np.abs(np.median(pulls)) < 0.4
    assert 0.6 < np.median(np.abs(pulls)) / 0.6745 < 1.7


def test_a_night_goes_to_the_topic_visit_by_visit_and_tells_its_pace() -> None:
    said: list[VisitSent] = []
    settings = BrokerSettings()
    stream = NightStream(alerts_per_visit=40)
    with EmbeddedBroker(["night"]) as broker:
        sender = AlertSender(broker.url, "night", settings)
        stream_night(stream, sender, 3, said.append, every_s=0.01)
        sender.close()
        received = [decode(r.value) for r in read_topic(broker.url, "night", settings)]
    sent = [a.id for i in range(3) for a in alerts_of(stream, i)]
    assert sorted(a["diaSourceId"] for a in received) == sorted(sent)
    assert [s.visit for s in said] == [2026112000001, 2026112000002, 2026112000003]
    assert [s.n_alerts for s in said] == [40, 40, 40]
    assert min(s.late_s for s in said) >= 0
    assert "visit 2026112000001: 40 alerts, " in str(said[0])


def test_impossible_numbers_are_refused() -> None:
    sender = AlertSender("127.0.0.1:1", "t", BrokerSettings())
    with pytest.raises(ConfigError, match="must be positive"):
        stream_night(STREAM, sender, 0, lambda _: None)
    with pytest.raises(ApdbError, match="20261340 is no date"):
        next(NightStream(day_obs=20261340).visit(0))
    with pytest.raises(ConfigError, match="must be positive"):
        stream_night(NightStream(alerts_per_visit=0), sender, 1, lambda _: None)
