"""Prompts and token rows, id by id."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, models
from tokenizers import Tokenizer as Backend

from engine.checkpoint.loader import LoadedModel
from engine.errors import InputError, TokenizerError
from engine.processing.prompts import (
    MODES,
    UNIT,
    Message,
    TypedText,
    answer_header,
    closed_turn,
    get_sys_prompt,
    turn_header,
)
from engine.processing.tokens import AudioSlot, ImageSlot, Piece, SpecialIds, TokenBuilder, TokenRow
from engine.processing.typed import TypedEncoder
from tests.engine_inputs.conftest import GoldenSet

VOICE = np.zeros(20_800, np.float32)
SECOND = AudioSlot(16_000)


@pytest.fixture(scope="module")
def build(golden: GoldenSet, loaded: LoadedModel) -> TokenBuilder:
    return TokenBuilder(loaded.tokenizer, golden.config)


def pieces_of(message: Message) -> list[Piece]:
    return [
        AudioSlot(len(part)) if isinstance(part, np.ndarray) else str(part)
        for part in closed_turn(message.role, message.content)
    ]


STREAM: list[tuple[str, list[Piece]]] = [
    ("sys", pieces_of(get_sys_prompt(VOICE, "omni", "en"))),
    ("unit0", [turn_header(answered=False, completed=False), UNIT, ImageSlot(), SECOND]),
    ("unit1", [UNIT, ImageSlot(), SECOND]),
    ("unit2", [SECOND]),
    ("unit3", [AudioSlot(8_800)]),
    ("turn2_unit0", [turn_header(answered=True, completed=False), SECOND]),
    ("turn2_unit1", [SECOND]),
    ("turn3_unit0", [turn_header(answered=True, completed=True), SECOND]),
    ("turn4_text", [turn_header(answered=True, completed=False), "and then?"]),
    ("newsession_sys", pieces_of(get_sys_prompt(None, "omni", "en"))),
    ("newsession_text", [turn_header(answered=False, completed=False), "hello"]),
]


def check(golden: GoldenSet, name: str, row: TokenRow) -> None:
    assert row.ids.tolist() == golden.expected[f"{name}.input_ids"].tolist()
    for kind, bounds in (("image_bound", row.image_bounds), ("audio_bounds", row.audio_bounds)):
        if f"{name}.{kind}" in golden.expected:
            assert bounds.tolist() == golden.expected[f"{name}.{kind}"].tolist()
        else:
            assert len(bounds) == 0


@pytest.mark.parametrize(("name", "pieces"), STREAM)
def test_a_session_token_by_token(golden: GoldenSet, build: TokenBuilder, name: str, pieces: list[Piece]) -> None:
    check(golden, f"stream.{name}", build(pieces))


def test_the_answer_header(golden: GoldenSet, build: TokenBuilder) -> None:
    row = build([answer_header()])
    assert row.ids.tolist() == golden.manifest["stream.gen1"]["prompt_ids"]
    assert row.spk_bounds.tolist() == [[7, 8]]
    assert row.ids[7] == build.specials.spk


def test_typed_text_holds_no_control_token(loaded: LoadedModel, build: TokenBuilder) -> None:
    header = turn_header(answered=True, completed=False)
    text = "<|im_end|> <unit> <image></image> <|spk|> 好 <|tts_eos|>"
    ids = build([header, TypedText(text)]).ids.tolist()
    typed = ids[len(build.text(header)) :]
    assert not set(typed) & set(loaded.tokenizer.all_special_ids)
    assert loaded.tokenizer.decode(typed) == text
    assert build.specials.im_end in build([text]).ids, "the same string outside a call's typed text is a control token"


@pytest.mark.parametrize("typed", ["and then?", "look.", "", " two  blanks ", "\n\nlines\n", "好 3+4!", "🙂\t"])
def test_typed_text_without_marks_is_encoded_as_published(build: TokenBuilder, typed: str) -> None:
    """As one text with what stands around it: a full stop and a line break, say, are one token."""
    header = turn_header(answered=True, completed=False)

    def message(text: Piece) -> TokenRow:
        return build([header, text, "\n", ImageSlot(), "\n", text, "<|im_end|>\n"])

    assert message(TypedText(typed)).ids.tolist() == message(typed).ids.tolist()


def test_marks_cannot_be_typed_in_parts(build: TokenBuilder) -> None:
    ids = build([TypedText("<|im_"), TypedText("end|>")]).ids.tolist()
    assert build.specials.im_end not in ids
    assert ids == build.typed("<|im_end|>")


TYPED = "a <image>x</image> <|audio_start|>b<mark>c <mark"


def vocabulary(*words: str) -> dict[str, int]:
    return {word: number for number, word in enumerate(words)}


BACKENDS: dict[str, Callable[[], Backend]] = {
    "byte pairs": lambda: Backend(models.BPE(vocabulary(*map(chr, range(32, 127))), [])),
    "byte pairs that know the mark": lambda: Backend(
        models.BPE(vocabulary(*map(chr, range(32, 127)), "<mark>"), [], ignore_merges=True)
    ),
    "merges that make the mark": lambda: Backend(
        models.BPE(vocabulary(*map(chr, range(32, 127)), "<m", "ar", "k>", "<mar", "<mark>"),
                   [("<", "m"), ("a", "r"), ("k", ">"), ("<m", "ar"), ("<mar", "k>")])
    ),
    "whole words": lambda: Backend(models.WordLevel(vocabulary("[UNK]", "<mark>", "a"), "[UNK]")),
    "pieces of words": lambda: Backend(models.WordPiece(vocabulary("[UNK]", "<mark>", "a", "##b"), unk_token="[UNK]")),
    "likely pieces": lambda: Backend(
        models.Unigram([("?", 0.0), ("<mark>", -0.1), *((chr(code), -5.0) for code in range(32, 127))], 0)
    ),
}  # fmt: skip


@pytest.mark.parametrize("flags", [{"special": True}, {"special": False}, {"normalized": True}, {"lstrip": True}])
@pytest.mark.parametrize("kind", BACKENDS)
def test_typed_text_knows_no_added_token_whatever_its_flags(kind: str, flags: dict[str, bool]) -> None:
    backend = BACKENDS[kind]()
    marks = ["<image>", "</image>", "<|audio_start|>", "<mark>"]
    backend.add_tokens([AddedToken(mark, **{"special": False, **flags}) for mark in marks])
    added = {backend.token_to_id(mark) for mark in marks}
    assert added <= {*backend.encode(TYPED).ids}, "the tokenizer itself finds them"
    encode = TypedEncoder(backend)
    assert not added & {*encode([TypedText(TYPED)])}
    assert added & {*encode([TypedText(TYPED), "<mark>"])} == {backend.token_to_id("<mark>")}


def test_nothing_that_is_said_moves_a_picture(build: TokenBuilder) -> None:
    """Not even a text that may spell control tokens."""
    says = "</image> <image> <slice> <|audio_end|> <|audio_start|>"
    for text in (says, TypedText(says)):
        row = build([text, ImageSlot(), text, SECOND, text])
        assert len(row.image_bounds) == len(row.audio_bounds) == 1
        for bounds in (row.image_bounds, row.audio_bounds):
            first, last = bounds[0].tolist()
            assert set(row.ids[first:last].tolist()) == {build.specials.unknown}
        assert np.diff(row.image_bounds).tolist() == [[64]]


def test_pictures(golden: GoldenSet, build: TokenBuilder) -> None:
    check(golden, "image.single", build([ImageSlot()]))
    check(golden, "image.sliced", build([ImageSlot((2, 1))], use_image_id=True))


def test_pictures_are_numbered(build: TokenBuilder) -> None:
    ids = build([ImageSlot(), "between", ImageSlot()], use_image_id=True).ids.tolist()
    first, second = build.text("0"), build.text("1")
    starts = [index for index, token in enumerate(ids) if token == build.specials.image_id_start]
    assert [ids[start + 1 : start + 2] for start in starts] == [first, second]


def test_slots_of_every_shape(build: TokenBuilder, tables: dict[str, list[dict[str, Any]]]) -> None:
    for entry in tables["slicing_448"]:
        grid = tuple(entry["grid_cols_rows"]) if entry["grid_cols_rows"] else None
        row = build([ImageSlot(grid)], use_image_id=True)
        assert (row.ids == build.specials.unknown).sum() == entry["unk_tokens"]
        assert (row.ids == build.text("\n")[0]).sum() == entry["newlines"]
        assert len(row.image_bounds) == entry["n_slices"]
        assert set(np.diff(row.image_bounds)[:, 0]) == {64}
    for entry in tables["audio_tokens_chunk_input_true"]:
        row = build([AudioSlot(entry["samples"])])
        assert np.diff(row.audio_bounds)[:, 0].tolist() == entry["placeholder_groups"]


def test_a_unit_is_built_once(build: TokenBuilder) -> None:
    first, second = build([UNIT, ImageSlot(), SECOND]), build([UNIT, ImageSlot(), SECOND])
    assert first is second
    assert not first.ids.flags.writeable


def test_texts_are_tokenised_together(build: TokenBuilder) -> None:
    assert build(["hel", "lo"]).ids.tolist() == build.text("hello")


def test_cut_rows_keep_whole_pairs_only(build: TokenBuilder) -> None:
    row = build([ImageSlot(), SECOND])
    cut = row.cut(len(row) - 1)
    assert cut.ids.tolist() == row.ids.tolist()[:-1]
    assert len(cut.image_bounds) == 1
    assert len(cut.audio_bounds) == 0


def test_a_foreign_tokenizer_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: <\|im_start\|>: is not in the vocabulary"):
        SpecialIds.resolve(loaded.tts_tokenizer, "tokenizer.json")


EN_CLONE, ZH_CLONE = "Clone the voice in the provided audio prompt.", "模仿输入音频中的声音特征。"
EN_STYLE, ZH_STYLE = "As an assistant, you will speak using this voice style.", "作为助手，你将使用这种声音风格说话。"
EN_OMNI = "You are a helpful assistant. You can accept video, audio and text input and output voice and text. "
ZH_OMNI = "你是一个AI助手。你能接受视频，音频和文本输入并输出语音和文本。"
EN_ROLE = "Try to role-play the character based on the audio prompt above."
ZH_ROLE = "假装你是上述音频中的人物，与我进行对话。"
OTHER = "You are a helpful assistant. You can accept audio and text input and output voice and text."
DEFAULT_VOICE = "Use the <reserved_53> voice."


@pytest.mark.parametrize(
    ("mode", "language", "with_voice", "content"),
    [
        ("omni", "zh", True, [ZH_OMNI + ZH_CLONE, VOICE, ZH_STYLE]),
        ("omni", "en", True, [EN_OMNI + EN_CLONE, VOICE, EN_STYLE]),
        ("omni", "zh", False, [ZH_OMNI]),
        ("omni", "fr", False, [EN_OMNI]),
        ("audio_assistant", "zh", True, [ZH_CLONE, VOICE, ZH_STYLE]),
        ("audio_assistant", "en", True, [EN_CLONE, VOICE, EN_STYLE]),
        ("audio_assistant", "zh", False, [DEFAULT_VOICE, ZH_STYLE]),
        ("audio_assistant", "en", False, [DEFAULT_VOICE, EN_STYLE]),
        ("audio_roleplay", "zh", True, [ZH_CLONE, VOICE, ZH_ROLE]),
        ("audio_roleplay", "en", True, [EN_CLONE, VOICE, EN_ROLE]),
        ("audio_roleplay", "zh", False, [DEFAULT_VOICE, ZH_ROLE]),
        ("audio_roleplay", "en", False, [DEFAULT_VOICE, EN_ROLE]),
        ("voice_cloning", "zh", True, [ZH_CLONE, VOICE]),
        ("voice_cloning", "en", True, [EN_CLONE, VOICE]),
        ("default", "zh", True, [OTHER]),
        ("default", "en", False, [OTHER]),
        ("anything", "zh", False, [OTHER]),
    ],
)
def test_system_prompts(mode: str, language: str, with_voice: bool, content: list[Any]) -> None:
    message = get_sys_prompt(VOICE if with_voice else None, mode, language)
    assert message.role == "user"
    assert all(a is b if isinstance(b, np.ndarray) else a == b for a, b in zip(message.content, content, strict=True))


def test_cloning_needs_a_voice() -> None:
    assert "voice_cloning" in MODES
    with pytest.raises(InputError, match="reference sound"):
        get_sys_prompt(None, "voice_cloning")
