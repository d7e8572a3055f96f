"""``python -m engine.chat``: see :mod:`engine.chat.cli`."""

from engine.chat.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
