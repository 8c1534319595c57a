"""What the pipeline asks of the alert-production database, in the words of the field."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from promptdia.apdb.pixels import Region
from promptdia.apdb.rows import Rows
from promptdia.apdb.schema.lsst import SS_SOURCE
from promptdia.apdb.schema.table import TableSchema

__all__ = [
    "Apdb",
    "Batch",
    "Explanation",
    "History",
    "OutboxEntry",
    "OutboxState",
    "Partition",
    "Region",
    "Rows",
    "Sending",
    "Status",
    "VisitDetector",
]

Status = Literal["done", "no_work", "failed"]
OutboxState = Literal["committed", "archived", "sending", "sent"]


@dataclass(frozen=True, slots=True, eq=False)
class History:
    """What is known of a part of the sky."""

    objects: Rows
    """DIA_OBJECT, every object inside the region, by id."""
    sources: Rows
    """DIA_SOURCE of those objects since the start of the window, oldest first."""
    forced: Rows
    """DIA_FORCED_SOURCE of those objects since the start of the window, oldest first."""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Everything that one detector of one visit adds to the sky."""

    visit: int
    detector: int
    mjd_tai: float
    """Middle of the exposure."""
    now_mjd_tai: float
    """When it was processed."""
    region: Region
    """The sky under the detector, as it was preloaded."""
    history: History
    """The preload this batch was computed from, to notice what others changed since."""
    sources: Rows
    """DIA_SOURCE in the order of their alerts; one of diaObjectId and ssObjectId is set."""
    objects: Rows
    """DIA_OBJECT rows to write, new or changed; all objects of ``sources`` are among them."""
    forced: Rows
    """DIA_FORCED_SOURCE; of earlier visits only those of objects that this batch founds."""
    rejected: Rows
    """REJECTED detections for the ledger."""
    topic: str
    """Where the alerts go."""
    payloads: Sequence[bytes] = ()
    """The encoded alerts, in the order of ``sources``; kept until archived."""
    left_out: Sequence[int] = ()
    """How many points of its history each payload lacks, for its size; none given: 0."""
    ss_sources: Rows = field(default_factory=SS_SOURCE.empty)
    """SS_SOURCE, one row for each source of a Solar System object, or none."""
    quality: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the image; those that VISIT_DETECTOR names are kept."""


@dataclass(frozen=True, slots=True)
class VisitDetector:
    """What became of one detector of one visit."""

    visit: int
    detector: int
    status: Status
    reason: str
    mjd_tai: float
    """Middle of the exposure; nan when it failed before that was known."""
    time_processed_mjd_tai: float
    n_dia_sources: int
    n_new_dia_objects: int
    n_dia_forced_sources: int
    n_rejected: int
    ra: float = np.nan
    """Middle of a circle around its sky, degrees; nan when that is not known."""
    dec: float = np.nan
    radius_deg: float = np.nan
    quality: Mapping[str, float] = field(default_factory=dict)
    """Numbers of the image that are known, by their names in VISIT_DETECTOR."""


@dataclass(frozen=True, slots=True)
class OutboxEntry:
    """One alert on its way out."""

    dia_source_id: int
    visit: int
    detector: int
    position: int
    """Place in its visit-detector, from 0."""
    topic: str
    state: OutboxState
    payload: bytes | None
    """The encoded alert; None once archived, or when none was handed in."""
    n_left_out: int = 0
    """Points of its history that it lacks, because it would have been too large."""


@dataclass(frozen=True, slots=True)
class Sending:
    """A batch of alerts of which it is not known yet whether the broker has them."""

    dia_source_ids: frozenset[int]
    offsets: Mapping[int, int]
    """Where each partition of the topic ended before the first of them was produced."""


@dataclass(frozen=True, slots=True, eq=False)
class Partition:
    """The rows of one table in one pixel of the sky."""

    schema: TableSchema
    order: int
    pixel: int
    """Nested HEALPix pixel of that order."""
    rows: Rows
    """In the dtype of ``schema``."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """The story of one identifier."""

    id: int
    story: tuple[str, ...]
    """Sentences, in the order of events."""
    facts: dict[str, Any]
    """The rows behind them: source, object, ledger, outbox, visit."""


class Apdb(Protocol):
    """The memory of the sky. TransientError when it is away or busy, ApdbError when it refuses."""

    def preload(self, region: Region, mjd_tai: float, window_days: float = 365.0) -> History:
        """The objects of a region with what was measured of them from the window's start on."""
        ...

    def commit(self, batch: Batch, *, out_of_order: bool = False) -> bool:
        """Write a batch whole or not at all, and mark its visit-detector done.

        False, with nothing written, when it was done before. ApdbError when later visits
        are stored under it, unless ``out_of_order``; TransientError when another batch
        changed its sky since the preload: preload and associate again.
        """
        ...

    def status(self, visit: int, detector: int) -> Status | None:
        """done, no_work or failed; None when it was never processed."""
        ...

    def outcomes(self, visit: int | None = None) -> list[VisitDetector]:
        """What became of every detector of a visit, or of all visits, by visit and detector."""
        ...

    def observed(self, region: Region, since: float, before: float) -> list[VisitDetector]:
        """The done visit-detectors of a time (MJD) whose sky may touch a region, oldest first."""
        ...

    def record_status(
        self,
        visit: int,
        detector: int,
        status: Status,
        reason: str,
        *,
        mjd_tai: float = np.nan,
        now_mjd_tai: float = np.nan,
    ) -> bool:
        """Note a failure or that there was no work; False when it is already done."""
        ...

    def outbox(self, visit: int, detector: int) -> list[OutboxEntry]:
        """The alerts of a visit-detector in order, whatever their state."""
        ...

    def mark_archived(self, visit: int, detector: int) -> int:
        """Note that the alerts are in their file, drop the payloads; how many changed."""
        ...

    def unsent(self, topic: str) -> list[OutboxEntry]:
        """Alerts for a topic that nobody began to send, in the order of the sky's history."""
        ...

    def sole_sender(self) -> AbstractContextManager[None]:
        """Wait until no other process sends, and keep others waiting; a crash lets go.

        TransientError when another sends for more than a minute.
        """
        ...

    def begin_sending(
        self, topic: str, dia_source_ids: Sequence[int], offsets: Mapping[int, int]
    ) -> None:
        """Note which alerts are about to be produced and where the topic ends now.

        ApdbError when an earlier batch for the topic is not settled.
        """
        ...

    def sending(self, topic: str) -> Sending | None:
        """The batch whose sending began and was not settled."""
        ...

    def settle(self, topic: str, arrived: NDArray[np.int64]) -> int:
        """End a batch: what arrived is sent, the rest waits again; how many wait."""
        ...

    def mark_sent(self, dia_source_ids: NDArray[np.int64]) -> int:
        """Note that the broker has these alerts; how many changed."""
        ...

    def find(self, region: Region, visit: int) -> NDArray[np.int64]:
        """Ids of the sources and rejected detections of a visit inside a region."""
        ...

    def objects(self) -> Rows:
        """All objects: DIA_OBJECT with only diaObjectId, ra, dec, nDiaSources and times known."""
        ...

    def history(self, dia_object_ids: NDArray[np.int64]) -> History:
        """These objects with everything that was ever measured of them."""
        ...

    def merge(self, into: Mapping[int, int], objects: Rows, seen: Rows, now_mjd_tai: float) -> int:
        """Give all that belongs to the objects ``into`` maps from to those it maps to.

        ``objects`` are the survivors' new DIA_OBJECT rows, ``seen`` all objects concerned
        as they were when that was decided: TransientError when they changed since. Where
        both have a forced source of one visit-detector the survivor's stays; returns how
        many were dropped. The survivor must be none of those mapped from.
        """
        ...

    def partitions(self, max_rows: int) -> Iterator[Partition]:
        """Objects, sources and forced sources as they are at one moment, by sky pixel.

        Pixels are split until none holds more than ``max_rows``.
        """
        ...

    def explain(self, id: int) -> Explanation:
        """Where a source or object came from, or why a detection was not alerted."""
        ...

    def check(self) -> list[str]:
        """Broken invariants, one sentence each; empty when the database is sound."""
        ...

    def countings(self) -> dict[str, int]:
        """How many rows of each kind there are, by name."""
        ...
