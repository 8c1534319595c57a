"""The exception families, gathered where the pipeline looks for them."""

from promptdia.apdb.errors import ApdbError, PromptdiaError, TransientError
from promptdia.tasks.errors import NoWork, TaskError


class ConfigError(PromptdiaError):
    """Arguments, configuration or repository unusable; raised before any work."""


class InputError(TaskError):
    """A file handed to promptdia is broken or lacks something; names the file."""


__all__ = [
    "ApdbError",
    "ConfigError",
    "InputError",
    "NoWork",
    "PromptdiaError",
    "TaskError",
    "TransientError",
]
