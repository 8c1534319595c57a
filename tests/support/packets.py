"""Wire messages to try readers on: ours of every kind, and the seven real ones of Rubin."""

import io
import struct
from functools import cache

import fastavro
import numpy as np
from support.data import data_dir

from promptdia.pipeline.io.alert_files import read_container
from promptdia.pipeline.io.avro import bundled_schema, decode, encode_alerts
from promptdia.pipeline.io.cutouts import read_cutout
from promptdia.pipeline.sim.stream_alerts import NightStream
from promptdia.tasks.package import Alert

REAL = "fink_lsst_v10_0_7alerts.avro"
_DEEP = NightStream(seed=3, alerts_per_visit=60)


@cache
def _simulated() -> tuple[Alert, ...]:
    """Some of the alerts of a visit: the first ones, and the first ones of each kind."""
    alerts = [alert for detector in _DEEP.visit(20) for alert in detector]
    history = [a.prv_sources.size for a in alerts]
    chosen = {
        *range(2),
        *(i for i, a in enumerate(alerts) if np.isnan(a.science.image).any()),
        *(i for i, a in enumerate(alerts) if a.science.image.shape == (102, 102)),
        *[i for i, a in enumerate(alerts) if not a.object.size][:3],
        *[i for i, a in enumerate(alerts) if a.source["isNegative"][0]][:3],
        *[i for i, n in enumerate(history) if n == 0][:2],
        *[i for i, n in enumerate(history) if n >= 400][:1],
    }
    return tuple(alerts[i] for i in sorted(chosen))


@cache
def our_messages(version: str = "11.0") -> tuple[bytes, ...]:
    """Alerts of a deep field: new ones and ones with a year's history, asteroids, fading and
    bright ones, one at the detector's edge."""
    return tuple(encode_alerts(_simulated(), version))


@cache
def real_messages() -> tuple[bytes, ...]:
    """Rubin's seven alerts of schema 10.0, put back on the wire."""
    messages = []
    for alert in read_container(data_dir("alerts_lsst") / REAL):
        stream = io.BytesIO()
        fastavro.schemaless_writer(stream, bundled_schema(1000), alert)
        messages.append(struct.pack(">bI", 0, 1000) + stream.getvalue())
    return tuple(messages)


def kinds(messages: tuple[bytes, ...]) -> dict[str, int]:
    """How many of the messages are of each kind that readers have stumbled over."""
    alerts = [decode(m) for m in messages]
    history = np.array([len(a["prvDiaSources"] or ()) for a in alerts])
    cutouts = [read_cutout(a["cutoutScience"]) for a in alerts]
    return {
        "first detection": int((history == 0).sum()),
        "history of 400": int((history >= 400).sum()),
        "asteroid": sum(a["diaObject"] is None for a in alerts),
        "negative": sum(a["diaSource"]["psfFlux"] < 0 for a in alerts),
        "102 px": sum(c.image.shape == (102, 102) for c in cutouts),
        "edge": sum(bool(np.isnan(c.image).any()) for c in cutouts),
    }
