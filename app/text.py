"""Text from outside: read once, strictly, so that whatever gets in can be stored, sent and printed again.

JSON has ways to write what no other place can take: half a surrogate pair (``"\\ud800"``) is no Unicode text and cannot
be encoded, ``NaN`` and ``1e999`` are no JSON numbers. RFC 8259 section 8.2 calls what then happens unpredictable.
"""

from __future__ import annotations

import json
import re
from typing import Any

SURROGATES = re.compile("[\ud800-\udfff]+")


class JsonError(ValueError):
    """Text that is not JSON, or no interoperable JSON (RFC 7493). ``str()`` is the reason, without a full stop."""


def read_json(text: str | bytes) -> Any:
    """The value of a JSON text. Raises :class:`JsonError`."""
    try:
        value = json.loads(text, parse_constant=_no_constant)
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except JsonError:
        raise
    except UnicodeEncodeError:
        raise JsonError("it has half of a surrogate pair") from None
    except UnicodeDecodeError:
        raise JsonError("it is not UTF-8") from None
    except RecursionError:
        raise JsonError("it is nested too deep") from None
    except json.JSONDecodeError as error:
        raise JsonError(error.msg[:1].lower() + error.msg[1:]) from None
    except ValueError:
        raise JsonError("it has a number that is too large") from None
    return value


def is_unicode(text: str) -> bool:
    """Whether a text can be encoded: it has no surrogates, which come from JSON escapes and from the bytes of a file
    name or a command line that are not UTF-8."""
    return SURROGATES.search(text) is None


def printable(text: object) -> str:
    """A text for people of something, such as a path, whose own text may not be Unicode; what is not shows as �."""
    return SURROGATES.sub("\N{REPLACEMENT CHARACTER}", str(text))


def _no_constant(name: str) -> float:
    raise JsonError(f"{name} is no number in JSON")
