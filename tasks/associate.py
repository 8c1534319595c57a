"""Tie the sources of a visit to the objects of the sky, and found new ones."""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from promptdia.apdb.schema.lsst import DIA_OBJECT, REJECTED
from promptdia.apdb.schema.table import Column, TableSchema
from promptdia.tasks.errors import TaskError
from promptdia.tasks.kernels.close_pairs import first_come
from promptdia.tasks.kernels.lookup import rows_of
from promptdia.tasks.match_likelihood import match_most_likely
from promptdia.tasks.model.arrays import Bools, Catalog, Floats, Ints, copied
from promptdia.tasks.near import close_pairs

SS_POSITION = TableSchema(
    "SSObjectPosition",
    (
        Column("ssObjectId", "long", "", "Solar System object", nullable=False),
        Column("ra", "double", "deg", "ICRS, predicted for the middle of the visit"),
        Column("dec", "double", "deg", "ICRS, predicted for the middle of the visit"),
    ),
)
"""Where known Solar System objects are at the time of a visit."""

_NO_SS_OBJECTS = SS_POSITION.empty()


@dataclass(frozen=True, slots=True)
class AssociateConfig:
    radius_arcsec: float = 1.0
    """Greatest distance between a source and its object."""
    method: Literal["closest", "likelihood"] = "closest"
    """closest: the closest pair of all first. likelihood: the one-to-one assignment that is
    likeliest as a whole, by the errors of both positions."""
    error_floor_arcsec: float = 0.1
    """Added in quadrature to each position's error by method likelihood."""
    max_sigma: float = 4.0
    """Method likelihood joins no pair that lies farther apart than so many of its errors."""
    ss_radius_arcsec: float = 1.0
    """Greatest distance between a source and a predicted Solar System object."""
    solar_system_first: bool = False
    """True gives Solar System objects the first choice of sources, static objects the rest."""
    founding_flags: tuple[str, ...] = ()
    """Flags with which a source may join an object but not found one; it goes to the ledger."""
    founding_reliability: float = 0.0
    """Least reliability with which a source may found an object."""


class AssociationCounts(NamedTuple):
    """How many sources went where."""

    updated: int
    """Joined an object that was known."""
    solar_system: int
    founded: int
    rejected: int
    """Have no position, or could join nothing and were not allowed to found an object."""
    unseen: int
    """Known objects, not sources, that nothing joined."""


class Association(NamedTuple):
    """Sources with their owners, and the objects with what that changed."""

    sources: Catalog
    """DIA_SOURCE; exactly one of diaObjectId and ssObjectId is set."""
    objects: Catalog
    """DIA_OBJECT: all that were given, then the new ones; times and nDiaSources updated."""
    rejected: Catalog
    """REJECTED sources: without a position, or stopped by a founding rule where one is set."""
    counts: AssociationCounts


@dataclass(frozen=True, slots=True)
class AssociateSources:
    """One to one over all pairs within the radius on the sphere; closest first by default."""

    config: AssociateConfig

    def run(
        self, sources: Catalog, objects: Catalog, ss_objects: Catalog = _NO_SS_OBJECTS
    ) -> Association:
        """Owners for all sources.

        ``sources`` are DIA_SOURCE rows, ``objects`` DIA_OBJECT rows, ``ss_objects``
        SS_POSITION rows. A source that nothing claims founds the object that carries its
        id; one without a position is rejected. TaskError when the position of an object
        is not finite or an id occurs twice.
        """
        _refuse_double("source", sources["diaSourceId"])
        _refuse_bad_input("object", objects["diaObjectId"], objects)
        _refuse_bad_input("Solar System object", ss_objects["ssObjectId"], ss_objects)
        placed = _placed(sources)
        nowhere, sources = _rejected(sources[~placed]), sources[placed]
        nowhere["rule"] = "no_position"
        object_ids, ss_ids = self._owners(sources, objects, ss_objects)

        free = (object_ids == 0) & (ss_ids == 0)
        refused, rejected = self._refuse_founders(sources, free)
        found = free & ~refused
        object_ids = np.where(found, sources["diaSourceId"], object_ids)

        owned = copied(sources)
        owned["diaObjectId"], owned["ssObjectId"] = object_ids, ss_ids
        counts = AssociationCounts(
            updated=int(((object_ids != 0) & ~found).sum()),
            solar_system=int((ss_ids != 0).sum()),
            founded=int(found.sum()),
            rejected=int(refused.sum()) + nowhere.size,
            unseen=int((~np.isin(objects["diaObjectId"], object_ids)).sum()),
        )
        joined = owned[(object_ids != 0) & ~found]
        objects = _with_joined(copied(objects, _new_objects(owned[found])), joined)
        return Association(owned[~refused], objects, copied(nowhere, rejected), counts)

    def _owners(self, sources: Catalog, objects: Catalog, ss_objects: Catalog) -> tuple[Ints, Ints]:
        """(n,) diaObjectId and (n,) ssObjectId of each source, 0 for none."""
        everything = np.ones(sources.size, bool)
        if self.config.solar_system_first:
            moving = self._claim_moving(sources, everything, ss_objects)
            return self._claim_static(sources, moving == 0, objects), moving
        static = self._claim_static(sources, everything, objects)
        return static, self._claim_moving(sources, static == 0, ss_objects)

    def _claim_static(self, sources: Catalog, free: Bools, objects: Catalog) -> Ints:
        radius, ids = self.config.radius_arcsec, objects["diaObjectId"]
        if self.config.method == "closest":
            return _claim(sources, free, objects, ids, radius)
        candidates = np.flatnonzero(free)
        errors = self.config.error_floor_arcsec, self.config.max_sigma
        i, j = match_most_likely(sources[candidates], objects, radius, *errors)
        owners = np.zeros(sources.size, np.int64)
        owners[candidates[i]] = ids[j]
        return owners

    def _claim_moving(self, sources: Catalog, free: Bools, ss_objects: Catalog) -> Ints:
        ids = ss_objects["ssObjectId"]
        return _claim(sources, free, ss_objects, ids, self.config.ss_radius_arcsec)

    def _refuse_founders(self, sources: Catalog, free: Bools) -> tuple[Bools, Catalog]:
        """Which free sources may not found an object, and their rows for the ledger."""
        low = np.zeros(sources.size, bool)
        if self.config.founding_reliability > 0:
            low = ~(sources["reliability"] >= self.config.founding_reliability)
        rules = [(f"founding_{flag}", sources[flag]) for flag in self.config.founding_flags]
        rules.append(("founding_reliability", low))
        stopped = np.full(sources.size, -1)
        for number, (_, broken) in enumerate(rules):
            stopped[(stopped < 0) & broken & free] = number
        refused = stopped >= 0

        rows = _rejected(sources[refused])
        by_score = stopped[refused] == len(rules) - 1
        rows["rule"] = [rules[number][0] for number in stopped[refused]]
        rows["rule_value"] = np.where(by_score, rows["reliability"], 1.0)
        rows["rule_limit"] = np.where(by_score, self.config.founding_reliability, 0.0)
        return refused, rows


