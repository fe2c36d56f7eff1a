"""The subcommands of `python -m prescore`: add_arguments(parser) and run(arguments) each."""
from __future__ import annotations

import json
from typing import Any


def print_row(**row: Any) -> None:
    print(json.dumps(row), flush=True)


def ints(text: str) -> list[int]:
    return [int(x) for x in text.split(",")]


def names(text: str) -> list[str]:
    return text.split(",")


def options(text: str) -> dict[str, Any]:
    """NAME=VALUE,... as options of prescore.attention; index.NAME=VALUE as those of its index."""
    found: dict[str, Any] = {}
    for part in text.split(",") if text else []:
        name, equals, value = part.partition("=")
        if not equals:
            raise ValueError(f"[python] option, got {part!r}, want NAME=VALUE")
        into = found.setdefault("index", {}) if name.startswith("index.") else found
        try:
            into[name.removeprefix("index.")] = json.loads(value)
        except json.JSONDecodeError:
            into[name.removeprefix("index.")] = value
    return found
