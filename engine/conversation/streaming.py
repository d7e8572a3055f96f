"""A streaming conversation: ``prefill`` what the person says and shows, ``generate`` the answer.

Both give tasks (:mod:`engine.conversation.work`). One :class:`StreamingModel` serves all sessions of a loaded model;
nothing of a conversation lives here, it is all in its :class:`~engine.conversation.session.SessionState`.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from engine.checkpoint.loader import LoadedModel
from engine.client import DEFAULT_VOICE
from engine.config import OmniConfig
from engine.conversation.answer_text import AnswerText
from engine.conversation.message import Fed, MessageBuilder, Prepared
from engine.conversation.message_end import make_message_end
from engine.conversation.naming import make_finder, tell_pictures
from engine.conversation.overheard import Overheard
from engine.conversation.reading import last_words_of, read_on, read_rest, rest_of
from engine.conversation.sampling import SpeechSampling
from engine.conversation.served import ServedModel
from engine.conversation.session import SessionState
from engine.conversation.speech import SpeechChunk, SpeechTokens, TextSource
from engine.conversation.speech_exact import ExactSpeech
from engine.conversation.speech_live import LiveOptions, LiveSpeech
from engine.conversation.text import AnswerOptions, ExactText, LiveText, begin_answer, note_prompt
from engine.conversation.transcriber import Transcriber, overhear
from engine.conversation.window import Dropped, KVWindow, WindowOptions
from engine.conversation.word_reader import BEYOND_FRAMES, with_silence
from engine.conversation.work import FEED_TOKENS, Feed, Hear, Listen, See, Step, Task, Transcribe
from engine.errors import InputError
from engine.model.audio import conv_length
from engine.model.omni import OmniModel
from engine.processing.mel import MelExtractor
from engine.processing.prompts import IM_END, Message, answer_header
from engine.processing.tokens import TokenBuilder, TokenRow


class StreamingModel(ServedModel):
    """Conversations with one loaded model that hears and speaks."""

    loaded: LoadedModel
    config: OmniConfig
    model: OmniModel
    builder: TokenBuilder

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        sessions: int = 1,
        context: int | None = None,
        window: WindowOptions | None = None,
        rows: int | None = None,
        transcriber: Transcriber | None = None,
    ) -> None:
        """As :class:`~engine.conversation.served.ServedModel`; ``window`` keeps sessions below a mark: without one a
        session ends when its context is full."""
        build = TokenBuilder(loaded.tokenizer, loaded.config)
        super().__init__(loaded, sessions=sessions, context=context, rows=rows, builder=build, transcriber=transcriber)
        self.vocos = loaded.vocos
        self.mel = MelExtractor(loaded.config.mel)
        self.words = loaded.words
        self.message_end = make_message_end(loaded.tokenizer, loaded.config, build.specials.im_end, self.model.device)
        images = self.images if loaded.config.sees else make_finder(loaded)
        self.message = MessageBuilder(self.builder, images, self.mel, reads=self.words is not None)
        self.speech_tokens = SpeechTokens(loaded.tts_tokenizer, loaded.config.tts, loaded.pronunciation)
        llm = loaded.config.llm
        self.window = None if window is None else KVWindow(self.pool.llm, llm.head_dim, llm.rope_theta, window)

    def open(self, seed: int = 0, voice: str = DEFAULT_VOICE) -> SessionState:
        """A new session. ``voice`` names one of the model's stored voices, if it has some."""
        state = super().open(seed)
        state.voice = self.loaded.voices.get(voice)
        return state

    def prepare(self, state: SessionState, message: Message, *, max_slices: int = 1) -> Prepared:
        """Everything that can be done before the model is asked. Sound is mono 16 kHz, float or int16.

        The session decides which header the message gets, so prepare a message only when those before it are fed.
        Raises InputError for a part that cannot be used.
        """
        return self.message(state.book, message, max_slices)

    def prefill(self, state: SessionState, message: Message, *, max_slices: int = 1) -> Task[Fed]:
        """Feed one message; gives one :class:`Fed`. A task that is closed before that leaves the session as it was."""
        return self.feed(state, self.prepare(state, message, max_slices=max_slices))

    def feed(self, state: SessionState, prepared: Prepared, *, ask_end: bool = False) -> Task[Fed]:
        """Feed what :meth:`prepare` made of a message. With ``ask_end`` the states go on to the last word that was
        read, certain or not."""
        mark = state.mark()
        try:
            first = state.book.first
            if not first and prepared.role != "user":
                self.pool.reset_hearing(state)
            pictures = []
            for image in prepared.images:
                pictures.append((yield See(image)))
            prepared = yield from tell_pictures(state, prepared, self.builder, self.config.naming)
            sounds, said, rest = [], "", ""
            if prepared.words_at is None or self.words is None:
                for mel in prepared.mels:
                    sounds.append((yield Hear(state, mel)))
            else:
                said = yield from self._read(state, prepared)
                rest = self.rest(state)
                prepared = prepared.with_words(self.builder.typed(said))
            row, ahead = prepared.row, self._last_words(state) if ask_end else []
            embeds = self.merge(row, pictures, sounds)
            dropped = self.make_room(state, len(row) + len(ahead))
            states = embeds[:0]
            if len(row) + len(ahead):
                states = yield from _append(state, torch.cat([embeds, self.embed(ahead)]) if ahead else embeds)
        except BaseException:
            self.pool.truncate(state, mark)
            raise
        self._record(state, prepared)
        if ask_end and self.words is not None:
            state.reading = state.reading.ask(states[-1] if said or ahead else None, self.words)
        if first:
            self.pool.reset_hearing(state)
        if self.executor.transcriber is not None:
            said, rest = yield from overhear(state, prepared.sounds, self.executor.transcriber)
        pictured = sum(tokens for kind, tokens in prepared.kinds if kind == "image")
        yield Fed(len(row), pictured, embeds, states, dropped, said, rest)

    def remember(self, state: SessionState, text: str, *, room: int) -> Step[None]:
        """Feed an answer that was given elsewhere and said ``text``, after what it answers; the window makes ``room``
        (tokens) for it as it does for an answer that is given here."""
        (prompt, words), ids = self.ask(state), self.builder.typed(text)
        self.make_room(state, len(prompt) + max(room, len(ids)))
        yield from _append(state, self.embed([*prompt.ids.tolist(), *ids]))
        note_prompt(state, len(prompt), (words, self.closing_tokens))
        state.note("answer", len(ids))

    def _read(self, state: SessionState, prepared: Prepared) -> Step[str]:
        """The words that are certain with what the message brings; all of them before something typed."""
        assert self.words is not None
        said = ""
        for samples in prepared.sounds:
            mel = with_silence(self.mel(np.concatenate([*state.reading.latest, samples])))
            if state.reading.settled_frames + conv_length(mel.shape[1]) >= self.config.audio.max_positions:
                said += self._read_rest(state)
                self.pool.reset_hearing(state)  # as the encoder would by itself
                mel = with_silence(self.mel(samples))
            heard = yield Listen(state, mel, state.reading.frames - state.reading.settled_frames, BEYOND_FRAMES)
            state.reading = state.reading.hear(samples, heard)
            state.reading, certain = read_on(state.reading, (yield Transcribe(state.reading)), self.words)
            said += certain
        if prepared.has_text:
            said += self._read_rest(state)
            said += " " if state.reading.begun else ""
            state.reading = replace(state.reading, begun=True)
        return said

    def rest(self, state: SessionState) -> str:
        """What was read of a message and is not certain yet."""
        return "" if self.words is None else rest_of(state.reading, self.words)

    def _last_words(self, state: SessionState) -> list[int]:
        return [] if self.words is None else self.builder.typed(last_words_of(state.reading, self.words))

    def _read_rest(self, state: SessionState) -> str:
        """All that was read is certain now: the text that was not before."""
        if self.words is None:
            return ""
        state.reading, rest = read_rest(state.reading, self.words)
        return rest

    @torch.inference_mode()
    def end_probability(self, state: SessionState, fed: Fed) -> float | None:
        """The probability that the message ends with what was just ``fed``, with ``ask_end``. None where there was
        nothing, or no word yet."""
        last = state.reading.state if self.words is not None else fed.states[-1] if len(fed.states) else None
        if last is None or self.message_end is None:
            return None
        return self.message_end.probability(self.model.llm.logits(last))

    def make_room(self, state: SessionState, tokens: int) -> Dropped:
        """Let the window drop what must go before ``tokens`` more come."""
        return Dropped() if self.window is None else self.window.shrink(state, tokens)

    def _record(self, state: SessionState, prepared: Prepared) -> None:
        """Spans and bookkeeping of a message that was fed."""
        opens = any(kind == "open" for kind, _ in prepared.kinds)
        book = state.book
        state.book = book = replace(book, unit=book.unit + 1)
        for kind, tokens in prepared.kinds:
            if kind == "open":
                state.book = book = replace(book, turn=book.turn + 1)
            state.note(kind, tokens)
        waits = book.opens_turn and not opens if prepared.role == "user" else True
        state.book = replace(book, first=False, opens_turn=waits)

    def generate_exact(self, state: SessionState, options: AnswerOptions | None = None) -> Task[SpeechChunk]:
        """Answer as the published code does, quirks included. With ``speak`` off the chunks have text only."""
        options = options or AnswerOptions()
        text = self.exact_text(state, options)
        if not options.speak:
            while (item := (yield from text.next())) is not None:
                yield SpeechChunk(item.text, torch.empty(0))
            return
        yield from self.speak_exact(state, text, options)

    def generate(
        self, state: SessionState, options: AnswerOptions | None = None, live: LiveOptions | None = None
    ) -> LiveAnswer:
        """Answer as a call needs it. Raises InputError before anything was fed."""
        self._check_fed(state)
        return LiveAnswer(self, state, options or AnswerOptions(), live or LiveOptions())

    def exact_text(self, state: SessionState, options: AnswerOptions) -> ExactText:
        """Begin an answer: the source of its text in the published chunks."""
        self._check_fed(state)
        prompt, words = self.ask(state)
        return ExactText(
            state,
            prompt,
            (words, self.closing_tokens),
            self.tokenizer,
            self.builder.specials.stop,
            options,
            self.blank_seen(),
        )

    def ask(self, state: SessionState) -> tuple[TokenRow, int]:
        """End the person's message and begin the answer: what is to be fed for it, and how many of its tokens, the
        first, are words of the message that were not certain before."""
        rest = self.builder.typed(self._read_rest(state))
        self.pool.reset_hearing(state)
        state.overheard = Overheard()
        begin_answer(state)
        return self.answer_prompt.insert(0, rest), len(rest)

    def speak_exact(self, state: SessionState, text: TextSource, options: AnswerOptions) -> Task[SpeechChunk]:
        """Speak text as the published code does."""
        slot = self.pool.speech.allocate()
        try:
            speech = self.exact_speech(state, text, options, slot)
            yield from speech.task()
        finally:
            self.pool.speech.release(slot)

    def exact_speech(self, state: SessionState, text: TextSource, options: AnswerOptions, slot: int) -> ExactSpeech:
        return ExactSpeech(
            state,
            text,
            self.speech_tokens,
            options.speech or self.speech_sampling,
            slot=slot,
            speaker=partial(self.speaker, stored=state.voice),
            clear=self._clear_text,
        )

    def _check_fed(self, state: SessionState) -> None:
        if state.book.first:
            raise InputError("nothing was fed yet; prefill a message first")

    @torch.inference_mode()
    def speaker(self, states: Tensor, stored: Tensor | None = None) -> Tensor:
        """States at ``<|spk|>`` [1, hidden] -> unit speaker vector [tts hidden], or the ``stored`` voice."""
        if stored is not None:
            return stored
        return self.model.tts.speaker(states.to(self.model.device, self.model.dtype))[0]

    @property
    def speech_sampling(self) -> SpeechSampling:
        """How the model's configuration wants speech to be drawn."""
        tts = self.config.tts
        return SpeechSampling(tts.temperature, tts.top_p, tts.top_k, tts.repetition_penalty)

    @property
    def samples_per_code(self) -> int:
        """Samples (24 kHz) that one audio code stands for."""
        return 2 * self.config.vocos.hop_length

    @property
    def wave_context(self) -> int:
        """Codes on either side that a wave depends on."""
        return -(-(self.model.tts.dvae.receptive_field + self.vocos.receptive_field) // 2)

    @property
    def answer_prompt(self) -> TokenRow:
        """What closes the person's turn and asks for a spoken answer."""
        return self.builder([answer_header()])

    @property
    def closing_tokens(self) -> int:
        """Tokens of the answer's prompt that close the person's turn."""
        return len(self.builder.text(f"{IM_END}\n"))

    @torch.inference_mode()
    def _clear_text(self, slot: int) -> None:
        self.pool.speech.clear(slot, 0, self.config.tts.condition_length - 1)


def _append(state: SessionState, embeds: Tensor) -> Step[Tensor]:
    """Feed embeddings [T, hidden], in several pieces where they are many -> states [T, hidden]."""
    states, fed = [], 0
    for part in embeds.split(FEED_TOKENS):
        states.append((yield Feed(state, part, fed)))
        fed += len(part)
    return torch.cat(states) if len(states) > 1 else states[0]


class LiveAnswer:
    """One answer of a call: :meth:`task` makes it, :meth:`cut` takes back what was not heard."""

    def __init__(self, stream: StreamingModel, state: SessionState, options: AnswerOptions, live: LiveOptions) -> None:
        self.stream, self.state, self.options, self.live = stream, state, options, live
        self.before = state.mark()
        self.silent = False
        """Nothing was said that could be answered."""
        self.text: LiveText | None = None
        self.speech: LiveSpeech | None = None
        self.said = AnswerText(stream.samples_per_code, state.pace)

    def task(self) -> Task[SpeechChunk]:
        """Captions and waves, each as soon as it is there.

        Closing the task cancels the answer between two pieces of work; the context then holds what was fed so far.
        """
        stream, state = self.stream, self.state
        if stream.words is not None and not (state.reading.begun or stream.rest(state)):
            stream.pool.reset_hearing(state)  # there is nothing to answer, and the message may still begin
            self.silent = True
            return
        prompt, words = stream.ask(state)
        stream.make_room(state, len(prompt) + self.options.max_new_tokens)
        text = self.text = LiveText(
            state,
            prompt,
            (words, stream.closing_tokens),
            stream.tokenizer,
            stream.builder.specials,
            self.options,
            stream.blank_seen(),
            stream.embed,
            (self.live.first_text, self.live.text),
        )
        if not self.options.speak:
            while (item := (yield from text.next())) is not None:
                if item.text:
                    self.said.write(item.parts, speak=False)
                    yield SpeechChunk(item.text, torch.empty(0))
            return
        slot = stream.pool.speech.allocate()
        try:
            self.speech = LiveSpeech(
                state,
                text,
                stream.speech_tokens,
                self.options.speech or stream.speech_sampling,
                self.live,
                self.said,
                slot=slot,
                speaker=partial(stream.speaker, stored=state.voice),
                context=stream.wave_context,
                samples_per_code=stream.samples_per_code,
            )
            yield from self.speech.task()
        finally:
            stream.pool.speech.release(slot)

    @property
    def finish(self) -> Literal["stop", "length"]:
        """Why a complete answer ended: by itself, or at ``max_new_tokens``."""
        return "stop" if self.silent or self.state.book.completed else "length"

    def cut(self, characters: int) -> Step[None]:
        """After the task ended or was closed: let the context end with the first ``characters`` of the answer. None of
        them: as if the answer had never begun."""
        state, pool = self.state, self.stream.pool
        position = self.said.position(characters)
        if position is None:
            pool.truncate(state, self.before)
            return
        if position > state.position and self.text is not None:  # a token is fed with the next one, which did not come
            yield Feed(state, self.stream.embed(self.text.ids[-1:]))
            state.note("answer", 1)
        pool.truncate(state, replace(state.mark(), position=position, book=replace(state.book, completed=False)))
