"""The one place that tries again when a server is away."""

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from promptdia.pipeline.errors import TransientError

R = TypeVar("R")
WAITS_S = (0.2, 1.0, 5.0)
"""Pauses before the second, third and fourth attempt."""

log = logging.getLogger(__name__)


def with_retries(call: Callable[[], R], waits_s: tuple[float, ...] = WAITS_S) -> R:
    """What ``call`` returns; a TransientError is retried with growing pauses, then raised."""
    for wait in waits_s:
        try:
            return call()
        except TransientError as away:
            log.warning("%s; trying again in %g s", away, wait)
            time.sleep(wait)
    return call()
