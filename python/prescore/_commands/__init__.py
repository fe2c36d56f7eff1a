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
