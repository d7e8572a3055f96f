"""The words around what a person says and shows: system prompts, chat templates, turn headers.

The model was trained with exactly these strings, typing and all, so that they are part of the architecture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.errors import InputError


@dataclass(frozen=True, slots=True)
class TypedText:
    """What a person typed: whatever it spells, none of it is a control token."""

    text: str


Part = str | TypedText | Image.Image | NDArray[np.float32]
"""Text, which may spell control tokens; typed text; a picture; or sound (mono 16 kHz in [−1, 1])."""

Role = Literal["system", "user", "assistant"]
Mode = Literal["omni", "audio_assistant", "audio_roleplay", "voice_cloning", "default"]
MODES: tuple[Mode, ...] = ("omni", "audio_assistant", "audio_roleplay", "voice_cloning", "default")


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a conversation; its parts follow each other."""

    role: Role
    content: Sequence[Part]


IM_START, IM_END = "<|im_start|>", "<|im_end|>"
UNIT = "<unit>"
"""What a caller writes before the picture and the sound of one second."""

TTS_BOS, TTS_EOS = "<|tts_bos|>", "<|tts_eos|>"
SPEECH_PROMPT = f"{IM_START}assistant\n<|spk_bos|><|spk|><|spk_eos|>{TTS_BOS}"
"""What comes before an answer that will be spoken; the speaker vector is read at ``<|spk|>``."""
TEXT_PROMPT = f"{IM_START}assistant\n"
"""What comes before an answer that is only written."""

_OMNI = {
    "zh": "你是一个AI助手。你能接受视频，音频和文本输入并输出语音和文本。",
    "en": "You are a helpful assistant. You can accept video, audio and text input and output voice and text. ",
}
_CLONE = {"zh": "模仿输入音频中的声音特征。", "en": "Clone the voice in the provided audio prompt."}
_ASSIST = {
    "zh": "作为助手，你将使用这种声音风格说话。",
    "en": "As an assistant, you will speak using this voice style.",
}
_ROLEPLAY = {
    "zh": "假装你是上述音频中的人物，与我进行对话。",
    "en": "Try to role-play the character based on the audio prompt above.",
}
_DEFAULT_VOICE = "Use the <reserved_53> voice."
_DEFAULT = "You are a helpful assistant. You can accept audio and text input and output voice and text."


def get_sys_prompt(
    ref_audio: NDArray[np.float32] | None = None,
    mode: str = "default",
    language: str = "zh",
) -> Message:
    """The first message of a conversation.

    ``ref_audio`` (mono, 16 kHz) is the voice to speak with; ``mode`` one of :data:`MODES`, anything else counts as
    ``default``; ``language`` ``zh``, anything else counts as English. The role is ``user``, as the model was trained.
    Raises InputError for ``voice_cloning`` without a voice.
    """
    tongue = "zh" if language == "zh" else "en"
    if mode == "omni":
        if ref_audio is None:
            return Message("user", [_OMNI[tongue]])
        return Message("user", [_OMNI[tongue] + _CLONE[tongue], ref_audio, _ASSIST[tongue]])
    if mode in ("audio_assistant", "audio_roleplay"):
        suffix = (_ASSIST if mode == "audio_assistant" else _ROLEPLAY)[tongue]
        if ref_audio is None:
            return Message("user", [_DEFAULT_VOICE, suffix])
        return Message("user", [_CLONE[tongue], ref_audio, suffix])
    if mode == "voice_cloning":
        if ref_audio is None:
            raise InputError("voice_cloning needs a voice to clone; give a reference sound (mono, 16 kHz)")
        return Message("user", [_CLONE[tongue], ref_audio])
    return Message("user", [_DEFAULT])


TASK_PROMPTS: dict[str, dict[str, str]] = {
    "mimick": {
        "zh": "请重复每个用户的说话，包括语音风格和语音内容。",
        "en": "Please repeat each user's speech, including voice style and speech content.",
    },
    "transcribe": {
        "zh": "请仔细听这段音频片段，并将其内容逐字记录。",
        "en": "Please listen to the audio snippet carefully and transcribe the content.",
    },
    "speaker": {
        "zh": "基于说话人的内容，推测他们的性别、状况、年龄范围和健康状态。",
        "en": "Based on the speaker's content, speculate on their gender, condition, age range, and health status.",
    },
    "caption": {"zh": "总结音频的主要内容。", "en": "Summarize the main content of the audio."},
    "scene": {
        "zh": "使用一个关键词表达音频内容或相关场景。",
        "en": "Utilize one keyword to convey the audio's content or the associated scene.",
    },
}
"""What to ask about a sound, by task and language: the wordings that the model knows."""

READ_PROMPT = {"zh": "请朗读以下内容。", "en": "Please read the text below."}
"""What comes before a text to be read aloud with a cloned voice."""


def turn_header(*, answered: bool, completed: bool) -> str:
    """What opens a user's turn in a stream.

    ``answered``: the model has spoken before; ``completed``: that answer came to its own end, so that its
    ``<|tts_eos|>`` is in the context already.
    """
    opening = f"{IM_START}user\n"
    if not answered:
        return opening
    return f"{IM_END}\n{opening}" if completed else f"{TTS_EOS}{IM_END}\n{opening}"


def answer_header(*, speech: bool = True) -> str:
    """What closes a user's turn in a stream and asks for the answer."""
    return f"{IM_END}\n{SPEECH_PROMPT if speech else TEXT_PROMPT}"


def closed_turn(role: str, content: Sequence[Part]) -> list[Part]:
    """One whole message in the speech template, its parts joined without a separator."""
    return [f"{IM_START}{role}\n", *content, f"{IM_END}\n"]
