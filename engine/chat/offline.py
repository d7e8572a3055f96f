"""Offline conversations: pictures, sound, video and words in, text and speech out.

As a library::

    from engine.chat import chat
    from engine.checkpoint.loader import load_checkpoint

    model = load_checkpoint("MiniCPM-o-2_6")
    print(chat(model, [{"role": "user", "content": [picture, "What is this?"]}]))

From a shell: ``python -m engine.chat MODEL --image cat.jpg --question "What is this?"``, see ``--help``.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from engine.chat.beam import beam_search
from engine.chat.hearing import hear_words
from engine.chat.media import write_sound
from engine.chat.prompt import ChatPrompt, PromptMaker, messages_of
from engine.checkpoint.loader import LoadedModel
from engine.client import DEFAULT_VOICE
from engine.conversation.sampling import Noise, SpeechSampling, TextSampling
from engine.conversation.session import SessionState
from engine.conversation.speech import BLOCK_CODES, MAX_CODES
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import split_complete
from engine.conversation.work import (
    Decode,
    Decoded,
    Feed,
    HearClips,
    Read,
    Render,
    See,
    Speak,
    Spoken,
    Step,
    Voice,
    Work,
    result_of,
)
from engine.errors import InputError, TooLongError
from engine.processing.prompts import TTS_EOS, Message

TEXT_BLOCK = 8
"""Tokens drawn between two looks at what they say."""
MAX_BEAMS, MAX_SLICES = 64, 100
"""Above what anybody searches with or cuts a picture into, below what fills the memory by a slip of the finger."""


@dataclass(frozen=True, slots=True)
class ChatOptions:
    """How to ask and how to answer; names and defaults are the published ones.

    Text is drawn at random, or greedily with ``do_sample=False``, or by beam search with ``sampling=False``. Raises
    InputError for values that make no sense.
    """

    max_new_tokens: int = 2048
    min_new_tokens: int = 0
    sampling: bool = True
    do_sample: bool = True
    temperature: float = 0.7
    top_p: float = 0.8
    top_k: int = 100
    repetition_penalty: float | None = None
    """None: 1.05, and 1.2 for beam search. It counts generated tokens only."""
    num_beams: int = 3
    seed: int = 0
    max_inp_length: int = 32768
    """Tokens after which the prompt is cut off."""
    omni_input: bool = False
    """Join the parts of a message without line breaks, as the units of a call are."""
    max_slice_nums: int | None = None
    """Cells that a picture may be cut into; None takes the model's setting."""
    use_image_id: bool | None = None
    """Number the pictures; None takes the model's setting."""
    chunk_input: bool | None = None
    """Cut sound placeholders into seconds; None takes the model's setting."""
    use_tts_template: bool = False
    """Ask for an answer that can be spoken. Sound in the conversation and ``generate_audio`` switch it on."""
    generate_audio: bool = False
    speech: SpeechSampling | None = None
    """How speech is drawn; None takes the model's setting."""

    def __post_init__(self) -> None:
        for name, least in (("max_new_tokens", 1), ("min_new_tokens", 0), ("max_inp_length", 1), ("top_k", 1)):
            if getattr(self, name) < least:
                raise InputError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        penalty = 1.0 if self.repetition_penalty is None else self.repetition_penalty
        if not (0 < self.temperature < math.inf and 0 < penalty < math.inf and 0 < self.top_p <= 1):
            raise InputError("temperature and repetition_penalty must be numbers above 0, and top_p in (0, 1]")
        if not 2 <= self.num_beams <= MAX_BEAMS or not 1 <= (self.max_slice_nums or 1) <= MAX_SLICES:
            raise InputError(f"num_beams must be from 2 to {MAX_BEAMS}, and max_slice_nums from 1 to {MAX_SLICES}")


@dataclass(frozen=True, slots=True, eq=False)
class ChatAnswer:
    """An answer and what led to it."""

    text: str
    finish: Literal["stop", "length"]
    ids: tuple[int, ...]
    """Tokens as drawn, the stop token included."""
    embeds: Tensor
    """What the language model read [T, hidden]."""
    states: Tensor
    """Its states over that [T, hidden], after the final norm."""
    speaker: Tensor | None = None
    """Its states at the speaker's place [1, hidden]; None for the text template."""
    codes: Tensor | None = None
    """Audio codes int64 [N, num_vq]."""
    wave: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """Speech, mono float32 at 24 kHz; empty without ``generate_audio``."""


