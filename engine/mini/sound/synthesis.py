"""Voices that read text aloud: speech with the times of its phones, from the synthesizers' own libraries.

espeak-ng (rules, about a hundred voice variants) and flite (recorded voices) are called in this process through ctypes.
Both are Debian packages: ``espeak-ng flite``.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.mini.sound.pronunciation import PHONES
from engine.mini.world.vocabulary import split

Audio = NDArray[np.float32]

HELD_OUT_VARIANTS = ("f5", "m8", "steph", "Andrea", "Andy", "Hugo", "Marco")
"""espeak-ng variants that judge the model: never used in training, tuning or picking."""
VALIDATION_VARIANTS = ("f3", "m3", "belinda", "Michael", "zac", "aunty")
"""espeak-ng variants kept out of training for our own validation."""
TRAINING_VARIANTS = tuple(
    split(
        "f1 f2 f4 m1 m2 m4 m5 m6 m7 Alex Alicia Annie Denis Diogo Gene Gene2 Henrique Jacky Lee Mario Mike Nguyen "
        "Storm adam anika announcer antonio benjamin boris caleb croak david ed edward edward2 grandma grandpa "
        "gustave iven iven2 iven3 iven4 john kaukovalta klatt klatt2 klatt3 klatt4 klatt5 klatt6 linda marcelo max "
        "michel miguel norbert pablo paul pedro quincy rob robert sandro shelby steph2 steph3 travis victor "
        "whisper RicishayMax RicishayMax2 UniRobot"
    )
)
ACCENTS = ("gmw/en-US", "gmw/en", "gmw/en-GB-x-rp", "gmw/en-029", "gmw/en-GB-scotland", "gmw/en-GB-x-gbclan",
           "gmw/en-GB-x-gbcwmd", "gmw/en-US-nyc")  # fmt: skip
TRAINING_ACCENTS = (*ACCENTS, *("gmw/en-US",) * 6)
"""American English is most of the data: the recorded voices speak it."""

PAUSE = "PAU"

_ESPEAK_PHONES = {
    "E": "EH", "I": "IH", "I2": "IH", "I#": "IH", "IR": "IH", "i": "IY", "i:": "IY", "i@": "IY", "i@3": "IY",
    "eI": "EY", "aI": "AY", "aI2": "AY", "aI@": "AY", "aU": "AW", "oU": "OW", "OI": "OY", "u:": "UW", "U": "UH",
    "U@": "UH", "V": "AH", "VR": "AH", "@": "AX", "@2": "AX", "a#": "AX", "3": "ER", "3:": "ER", "@L": "L", "a": "AE",
    "aa": "AA", "A:": "AA", "A@": "AA", "0": "AA", "O:": "AO", "O@": "AO", "o@": "AO", "e@": "EH", "t#": "T", "t2": "T",
    "t[": "T", "w#": "W", "r-": "R", "p": "P", "b": "B", "t": "T", "d": "D", "k": "K", "g": "G", "tS": "CH", "dZ": "JH",
    "f": "F", "v": "V", "T": "TH", "D": "DH", "s": "S", "z": "Z", "S": "SH", "Z": "ZH", "h": "HH", "m": "M", "n": "N",
    "N": "NG", "l": "L", "r": "R", "j": "Y", "w": "W",
}  # fmt: skip
_LETTER_A = {"espeak": "[[eI]]", "flite": "ay", "festival": "ay"}


class SynthesisError(Exception):
    """A synthesizer is missing or refuses a voice; the message says what to install or change."""


@dataclass(frozen=True, slots=True)
class Speech:
    """Mono float32 in [-1, 1], and the phones as (name, start in seconds); silence is :data:`PAUSE`."""

    samples: Audio
    rate: int
    phones: tuple[tuple[str, float], ...] = ()
    word_ends: tuple[float, ...] = ()
    """Seconds at which the words end, where they are known."""
    high: bool | None = None
    """Whether the voice is a woman's; None where that is not known."""


def to_float(samples: NDArray[np.int16]) -> Audio:
    """int16 to float32 in [-1, 1)."""
    return samples.astype(np.float32) / np.float32(32768)


def with_letter_a(text: str, engine: str) -> str:
    """Makes the engine read ``a`` as the name of a letter where it stands among other letters, digits or alone."""
    words = text.split()
    if "a" not in words:
        return text
    out = []
    for i, word in enumerate(words):
        after = words[i + 1] if i + 1 < len(words) else ""
        article = after in ("joke", "song", "story", "moment", "second", "minute", "name", "test", "nice", "robot",
                            "machine", "person", "computer", "favorite", "number", "word", "lot")  # fmt: skip
        out.append(_LETTER_A[engine] if word == "a" and not article else word)
    return " ".join(out)


class _EventId(ctypes.Union):
    _fields_ = (("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8))


class _Event(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int), ("unique_identifier", ctypes.c_uint), ("text_position", ctypes.c_int),
        ("length", ctypes.c_int), ("audio_position", ctypes.c_int), ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p), ("id", _EventId),
    )  # fmt: skip


