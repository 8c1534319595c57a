"""Write a year of a synthetic survey to a database as fast as it takes it."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from lib.apdb_sky import (
    EPOCHS,
    FIRST_MJD,
    NOW_MJD,
    OBJECTS_PER_TILE,
    SOURCES_PER_EPOCH,
    Rows,
    Sky,
    plausible,
)

from promptdia.apdb import tables as t
from promptdia.apdb.pixels import sky_pixel
from promptdia.apdb.rows import PIXEL, stored, to_rows
from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE, DIA_OBJECT, DIA_SOURCE
from promptdia.apdb.schema.table import TableSchema
from promptdia.apdb.sql import SqlApdb

_LIKE = 1000
"""Different rows of a table; the others are like these but for their own columns."""
_AT_ONCE = 20_000
_FIRST_VISIT = 20260101_00000
_TABLES = (DIA_OBJECT, DIA_SOURCE, DIA_FORCED_SOURCE)
_SQL = (t.OBJECTS, t.SOURCES, t.FORCED)


class Block(NamedTuple):
    """Rows of one table."""

    schema: TableSchema
    like: Rows
    """(n,) which model row each is like."""
    own: dict[str, Rows]
    """The columns in which they differ from it."""


def fill(store: SqlApdb, sky: Sky, seed: int) -> None:
    """Bulk rows first, indices afterwards."""
    rng = np.random.default_rng(seed)
    indices = [index for table in _SQL for index in table.indexes]
    sqlite = store._engine.dialect.name == "sqlite"
    store._backend.prepare(store._engine, FIRST_MJD + np.arange(0.0, 366.0))
    models = {schema.name: _model(schema, rng) for schema in _TABLES}
    if sqlite:
        sa.event.listen(store._engine, "connect", _careless)
    with store._transaction(write=True) as connection:
        write = _sqlite_writer(connection, models) if sqlite else _copier(store, connection, models)
        for index in indices:
            index.drop(connection)
        for block in _year(sky, rng):
            write(block)
        for index in indices:
            index.create(connection)
    if sqlite:
        sa.event.remove(store._engine, "connect", _careless)
    store.close()
    plain = store._engine.execution_options(isolation_level="AUTOCOMMIT", write=True)
    with plain.connect() as connection:
        if sqlite:
            connection.exec_driver_sql("PRAGMA journal_mode = WAL")
            connection.exec_driver_sql("ANALYZE")
        else:
            names = ", ".join(f'"{table.name}"' for table in _SQL)
            connection.exec_driver_sql(f"VACUUM (ANALYZE) {names}")
            connection.exec_driver_sql("CHECKPOINT")
    store.close()


def _model(schema: TableSchema, rng: np.random.Generator) -> Rows:
    rows = np.zeros(_LIKE, stored(schema).dtype)
    plain = plausible(schema, _LIKE, rng)
    for name in plain.dtype.names or ():
        rows[name] = plain[name]
    if schema is DIA_OBJECT:
        rows["nDiaSources"] = 5
        rows["firstDiaSourceMjdTai"], rows["lastDiaSourceMjdTai"] = FIRST_MJD, NOW_MJD - 7
    else:
        rows["timeWithdrawnMjdTai"], rows["detector"] = np.nan, 0
    return rows


def _year(sky: Sky, rng: np.random.Generator) -> Iterator[Block]:
    """Blocks of rows in time order."""
    for start in range(0, sky.ids.size, _AT_ONCE):
        some = np.arange(start, min(start + _AT_ONCE, sky.ids.size))
        yield Block(DIA_OBJECT, some % _LIKE, _places(sky, some, 0.0, rng))
    next_id, tiles_at_once = 1, _AT_ONCE // SOURCES_PER_EPOCH
    for epoch in range(EPOCHS):
        for first in range(0, sky.n_tiles, tiles_at_once):
            tiles = np.arange(first, min(first + tiles_at_once, sky.n_tiles))
            order = rng.random((tiles.size, OBJECTS_PER_TILE)).argpartition(SOURCES_PER_EPOCH)
            chosen = order[:, :SOURCES_PER_EPOCH] + OBJECTS_PER_TILE * tiles[:, None]
            seen, tile = chosen.ravel(), np.repeat(tiles, SOURCES_PER_EPOCH)
            for schema in (DIA_SOURCE, DIA_FORCED_SOURCE):
                own = {
                    schema.columns[0].name: next_id + np.arange(seen.size),
                    "visit": _FIRST_VISIT + epoch * sky.n_tiles + tile,
                    "midpointMjdTai": FIRST_MJD + 7.2 * epoch + 0.3 * tile / sky.n_tiles,
                    **_places(sky, seen, 0.1 / 3600, rng),
                }
                yield Block(schema, rng.integers(0, _LIKE, seen.size), own)
            next_id += seen.size


def _places(sky: Sky, at: Rows, noise_deg: float, rng: np.random.Generator) -> dict[str, Rows]:
    ra, dec = (places[at] + rng.normal(0, 1, at.size) * noise_deg for places in (sky.ra, sky.dec))
    return {"diaObjectId": sky.ids[at], "ra": ra, "dec": dec, PIXEL.name: sky_pixel(ra, dec)}


def _copier(
    store: SqlApdb, connection: sa.Connection, models: dict[str, Rows]
) -> Callable[[Block], None]:
    """Writes whole rows with COPY."""

    def write(block: Block) -> None:
        rows = models[block.schema.name][block.like]
        for name, values in block.own.items():
            rows[name] = values
        store._backend.append(connection, stored(block.schema), rows)

    return write


def _sqlite_writer(connection: sa.Connection, models: dict[str, Rows]) -> Callable[[Block], None]:
    """Hands over only the columns that differ; SQLite joins the others from the models."""
    run = connection.exec_driver_sql
    for schema in _TABLES:
        run(f'CREATE TEMP TABLE "Like{schema.name}" AS SELECT * FROM "{schema.name}" LIMIT 0')
        rows = to_rows(stored(schema), models[schema.name])
        run(f'INSERT INTO "Like{schema.name}" VALUES ({_places_for(len(rows[0]))})', rows)

    def write(block: Block) -> None:
        name, own = block.schema.name, block.own
        run("DROP TABLE IF EXISTS temp.own")
        run("CREATE TEMP TABLE own (model, " + ", ".join(f'"{column}"' for column in own) + ")")
        values: list[tuple[Any, ...]] = list(
            zip((block.like + 1).tolist(), *(v.tolist() for v in own.values()))
        )
        run(f"INSERT INTO temp.own VALUES ({_places_for(1 + len(own))})", values)
        columns = ", ".join(
            f'{"own" if column.name in own else "model"}."{column.name}"'
            for column in stored(block.schema).columns
        )
        run(
            f'INSERT INTO "{name}" SELECT {columns} FROM temp.own CROSS JOIN temp."Like{name}" '
            "AS model ON model.rowid = own.model"
        )

    return write


def _careless(connection: Any, _: Any) -> None:
    """Nothing is lost when a fill that failed is thrown away."""
    for setting in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -2000000",
                    "temp_store = MEMORY"):  # fmt: skip
        connection.execute(f"PRAGMA {setting}")


def _places_for(n: int) -> str:
    return ", ".join("?" * n)
