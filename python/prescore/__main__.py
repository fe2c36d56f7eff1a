"""python -m prescore ppl | bench | vit | plot: one JSON object a line; `-h` after each says more."""
from __future__ import annotations

import argparse
import sys

from ._commands import bench, plot, ppl, vit


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m prescore", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for module in (ppl, bench, vit, plot):
        name = module.__name__.rpartition(".")[2]
        command = commands.add_parser(name, help=module.__doc__.split("\n")[0], description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    given = parser.parse_args(arguments)
    try:
        return given.run(given)
    except (ValueError, TypeError, OSError, ImportError) as e:
        print(f"prescore: {e}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
