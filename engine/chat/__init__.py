"""Offline conversations: pictures, sound, video and words in, text and speech out."""

from engine.chat.offline import Chat, ChatAnswer, ChatOptions, chat, write_sound

__all__ = ["Chat", "ChatAnswer", "ChatOptions", "chat", "write_sound"]
