"""``python -m app.replay``: see :mod:`app.replay.cli`."""

import sys

from app.replay.cli import main

if __name__ == "__main__":  # also imported by the processes of ``--jobs``
    sys.exit(main())
