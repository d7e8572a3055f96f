"""What one call can be told: who answers, how turns are found, how much is buffered.

The same mapping is accepted in the offer's ``options``, in a ``session.update`` event and in a bundle's ``call.json``;
the effective values are echoed to the client. Units are part of the names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from app.text import is_unicode
from engine.client import SessionOptions

Judging = Literal["smart_turn", "model"]
"""Who can be asked whether a person is done."""
Preset = Literal["omni", "audio_assistant", "audio_roleplay", "voice_cloning", "default"]

FIXED_AT_START = ("preset", "prompt", "voice", "language", "seed", "max_new_tokens", "speak")
"""Options that the engine's session is opened with: they cannot change during a call."""


class OptionError(ValueError):
    """An option that does not exist or has a value that it cannot have. ``str()`` is a sentence for people."""


def _number(default: float, low: float, high: float) -> Any:
    return field(default=default, metadata={"low": low, "high": high})


@dataclass(frozen=True, slots=True)
class VadConfig:
    """How speech is told from the rest. Levels are dB relative to int16 full scale."""

    kind: Literal["webrtc", "silero"] = "silero"
    """A small network, or Gaussian mixtures with an energy gate: cheaper, and taken in by any noise."""
    webrtc_mode: int = _number(2, 0, 3)
    """How readily webrtcvad calls a frame silent: 0 rarely, 3 very."""
    energy_min_dbfs: float = _number(-60.0, -96.0, 0.0)
    """Frames below this level are never speech (webrtc only)."""
    energy_margin_db: float = _number(6.0, 0.0, 40.0)
    """How far a frame must stand above the noise floor (webrtc only)."""
    energy_window_s: float = _number(2.5, 0.2, 30.0)
    """The noise floor is the quietest moment of this stretch (webrtc only)."""
    energy_steady_db: float = _number(3.0, 0.0, 20.0)
    """Sound that rises above the floor and then stays within this range is a hum or a fan, not speech (webrtc only)."""
    silero_on: float = _number(0.5, 0.0, 1.0)
    """Speech probability from which a frame outside speech counts as voiced (silero only)."""
    silero_off: float = _number(0.35, 0.0, 1.0)
    """Speech probability below which a frame inside speech counts as silent (silero only)."""
    silero_fall_db: float = _number(25.0, 0.0, 96.0)
    """How far below the loudest of the last second a frame inside speech is silent, whatever its probability, which
    falls some 80 ms after the end of speech; 0 never (silero only)."""
    silero_sure: float = _number(0.7, 0.0, 1.0)
    """Mean speech probability of a burst's surest 200 ms from which it counts as said, and not as a cough (silero
    only)."""
    reach_back_ms: int = _number(800, 0, 2_000)
    """How much earlier than it was noticed speech may have begun, as far as it stood out from the room until then."""
    onset_ms: int = _number(80, 20, 2_000)
    """Voiced time within ``onset_window_ms`` at which speech has begun."""
    onset_window_ms: int = _number(160, 20, 2_000)
    lull_ms: int = _number(60, 20, 2_000)
    """Silence after which it is asked whether the person is done, and an answer is prepared."""
    end_silence_ms: int = _number(480, 100, 5_000)
    """Silence after which speech is over, and with it the turn unless somebody has said whether the person is done."""
    end_voiced_share: float = _number(0.1, 0.0, 0.9)
    """Share of that silence that may be voiced all the same, so that a click does not hold a turn open."""
    end_quiet_ms: int = _number(240, 0, 5_000)
    """How much at the end of that silence must be free of voice: what looks like a click may be the next word."""


@dataclass(frozen=True, slots=True)
class TurnConfig:
    """When a turn begins and ends, and which of its samples the model hears."""

    detection: Literal["vad", "push_to_talk"] = "vad"
    """``push_to_talk``: unmuting begins a turn, ``input.commit`` ends it, ``input.discard`` drops it."""
    min_speech_ms: int = _number(100, 0, 5_000)
    """Turns in which less was surely said are dropped as a cough or a click."""
    end_of_turn: Literal["silence", "smart_turn", "model", "both"] = "both"
    """Who says whether the person is done: nobody (silence alone ends a turn), a network that hears melody
    (``smart_turn``), the language model's own word (``model``), or, where the model is not sure, the two together.
    A model that cannot tell leaves it to the silence."""
    end_of_turn_min_ms: int = _number(280, 20, 5_000)
    """Silence that ends the turn of a person who is likely done."""
    end_of_turn_max_s: float = _number(1.2, 0.1, 30.0)
    """Silence that ends it even if the person is likely not done."""
    end_of_turn_likely: float = _number(0.71, 0.0, 1.0)
    """Probability of being done from which the shortest silence is enough."""
    end_of_turn_unlikely: float = _number(0.55, 0.0, 1.0)
    """Probability of being done up to which the longest silence is granted."""
    prepare: bool = True
    """Whether the answer is prepared in a pause, before it is sure that the turn has ended."""
    barge_in_pause_ms: int = _number(80, 20, 5_000)
    """Voiced time after which an answer is paused, since this may become an interruption."""
    barge_in_ms: int = _number(760, 20, 5_000)
    """What must be said during an answer to interrupt it, more than an "okay": the answer waits for it in silence."""
    barge_in_resume_ms: int = _number(320, 20, 5_000)
    """Silence after which an answer goes on that was paused."""
    barge_in_insist_ms: int = _number(1_500, 0, 10_000)
    """Who says something again so soon after it did not stop the answer insists …"""
    barge_in_insisting_ms: int = _number(520, 20, 5_000)
    """… and this much is enough, both together."""
    barge_in_words: str = "stop, wait, no, hold on, stop it"
    """What interrupts however short it is: whatever means the same to the model as one of these, parted by commas, by
    what it would answer. Empty for nothing."""
    preroll_ms: int = _number(300, 0, 2_000)
    """How much sound before the onset belongs to the turn."""
    hangover_ms: int = _number(120, 0, 5_000)
    """How much of the silence after the last voiced frame belongs to the turn."""
    max_turn_s: float = _number(60.0, 1.0, 600.0)
    """A turn is ended here, so that noise taken for speech cannot hold a call for ever."""
    on_max_turn: Literal["answer", "drop"] = "answer"

    @property
    def judges(self) -> frozenset[Judging]:
        """Who has a say in the end of a turn besides silence. The model can have one only where it is given all of the
        turn in the pause, and nobody is asked beside a model that cannot."""
        judges = _JUDGES[self.end_of_turn]
        return frozenset() if "model" in judges and not self.prepare else judges


