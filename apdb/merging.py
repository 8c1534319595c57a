"""Make one object of several: what belongs to one moves to the other, in one transaction."""

from collections.abc import Mapping

import sqlalchemy as sa

from promptdia.apdb import tables as t


def move_rows(connection: sa.Connection, into: Mapping[int, int], now_mjd_tai: float) -> int:
    """Give the survivors the others' sources and forced sources, and delete the others.

    A forced source of a visit-detector in which the survivor has one is dropped and no
    longer counted for its visit-detector; how many were.
    """
    dropped = 0
    for old, kept in into.items():
        dropped += _drop_double_forced(connection, old, kept)
        for table in (t.SOURCES, t.FORCED):
            mine = table.update().where(table.c.diaObjectId == old)
            connection.execute(mine.values(diaObjectId=kept))
        connection.execute(t.OBJECTS.delete().where(t.OBJECTS.c.diaObjectId == old))
        earlier = t.MERGED.update().where(t.MERGED.c.mergedInto == old)
        connection.execute(earlier.values(mergedInto=kept))
        row = {"diaObjectId": old, "mergedInto": kept, "timeMergedMjdTai": now_mjd_tai}
        connection.execute(t.MERGED.insert().values(row))
    return dropped


def _drop_double_forced(connection: sa.Connection, old: int, kept: int) -> int:
    mine, theirs = t.FORCED.alias("mine"), t.FORCED.alias("theirs")
    both = (mine.c.visit == theirs.c.visit) & (mine.c.detector == theirs.c.detector)
    query = sa.select(mine.c.visit, mine.c.detector).join(theirs, both)
    double = connection.execute(
        query.where((mine.c.diaObjectId == old) & (theirs.c.diaObjectId == kept))
    ).all()
    for visit, detector in double:
        here = (t.FORCED.c.visit == visit) & (t.FORCED.c.detector == detector)
        connection.execute(t.FORCED.delete().where(here & (t.FORCED.c.diaObjectId == old)))
        marker = (t.VISITS.c.visit == visit) & (t.VISITS.c.detector == detector)
        fewer = t.VISITS.c.nDiaForcedSources - 1
        connection.execute(t.VISITS.update().where(marker).values(nDiaForcedSources=fewer))
    return len(double)