Answering = Generator[str, None, ChatAnswer]
"""Gives text piece by piece and returns the whole answer."""


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    ids: list[int]
    stopped: bool
    states: Tensor


class Chat:
    """Answers conversations with one loaded model. Not for several threads at once."""

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        context: int | None = None,
        stream: StreamingModel | None = None,
        text_block: int = TEXT_BLOCK,
        feed_block: int | None = None,
    ) -> None:
        """``context`` bounds the tokens of a conversation, its answer included; None is the model's own limit.

        A server gives the ``stream`` that its calls have, whose executor only its scheduler runs: it takes
        :meth:`prepare`, :meth:`task` and the parts of that. ``text_block`` tokens are drawn, and ``feed_block`` tokens
        of a conversation fed (None: all), in one piece of work: so long do others wait.
        """
        self.config, self.model, self.tokenizer = loaded.config, loaded.model, loaded.tokenizer
        self.stream = stream or StreamingModel(loaded, sessions=1, context=context)
        self.text_block, self.feed_block = text_block, feed_block
        self.prompts = PromptMaker(loaded, self.stream.builder)
        self.stop_ids = self.stream.builder.specials.stop

    def prepare(self, messages: Sequence[Message], options: ChatOptions) -> ChatPrompt:
        """Everything that can be done before the model is asked. Raises InputError."""
        prompt = self.prompts(
            messages,
            joint="" if options.omni_input else "\n",
            speech=options.use_tts_template or options.generate_audio,
            max_slices=options.max_slice_nums,
            use_image_id=options.use_image_id,
            chunk_input=options.chunk_input,
        )
        # A prompt is cut where the caller asks for that, not where the model happens to end.
        size = min(len(prompt.row), options.max_inp_length)
        if options.max_inp_length >= self.stream.pool.context:
            size = len(prompt.row)
        if size >= self.stream.pool.context:
            problem = f"the conversation takes {size} of {self.stream.pool.context} tokens"
            raise TooLongError(
                f"{problem}; shorten the text or sound, use fewer or smaller pictures, or a lower max_inp_length"
            )
        prompt = replace(prompt, row=prompt.row.cut(size))
        if options.generate_audio and not len(prompt.row.spk_bounds):
            raise InputError("the prompt was cut before the speaker's place; raise max_inp_length to hear an answer")
        return prompt

    def answer(self, messages: Sequence[Message], options: ChatOptions | None = None) -> ChatAnswer:
        """Answer a conversation. Raises InputError for parts that cannot be used."""
        return result_of(self.pieces(messages, options))

    def pieces(self, messages: Sequence[Message], options: ChatOptions | None = None) -> Answering:
        """Answer a conversation piece by piece, each as soon as it is drawn. Raises InputError before the first."""
        options = options or ChatOptions()
        heard = result_of(self.stream.executor.drive(hear_words(self.stream, messages)))
        return self.stream.executor.drive(self.task(self.prepare(heard, options), options))

    @torch.inference_mode()
    def embed(self, prompt: ChatPrompt) -> Tensor:
        """Embeddings [T, hidden] of a prompt with its pictures and sounds in place."""
        return result_of(self.stream.executor.drive(self.embedding(prompt)))

    def embedding(self, prompt: ChatPrompt) -> Step[Tensor]:
        """The work behind :meth:`embed`: picture by picture, then all sounds."""
        # A prompt that was cut off may have lost the places of its last pictures and sounds.
        places, seen = len(prompt.row.image_bounds), torch.empty(0)
        pictures: list[Tensor] = []
        for image in prompt.images:
            if sum(map(len, pictures)) < places:
                pictures.append((yield See(image)))
        if pictures:
            seen = torch.cat(pictures)[:places]
        sounds: list[Tensor] = []
        if len(prompt.row.audio_bounds):
            sounds = yield HearClips(prompt.mels)
        return self.stream.merge(prompt.row, [seen] if pictures else [], sounds)

    def feed(self, state: SessionState, embeds: Tensor) -> Step[Tensor]:
        """Feed a conversation, or its beginning [T, hidden], in blocks -> states [T, hidden]."""
        blocks = [embeds[:0]]
        for block in embeds.split(self.feed_block or max(1, len(embeds))):
            if len(block):
                blocks.append((yield Feed(state, block)))
                state.note("prompt", len(block))
        return torch.cat(blocks)

    def speak(
        self, text: str, speaker: Tensor, noise: Noise, sampling: SpeechSampling | None = None
    ) -> Step[tuple[Tensor, Tensor]]:
        """Speak ``text`` with the voice that the language model's state ``speaker`` [1, hidden] stands for.

        Text and codes alternate as the model was trained, ten text slots and 25 codes at a time; the wave is made in
        one pass at the end. Text beyond the reserved slots is cut off. Returns codes int64 [N, num_vq] and the wave
        float32 [N · 512] at 24 kHz.
        """
        config, speech, tokens = self.config.tts, self.stream.pool.speech, self.stream.speech_tokens
        sampling = sampling or self.stream.speech_sampling
        ids = tokens.encode(text)
        row, count, head, last = tokens.row(ids), tokens.count(ids), len(tokens.head), config.condition_length - 1
        vector = self.stream.speaker(speaker, self.stream.loaded.voices.get(DEFAULT_VOICE))
        voice = Voice(speech.allocate(), vector, torch.empty(0, config.num_vq, dtype=torch.int64))
        try:
            with torch.inference_mode():
                speech.clear(voice.slot, 0, last)
            starts = iter(range(head, last, config.text_chunk_size))
            finished = False
            while not finished and len(voice.codes) <= MAX_CODES:
                if (start := next(starts, None)) is not None:
                    begin, end = start if start > head else 0, min(start + config.text_chunk_size, last)
                    yield Read(voice, begin, row[begin:end])
                spoken: Spoken = yield Speak(voice, BLOCK_CODES, count, sampling.min_tokens, sampling, noise)
                noise, finished = spoken.noise, spoken.finished
            return voice.codes, (yield Render(voice.codes))
        finally:
            speech.release(voice.slot)

    def task(self, prompt: ChatPrompt, options: ChatOptions) -> Generator[Work | str, Any, ChatAnswer]:
        """The work behind an answer, and its pieces of text."""
        state = self.stream.open(options.seed)
        try:
            embeds = yield from self.embedding(prompt)
            before = yield from self.feed(state, embeds[:-1])
            limit = min(options.max_new_tokens, self.stream.pool.context - len(embeds))
            if options.sampling:
                drawn = yield from self._draw(state, prompt, options, limit)
            else:
                drawn = yield from self._search(state, embeds, options, limit)
                yield self._decode(drawn.ids).replace(TTS_EOS, "")
            text = self._decode(drawn.ids)
            answer = ChatAnswer(
                text=text.replace(TTS_EOS, ""),
                finish="stop" if drawn.stopped else "length",
                ids=tuple(drawn.ids),
                embeds=embeds,
                states=torch.cat([before, drawn.states]),
            )
            for first, last in prompt.row.spk_bounds[-1:].tolist():
                answer = replace(answer, speaker=answer.states[first:last])
            if not options.generate_audio or answer.speaker is None:
                return answer
            codes, wave = yield from self.speak(text.split(TTS_EOS)[0], answer.speaker, state.noise, options.speech)
            return replace(answer, codes=codes, wave=wave.numpy())
        finally:
            self.stream.pool.drop(state)

    def _draw(
        self, state: SessionState, prompt: ChatPrompt, options: ChatOptions, limit: int
    ) -> Generator[Work | str, Any, _Drawn]:
        """Draw tokens after the prompt, whose last token is not fed yet."""
        penalty = 1.05 if options.repetition_penalty is None else options.repetition_penalty
        sampling = TextSampling(
            options.temperature, options.top_p, options.top_k, penalty, greedy=not options.do_sample
        )
        seen, given = self.stream.blank_seen(), tuple(prompt.row.ids[-1:].tolist())
        drawn = _Drawn([], False, torch.empty(0))
        held: tuple[int, ...] = ()
        while not drawn.stopped and len(drawn.ids) < limit:
            steps = min(self.text_block, limit - len(drawn.ids))
            least = max(0, options.min_new_tokens - len(drawn.ids))
            decoded: Decoded = yield Decode(state, given, steps, sampling, seen, state.noise, least)
            state.note("answer", len(decoded.ids))
            state.noise, given = decoded.noise, decoded.ids[-1:]
            states = drawn.states if drawn.ids else decoded.states
            drawn = _Drawn([*drawn.ids, *decoded.ids], decoded.stopped, states)
            ids: tuple[int, ...] = (*held, *decoded.ids)
            if not drawn.stopped and len(drawn.ids) < limit:
                ids, held = split_complete(ids, self.tokenizer)
            if piece := self._decode(ids).replace(TTS_EOS, ""):
                yield piece
        return drawn

    def _search(self, state: SessionState, embeds: Tensor, options: ChatOptions, limit: int) -> Step[_Drawn]:
        """Search for the likeliest answer to the prompt, whose last token is not fed yet. The search itself is no piece
        of work: nobody shares the model with it."""
        last = yield from self.feed(state, embeds[-1:])
        arena = self.stream.pool.llm
        arena.max_slots = max(arena.max_slots, options.num_beams)
        slots = [state.slot]
        try:
            slots += [arena.allocate() for _ in range(options.num_beams - 1)]
            ids = beam_search(
                self.model.llm,
                arena,
                slots,
                state.length,
                last[-1],
                stop_ids=self.stop_ids,
                max_new=limit,
                min_new=options.min_new_tokens,
                penalty=1.2 if options.repetition_penalty is None else options.repetition_penalty,
            )
        finally:
            for slot in slots[1:]:
                arena.release(slot)
        return _Drawn(ids, ids[-1] in self.stop_ids, last)

    def _decode(self, ids: Sequence[int]) -> str:
        """Text of drawn ids without the stop token and, as published, without the ids 0."""
        kept = [token for token in ids if token != 0]
        if kept and kept[-1] in self.stop_ids:
            kept.pop()
        text: str = self.tokenizer.decode(kept)
        return text


