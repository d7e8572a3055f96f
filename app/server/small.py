"""MODEL=small: has the checkpoint assembled by a process of its own, since this one never imports torch."""

from __future__ import annotations

import logging
import subprocess
import sys
from dataclasses import replace

from app.server.options import SMALL, ServerOptions

log = logging.getLogger(__name__)


def with_model(options: ServerOptions) -> ServerOptions:
    """The options with the folder of the model where they name small, which is downloaded and assembled if need be.

    Where that does not go, the reason has been told in one sentence and mini takes its place. Takes minutes the first
    time, seconds of checking afterwards.
    """
    if options.engine == "mini" and not options.model:
        log.info("this is the little mini; `make run MODEL=small` takes one that converses (0.7 GB to download, once)")
    if options.model != SMALL:
        return options
    command = [sys.executable, "-m", "engine.small"]
    for name in ("cache", "language"):
        if value := getattr(options, name):
            command += [f"--{name}", value]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, errors="replace")
    if done.returncode:
        log.warning("mini runs in place of small")
    return replace(options, model="" if done.returncode else done.stdout.splitlines()[-1])