_JUDGES: Mapping[str, frozenset[Judging]] = {
    "silence": frozenset(),
    "smart_turn": frozenset({"smart_turn"}),
    "model": frozenset({"model"}),
    "both": frozenset({"smart_turn", "model"}),
}


@dataclass(frozen=True, slots=True)
class SilenceConfig:
    """What becomes of a call in which the person says and does nothing. Seconds of media time since their last sign of
    life, without the time that answers take; 0 is never."""

    prompt_after_s: float = _number(0.0, 0.0, 3_600.0)
    """After this the model is asked for a word of its own, once in a silence, and not while the microphone is muted."""
    prompt_text: str = "(Nobody has said anything for a while. Say one short sentence to me.)"
    """How it is asked: this is given to it as if it had been typed. A model that follows no instructions, such as mini,
    needs a sentence that it knows ("What can you do?")."""
    away_after_s: float = _number(120.0, 0.0, 86_400.0)
    """After this the person is taken to be away."""
    idle_end_s: float = _number(900.0, 0.0, 86_400.0)
    """After this the call ends, so that no forgotten page keeps a microphone open and a place taken; it is announced 60
    and 30 s before, and any sign of life prevents it."""


@dataclass(frozen=True, slots=True)
class EchoConfig:
    """How the answer's own echo in the microphone is kept from being taken for a person."""

    gate: bool = True
    """Whether frames that what was played explains count as silent. Without an echo this changes nothing."""
    max_delay_ms: int = _number(800, 100, 2_000)
    """How long an echo may be under way: network, jitter buffers, loudspeaker and room."""
    likeness_min: float = _number(0.7, 0.3, 1.0)
    """How alike what was played and what is heard must be for an echo: correlation of their levels over 1.5 s."""
    margin_db: float = _number(8.0, 0.0, 30.0)
    """How much louder than expected an echo may be in a band."""
    unexplained_max: float = _number(0.3, 0.0, 1.0)
    """Share of a frame's energy that may lie above that before the frame is more than echo."""


@dataclass(frozen=True, slots=True)
class MediaConfig:
    """Bounds of what is buffered on the way in and out."""

    max_gap_s: float = _number(5.0, 0.1, 60.0)
    """Longer jumps of the audio time stamps are a pause, not lost packets, and are not filled with silence."""
    max_pending_units: int = _number(90, 2, 1_000)
    """Units that may wait for the engine; more are refused with a warning."""
    max_buffered_s: float = _number(2.0, 0.2, 30.0)
    """Speech that may wait to be played before the engine is asked for no more."""
    fade_out_ms: float = _number(5.0, 0.0, 50.0)
    """Length of the fade at an interruption, which avoids a click."""
    thumbnails: bool = False
    """Put pictures of at most 8 KB (as base64) into ``frame.used`` events."""


