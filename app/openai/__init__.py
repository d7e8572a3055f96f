"""The chat of other programs and of the page ``/chat``: OpenAI's chat completions protocol over the engine's chats."""
