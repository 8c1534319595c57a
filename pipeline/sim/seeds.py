"""One random generator per purpose, so that nothing depends on the order of calls."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """The generator of (seed, purpose, ids): same arguments, same numbers, any process."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode()), *ids])
