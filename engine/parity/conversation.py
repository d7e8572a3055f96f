"""Stage ``stream``: whole conversations, in the order that the set's cache lengths tell.

The set keeps what every step put into the context, not which input file it came from: the sound is found by its mel,
the picture by its shape and its embeddings, the text by decoding. What surrounds them (headers, placeholders, bounds)
is built by the implementation and must come out identical.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch import Tensor

from engine.conversation.message import Fed
from engine.conversation.session import SessionState
from engine.conversation.speech import SpeechChunk
from engine.conversation.streaming import StreamingModel
from engine.conversation.text import ExactText
from engine.conversation.work import Decode, Hear, Speak, Task
from engine.parity.goldens import GoldenSet, SetError
from engine.parity.layout import Place, Sound, fill, find_picture, known_prompt, parse, placeholders, trim
from engine.parity.ledger import SIGNAL, StageRow
from engine.parity.probe import Probe, Run, greedy_options
from engine.parity.sampled import PART, gap, kept_close, kept_same
from engine.parity.senses import EVERY
from engine.parity.voice import compare_run, compare_speech_tensors
from engine.processing.prompts import IM_END, IM_START, UNIT, Message, turn_header

AGAIN = {"turn2_unit1": "unit0_", "turn3_unit0": "unit1_"}
"""Steps of the sets' scenario that are fed an earlier unit's sound: it decides where nothing kept of a step does."""


@dataclass(frozen=True, slots=True)
class PrefillStep:
    name: str
    before: int | None
    """None where the set keeps nothing of the step that tells it."""
    after: int


@dataclass(frozen=True, slots=True)
class GenerateStep:
    name: str
    before: int
    after: int


def steps(goldens: GoldenSet, prompt_tokens: int) -> Iterator[PrefillStep | GenerateStep | None]:
    """The steps in order, None where a new session begins. Raises SetError where the lengths fit no order."""
    prefills = [
        PrefillStep(
            name, after - goldens.expected[ids].numel() if goldens.has(ids := f"{name}.input_ids") else None, after
        )
        for name, after in goldens.section("llm_cache_len_after").items()
        if name.startswith("stream.")
    ]
    answers = []
    for name, case in goldens.manifest.items():
        if name.startswith("stream.") and "llm_chunk_ids" in case:
            fed = prompt_tokens + sum(map(len, case["llm_chunk_ids"])) - 1
            answers.append(GenerateStep(name, case["llm_cache_len_after"] - fed, case["llm_cache_len_after"]))
    length = 0
    yield None
    while prefills or answers:
        if prefills and prefills[0].before == length:
            step: PrefillStep | GenerateStep = prefills.pop(0)
        elif answers and answers[0].before == length:
            step = answers.pop(0)
        elif prefills and prefills[0].before is None and prefills[0].after > length:
            step = prefills.pop(0)
        elif prefills and prefills[0].before in (0, None):
            yield None
            step = prefills.pop(0)
        else:
            left = [*(step.name for step in prefills), *(step.name for step in answers)]
            raise SetError(f"manifest.json: no order of the steps {', '.join(left)} fits their cache lengths")
        length = step.after
        yield step


def compare_stream(goldens: GoldenSet, stream: StreamingModel, row: StageRow) -> None:
    probe, state = Probe(stream), stream.open()
    try:
        for step in steps(goldens, len(stream.answer_prompt)):
            if step is None:
                stream.pool.drop(state)
                state = stream.open()
            elif isinstance(step, PrefillStep):
                _compare_prefill(goldens, probe, state, row, step)
            else:
                _compare_answer(goldens, probe, state, row, step)
    finally:
        stream.pool.drop(state)


def _compare_prefill(goldens: GoldenSet, probe: Probe, state: SessionState, row: StageRow, step: PrefillStep) -> None:
    stream, name = probe.stream, step.name
    if goldens.has(f"{name}.input_ids"):
        message, slices = _message(goldens, stream, state, row, name, goldens.expected[f"{name}.input_ids"].flatten())
    else:
        message, slices = _named_message(goldens, stream, state, step), 1
    prepared = stream.prepare(state, message, max_slices=slices)
    if goldens.has(f"{name}.input_ids"):
        row.same(f"{name}.input_ids", prepared.row.ids, goldens.take(f"{name}.input_ids").flatten())
    kept_same(goldens, row, f"{name}.image_bound", prepared.row.image_bounds)
    kept_same(goldens, row, f"{name}.audio_bounds", prepared.row.audio_bounds)
    kept_same(goldens, row, f"{name}.tgt_sizes", [list(size) for image in prepared.images for size in image.sizes])
    run = probe.run(stream.feed(state, prepared))
    fed: Fed = run.outputs[0]
    for heard in run.of(Hear):
        kept_close(goldens, row, f"{name}.mel", heard.work.mel[None], SIGNAL)
        kept_close(goldens, row, f"{name}.apm_last_hidden", heard.outputs["ears"][0][0])
        kept_close(goldens, row, f"{name}.audio_projection", heard.outputs["audio_projection"][0][0])
        if name in (cached := goldens.manifest.get("apm_cache_len_after", {})):
            row.same(f"{name}.apm_cache_len_after", heard.count, cached[name])
    kept_close(goldens, row, f"{name}.merged_embeds", fed.embeds)
    row.same(f"{name}.llm_cache_len_after", state.length, step.after)
    with torch.inference_mode():
        logits = stream.model.llm.logits(fed.states)
    kept_close(goldens, row, f"{name}.logits_last", logits[-1])
    kept_close(goldens, row, f"{name}.logits", logits, parts=rf"(?:_{EVERY}_positions?)?")


def _compare_answer(goldens: GoldenSet, probe: Probe, state: SessionState, row: StageRow, step: GenerateStep) -> None:
    stream, name = probe.stream, step.name
    case = goldens.section(name)
    chunks = case["llm_chunk_ids"]
    options = greedy_options(stream, _limit(goldens, name, sum(map(len, chunks))))
    text = stream.exact_text(state, options)
    spoken = "wav_lens" in case
    run = probe.run(stream.speak_exact(state, text, options) if spoken else _read_out(text))
    row.same(f"{name}.llm_chunk_ids", text.chunks, chunks)
    if goldens.has(f"{name}.text_ids"):
        row.same(
            f"{name}.text_ids", [token for chunk in text.chunks for token in chunk], goldens.take(f"{name}.text_ids")
        )
    if "prompt_ids" in case:
        row.same(f"{name}.prompt_ids", text.prompt.ids, case["prompt_ids"])
    row.same(f"{name}.completed", state.book.completed, case["completed"])
    row.same(f"{name}.llm_cache_len_after", state.length, case["llm_cache_len_after"])
    if spoken:
        compare_run(stream, row, name, case, run, finished="tts_finished")
        compare_speech_tensors(goldens, row, name, probe, run)
        if goldens.has(f"{name}.audio_codes"):
            row.same(f"{name}.audio_codes", _codes(run), goldens.take(f"{name}.audio_codes"))
    else:
        row.same(f"{name}.texts", [chunk.text for chunk in run.outputs], case["texts"])
    decoded = run.of(Decode)
    scores = [logits[0] for record in decoded for logits in record.outputs["scores"]]
    for key, found in goldens.keys(rf"{name}\.llm_logits_step(\d+)"):
        row.close(key, scores[int(found[1])].float(), goldens.take(key))
    if goldens.has(f"{name}.speaker_embedding"):
        first, last = text.prompt.spk_bounds[-1]
        speaker = decoded[0].result.states[first:last]
        row.close(f"{name}.speaker_embedding", speaker, goldens.take(f"{name}.speaker_embedding"))


def _read_out(text: ExactText) -> Task[SpeechChunk]:
    while (item := (yield from text.next())) is not None:
        yield SpeechChunk(item.text, torch.empty(0))


def _codes(run: Run) -> Tensor:
    voices = [record.work.voice for record in run.of(Speak)]
    return voices[-1].codes if voices else torch.empty(0, 4, dtype=torch.int64)


def _limit(goldens: GoldenSet, name: str, drawn: int) -> int:
    """Tokens that an answer was allowed: the scenario's limit where the set names it, else as many as came."""
    number = name.removeprefix("stream.gen")
    limits = goldens.manifest.get("scenario_limits", {})
    return int(limits.get(f"e2e_tokens{'' if number == '1' else number}", drawn))


