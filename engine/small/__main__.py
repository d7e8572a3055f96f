"""``python -m engine.small``: assemble small or its ears if need be, check them, and print the folder as last line."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from engine.errors import LoadError
from engine.small.assemble import Order, assemble
from engine.small.fetch import AssemblyError
from engine.spec import small_cache


def main() -> int:
    """Exit status 0 with the folder on standard output, or 1 with one sentence on standard error."""
    parser = argparse.ArgumentParser(prog="python -m engine.small", description=__doc__)
    parser.add_argument("--cache", type=Path, help="folder that gets the downloads and the checkpoint")
    parser.add_argument("--language", type=Path, help="folder of a Qwen2.5 Instruct model of its makers")
    parser.add_argument("--ears", action="store_true", help="only what reads words, for captions beside another model")
    arguments = parser.parse_args()
    if arguments.ears and arguments.language:
        parser.error("--ears has no language model")
    order = Order(arguments.cache or small_cache(), arguments.language, arguments.ears)
    try:
        folder = assemble(order, tell=partial(print, file=sys.stderr, flush=True))
    except (AssemblyError, LoadError, ImportError) as error:
        hint = " (pip install -r engine/requirements-small.txt)" if isinstance(error, ImportError) else ""
        print(f"Small cannot be assembled. {error}{hint}.", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Interrupted; the next try goes on from here.", file=sys.stderr)
        return 1
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