def match_closest_first(
    ra1: Floats, dec1: Floats, id1: Ints, ra2: Floats, dec2: Floats, id2: Ints, radius_arcsec: float
) -> tuple[Ints, Ints]:
    """Indices of one-to-one pairs within the radius, closest pair first.

    All pairs compete: the closest of all is taken, both its members leave, and so on.
    Equal distances are taken in the order of ``id1``, then ``id2``, so the result does
    not depend on the order of the rows. Positions in degrees, poles and RA 0 included.
    """
    i, j, distance = close_pairs(ra1, dec1, ra2, dec2, radius_arcsec)
    order = np.lexsort((id2[j], id1[i], distance))
    i, j = i[order], j[order]
    taken = first_come(i, j, ra1.size, ra2.size)
    return i[taken], j[taken]


def _claim(
    sources: Catalog, free: Bools, owners: Catalog, owner_ids: Ints, radius_arcsec: float
) -> Ints:
    """(n,) id of the owner that each free source gets, 0 for none."""
    candidates = np.flatnonzero(free)
    ra, dec, id = (sources[name][candidates] for name in ("ra", "dec", "diaSourceId"))
    i, j = match_closest_first(ra, dec, id, owners["ra"], owners["dec"], owner_ids, radius_arcsec)
    ids = np.zeros(sources.size, np.int64)
    ids[candidates[i]] = owner_ids[j]
    return ids


def _with_joined(objects: Catalog, joined: Catalog) -> Catalog:
    """The objects with the sources that joined them counted and their times noted."""
    at = rows_of(
        np.ascontiguousarray(objects["diaObjectId"]), np.ascontiguousarray(joined["diaObjectId"])
    )
    times = joined["midpointMjdTai"]
    objects["nDiaSources"][at] += 1
    # fmin and fmax pass over a time that is not known yet
    first, last = "firstDiaSourceMjdTai", "lastDiaSourceMjdTai"
    objects[first][at] = np.fmin(objects[first][at], times)
    objects[last][at] = np.fmax(objects[last][at], times)
    objects["validityStartMjdTai"][at] = joined["timeProcessedMjdTai"]
    return objects


def _new_objects(founders: Catalog) -> Catalog:
    """One object per source, with its id, place and time."""
    objects = DIA_OBJECT.empty(founders.size)
    objects["diaObjectId"] = founders["diaSourceId"]
    for name in ("ra", "raErr", "dec", "decErr", "ra_dec_Cov"):
        objects[name] = founders[name]
    objects["validityStartMjdTai"] = founders["timeProcessedMjdTai"]
    objects["firstDiaSourceMjdTai"] = founders["midpointMjdTai"]
    objects["lastDiaSourceMjdTai"] = founders["midpointMjdTai"]
    objects["nDiaSources"] = 1
    return objects


def _rejected(sources: Catalog) -> Catalog:
    """REJECTED rows of sources, the rule still open."""
    rows = REJECTED.empty(sources.size)
    for name in sources.dtype.names or ():
        rows[name] = sources[name]
    return rows


def _placed(rows: Catalog) -> Bools:
    placed: Bools = np.isfinite(rows["ra"]) & (np.abs(rows["dec"]) <= 90)
    return placed


def _refuse_bad_input(what: str, ids: Ints, rows: Catalog) -> None:
    lost = ~_placed(rows)
    if lost.any():
        raise TaskError(
            f"{what} {ids[np.argmax(lost)]} has ra {rows['ra'][np.argmax(lost)]} and dec "
            f"{rows['dec'][np.argmax(lost)]}; both must be finite to associate it"
        )
    _refuse_double(what, ids)


def _refuse_double(what: str, ids: Ints) -> None:
    ordered = np.sort(ids)
    twice = ordered[1:][ordered[1:] == ordered[:-1]]
    if twice.size:
        raise TaskError(
            f"{what} id {twice[0]} occurs {(ids == twice[0]).sum()} times, must be unique"
        )
