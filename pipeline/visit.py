"""One detector of one visit, from raw frame to alerts: the page to read first.

Two phases. The *image phase* turns pixels into scored DiaSources; it is a pure
function of its inputs, so it may run anywhere and in any order. The *catalogue
phase* ties them to the sky's history in the database; it runs in time order, in
one transaction, and what it commits is what is sent.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from promptdia.apdb.ids import dia_source_ids
from promptdia.apdb.store import Apdb, Batch, Region
from promptdia.pipeline.factory import Tasks
from promptdia.pipeline.io.avro import ENVELOPE_BYTES, Packet, packets
from promptdia.pipeline.timing import Stopwatch
from promptdia.tasks.calibrate import Calibrated
from promptdia.tasks.model.arrays import Catalog, copied
from promptdia.tasks.model.calibrations import Calibrations
from promptdia.tasks.model.exposure import (
    DifferenceExposure,
    RawFrame,
    ScienceExposure,
    TemplateExposure,
)
from promptdia.tasks.model.visit import Visit
from promptdia.tasks.package import Alert
from promptdia.tasks.solar_system import solar_system_sources

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, eq=False)
class Changes:
    """What the image phase found on one detector."""

    science: ScienceExposure
    template: TemplateExposure
    """On the science pixels, before PSF matching."""
    difference: DifferenceExposure
    sources: Catalog
    """DIA_SOURCE rows that passed every rule, to be associated and alerted."""
    rejected: Catalog
    """REJECTED rows: every other detection with the first rule that stopped it."""
    metrics: dict[str, float]


@dataclass(frozen=True, slots=True)
class Delivery:
    """How the alerts leave: part of what is committed."""

    topic: str
    """Kafka topic they are meant for."""
    schema: str
    """Version of the alert schema."""
    max_message_bytes: int
    """Of the broker; a longer history is shortened to that."""
    strict_cutouts: bool = False
    """Cutouts have exactly the header cards of Rubin's, which hold no celestial WCS."""


def calibrate(
    raw: RawFrame, calibrations: Calibrations, references: Catalog, tasks: Tasks, timed: Stopwatch
) -> Calibrated:
    """A raw frame as a science image in nJy with WCS and PSF, and its stars."""
    exposure = timed("isr", tasks.remove_signature.run, raw, calibrations)
    done = timed("calibrate", tasks.calibrate.run, exposure, references)
    return done._replace(science=tasks.mark_spikes.run(done.science, references))


def find_changes(
    calibrated: Calibrated,
    load_templates: Callable[[ScienceExposure], Sequence[TemplateExposure]],
    tasks: Tasks,
    timed: Stopwatch,
) -> Changes:
    """The image phase after calibration: subtract the template, find and judge what is left."""
    science, stars = calibrated.science, calibrated.sources
    patches = timed("load_template", load_templates, science)
    template = timed("template", tasks.make_template.run, science, patches)
    difference, matched, quality = timed("subtract", tasks.subtract.run, science, template, stars)
    found = timed("detect", tasks.detect.run, difference, science, matched)
    sources = timed("measure", tasks.measure.run, found, science, matched)
    clean, unclean = timed("filter", tasks.filter.run, sources, science.visit.exposure_s)
    scored = timed("score", tasks.score.run, clean, found.difference, science, template)
    kept, unreliable = tasks.score.split(scored)
    return Changes(
        science=science,
        template=template,
        difference=found.difference,
        sources=kept,
        rejected=np.concatenate([unclean, unreliable]),
        metrics={**calibrated.summary, **quality, **_numbers(found.difference.notes)},
    )


def update_sky(
    changes: Changes,
    store: Apdb,
    tasks: Tasks,
    delivery: Delivery,
    timed: Stopwatch,
    *,
    ss_objects: Catalog,
    load_orbits: Callable[[Sequence[str]], Catalog],
    precover: Callable[[Catalog, Region, Visit], Catalog],
    now_mjd_tai: float,
    out_of_order: bool = False,
) -> bool:
    """The catalogue phase: associate, force, summarise, package and commit.

    When it returns, sources, objects, forced sources, ledger and the alerts to send are in
    the database, all or none. False when they were there before. ``precover`` measures the
    objects that this visit founds on earlier ones, so that their first alert has a past.
    """
    science, difference = changes.science, changes.difference
    visit, region = science.visit, Region.of(science.wcs, science.shape)
    past = timed("preload", store.preload, region, visit.mjd_tai)
    new = _stamped(changes.sources, now_mjd_tai)
    sky = timed("associate", tasks.associate.run, new, past.objects, ss_objects)
    forced = timed("force", tasks.force.run, sky.objects, difference, science)
    founded = sky.objects[np.isin(sky.objects["diaObjectId"], new["diaSourceId"])]
    early = timed("precover", precover, founded, region, visit)
    forced = _stamped(copied(forced, early), now_mjd_tai)
    # numbered by the visit that makes them, which no other detector-visit can do again
    forced["diaForcedSourceId"] = dia_source_ids(
        visit.id, science.detector.id, np.arange(forced.size), tasks.force.config.release
    )
    sources = copied(past.sources, sky.sources)
    all_forced = copied(past.forced, forced)
    objects = timed("summarize", tasks.summarize.run, sky.objects, sources, all_forced)
    objects["validityStartMjdTai"] = visit.mjd_tai
    ss_sources = solar_system_sources(sky.sources, ss_objects)
    alerts = timed(
        "package",
        tasks.package.run,
        sky.sources,
        objects,
        sources,
        all_forced,
        science,
        changes.template,
        difference,
        ss_sources,
        load_orbits(ss_sources["designation"].tolist()),
    )
    made = timed("package", _encoded, alerts, delivery)
    batch = Batch(
        visit=visit.id,
        detector=science.detector.id,
        mjd_tai=visit.mjd_tai,
        now_mjd_tai=now_mjd_tai,
        region=region,
        history=past,
        sources=sky.sources,
        objects=_touched(objects, sky.sources, forced),
        forced=forced,
        rejected=np.concatenate([changes.rejected, sky.rejected]),
        topic=delivery.topic,
        payloads=[packet.message for packet in made],
        left_out=[packet.n_left_out for packet in made],
        ss_sources=ss_sources,
        quality=changes.metrics,
    )
    return timed("commit", store.commit, batch, out_of_order=out_of_order)


def _encoded(alerts: Sequence[Alert], delivery: Delivery) -> list[Packet]:
    room = delivery.max_message_bytes - ENVELOPE_BYTES
    made = list(packets(alerts, delivery.schema, delivery.strict_cutouts, room))
    for alert, packet in zip(alerts, made):
        if packet.n_left_out:
            log.warning(
                "alert %d lacks the oldest %d points of its history: whole it would exceed "
                "max_message_bytes %d",
                alert.id, packet.n_left_out, delivery.max_message_bytes,
            )  # fmt: skip
    return made


def _numbers(notes: dict[str, str | float | int | bool]) -> dict[str, float]:
    return {key: float(value) for key, value in notes.items() if isinstance(value, int | float)}


def _stamped(rows: Catalog, now_mjd_tai: float) -> Catalog:
    stamped = rows.copy()
    stamped["timeProcessedMjdTai"] = now_mjd_tai
    return stamped


def _touched(objects: Catalog, sources: Catalog, forced: Catalog) -> Catalog:
    """The objects of which this visit said something."""
    measured = np.concatenate([sources["diaObjectId"], forced["diaObjectId"]])
    touched: Catalog = objects[np.isin(objects["diaObjectId"], measured)]
    return touched