def _message(
    goldens: GoldenSet, stream: StreamingModel, state: SessionState, row: StageRow, name: str, expected: Tensor
) -> tuple[Message, int]:
    """The message of a step, found from what is known of it, and the slices that its picture was cut into at most."""
    book, tokens = state.book, expected.tolist()
    role, slices = "user", 1
    before, after = (turn_header(answered=book.answered, completed=book.completed) if book.opens_turn else ""), ""
    if book.first:
        role = stream.tokenizer.decode(tokens).removeprefix(IM_START).partition("\n")[0]
        before, after = f"{IM_START}{role}\n", f"{IM_END}\n"
    parts = trim(parse(stream, tokens), before, after)
    media: dict[Place, Any] = {}
    for place in (part for part in parts if isinstance(part, Place)):
        if place.kind == "sound":
            media[place] = _sound(goldens, stream, name, place)
        else:
            embeds, rows = _kept_embeds(goldens, name, len(tokens))
            media[place], slices = find_picture(goldens, stream, place, embeds, rows, name.removeprefix("stream."))
    content = fill(parts, media)
    if book.first and "sys" in name:
        known = known_prompt(content)
        row.same(f"{name} is a system prompt of get_sys_prompt", known is not None, True)
        if known is not None:
            return known, slices
    return Message(role, content), slices  # type: ignore[arg-type]