def _load(name: str) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(name, ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise SynthesisError(f"{name} is missing; install the Debian packages espeak-ng and flite") from error


_PITCH_OF = {**dict.fromkeys(("f1", "f2", "f4"), True), **{f"m{i}": False for i in range(1, 8)}}


class Espeak:
    """espeak-ng, at its 22 050 Hz. One per process: the library keeps global state."""

    _SYNCHRONOUS, _PHONEME_EVENTS, _WORD, _PHONEME, _BUFFER_MS = 2, 1, 1, 7, 2000
    _UTF8, _PHONEMES = 1, 0x100
    _RATE, _PITCH, _RANGE = 1, 3, 4

    def __init__(self) -> None:
        self._library = _load("libespeak-ng.so.1")
        self.rate: int = self._library.espeak_Initialize(self._SYNCHRONOUS, self._BUFFER_MS, None, self._PHONEME_EVENTS)
        self._audio: list[NDArray[np.int16]] = []
        self._phones: list[tuple[str, float]] = []
        self._words: list[float] = []
        callback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))
        self._callback = callback(self._receive)
        self._library.espeak_SetSynthCallback(self._callback)

    def _receive(self, wave: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if wave and count > 0:
            self._audio.append(np.ctypeslib.as_array(wave, (count,)).copy())
        index = 0
        while events[index].type:
            event = events[index]
            if event.type == self._WORD:
                self._words.append(event.audio_position / 1000)
            if event.type == self._PHONEME:
                name = event.id.string.decode()
                known = PAUSE if name.startswith("_") else _ESPEAK_PHONES.get(name)
                if known:
                    self._phones.append((known, event.audio_position / 1000))
            index += 1
        return 0

    def speak(self, text: str, voice: str, *, words_per_minute: int = 170, pitch: int = 50, spread: int = 50) -> Speech:
        """``voice`` such as ``gmw/en-US+f2``. Raises SynthesisError for a voice that does not exist."""
        self._audio.clear()
        self._phones.clear()
        self._words.clear()
        if self._library.espeak_SetVoiceByName(voice.encode()):
            raise SynthesisError(f"espeak-ng has no voice {voice}; `espeak-ng --voices` lists them")
        settings = (self._RATE, words_per_minute), (self._PITCH, pitch), (self._RANGE, spread)
        for parameter, value in settings:
            self._library.espeak_SetParameter(parameter, value, 0)
        data = with_letter_a(text, "espeak").encode()
        self._library.espeak_Synth(data, len(data) + 1, 0, 1, 0, self._UTF8 | self._PHONEMES, None, None)
        samples = to_float(np.concatenate(self._audio))
        ends: tuple[float, ...] = ()
        if len(self._words) == len(text.split()):
            spoken = [start for name, start in self._phones if name == PAUSE]
            ends = (*self._words[1:], spoken[0] if len(spoken) == 1 else max(spoken[-2:-1] or [self._words[-1]]))
        return Speech(samples, self.rate, tuple(self._phones), ends, _PITCH_OF.get(voice.partition("+")[2]))


class _Wave(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_char_p), ("sample_rate", ctypes.c_int), ("num_samples", ctypes.c_int),
        ("num_channels", ctypes.c_int), ("samples", ctypes.POINTER(ctypes.c_short)),
    )  # fmt: skip


class Flite:
    """flite at 16 kHz: ``kal16`` (diphones), ``rms`` and ``slt`` (statistical, from recordings)."""

    def __init__(self, voices: Sequence[str] = ("kal16", "rms", "slt")) -> None:
        self._library = library = _load("libflite.so.1")
        _load("libflite_usenglish.so.1")
        _load("libflite_cmulex.so.1")
        library.flite_init()
        pointer = ctypes.c_void_p
        for name in ("flite_synth_text", "utt_relation", "relation_head", "item_next"):
            getattr(library, name).restype = pointer
        library.utt_wave.restype = ctypes.POINTER(_Wave)
        library.item_feat_string.restype = ctypes.c_char_p
        library.item_feat_float.restype = ctypes.c_float
        self._voices: dict[str, ctypes.c_void_p] = {}
        for voice in voices:
            register = getattr(_load(f"libflite_cmu_us_{voice}.so.1"), f"register_cmu_us_{voice}")
            register.restype = pointer
            self._voices[voice] = pointer(register(None))

    def speak(self, text: str, voice: str) -> Speech:
        """Raises SynthesisError for a voice that was not loaded."""
        if voice not in self._voices:
            raise SynthesisError(f"flite voice {voice} is not loaded; choose from {sorted(self._voices)}")
        library, pointer = self._library, ctypes.c_void_p
        data = with_letter_a(text, "flite").encode()
        utterance = pointer(library.flite_synth_text(data, self._voices[voice]))
        wave = library.utt_wave(utterance).contents
        samples = to_float(np.ctypeslib.as_array(wave.samples, (wave.num_samples,)))
        rate = int(wave.sample_rate)
        phones, start = [], 0.0
        item = library.relation_head(pointer(library.utt_relation(utterance, b"Segment")))
        while item:
            phones.append((library.item_feat_string(pointer(item), b"name").decode().upper(), start))
            start = float(library.item_feat_float(pointer(item), b"end"))
            item = library.item_next(pointer(item))
        library.delete_utterance(utterance)
        return Speech(samples, rate, tuple(phones), high=voice == "slt")


def phone_class(name: str) -> int:
    """1 for the first of :data:`PHONES`, and so on; silence and what is no phone come last."""
    return _CLASSES.get(name, len(PHONES) + 1)


_CLASSES = {name: index + 1 for index, name in enumerate(PHONES)}
PHONE_CLASSES = len(PHONES) + 2
"""Blank, the phones, silence."""