@dataclass(frozen=True, slots=True)
class CallConfig:
    """All options of one call."""

    preset: Preset = "omni"
    prompt: str = ""
    """Text in place of the preset's system sentence; empty keeps it."""
    voice: str = "default"
    language: Literal["en", "zh"] = "en"
    seed: int = _number(0, 0, 2**31 - 1)
    max_new_tokens: int = _number(256, 1, 4_096)
    speak: bool = True
    """False for answers in text alone."""
    barge_in: bool = True
    """Whether talking interrupts an answer. The stop button and typed text always do."""
    hd_video: bool = False
    """Whether the last picture of a turn is looked at in high definition."""
    vad: VadConfig = field(default_factory=VadConfig)
    turn: TurnConfig = field(default_factory=TurnConfig)
    silence: SilenceConfig = field(default_factory=SilenceConfig)
    echo: EchoConfig = field(default_factory=EchoConfig)
    media: MediaConfig = field(default_factory=MediaConfig)

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> CallConfig:
        """Options that differ from the defaults, as a (nested) JSON object. Raises :class:`OptionError`."""
        return cls().updated(values)

    def updated(self, values: Mapping[str, Any]) -> CallConfig:
        """A copy with ``values`` in place of what it has; groups are merged. Raises :class:`OptionError`."""
        config = _updated(self, values, "")
        assert isinstance(config, CallConfig)
        config._check()
        return config

    def updated_in_call(self, values: Mapping[str, Any]) -> tuple[CallConfig, list[str]]:
        """Like :meth:`updated`, but what is fixed at the start stays as it is: the copy, and the names of the options
        that could not change. Raises :class:`OptionError`."""
        config = self.updated(values)
        fixed = {name: getattr(self, name) for name in FIXED_AT_START}
        refused = [name for name, value in fixed.items() if value != getattr(config, name)]
        return config.updated(fixed), refused

    def as_mapping(self) -> dict[str, Any]:
        """All effective values as a JSON object that :meth:`from_mapping` reads back."""
        return asdict(self)

    def session_options(self) -> SessionOptions:
        """What the engine's session is opened with."""
        return SessionOptions(
            preset=self.preset,
            language=self.language,
            voice=self.voice,
            prompt=self.prompt,
            seed=self.seed,
            max_new_tokens=self.max_new_tokens,
            speak=self.speak,
        )

    def _check(self) -> None:
        """Raise OptionError where two options contradict each other."""
        vad = self.vad
        if vad.onset_ms > vad.onset_window_ms:
            raise OptionError(
                f"vad.onset_ms is {vad.onset_ms} but vad.onset_window_ms only {vad.onset_window_ms}: the voiced time "
                "cannot be longer than the window that it is counted in."
            )
        if vad.silero_off > vad.silero_on:
            raise OptionError(
                f"vad.silero_off is {vad.silero_off} and above vad.silero_on ({vad.silero_on}); speech must end at a "
                "lower probability than it begins."
            )
        if self.turn.end_of_turn_unlikely > self.turn.end_of_turn_likely:
            raise OptionError(
                f"turn.end_of_turn_unlikely is {self.turn.end_of_turn_unlikely} and above turn.end_of_turn_likely "
                f"({self.turn.end_of_turn_likely}); the longest silence belongs to the lower probability."
            )
        if self.silence.prompt_after_s and not self.silence.prompt_text.strip():
            raise OptionError(
                "silence.prompt_text is empty, but silence.prompt_after_s asks for a word of the model; say how it is "
                "to be asked."
            )
        if self.turn.hangover_ms > vad.end_silence_ms:
            raise OptionError(
                f"turn.hangover_ms is {self.turn.hangover_ms} but a turn ends after vad.end_silence_ms "
                f"({vad.end_silence_ms}); the hangover can be no longer."
            )


def _updated(config: Any, values: object, path: str) -> Any:
    if not isinstance(values, Mapping):
        raise OptionError(f"{path.rstrip('.') or 'The options'} must be a JSON object, not {_json_kind(values)}.")
    known = {option.name: option for option in fields(config)}
    hints = get_type_hints(type(config))
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise OptionError(f"There is no option {f'{path}{name}'[:80]!r}; known are {', '.join(known)}.")
        if is_dataclass(current := getattr(config, name)):
            changes[name] = _updated(current, value, f"{path}{name}.")
        else:
            changes[name] = _checked(value, hints[name], known[name].metadata, f"{path}{name}")
    return replace(config, **changes)


def _checked(value: object, kind: Any, bounds: Mapping[str, float], name: str) -> object:
    """``value`` as an option of type ``kind``; raises OptionError."""
    if get_origin(kind) is Literal:
        if value not in get_args(kind) or not isinstance(value, str):
            raise OptionError(f"{name} must be one of {', '.join(get_args(kind))}, not {_json_kind(value)}.")
        return value
    if kind is bool or kind is str:
        if not isinstance(value, kind):
            wanted = "true or false" if kind is bool else "a text"
            raise OptionError(f"{name} must be {wanted}, not {_json_kind(value)}.")
        if isinstance(value, str) and not is_unicode(value):
            raise OptionError(f"{name} must be Unicode text, and this has half of a surrogate pair.")
        return value
    low, high = bounds["low"], bounds["high"]
    whole = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
    fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    if not fits or (kind is int and not whole):
        wanted = "a whole number" if kind is int else "a number"
        raise OptionError(f"{name} must be {wanted} from {low:.10g} to {high:.10g}, not {_json_kind(value)}.")
    assert isinstance(value, int | float)
    return kind(value)


def _json_kind(value: object) -> str:
    """How a wrong value is named in a sentence: itself when short, otherwise its kind."""
    if isinstance(value, str | int | float | bool) and len(str(value)) <= 40:
        return repr(value) if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    kinds = {dict: "an object", list: "a list", str: "a long text", type(None): "null"}
    return kinds.get(type(value), "something else")
