"""The same preload and commit with plain SQLAlchemy ORM objects, one per row."""

from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session, registry

from promptdia.apdb import tables as t
from promptdia.apdb.pixels import Region, sky_pixel
from promptdia.apdb.rows import Rows
from promptdia.apdb.store import Batch


class DiaObject:
    """A row of DiaObject."""


class DiaSource:
    """A row of DiaSource."""


class DiaForcedSource:
    """A row of DiaForcedSource."""


_TABLES = {DiaObject: t.OBJECTS, DiaSource: t.SOURCES, DiaForcedSource: t.FORCED}
_mapped = registry()
for _kind, _table in _TABLES.items():
    _mapped.map_imperatively(_kind, _table)


class OrmApdb:
    """What a straightforward program would do."""

    def __init__(self, url: str) -> None:
        self._engine = sa.create_engine(url)

    def close(self) -> None:
        self._engine.dispose()

    def preload(self, region: Region, mjd_tai: float) -> list[list[Any]]:
        """Objects, sources and forced sources of a region in the last 365 days."""
        with Session(self._engine) as session:
            return [self._read(session, kind, region, mjd_tai - 365) for kind in _TABLES]

    def commit(self, batch: Batch) -> None:
        """New and changed objects, sources, forced sources and the outbox, in one transaction."""
        with Session(self._engine) as session, session.begin():
            for row in _dicts(batch.objects):
                session.merge(_filled(DiaObject(), row))
            for kind, rows in ((DiaSource, batch.sources), (DiaForcedSource, batch.forced)):
                session.add_all(_filled(kind(), row) for row in _dicts(rows))
            same = {"visit": batch.visit, "detector": batch.detector, "topic": batch.topic,
                    "state": "committed", "payload": None, "nLeftOut": 0}  # fmt: skip
            ids = enumerate(batch.sources["diaSourceId"].tolist())
            alerts = [{"diaSourceId": id, "position": i, **same} for i, id in ids]
            session.execute(t.OUTBOX.insert(), alerts)

    def _read(self, session: Session, kind: type[Any], region: Region, since: float) -> list[Any]:
        table = _TABLES[kind]
        inside = sa.or_(*(table.c.pixelId.between(int(a), int(b)) for a, b in region.ranges()))
        query = sa.select(kind).where(inside)
        if kind is not DiaObject:
            query = query.where(table.c.midpointMjdTai >= since)
        return list(session.scalars(query))


def _dicts(rows: Rows) -> list[dict[str, Any]]:
    pixels = sky_pixel(rows["ra"], rows["dec"]).tolist()
    names = rows.dtype.names or ()
    return [
        {"pixelId": pixel, **dict(zip(names, (None if v != v else v for v in row)))}
        for pixel, row in zip(pixels, rows.tolist())
    ]


def _filled(thing: Any, row: dict[str, Any]) -> Any:
    for name, value in row.items():
        setattr(thing, name, value)
    return thing
