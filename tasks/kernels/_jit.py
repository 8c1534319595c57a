"""The one place that imports numba, but for the vector instructions of ``_vector``."""

from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numba

P = ParamSpec("P")
R = TypeVar("R")


def kernel(function: Callable[P, R]) -> Callable[P, R]:
    """Compile a loop over arrays; cached on disk, releases the interpreter lock.

    Single-threaded by design: callers split work over threads with
    ``promptdia.tasks.parallel.over_strips``.
    """
    compiled: Callable[P, R] = numba.njit(cache=True, nogil=True, fastmath=False)(function)
    return compiled


def fast_kernel(function: Callable[P, R]) -> Callable[P, R]:
    """As ``kernel``, free to reorder sums: for inner products that must vectorise.

    Not for code that tests for nan or inf, which these flags may remove.
    """
    flags = {"reassoc", "contract", "nsz", "arcp"}
    compiled: Callable[P, R] = numba.njit(cache=True, nogil=True, fastmath=flags)(function)
    return compiled
