"""Detectors full of alerts, and what it costs to package and to encode them."""

import io
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import fastavro
import numpy as np
from astropy.nddata import CCDData, VarianceUncertainty
from astropy.wcs import WCS

from promptdia.apdb.schema.lsst import avro_schema
from promptdia.pipeline.io.avro import decode, packets
from promptdia.tasks.model.arrays import Catalog
from promptdia.tasks.model.exposure import Exposure
from promptdia.tasks.model.psf import PolynomialPsf, gaussian_stamp
from promptdia.tasks.package import Cutout, PackageAlerts, PackageConfig

sys.path.insert(0, str(Path(__file__).parents[3] / "tests"))
from support.alerts import NX, NY, exposures, tables

HISTORY = 30
LIMIT = 1_000_000


class Field(NamedTuple):
    """What one detector's alerts are made from."""

    rows: tuple[Catalog, ...]
    """sources, objects, earlier sources, forced sources."""
    frames: tuple[Exposure, ...]
    """science, template, difference."""


def field(seed: int, n: int) -> Field:
    """n sources with 30 earlier and 30 forced ones each, 30 px cutouts, and PSFs that vary."""
    rows = tables(n, HISTORY, seed)[:4]
    rows[0]["bboxSize"] = 20
    frames = (e.replace(psf=_psf(e.require_psf().size)) for e in exposures(seed))
    return Field(rows, tuple(frames))


def renumbered(given: Field, more: int) -> Field:
    """The same detector again, with other sources of other objects."""
    rows = tuple(table.copy() for table in given.rows)
    for table in rows:
        for name in ("diaSourceId", "diaForcedSourceId", "diaObjectId"):
            if name in table.dtype.names:
                table[name] += more
    return Field(rows, given.frames)


def package(given: Field) -> list[bytes]:
    """The wire messages of a detector, from tables and images."""
    alerts = PackageAlerts(PackageConfig()).run(*given.rows, *given.frames)
    return [packet.message for packet in packets(alerts, max_bytes=LIMIT)]


def packaging_ms(seed: int, n: int, each: int) -> list[float]:
    """CPU per alert of one detector after the other; what a process does first comes first."""
    spent = []
    for number in range(n // each):
        given = field(seed + number, each)
        start = time.process_time()
        package(given)
        spent.append(1e3 * (time.process_time() - start) / each)
    return spent


def straightforward_ms(seed: int, n: int) -> tuple[float, int]:
    """CPU per alert of ``CCDData.write`` and fastavro, from ready dictionaries; how many differ.

    An alert differs when fastavro's bytes are not ours.
    """
    given = field(seed, n)
    alerts = PackageAlerts(PackageConfig()).run(*given.rows, *given.frames)
    ours = [packet.message for packet in packets(alerts, max_bytes=LIMIT)]
    records = [decode(message) for message in ours]
    schema = fastavro.parse_schema(avro_schema())
    spent, differing = [], 0
    for alert, record, message in zip(alerts, records, ours):
        start = time.process_time()
        cutouts = [_fits(c) for c in (alert.difference, alert.science, alert.template)]
        written = _avro(schema, record)
        spent.append(1e3 * (time.process_time() - start))
        differing += written != message[5:] or len(cutouts) != 3
    return statistics.median(spent), differing


def all_messages(seed: int, n: int, each: int) -> Iterator[list[bytes]]:
    """The messages of n alerts, detector by detector, every id once."""
    given = field(seed, each)
    for number in range(n // each):
        yield package(renumbered(given, number * 1000 * each))


def _psf(size: int) -> PolynomialPsf:
    stamp = gaussian_stamp(1.8, size)
    terms = np.stack([stamp, *(0.02 * np.roll(stamp, k, axis=1) for k in range(1, 6))])
    return PolynomialPsf(terms, 2, (0.0, NX - 1.0), (0.0, NY - 1.0))


def _fits(cutout: Cutout) -> bytes:
    frame = cutout.frame
    wcs = WCS(naxis=2)
    wcs.wcs.crpix = frame.x - frame.x0 + 1, frame.y - frame.y0 + 1
    wcs.wcs.crval, wcs.wcs.pc, wcs.wcs.cdelt = (frame.ra, frame.dec), frame.cd, (1.0, 1.0)
    ccd = CCDData(
        cutout.image, unit="nJy", uncertainty=VarianceUncertainty(cutout.variance), wcs=wcs,
        psf=cutout.psf, meta={"ROTPA": frame.rotation_deg},
    )  # fmt: skip
    stream = io.BytesIO()
    ccd.write(stream, format="fits")
    return stream.getvalue()


def _avro(schema: Any, record: dict[str, Any]) -> bytes:
    stream = io.BytesIO()
    fastavro.schemaless_writer(stream, schema, record)
    return stream.getvalue()
