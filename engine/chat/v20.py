"""MiniCPM-V 2.0's own ``chat()``, which gives the conversation back with the answer.

For programs that were written for it; :func:`engine.chat.chat` answers with any model of the family.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from PIL import Image

from engine.chat.offline import Chat, chat
from engine.chat.options import ChatOptions
from engine.checkpoint.loader import LoadedVisionLanguage

Turn = Mapping[str, Any]


def chat_with_context(
    model: LoadedVisionLanguage | Chat,
    image: Image.Image | None,
    msgs: Sequence[Turn],
    context: Sequence[Turn] | None = None,
    **options: Any,
) -> tuple[str, list[Turn], dict[str, Any]]:
    """The answer, the conversation with it at the end, and how its tokens were found.

    ``image`` is the one of the conversation, None for one without. ``context`` is not read, as published: ``msgs`` is
    the whole conversation. ``options`` are those of :class:`ChatOptions`. Raises InputError.
    """
    text = cast(str, chat(model, msgs, image=image, **options))
    return text, [*msgs, {"role": "assistant", "content": text}], replace(ChatOptions(), **options).generation
