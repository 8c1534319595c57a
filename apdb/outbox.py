"""The alerts on their way out: committed, archived, sending, sent."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence

import sqlalchemy as sa

from promptdia.apdb import tables as t
from promptdia.apdb.errors import ApdbError
from promptdia.apdb.store import OutboxEntry, OutboxState, Sending

_AT_ONCE = 1000
"""Ids in one statement."""


def of_detector(connection: sa.Connection, visit: int, detector: int) -> list[OutboxEntry]:
    """The alerts of a visit-detector in order."""
    query = sa.select(t.OUTBOX).where(_at(visit, detector)).order_by(t.OUTBOX.c.position)
    return [OutboxEntry(*row) for row in connection.execute(query)]


def unsent(connection: sa.Connection, topic: str) -> list[OutboxEntry]:
    """Alerts for a topic that nobody began to send, in the order of the sky's history."""
    same = (t.OUTBOX.c.visit == t.VISITS.c.visit) & (t.OUTBOX.c.detector == t.VISITS.c.detector)
    waiting = (t.OUTBOX.c.topic == topic) & t.OUTBOX.c.state.in_(("committed", "archived"))
    order = (t.VISITS.c.midpointMjdTai, t.VISITS.c.visit, t.VISITS.c.detector)
    query = sa.select(t.OUTBOX).join(t.VISITS, same).where(waiting)
    rows = connection.execute(query.order_by(*order, t.OUTBOX.c.position))
    return [OutboxEntry(*row) for row in rows]


def mark_archived(connection: sa.Connection, visit: int, detector: int) -> int:
    """Drop the payloads of a visit-detector; how many had one."""
    new = _at(visit, detector) & (t.OUTBOX.c.state == "committed")
    change = t.OUTBOX.update().where(new).values(state="archived", payload=None)
    return connection.execute(change).rowcount


def mark_sent(connection: sa.Connection, ids: Iterable[int]) -> int:
    """Note that the broker has these; how many changed."""
    return _change(connection, ids, t.OUTBOX.c.state != "sent", "sent")


def begin_sending(
    connection: sa.Connection, topic: str, ids: Sequence[int], offsets: Mapping[int, int]
) -> None:
    """Note which alerts are about to be produced, and where the topic ends."""
    if _offsets(connection, topic) is not None:
        raise ApdbError(f"an earlier batch for topic {topic} is not settled; settle it first")
    row = {"topic": topic, "offsets": json.dumps(dict(offsets), sort_keys=True)}
    connection.execute(t.SENDING.insert().values(row))
    ready = (t.OUTBOX.c.topic == topic) & (t.OUTBOX.c.state == "archived")
    changed = _change(connection, ids, ready, "sending")
    if changed < len(ids):
        raise ApdbError(
            f"{len(ids) - changed} of {len(ids)} alerts for topic {topic} are not archived, or are "
            "sent already: only what is in its file can be sent"
        )


def sending(connection: sa.Connection, topic: str) -> Sending | None:
    """The batch whose sending began and was not settled."""
    offsets = _offsets(connection, topic)
    if offsets is None:
        return None
    ids = connection.execute(sa.select(t.OUTBOX.c.diaSourceId).where(_being_sent(topic)))
    return Sending(frozenset(ids.scalars()), offsets)


def settle(connection: sa.Connection, topic: str, arrived: Iterable[int]) -> int:
    """End a batch: what arrived is sent, the rest waits again; how many wait."""
    _change(connection, arrived, _being_sent(topic), "sent")
    rest = t.OUTBOX.update().where(_being_sent(topic)).values(state="archived")
    waiting = connection.execute(rest).rowcount
    connection.execute(t.SENDING.delete().where(t.SENDING.c.topic == topic))
    return waiting


def _at(visit: int, detector: int) -> sa.ColumnElement[bool]:
    return (t.OUTBOX.c.visit == visit) & (t.OUTBOX.c.detector == detector)


def _being_sent(topic: str) -> sa.ColumnElement[bool]:
    return (t.OUTBOX.c.topic == topic) & (t.OUTBOX.c.state == "sending")


def _offsets(connection: sa.Connection, topic: str) -> dict[int, int] | None:
    query = sa.select(t.SENDING.c.offsets).where(t.SENDING.c.topic == topic)
    text = connection.execute(query).scalar()
    return None if text is None else {int(p): int(o) for p, o in json.loads(text).items()}


def _change(
    connection: sa.Connection,
    ids: Iterable[int],
    where: sa.ColumnElement[bool],
    state: OutboxState,
) -> int:
    """Give alerts a new state and drop their payloads; how many changed."""
    changed = 0
    for these in _chunks([int(i) for i in ids]):
        chosen = t.OUTBOX.c.diaSourceId.in_(these) & where
        change = t.OUTBOX.update().where(chosen).values(state=state, payload=None)
        changed += connection.execute(change).rowcount
    return changed


def _chunks(ids: list[int]) -> Iterator[list[int]]:
    for start in range(0, len(ids), _AT_ONCE):
        yield ids[start : start + _AT_ONCE]
