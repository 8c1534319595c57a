"""A forest of decision trees: evaluated here in numpy, trained elsewhere."""

import hashlib
import io
from dataclasses import dataclass, fields
from typing import Any, Self
from zipfile import BadZipFile

import numpy as np

from promptdia.tasks.errors import TaskError
from promptdia.tasks.model.arrays import Bools, Floats, Ints

ROWS_AT_ONCE = 1024
"""Rows sent down the trees together; bounds the memory."""


class BadModel(TaskError):
    """A trained model that is damaged or was made for other features."""


@dataclass(frozen=True, slots=True, eq=False)
class Forest:
    """Trees whose leaf values add up to the logit of a probability.

    All trees share the node arrays. A leaf is its own child, so that every row may walk
    ``depth`` steps.
    """

    feature: Ints
    """(n_nodes,) column that a node looks at."""
    threshold: Floats
    """(n_nodes,) values up to and including it go left."""
    missing_left: Bools
    """(n_nodes,) where nan goes."""
    left: Ints
    """(n_nodes,) child, as a node number."""
    right: Ints
    value: Floats
    """(n_nodes,) what a leaf adds to the logit; 0 inside the tree."""
    roots: Ints
    """(n_trees,) first node of each tree."""
    depth: int
    """Steps to the deepest leaf."""
    baseline: float
    """Logit before the first tree."""
    temperature: float
    """The logit is divided by it, so that scores are probabilities on held-out data."""
    features: tuple[str, ...]
    """Names of the columns, in order."""
    version: str
    """At most 7 characters; kept with every score."""

    def logit(self, rows: Floats) -> Floats:
        """(n,) sum over the trees, uncalibrated; ``rows`` is (n, n_features), nan where unknown."""
        if rows.shape[1:] != (len(self.features),):
            raise ValueError(f"rows have shape {rows.shape}, need (n, {len(self.features)})")
        out = np.empty(len(rows))
        for first in range(0, len(rows), ROWS_AT_ONCE):
            part = slice(first, first + ROWS_AT_ONCE)
            out[part] = self._walk(rows[part])
        return out

    def probability(self, rows: Floats) -> Floats:
        """(n,) calibrated probability, 0 to 1."""
        result: Floats = 1.0 / (1.0 + np.exp(-self.logit(rows) / self.temperature))
        return result

    def _walk(self, rows: Floats) -> Floats:
        node = np.repeat(self.roots[:, None], len(rows), axis=1)
        column = np.arange(len(rows))[None, :]
        for _ in range(self.depth):
            value = rows[column, self.feature[node]]
            low = value <= self.threshold[node]
            go_left = np.where(np.isnan(value), self.missing_left[node], low)
            node = np.where(go_left, self.left[node], self.right[node])
        total: Floats = self.baseline + self.value[node].sum(axis=0)
        return total

    def require_features(self, names: tuple[str, ...]) -> None:
        """BadModel unless the model was trained on exactly these columns in this order."""
        if names == self.features:
            return
        odd = sorted(set(names) ^ set(self.features)) or ["the order"]
        raise BadModel(
            f"reliability model {self.version} was trained on other features than this code "
            f"computes (differing: {', '.join(odd)}); train it again"
        )

    def checksum(self) -> str:
        """SHA-256 over all that decides a score."""
        digest = hashlib.sha256()
        for name, values in self._arrays().items():
            digest.update(name.encode())
            digest.update(values.tobytes())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """As an npz file with its checksum."""
        stream = io.BytesIO()
        arrays: dict[str, Any] = {"checksum": np.array(self.checksum()), **self._arrays()}
        np.savez_compressed(stream, **arrays)
        return stream.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what ``to_bytes`` made; BadModel when it is damaged."""
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
                kept = {name: arrays[name] for name in arrays.files}
            forest = cls(
                depth=int(kept["depth"]),
                baseline=float(kept["baseline"]),
                temperature=float(kept["temperature"]),
                features=tuple(str(name) for name in kept["features"]),
                version=str(kept["version"]),
                **{name: kept[name] for name in _NODE_ARRAYS},
            )
            stated = str(kept["checksum"])
        except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
            raise BadModel(f"reliability model is no forest file: {error}") from error
        if forest.checksum() != stated:
            raise BadModel(f"reliability model {forest.version} does not match its checksum")
        return forest

    def _arrays(self) -> dict[str, np.ndarray]:
        return {field.name: np.asarray(getattr(self, field.name)) for field in fields(self)}


_NODE_ARRAYS = ("feature", "threshold", "missing_left", "left", "right", "value", "roots")
