"""Expected outcomes of a task that end the work on one detector."""

from promptdia.apdb.errors import PromptdiaError


class TaskError(PromptdiaError):
    """The science failed in a foreseen way; the detector is recorded as failed."""


class NoWork(PromptdiaError):
    """There is nothing to do, which is no failure: no template, no overlap."""


class TooFewStars(TaskError):
    """Not enough stars for a fit."""

    def __init__(self, purpose: str, found: int, needed: int) -> None:
        super().__init__(f"{purpose} found {found} usable stars, needs {needed}")


class NoUsablePixels(TaskError):
    """An image without a single good pixel."""

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(f"{what} has no usable pixel: {reason}")