Conversation = Sequence[Message | Mapping[str, Any]]


def chat(
    model: LoadedModel | Chat,
    msgs: Conversation | Sequence[Conversation],
    *,
    image: Image.Image | None = None,
    stream: bool = False,
    return_dict: bool = False,
    output_audio_path: str | Path | None = None,
    **options: Any,
) -> str | ChatAnswer | Iterator[str] | list[str | ChatAnswer]:
    """Answer a conversation, or each of several.

    ``msgs``: ``{"role": "user", "content": …}`` entries, the content being one part or a list of them (text; a PIL
    picture; sound as a flat array of 16 kHz samples, float32 in [−1, 1] or int16), or a list of such conversations.
    ``image`` goes in front of the first message. ``options`` are those of :class:`ChatOptions`. ``output_audio_path``
    names a file for the spoken answer (WAV, FLAC or OGG, 24 kHz) and implies ``generate_audio``. With ``stream`` the
    result is an iterator over pieces of text; else it is the text, or a :class:`ChatAnswer` with ``return_dict`` or
    ``generate_audio``. Raises InputError.
    """
    known = {entry.name for entry in fields(ChatOptions)}
    if unknown := sorted(options.keys() - known):
        raise InputError(f"{unknown[0]} is not an option; known are {', '.join(sorted(known))}")
    settings = ChatOptions(**options)
    if output_audio_path is not None:
        settings = replace(settings, generate_audio=True)
    owner = model if isinstance(model, Chat) else Chat(model)
    if msgs and isinstance(msgs[0], list | tuple):
        if stream or image is not None or output_audio_path is not None:
            raise InputError("stream, image and output_audio_path are for one conversation; call chat() for each")
        return [
            cast("str | ChatAnswer", chat(owner, cast(Conversation, each), return_dict=return_dict, **options))
            for each in msgs
        ]
    messages = messages_of(cast(Conversation, msgs))
    if image is not None and messages:
        messages[0] = replace(messages[0], content=[image, *messages[0].content])
    if stream:
        if not settings.sampling or settings.generate_audio:
            raise InputError("only drawn text can be streamed; leave out sampling=False and generate_audio")
        return owner.pieces(messages, settings)
    answer = owner.answer(messages, settings)
    if output_audio_path is not None:
        write_sound(output_audio_path, answer.wave)
    return answer if return_dict or settings.generate_audio else answer.text
