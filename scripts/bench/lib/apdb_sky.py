"""The sky of a synthetic survey, and what a detector adds to a database of it."""

from dataclasses import dataclass
from typing import Any

import hpgeom
import numpy as np
from numpy.typing import NDArray

from promptdia.apdb.pixels import ORDER, Region
from promptdia.apdb.schema.lsst import DIA_FORCED_SOURCE, DIA_OBJECT, DIA_SOURCE, REJECTED
from promptdia.apdb.schema.table import TableSchema
from promptdia.apdb.store import Batch, History

TILE_ORDER = 8
"""Tiles are HEALPix pixels of this order, 13.7 arcmin across."""
OBJECTS_PER_TILE = 1000
EPOCHS = 50
SOURCES_PER_EPOCH = 100
"""In a tile; as many forced sources."""
FIRST_MJD = 61004.0
NOW_MJD = FIRST_MJD + 7.2 * EPOCHS
SIDE_DEG = 15.05 / 60
"""Side of a detector with its pad: 1,200 objects."""
_FIRST_TILE = 5 << 2 * TILE_ORDER
_FIRST_ID = 10**12

Rows = NDArray[Any]


@dataclass(frozen=True)
class Sky:
    """The objects of the survey."""

    ids: Rows
    ra: Rows
    dec: Rows
    pixels: Rows
    """Order-20 pixel of each, tile by tile."""

    @classmethod
    def of(cls, n_sources: int, seed: int) -> "Sky":
        """Enough tiles for so many sources in a year."""
        n_tiles = max(1, n_sources // (EPOCHS * SOURCES_PER_EPOCH))
        shift = 2 * (ORDER - TILE_ORDER)
        local = np.random.default_rng(seed).integers(0, 1 << shift, (n_tiles, OBJECTS_PER_TILE))
        tiles = _FIRST_TILE + np.arange(n_tiles, dtype=np.int64)
        pixels = np.sort((tiles[:, None] << shift) + local, axis=1).ravel()
        ra, dec = hpgeom.pixel_to_angle(2**ORDER, pixels)
        return cls(_FIRST_ID + np.arange(pixels.size), ra, dec, pixels)

    @property
    def n_tiles(self) -> int:
        return self.ids.size // OBJECTS_PER_TILE

    def detectors(self, n: int, rng: np.random.Generator) -> list[Region]:
        """Squares at random places, those that hold nearest to 1,200 objects."""
        tried = [self._square(int(i)) for i in rng.integers(0, self.ids.size, 10 * n)]
        return sorted(tried, key=lambda region: abs(self.inside(region).size - 1200))[:n]

    def inside(self, region: Region) -> Rows:
        """Indices of the objects in a region."""
        ends = np.searchsorted(self.pixels, region.ranges())
        near = np.concatenate([np.arange(a, b) for a, b in ends])
        return near[region.contains(self.ra[near], self.dec[near])]

    def _square(self, i: int) -> Region:
        half = SIDE_DEG / 2
        ra = self.ra[i] + half / np.cos(np.deg2rad(self.dec[i])) * np.array([-1, 1, 1, -1])
        return Region.polygon(ra % 360, self.dec[i] + half * np.array([-1, -1, 1, 1]))


def plausible(schema: TableSchema, n: int, rng: np.random.Generator) -> Rows:
    """Rows with every third nullable float unknown, as a real pipeline leaves them."""
    rows = schema.empty(n)
    for number, column in enumerate(schema.columns):
        kind = column.dtype.kind
        if kind == "f" and not (column.nullable and number % 3 == 0):
            rows[column.name] = rng.normal(0, 100, n)
        elif kind == "b":
            rows[column.name] = rng.random(n) < 0.1
        elif kind == "U":
            rows[column.name] = "r"
        elif kind == "i" and not column.nullable:
            rows[column.name] = rng.integers(0, 1000, n)
    if "band" in (rows.dtype.names or ()):
        rows["band"] = rng.choice(list("ugrizy"), n)
    return rows


def night_batch(
    past: History, region: Region, visit: int, mjd: float, n: int, rng: np.random.Generator,
    payload: bytes = b"",
) -> Batch:  # fmt: skip
    """n sources, half of known objects and half of new ones, and a forced source of each."""
    known = rng.permutation(past.objects.size)[: n // 2]
    fresh = plausible(DIA_OBJECT, n - known.size, rng)
    first = visit * 10_000
    fresh["diaObjectId"] = first + np.arange(known.size, n)
    ra, dec = region.centre_deg
    fresh["ra"], fresh["dec"] = (c + rng.uniform(-0.1, 0.1, fresh.size) for c in (ra, dec))
    objects = np.concatenate([past.objects[known], fresh])
    objects["validityStartMjdTai"] = objects["lastDiaSourceMjdTai"] = mjd
    objects["nDiaSources"] += 1
    rows = {s: plausible(s, n, rng) for s in (DIA_SOURCE, DIA_FORCED_SOURCE)}
    for schema, measured in rows.items():
        measured[schema.columns[0].name] = first + np.arange(n)
        for name in ("diaObjectId", "ra", "dec"):
            measured[name] = objects[name]
        measured["visit"], measured["detector"] = visit, 0
        measured["midpointMjdTai"], measured["timeWithdrawnMjdTai"] = mjd, np.nan
    return Batch(
        visit=visit, detector=0, mjd_tai=mjd, now_mjd_tai=mjd, region=region, history=past,
        sources=rows[DIA_SOURCE], objects=objects, forced=rows[DIA_FORCED_SOURCE],
        rejected=REJECTED.empty(), topic="bench", payloads=[payload] * n if payload else (),
    )  # fmt: skip
