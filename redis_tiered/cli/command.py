"""`redis-tiered`: arguments in, an exit code out. 0: done. 1: refused, the reason is on stderr. 2: usage."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from redis_tiered.errors import RedisTieredError

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: of the command line, without the program's name; None: the process's own.
    """
    from redis_tiered.cli.semantic import add_to

    parser = _parser()
    add_to(parser.add_subparsers(title="commands", required=True, metavar="COMMAND"))
    try:
        parsed = parser.parse_args(arguments)
    except SystemExit as exit:  # argparse has said what is wrong, or has printed its help
        return exit.code if isinstance(exit.code, int) else 2
    try:
        parsed.run(parsed)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # the reader of stdout has seen enough; what is buffered must not fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if parsed.traceback:
            raise
        name = "" if isinstance(error, RedisTieredError) else f"{type(error).__name__}: "
        print(f"redis-tiered: {name}{error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    from redis_tiered import __version__

    parser = argparse.ArgumentParser(
        prog="redis-tiered",
        description="Tools for caches of redis-tiered.",
        epilog="Exit codes: 0 done, 1 refused (the reason is on stderr), 2 wrong usage.",
    )
    parser.add_argument("--version", action="version", version=f"redis-tiered {__version__}")
    return parser