def _named_message(goldens: GoldenSet, stream: StreamingModel, state: SessionState, step: PrefillStep) -> Message:
    """The message of a step of which the set keeps no tokens: a unit of the inputs that have its name.

    Raises SetError where none is as long as the step.
    """
    unit, tokens = step.name.removeprefix("stream."), step.after - state.length
    sounds = [goldens.sounds[name] for name in (f"{unit}_audio", unit) if name in goldens.sounds][:1]
    pictures = [goldens.pictures[name] for name in (f"{unit}_image", unit) if name in goldens.pictures][:1]
    contents: list[list[Any]] = [[UNIT, *pictures, *sounds], [UNIT, *sounds], [*pictures, *sounds], sounds]
    # An input may serve several units: the one of the right length whose name begins most alike.
    alike = sorted(goldens.sounds, key=lambda title: _alike(title, unit), reverse=True)
    contents += [[*mark, goldens.sounds[title]] for title in alike for mark in ([], [UNIT])]
    for content in contents:
        if content and len(stream.prepare(state, Message("user", content), max_slices=1).row) == tokens:
            return Message("user", content)
    raise SetError(f"{step.name} has {tokens} tokens that the set does not keep, and no input of its name is as long")


def _alike(one: str, other: str) -> int:
    """Letters at the beginning that two names share."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _kept_embeds(goldens: GoldenSet, name: str, length: int) -> tuple[Tensor, list[int]]:
    """The embeddings that the set keeps of a step of ``length`` tokens, where their number tells which they are."""
    for key, _ in goldens.keys(re.escape(f"{name}.merged_embeds") + PART):
        kept = goldens.expected[key]
        steps = [step for step in range(1, length + 1) if -(-length // step) == len(kept)]
        if len(steps) == 1:
            return kept, list(range(0, length, steps[0]))
    return torch.empty(0), []


def _sound(goldens: GoldenSet, stream: StreamingModel, name: str, place: Place) -> Sound:
    """The input of a step: of those that take its placeholders the one with the step's mel, or with its name."""
    keys = [key for key, _ in goldens.keys(re.escape(f"{name}.mel") + PART)]
    fitting = []
    for title, samples in goldens.sounds.items():
        if placeholders(stream, samples) == place.tokens:
            unit = name.removeprefix("stream.")
            other = not title.startswith(AGAIN.get(unit, unit))
            mel = stream.mel(samples)[None]
            gaps = [gap(mel, goldens.expected[key]) for key in keys]
            fitting.append((max(gaps, default=0.0), other, title))
    if not fitting:
        raise SetError(f"inputs.safetensors holds no sound of {place.tokens} tokens, which {name} was fed")
    return goldens.sounds[min(fitting)[2]]
