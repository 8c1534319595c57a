"""YAML files into frozen dataclasses; an unknown or mistyped key is refused by its path."""

from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from promptdia.pipeline.errors import ConfigError

T = TypeVar("T")


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; an empty file is an empty mapping."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid YAML: {error}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigError(f"{path} must hold a mapping, holds a {type(content).__name__}")
    return content


def build(kind: type[T], content: dict[str, Any], where: str) -> T:
    """Make ``kind`` (a dataclass tree) from plain values; ``where`` names them in errors."""
    try:
        return TypeAdapter(kind).validate_python(content, extra="forbid")
    except ValidationError as error:
        # a misspelt key makes another one missing: tell the cause, not its consequence
        first = min(error.errors(), key=lambda e: e["type"] != "unexpected_keyword_argument")
        key = ".".join(str(part) for part in first["loc"])
        reason = {
            "unexpected_keyword_argument": "unknown key",
            "missing": "missing",
            "missing_argument": "missing",
        }.get(first["type"], first["msg"])
        raise ConfigError(f"{where}: {key}: {reason}") from error
