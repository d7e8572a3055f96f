"""``python -m app``: run the call server. ``--help`` lists the options."""

from __future__ import annotations

import asyncio
import logging
import sys

from app.errors import StartError
from app.server.options import ServerOptions
from app.server.server import serve
from app.server.small import with_model


def main() -> int:
    """Run until the server is told to stop. Exit status 0 after that, 1 if it could not be started."""
    try:
        options = ServerOptions.parse(sys.argv[1:])
        logging.basicConfig(
            level=options.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
        )
        if options.log_level != "debug":
            logging.getLogger("aioice").setLevel(logging.WARNING)  # it tells every connectivity check at level info
        asyncio.run(serve(with_model(options)))
    except StartError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    return 0


if __name__ == "__main__":
    sys.exit(main())
