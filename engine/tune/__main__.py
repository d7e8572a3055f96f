"""``python -m engine.tune``; see :mod:`engine.tune.cli`."""

import sys

from engine.tune.cli import main

sys.exit(main())
