"""Threads over strips of an image, for kernels that release the interpreter lock.

One number holds for the process: a worker of a pool sets it to 1, so that threads
times processes never exceed the cores. Results do not depend on it, because every
strip writes its own rows.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def set_threads(n: int) -> None:
    """How many threads a task of this process may use."""
    global _threads
    if n < 1:
        raise ValueError(f"number of threads is {n}, must be at least 1")
    _threads = n


def get_threads() -> int:
    """How many threads a task of this process may use."""
    return _threads


def over_strips(work: Callable[[int, int], None], n_rows: int, rows_per_strip: int = 64) -> None:
    """Call ``work(first, end)`` for consecutive strips of rows, on all threads."""
    strips = [(a, min(a + rows_per_strip, n_rows)) for a in range(0, n_rows, rows_per_strip)]
    if _threads == 1 or len(strips) == 1:
        for first, end in strips:
            work(first, end)
        return
    with ThreadPoolExecutor(_threads) as pool:
        for done in [pool.submit(work, first, end) for first, end in strips]:
            done.result()
