"""AMPEL from the topic to its filters: ampel-kafka and ampel-lsst, as published.

Through Apache Kafka where there is one, else the embedded broker.
"""

import os
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from ampel.base.AuxUnitRegister import AuxUnitRegister
from ampel.kafka.KafkaAlertLoader import KafkaAlertLoader
from ampel.log.AmpelLogger import AmpelLogger
from ampel.lsst.alert.LSSTAlertSupplier import LSSTAlertSupplier
from ampel.lsst.ingest.LSSTDataPointShaper import LSSTDataPointShaper
from ampel.lsst.t0.DecentVroFilter import DecentVroFilter
from ampel.lsst.view.LSSTT2Tabulator import LSSTT2Tabulator
from support.packets import our_messages, real_messages

from promptdia.pipeline.broker import EmbeddedBroker
from promptdia.pipeline.io.avro import alert_id, decode
from promptdia.pipeline.io.kafka import AlertSender, BrokerSettings

LOGGER = AmpelLogger.get_logger(console=False)
SETS = {"10.0": 0, "11.0": 7, "11.1": 0}
"""Our schemas, and how many of Rubin's alerts share the topic."""


@pytest.fixture(scope="module")
def addresses() -> Iterator[tuple[str, str]]:
    """Of a broker and of our registry."""
    with EmbeddedBroker() as broker:
        yield os.environ.get("PROMPTDIA_TEST_KAFKA") or broker.url, broker.registry_url


def supplied(broker: str, registry: str, topic: str) -> list[Any]:
    """What AMPEL's own supplier makes of a topic."""
    AuxUnitRegister._dyn["KafkaAlertLoader"] = KafkaAlertLoader
    config = {
        "bootstrap": broker,
        "topics": [topic],
        "group_name": topic,
        "timeout": 6,  # two polls of 3 s
        "instance_id_env_var": None,
        "avro_schema": {"registry": registry},
    }
    loader = {"unit": "KafkaAlertLoader", "config": config}
    with LSSTAlertSupplier(loader=loader, deserialize=None) as supplier:
        alerts = list(supplier)
        supplier.acknowledge(iter(alerts))
    consumer = supplier.alert_loader._consumer
    consumer._value_deserializer._registry.close()  # AMPEL leaves it to the process's end
    consumer.close()
    return alerts


@pytest.mark.parametrize("version", SETS)
def test_ampel_takes_them_from_kafka_to_light_curves_and_decisions(
    addresses: tuple[str, str], version: str
) -> None:
    messages = our_messages(version)
    if SETS[version]:
        messages += real_messages()
    broker, registry = addresses
    topic = f"ampel-{uuid.uuid4().hex}"
    sender = AlertSender(broker, topic, BrokerSettings(partitions=4))
    sender.send([(alert_id(m), m) for m in messages])
    sender.close()

    sent = {a["diaSourceId"]: a for a in map(decode, messages) if a["diaObject"]}
    alerts = {alert.id: alert for alert in supplied(broker, registry, topic)}
    assert set(alerts) == set(sent)  # AMPEL passes over asteroids
    chosen = DecentVroFilter(
        logger=LOGGER, min_ndet=5, max_ndet=None, min_tspan=1.0, max_tspan=400.0,
        min_reliability=0.6, min_abs_gal_lat=-1.0, gaia_rs=0.0,
    )  # fmt: skip
    chosen.post_init()
    decisions = set()
    for id_, alert in alerts.items():
        times = np.array([p["midpointMjdTai"] for p in alert.datapoints if "diaSourceId" in p])
        good = sent[id_]["diaSource"]["reliability"] >= 0.6
        good = good and times.size >= 5 and np.ptp(times) >= 1.0
        assert bool(chosen.process(alert)) == good
        decisions.add(good)
        check_alert(alert, sent[id_])
    assert len(alerts) > 3
    assert False in decisions


def check_alert(alert: Any, sent: dict[str, Any]) -> None:
    source, forced = sent["diaSource"], sent["prvDiaForcedSources"] or []
    assert alert.stock == source["diaObjectId"]
    # one point per visit, forced photometry first; the trigger and the object beside them
    visits = {r["visit"] for r in [*forced, *(sent["prvDiaSources"] or [])]}
    assert len(alert.datapoints) == len(visits) + 2
    points = LSSTDataPointShaper(logger=LOGGER).process(alert.datapoints, alert.stock)
    tags = [tag for point in points for tag in point["tag"]]
    assert tags.count("LSST_OBJ") == 1
    assert tags.count("LSST_FP") <= len(forced)
    assert len({point["id"] for point in points}) == len(points)
    table = LSSTT2Tabulator(allow_nan_flux=True).get_flux_table(points)
    assert set(table["band"]) <= {f"lsst{b}" for b in "ugrizy"}
    # one row per time; where both were measured AMPEL takes the forced flux
    now = [r for r in [*forced, source] if r["visit"] == source["visit"]]
    (row,) = table[np.abs(table["time"] - source["midpointMjdTai"] - 2400000.5) < 1e-6]
    assert np.isclose(row["flux"], [r["psfFlux"] for r in now]).any()
    assert len(table) == len({p["body"]["midpointMjdTai"] for p in points if "band" in p["body"]})
