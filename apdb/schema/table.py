"""A table's columns, and the empty numpy table they describe."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

KINDS: dict[str, np.dtype[Any]] = {
    "long": np.dtype(np.int64),
    "int": np.dtype(np.int32),
    "short": np.dtype(np.int16),
    "double": np.dtype(np.float64),
    "float": np.dtype(np.float32),
    "boolean": np.dtype(np.bool_),
    "timestamp": np.dtype(np.int64),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column. In numpy a missing float is nan, a missing id 0, missing text ''."""

    name: str
    kind: str
    """A key of KINDS, or ``char(n)`` for text of at most n characters."""
    unit: str = ""
    description: str = ""
    nullable: bool = True

    @property
    def dtype(self) -> np.dtype[Any]:
        """The numpy type of one value."""
        if self.kind.startswith("char("):
            return np.dtype(f"U{int(self.kind[5:-1])}")
        return KINDS[self.kind]


@dataclass(frozen=True, slots=True)
class TableSchema:
    """A named list of columns."""

    name: str
    columns: tuple[Column, ...]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Structured dtype with one field per column, in order."""
        return np.dtype([(c.name, c.dtype) for c in self.columns])

    def empty(self, n: int = 0) -> NDArray[Any]:
        """n rows in which nothing is known yet: nan, 0, False, ''."""
        rows = np.zeros(n, self.dtype)
        for column in self.columns:
            if column.dtype.kind == "f":
                rows[column.name] = np.nan
        return rows

    def __getitem__(self, name: str) -> Column:
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(f"table {self.name} has no column {name}")
