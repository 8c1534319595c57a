"""The SQL tables: the sky as LSST's schema names it, and promptdia's own bookkeeping."""

from typing import Any

import sqlalchemy as sa

from promptdia.apdb.rows import stored
from promptdia.apdb.schema.lsst import (
    DIA_FORCED_SOURCE,
    DIA_OBJECT,
    DIA_SOURCE,
    SS_OBJECT,
    SS_SOURCE,
    VISIT_DETECTOR,
)
from promptdia.apdb.schema.table import Column, TableSchema

SCHEMA_VERSION = "3"
"""Of the tables below; raised with every change to them."""

_TYPES: dict[str, type[sa.types.TypeEngine[Any]]] = {
    "long": sa.BigInteger,
    "timestamp": sa.BigInteger,
    "int": sa.Integer,
    "short": sa.SmallInteger,
    "double": sa.Double,
    "float": sa.REAL,
    "boolean": sa.Boolean,
}

metadata = sa.MetaData()

_TIME = "midpointMjdTai"
"""In the keys of what is measured, because PostgreSQL divides these tables by it."""


def _column(column: Column, key: tuple[str, ...]) -> sa.Column[object]:
    kind = sa.Text if column.dtype.kind == "U" else _TYPES[column.kind]
    nullable = column.nullable and column.kind != "boolean"
    primary = column.name in key
    return sa.Column(
        column.name, kind(), nullable=nullable, primary_key=primary, autoincrement=False
    )


def _sky_table(schema: TableSchema, key: tuple[str, ...], *indexes: sa.Index) -> sa.Table:
    """A table of ``schema`` with the pixel of each row, see ``pixels.sky_pixel``."""
    columns = [_column(c, key) for c in stored(schema).columns]
    table = sa.Table(schema.name, metadata, *columns, *indexes)
    if _TIME in key:
        table.dialect_options["postgresql"]["partition_by"] = f'RANGE ("{_TIME}")'
    return table


def _table(schema: TableSchema, key: tuple[str, ...], *indexes: sa.Index) -> sa.Table:
    """A table of ``schema``."""
    return sa.Table(schema.name, metadata, *(_column(c, key) for c in schema.columns), *indexes)


META = sa.Table(
    "Metadata",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

OBJECTS = _sky_table(DIA_OBJECT, ("diaObjectId",), sa.Index("DiaObject_pixel", "pixelId"))
"""The present state of each object, one row each."""

SOURCES = _sky_table(
    DIA_SOURCE,
    ("diaSourceId", _TIME),
    sa.Index("DiaSource_pixel", "pixelId", "midpointMjdTai"),
    sa.Index("DiaSource_object", "diaObjectId"),
    sa.Index("DiaSource_visit", "visit", "detector"),
)

FORCED = _sky_table(
    DIA_FORCED_SOURCE,
    ("diaObjectId", "visit", "detector", _TIME),
    sa.Index("DiaForcedSource_pixel", "pixelId", "midpointMjdTai"),
    sa.Index("DiaForcedSource_visit", "visit", "detector"),
)

PARTITIONED = (SOURCES.name, FORCED.name)
"""By calendar month in PostgreSQL; the partitions are made when they are needed."""

SS_SOURCES = _table(SS_SOURCE, ("diaSourceId",), sa.Index("SSSource_object", "ssObjectId"))

SS_OBJECTS = _table(SS_OBJECT, ("ssObjectId",))
"""What all its sources say of each Solar System object."""

VISITS = _table(
    VISIT_DETECTOR, ("visit", "detector"), sa.Index("VisitDetector_time", "midpointMjdTai")
)

OUTBOX = sa.Table(
    "Outbox",
    metadata,
    sa.Column("diaSourceId", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("visit", sa.BigInteger, nullable=False),
    sa.Column("detector", sa.Integer, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("topic", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("payload", sa.LargeBinary),
    sa.Column("nLeftOut", sa.Integer, nullable=False),
    sa.Index("Outbox_visit", "visit", "detector"),
    sa.Index("Outbox_state", "state"),
)
"""The alert of each source on its way out: committed, archived, sending, sent."""

SENDING = sa.Table(
    "Sending",
    metadata,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("offsets", sa.Text, nullable=False),
)
"""From where on the alerts in state sending may lie in their topic: partition to offset, JSON."""

MERGED = sa.Table(
    "Merged",
    metadata,
    sa.Column("diaObjectId", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("mergedInto", sa.BigInteger, nullable=False),
    sa.Column("timeMergedMjdTai", sa.Double, nullable=False),
)
"""Objects that turned out to be another one; alerts sent before still carry their ids."""

LEDGER = sa.Table(
    "Ledger",
    metadata,
    sa.Column("id", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("visit", sa.BigInteger, nullable=False),
    sa.Column("detector", sa.Integer, nullable=False),
    sa.Column("ra", sa.Double),
    sa.Column("dec", sa.Double),
    sa.Column("pixelId", sa.BigInteger),
    sa.Column("rule", sa.Text, nullable=False),
    sa.Column("rule_value", sa.Double),
    sa.Column("rule_limit", sa.Double),
    sa.Column("snr", sa.REAL),
    sa.Index("Ledger_visit", "visit", "detector"),
    sa.Index("Ledger_pixel", "pixelId"),
)
"""Each detection that was not alerted, with the first rule that stopped it."""
