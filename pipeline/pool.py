"""Where image tasks run: in this process, in local worker processes, or on a Dask cluster."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any, Protocol, TypeVar

from promptdia.pipeline.errors import ConfigError, PromptdiaError, TransientError
from promptdia.tasks.parallel import set_threads

R = TypeVar("R")


class Running(Protocol):
    """Work handed in; ``result`` waits for it."""

    def result(self) -> Any: ...


class Executor(Protocol):
    """Runs functions of picklable arguments."""

    width: int
    """How many tasks run at once."""

    def submit(self, function: Callable[..., Any], *args: Any) -> Running: ...


def cores() -> int:
    """Processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def open_executor(workers: int | None = None, scheduler: str | None = None) -> Iterator[Executor]:
    """An executor of ``workers`` local processes (default: one per core), or a Dask scheduler's.

    Worker processes and the threads inside their kernels together never exceed the cores.
    """
    if scheduler:
        yield from _dask(scheduler)
        return
    n = cores() if workers is None else workers
    if n < 1:
        raise ConfigError(f"number of workers is {n}, must be at least 1")
    if n == 1:
        yield IN_PROCESS
        return
    threads = max(1, cores() // n)
    with ProcessPoolExecutor(n, get_context("spawn"), set_threads, (threads,)) as pool:
        yield _Local(pool, n)


class _Here:
    width = 1

    def submit(self, function: Callable[..., Any], *args: Any) -> Running:
        done: Future[Any] = Future()
        done.set_result(function(*args))
        return done


IN_PROCESS: Executor = _Here()
"""One task after the other, in this process."""


class _Local:
    def __init__(self, pool: ProcessPoolExecutor, width: int) -> None:
        self._pool, self.width = pool, width

    def submit(self, function: Callable[..., Any], *args: Any) -> Running:
        return self._pool.submit(function, *args)


class _Dask:
    def __init__(self, client: Any) -> None:
        self._client = client
        self.width = max(1, len(client.scheduler_info()["workers"]))

    def submit(self, function: Callable[..., Any], *args: Any) -> Running:
        running: Running = self._client.submit(function, *args, pure=False, retries=2)
        return running


def _dask(address: str) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError("--scheduler needs Dask: pip install 'promptdia[dask]'") from None
    try:
        client: Any = Client(address, timeout="10s", set_as_default=False)
    except (OSError, ValueError) as error:
        raise TransientError(f"no Dask scheduler answers at {address}: {error}") from error
    with client:
        yield _Dask(client)


def ordered(
    executor: Executor, function: Callable[..., R], arguments: list[tuple[Any, ...]]
) -> Iterator[R]:
    """Results in the order of ``arguments``, with a bounded number of tasks under way."""
    waiting: list[Running] = []
    try:
        for args in arguments:
            waiting.append(executor.submit(function, *args))
            if len(waiting) >= executor.width + 2 or executor.width == 1:
                yield waiting.pop(0).result()
        for task in waiting:
            yield task.result()
    except BrokenExecutor as dead:
        raise PromptdiaError(
            "a worker process was killed, perhaps for want of memory; run the same command "
            "again to go on, with fewer --workers"
        ) from dead
