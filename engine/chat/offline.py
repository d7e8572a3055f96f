"""Offline conversations: pictures, sound, video and words in, text and speech out.

As a library::

    from engine.chat import chat
    from engine.checkpoint.loader import load_model

    model = load_model("MiniCPM-V-2_6")
    print(chat(model, [{"role": "user", "content": [picture, "What is this?"]}]))

From a shell: ``python -m engine.chat MODEL --image cat.jpg --question "What is this?"``, see ``--help``.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor

from engine.chat.beam import beam_search
from engine.chat.hearing import hear_words
from engine.chat.media import write_sound
from engine.chat.options import ChatAnswer, ChatOptions
from engine.chat.pieces import BlockPieces, WordPieces
from engine.chat.prompt import ChatPrompt, PromptMaker, messages_of
from engine.checkpoint.loader import LoadedModel, LoadedVisionLanguage
from engine.client import DEFAULT_VOICE
from engine.conversation.sampling import Noise, SpeechSampling, TextSampling
from engine.conversation.served import ServedModel
from engine.conversation.session import SessionState
from engine.conversation.speech import BLOCK_CODES, MAX_CODES
from engine.conversation.streaming import StreamingModel
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
from engine.processing.image import ImageSlices
from engine.processing.prompts import TTS_EOS, Message, TypedText

__all__ = ["Answering", "Chat", "ChatAnswer", "ChatOptions", "Conversation", "chat", "write_sound"]

SHORTEN = "shorten the text or sound, or use fewer or smaller pictures"
TEXT_BLOCK = 8
"""Tokens drawn between two looks at what they say."""


Answering = Generator[str, None, ChatAnswer]
"""Gives text piece by piece and returns the whole answer."""


Progress = Callable[[str, int, int], None]
"""Is told of what is worked through how much is done, and how much there is: ``("tokens", 512, 4096)``."""


def _nobody(what: str, done: int, total: int) -> None: ...


@dataclass(frozen=True, slots=True, eq=False)
class _Drawn:
    ids: list[int]
    stopped: bool
    states: Tensor


class Chat:
    """Answers conversations with one loaded model of the family. Not for several threads at once."""

    def __init__(
        self,
        loaded: LoadedVisionLanguage,
        *,
        context: int | None = None,
        stream: ServedModel | None = None,
        text_block: int = TEXT_BLOCK,
        feed_block: int | None = None,
        progress: Progress | None = None,
    ) -> None:
        """``context`` bounds the tokens of a conversation, its answer included; None is the model's own limit.

        A server gives the ``stream`` that its calls have, whose executor only its scheduler runs: it takes
        :meth:`prepare`, :meth:`task` and the parts of that. ``text_block`` tokens are drawn, and ``feed_block`` tokens
        of a conversation fed (None: all), in one piece of work: so long do others wait.
        ``progress`` is told how far the pictures and the tokens of a conversation are.
        """
        self.config, self.model, self.tokenizer = loaded.config, loaded.model, loaded.tokenizer
        if stream is None:
            made = StreamingModel if isinstance(loaded, LoadedModel) else ServedModel
            stream = made(loaded, sessions=1, context=context)  # type: ignore[arg-type]
        self.stream = stream
        self.dialect = stream.builder.dialect
        self.text_block, self.feed_block = text_block, feed_block
        self._told = progress or _nobody
        self.prompts = PromptMaker(loaded, self.stream.builder)
        self.stop_ids = self.stream.builder.stop

    @property
    def voice(self) -> StreamingModel:
        """The model as one that speaks. Raises InputError where it does not."""
        if not isinstance(self.stream, StreamingModel):
            raise InputError(f"{self.stream.builder.name} does not speak; ask for text only")
        return self.stream

    def prepare(self, messages: Sequence[Message], options: ChatOptions) -> ChatPrompt:
        """Everything that can be done before the model is asked. Raises InputError."""
        if options.generate_audio:
            _ = self.voice
        prompt = self.prompts(
            messages,
            joint="" if options.omni_input else "\n",
            speech=options.use_tts_template or options.generate_audio,
            max_slices=options.max_slice_nums,
            use_image_id=options.use_image_id,
            chunk_input=options.chunk_input,
        )
        # A prompt is cut where the caller asks for that, not where the model happens to end.
        context, asked, size = self.stream.pool.context, options.max_inp_length, len(prompt.row)
        if asked is not None and asked < min(size, context):
            prompt, size = replace(prompt, row=prompt.row.cut(asked)), asked
        if size >= context:
            raise TooLongError(f"the conversation takes {size} of {context} tokens; {SHORTEN}")
        if asked is None and size > self.dialect.max_inp_length:
            limit = f"the conversation takes {size} tokens, {self.stream.builder.name} is meant for"
            raise TooLongError(f"{limit} {self.dialect.max_inp_length}; {SHORTEN}, or set max_inp_length to {size}")
        if options.generate_audio and not len(prompt.row.spk_bounds):
            raise InputError("the prompt was cut before the speaker's place; raise max_inp_length to hear an answer")
        return prompt

    def answer(self, messages: Sequence[Message], options: ChatOptions | None = None) -> ChatAnswer:
        """Answer a conversation. Raises InputError for parts that cannot be used."""
        options = options or ChatOptions()
        skip = self.dialect.skips_id_0 if options.skip_id_0 is None else options.skip_id_0
        return result_of(self.pieces(messages, replace(options, skip_id_0=skip)))

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
        for image in self._together(prompt.images) if places else ():
            if sum(map(len, pictures)) < places:
                pictures.append((yield See(image)))
                self._told("pictures", sum(map(len, pictures)), places)
        if pictures:
            seen = torch.cat(pictures)[:places]
        sounds: list[Tensor] = []
        if len(prompt.row.audio_bounds):
            sounds = yield HearClips(prompt.mels)
        return self.stream.merge(prompt.row, [seen] if pictures else [], sounds)

    def _together(self, images: Sequence[ImageSlices]) -> Sequence[ImageSlices]:
        """What is looked at at once: all pictures, where what is seen in one depends on the others."""
        if not self.config.vision.mixes_slices:
            return images
        patches = tuple(patch for image in images for patch in image.patches)
        return [ImageSlices(patches, tuple(size for image in images for size in image.sizes), None)]

    def feed(self, state: SessionState, embeds: Tensor) -> Step[Tensor]:
        """Feed a conversation, or its beginning [T, hidden], in blocks -> states [T, hidden]."""
        blocks, fed = [embeds[:0]], 0
        for block in embeds.split(self.feed_block or max(1, len(embeds))):
            if len(block):
                blocks.append((yield Feed(state, block)))
                state.note("prompt", len(block))
                fed += len(block)
                self._told("tokens", fed, len(embeds))
        return torch.cat(blocks)

    def speak(
        self, text: str, speaker: Tensor, noise: Noise, sampling: SpeechSampling | None = None
    ) -> Step[tuple[Tensor, Tensor]]:
        """Speak ``text`` with the voice that the language model's state ``speaker`` [1, hidden] stands for.

        Text and codes alternate as the model was trained, ten text slots and 25 codes at a time; the wave is made in
        one pass at the end. Text beyond the reserved slots is cut off. Returns codes int64 [N, num_vq] and the wave
        float32 [N · 512] at 24 kHz.
        """
        stream = self.voice
        config, speech, tokens = stream.config.tts, stream.pool.speech, stream.speech_tokens
        sampling = sampling or stream.speech_sampling
        ids = tokens.encode(text)
        row, count, head, last = tokens.row(ids), tokens.count(ids), len(tokens.head), config.condition_length - 1
        vector = stream.speaker(speaker, stream.loaded.voices.get(DEFAULT_VOICE))
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
            ids, fed = prompt.row.ids, embeds
            if options.skip_id_0 and (kept := ids.nonzero()[0]).size:
                ids, fed = ids[kept], embeds[torch.from_numpy(kept).to(embeds.device)]
            before = yield from self.feed(state, fed[:-1])
            limit = min(options.max_new_tokens or self.dialect.max_new_tokens, self.stream.pool.context - len(fed))
            if options.sampling:
                drawn = yield from self._draw(state, int(ids[-1]), options, limit)
            else:
                drawn = yield from self._search(state, fed, options, limit)
                yield self._decode(drawn.ids).replace(TTS_EOS, "")
            text = self._decode(drawn.ids)
            answer = ChatAnswer(
                text=text.replace(TTS_EOS, ""),
                finish="stop" if drawn.stopped else "length",
                ids=tuple(drawn.ids),
                prompt=prompt,
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
        self, state: SessionState, last: int, options: ChatOptions, limit: int
    ) -> Generator[Work | str, Any, _Drawn]:
        """Draw tokens after the prompt, whose last token is not fed yet."""
        sampling = TextSampling(
            options.temperature, options.top_p, options.top_k, options.penalty, greedy=not options.do_sample
        )
        seen = self.stream.blank_seen()
        given: tuple[int, ...] = (last,)
        drawn = _Drawn([], False, torch.empty(0))
        pieces: BlockPieces | WordPieces = BlockPieces(self.tokenizer, self._decode)
        if self.dialect.whole_words:
            pieces = WordPieces(self.tokenizer.decode, self.dialect.stops)
        while not drawn.stopped and len(drawn.ids) < limit:
            steps = min(self.text_block, limit - len(drawn.ids))
            least = max(0, options.min_new_tokens - len(drawn.ids))
            decoded: Decoded = yield Decode(state, given, steps, sampling, seen, state.noise, least)
            state.note("answer", len(decoded.ids))
            state.noise, given = decoded.noise, decoded.ids[-1:]
            states = drawn.states if drawn.ids else decoded.states
            drawn = _Drawn([*drawn.ids, *decoded.ids], decoded.stopped, states)
            over = drawn.stopped or len(drawn.ids) >= limit
            for piece in pieces.add(decoded.ids, over=over):
                if piece := piece.replace(TTS_EOS, ""):
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
                penalty=options.penalty,
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
        if not self.dialect.whole_words:
            return str(self.tokenizer.decode(kept))
        if kept and kept[0] == self.tokenizer.convert_tokens_to_ids(self.dialect.begin):
            del kept[0]
        return str(self.tokenizer.decode(kept)).strip()


Conversation = Sequence[Message | Mapping[str, Any]]


def chat(
    model: LoadedVisionLanguage | Chat,
    msgs: Conversation | Sequence[Conversation],
    *,
    image: Image.Image | None = None,
    system_prompt: str = "",
    stream: bool = False,
    return_dict: bool = False,
    output_audio_path: str | Path | None = None,
    **options: Any,
) -> str | ChatAnswer | Iterator[str] | list[str | ChatAnswer]:
    """Answer a conversation, or each of several.

    ``msgs``: ``{"role": "user", "content": …}`` entries, the content being one part or a list of them (text; a PIL
    picture; sound as a flat array of 16 kHz samples, float32 in [−1, 1] or int16), or a list of such conversations.
    ``image`` goes in front of the first message, ``system_prompt`` in front of all as the system's. ``options`` are
    those of :class:`ChatOptions`. ``output_audio_path`` names a file for the spoken answer (WAV, FLAC or OGG, 24 kHz)
    and implies ``generate_audio``. With ``stream`` the result is an iterator over pieces of text; else it is the text,
    or a :class:`ChatAnswer` with ``return_dict`` or ``generate_audio``. Raises InputError.
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
            cast(
                "str | ChatAnswer",
                chat(owner, cast(Conversation, each), system_prompt=system_prompt, return_dict=return_dict, **options),
            )
            for each in msgs
        ]
    messages = messages_of(cast(Conversation, msgs))
    if image is not None and messages:
        messages[0] = replace(messages[0], content=[image, *messages[0].content])
    if system_prompt:
        messages.insert(0, Message("system", [TypedText(system_prompt)]))
    if stream:
        if not settings.sampling or settings.generate_audio:
            raise InputError("only drawn text can be streamed; leave out sampling=False and generate_audio")
        return owner.pieces(messages, settings)
    answer = owner.answer(messages, settings)
    if output_audio_path is not None:
        write_sound(output_audio_path, answer.wave)
    return answer if return_dict or settings.generate_audio else answer.text
