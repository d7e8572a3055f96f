"""Stage ``chat``: one offline conversation with pictures, sounds and a spoken answer.

The set keeps the conversation's tokens and some of its embeddings; which inputs it was made of is found from these.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise, product
from typing import Any

import torch
from torch import Tensor

from engine.chat.offline import Chat, ChatOptions
from engine.conversation.streaming import StreamingModel
from engine.conversation.work import Speak, Spoken, Work
from engine.parity.goldens import GoldenSet, SetError
from engine.parity.layout import Place, Sound, fill, find_picture, known_prompt, parse, placeholders, trim
from engine.parity.ledger import SIGNAL, StageRow
from engine.parity.probe import greedy_options
from engine.parity.sampled import PART, kept_close, kept_same
from engine.processing.prompts import IM_END, IM_START, Message


def compare_chat(goldens: GoldenSet, stream: StreamingModel, row: StageRow) -> None:
    case = goldens.section("chat")
    chat = Chat(stream.loaded)
    ids = goldens.take("chat.generated_ids")
    known = {item.name for item in fields(ChatOptions)}
    given = {name: value for name, value in case["kwargs"].items() if name in known}
    # The texts that are read back from the tokens hold the line breaks between parts already.
    given |= {"omni_input": True, "do_sample": False, "generate_audio": True}
    options = ChatOptions(
        **given,
        max_new_tokens=goldens.manifest.get("scenario_limits", {}).get("chat_tokens", len(ids)),
        speech=greedy_options(stream).speech,
    )
    messages = _messages(goldens, chat, options)
    prompt = chat.prepare(messages, options)
    row.same("chat.input_ids", prompt.row.ids, goldens.take("chat.input_ids").flatten())
    for name in ("image_bounds", "audio_bounds", "spk_bounds"):
        key = "chat.image_bound" if name == "image_bounds" else f"chat.{name}"
        kept_same(goldens, row, key, getattr(prompt.row, name))
    lengths = [mel.shape[1] for mel in prompt.mels]
    row.same("chat.mel_lens", lengths, goldens.take("chat.mel_lens"))
    row.same("chat.n_audio_features", len(lengths), case["n_audio_features"])
    spoken = _watch_speech(chat)
    answer = chat.answer(messages, options)
    assert answer.codes is not None
    assert answer.speaker is not None
    kept_close(goldens, row, "chat.merged_embeds", answer.embeds)
    with torch.inference_mode():
        kept_close(goldens, row, "chat.logits_last", stream.model.llm.logits(answer.states[-1]))
        mel = stream.model.tts.dvae.decode(answer.codes.T[None])
    row.same("chat.generated_ids", answer.ids, ids)
    row.same("chat.text", answer.text, case["text"])
    kept_close(goldens, row, "chat.spk_embeds", answer.speaker)
    kept_same(goldens, row, "chat.audio_codes", answer.codes)
    counts = [count for count, _ in spoken]
    row.same("chat.codes_after_each_tts_generate", counts, case["codes_after_each_tts_generate"])
    row.same("chat.finished", [finished for _, finished in spoken], case["finished"])
    kept_close(goldens, row, "chat.mel", mel)
    wave = torch.from_numpy(answer.wave)
    row.same("chat.wav_len", len(wave), case["wav_len"])
    kept_close(goldens, row, "chat.wav", wave, SIGNAL)


def _watch_speech(chat: Chat) -> list[tuple[int, bool]]:
    """A list that fills, while the chat speaks, with the codes so far and whether speech ended."""
    spoken: list[tuple[int, bool]] = []
    run = chat.stream.executor.run

    def watched(works: Sequence[Work]) -> list[Any]:
        results = run(works)
        for work, result in zip(works, results, strict=True):
            if isinstance(work, Speak) and isinstance(result, Spoken):
                spoken.append((len(work.voice.codes), result.finished))
        return results

    chat.stream.executor.run = watched  # type: ignore[method-assign]
    return spoken


def _messages(goldens: GoldenSet, chat: Chat, options: ChatOptions) -> list[Message]:
    """The conversation whose tokens and embeddings the set keeps."""
    stream = chat.voice
    tokens = goldens.expected["chat.input_ids"].flatten().tolist()
    starts = [at for at, token in enumerate(tokens) if token == stream.builder.specials.im_start]
    turns = []
    for start, end in pairwise(starts):  # the last one asks for the answer
        role = stream.tokenizer.decode(tokens[start + 1 : end]).partition("\n")[0]
        turns.append((role, trim(parse(stream, tokens[start:end], start), f"{IM_START}{role}\n", f"{IM_END}\n")))
    places = [part for _, parts in turns for part in parts if isinstance(part, Place)]
    embeds, rows = _kept(goldens, stream, tokens)
    pictures: dict[Place, Any] = {}
    for place in places:
        if place.kind == "image":
            pictures[place], _ = find_picture(goldens, stream, place, embeds, rows)
    heard = [place for place in places if place.kind == "sound"]
    candidates = [_sounds_of(goldens, stream, place.tokens) for place in heard]
    best: tuple[float, list[Message]] | None = None
    for sounds in product(*candidates):
        media = {**pictures, **dict(zip(heard, sounds, strict=True))}
        messages = [_message(role, fill(parts, media)) for role, parts in turns]
        prompt = chat.prepare(messages, options)
        if [mel.shape[1] for mel in prompt.mels] != goldens.expected["chat.mel_lens"].tolist():
            continue
        if len(prompt.row) != len(tokens):
            raise SetError(f"chat.input_ids has {len(tokens)} tokens, the conversation read from it {len(prompt.row)}")
        gap = float((chat.embed(prompt)[rows] - embeds).abs().max())
        if best is None or gap < best[0]:
            best = gap, messages
    if best is None:
        raise SetError("inputs.safetensors holds no sounds of the lengths that chat was given")
    return best[1]


def _message(role: str, content: list[Any]) -> Message:
    return known_prompt(content) or Message(role, content)  # type: ignore[arg-type]


def _kept(goldens: GoldenSet, stream: StreamingModel, tokens: Sequence[int]) -> tuple[Tensor, list[int]]:
    """The conversation's embeddings that the set keeps, and their rows: every n-th one, with the n that makes the most
    of them embeddings of the conversation's tokens, as all but those of pictures and sounds are."""
    for key, _ in goldens.keys(r"chat\.merged_embeds" + PART):
        kept = goldens.expected[key]
        words = stream.model.llm.embed(torch.tensor(tokens))
        steps = [step for step in range(1, len(tokens) + 1) if -(-len(tokens) // step) == len(kept)]
        if steps:
            told = [int((words[::step] - kept).abs().amax(1).lt(1e-3).sum()) for step in steps]
            return kept, list(range(0, len(tokens), steps[told.index(max(told))]))
    raise SetError("expected.safetensors has no tensor chat.merged_embeds with every n-th row; restore the file")


def _sounds_of(goldens: GoldenSet, stream: StreamingModel, tokens: int) -> list[Sound]:
    """Inputs that take so many placeholders."""
    sounds = list(goldens.sounds.values())
    fitting = [sound for sound in sounds if placeholders(stream, sound) == tokens]
    if not fitting:
        raise SetError(f"inputs.safetensors holds no sound of {tokens} tokens, which chat was given")
    return fitting
