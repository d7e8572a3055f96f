"""MODEL=small and TRANSCRIBE=small: has them assembled by a process of its own, since this one never imports torch."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace

from app.server.options import SMALL, ServerOptions

log = logging.getLogger(__name__)


def with_model(options: ServerOptions) -> ServerOptions:
    """The options with the folder of the model where they name small, and that of small's ears where these are to read
    for another one; both are downloaded and assembled if need be.

    Where that does not go, the reason has been told in one sentence; mini takes small's place, and nobody the ears'.
    Takes minutes the first time, seconds of checking afterwards.
    """
    if options.engine == "mini" and not options.model:
        log.info("this is the little mini; `make run MODEL=small` takes one that converses (0.7 GB to download, once)")
    if options.model == SMALL:
        folder = _assembled(options, "cache", "language")
        if folder is None:
            log.warning("mini runs in place of small")
        options = replace(options, model=folder or "", transcribe=options.transcribe if folder is None else "")
    if options.transcribe == SMALL:
        folder = _assembled(options, "cache", more=("--ears",))
        if folder is None:
            log.warning("calls go on without captions of what callers say")
        options = replace(options, transcribe=folder or "")
    return options


def _assembled(options: ServerOptions, *names: str, more: tuple[str, ...] = ()) -> str | None:
    """The folder that ``python -m engine.small`` made, with the options so named; None where it could not."""
    command = [sys.executable, "-m", "engine.small", *more]
    for name in names:
        if value := getattr(options, name):
            command += [f"--{name}", value]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, errors="replace")
    return None if done.returncode else done.stdout.splitlines()[-1]
