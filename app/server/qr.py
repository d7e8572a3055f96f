"""Links as QR codes (ISO/IEC 18004), for a page and for a terminal."""

from __future__ import annotations

import io

import segno


def svg(link: str) -> str:
    """An ``<svg>`` element without a size of its own; its quiet zone is left to the page."""
    return segno.make(link, error="m", micro=False).svg_inline(border=0, omitsize=True, svgclass=None, lineclass=None)


def blocks(link: str, *, colours: bool) -> str:
    """Lines of half blocks, light on dark. With ``colours`` they are white on black also where a terminal's own colours
    are the other way round, which some cameras do not read."""
    text = io.StringIO()
    segno.make(link, error="l", micro=False).terminal(text, border=2, compact=True)
    lines = text.getvalue().splitlines()
    return "\n".join(f"\x1b[97;40m{line}\x1b[0m" if colours else line for line in lines)
