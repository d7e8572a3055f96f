"""Offline conversations: pictures, sound, video and words in, text and speech out."""

from engine.chat.media import write_sound
from engine.chat.offline import Chat, ChatAnswer, ChatOptions, chat

__all__ = ["Chat", "ChatAnswer", "ChatOptions", "chat", "write_sound"]
