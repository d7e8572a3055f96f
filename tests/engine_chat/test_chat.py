"""chat(): equal to the golden, and its options do what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray
from PIL import Image

from engine.chat.offline import Chat, ChatAnswer, ChatOptions, chat
from engine.chat.prompt import MARK, messages_of
from engine.checkpoint.loader import LoadedModel
from engine.conversation.sampling import SpeechSampling
from engine.errors import InputError
from engine.processing.prompts import UNIT, Message, Part, get_sys_prompt
from tests.engine_inputs.conftest import GoldenSet, assert_close

PATH = Path(__file__).resolve().parents[1] / "data"
BRIEF: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}
RED = Image.new("RGB", (40, 30), "red")
TONE = (np.sin(np.arange(8_000) / 9) / 3).astype(np.float32)


def sound(golden: GoldenSet, name: str) -> NDArray[np.float32]:
    samples: NDArray[np.float32] = golden.sounds[name].numpy().astype(np.float32)
    return samples / np.float32(32768)


def ask(*content: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": list(content)}]


def text_of(talker: Chat, messages: list[Message], **options: Any) -> str:
    """The prompt as the tokenizer writes it, runs of blanks shown once."""
    ids = talker.prepare(messages, ChatOptions(**options)).row.ids.tolist()
    unknown = talker.voice.builder.specials.unknown
    kept = [token for index, token in enumerate(ids) if token != unknown or ids[index - 1] != unknown]
    text: str = talker.tokenizer.decode(kept)
    return text


def test_the_golden_conversation(golden: GoldenSet, talker: Chat) -> None:
    image, expected = golden.image("unit1_image"), golden.expected
    units: list[Part] = [UNIT, image, sound(golden, "unit0_audio"), UNIT, image, sound(golden, "unit1_audio")]
    messages = [get_sys_prompt(sound(golden, "ref_audio"), "omni", "en"), Message("user", units)]
    options = ChatOptions(
        max_new_tokens=20, do_sample=False, generate_audio=True, omni_input=True, max_slice_nums=1, use_image_id=False,
        use_tts_template=True, speech=SpeechSampling(greedy=True),
    )  # fmt: skip
    prompt = talker.prepare(messages, options)
    assert prompt.row.ids.tolist() == expected["chat.input_ids"].tolist()
    for name, bounds in (
        ("image_bound", prompt.row.image_bounds),
        ("audio_bounds", prompt.row.audio_bounds),
        ("spk_bounds", prompt.row.spk_bounds),
    ):
        assert bounds.tolist() == expected[f"chat.{name}"].tolist()
    assert [mel.shape[1] for mel in prompt.mels] == expected["chat.mel_lens"].tolist()
    answer = talker.answer(messages, options)
    assert_close(answer.embeds[::6], expected["chat.merged_embeds_every6th"])
    with torch.inference_mode():
        assert_close(talker.model.llm.logits(answer.states[-1]), expected["chat.logits_last"])
    assert list(answer.ids) == expected["chat.generated_ids"].tolist()
    assert answer.text == golden.manifest["chat"]["text"]
    assert answer.finish == "length"
    assert answer.speaker is not None
    assert answer.codes is not None
    assert_close(answer.speaker, expected["chat.spk_embeds"])
    assert torch.equal(answer.codes.int(), expected["chat.audio_codes"])
    assert len(answer.wave) == golden.manifest["chat"]["wav_len"]
    assert_close(torch.from_numpy(answer.wave[:8192]), expected["chat.wav_head"])
    assert_close(torch.from_numpy(answer.wave[-4096:]), expected["chat.wav_tail"])


def test_written_questions_use_the_tokenizers_template(talker: Chat) -> None:
    messages = [Message("user", [RED, "and", RED]), Message("assistant", ["yes"]), Message("user", ["why?"])]
    assert text_of(talker, messages, max_slice_nums=1) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        "<image_id>0</image_id><image><unk></image>\nand\n<image_id>1</image_id><image><unk></image><|im_end|>\n"
        "<|im_start|>assistant\nyes<|im_end|>\n<|im_start|>user\nwhy?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_sound_asks_for_an_answer_that_can_be_spoken(talker: Chat) -> None:
    assert text_of(talker, [Message("user", ["listen", TONE])]) == (
        "<|im_start|>user\nlisten\n<|audio_start|><unk><|audio_end|><|im_end|>\n"
        "<|im_start|>assistant\n<|spk_bos|><|spk|><|spk_eos|><|tts_bos|>"
    )


def test_parts_are_joined_as_asked(talker: Chat) -> None:
    message = [Message("user", ["a", RED, "b"])]
    options: dict[str, Any] = {"use_tts_template": True, "use_image_id": False}
    assert "user\na\n<image><unk></image>\nb<|im_end|>" in text_of(talker, message, **options)
    assert "user\na<image><unk></image>b<|im_end|>" in text_of(talker, message, omni_input=True, **options)


def test_sounds_of_a_message_are_one_clip(talker: Chat) -> None:
    apart = talker.prepare(
        [Message("user", [TONE]), Message("assistant", ["hm"]), Message("user", [TONE])], ChatOptions()
    )
    together = talker.prepare([Message("user", [TONE, "then", TONE])], ChatOptions())
    assert [mel.shape[1] for mel in apart.mels] == [50, 50]
    assert [mel.shape[1] for mel in together.mels] == [100]
    assert len(together.row.audio_bounds) == len(apart.row.audio_bounds) == 2


def test_sound_longer_than_a_clip_is_split(talker: Chat) -> None:
    prompt = talker.prepare([Message("user", [np.tile(TONE, 64)])], ChatOptions())
    assert [mel.shape[1] for mel in prompt.mels] == [3000, 200]
    assert int(np.diff(prompt.row.audio_bounds).sum()) == 800


def test_chunk_input_off_keeps_a_sound_whole(talker: Chat) -> None:
    messages = [Message("user", [np.tile(TONE, 5)])]
    assert len(talker.prepare(messages, ChatOptions()).row.audio_bounds) == 3
    assert len(talker.prepare(messages, ChatOptions(chunk_input=False)).row.audio_bounds) == 1


def test_pictures_are_sliced_as_asked(talker: Chat) -> None:
    picture = Image.new("RGB", (1300, 900))
    whole, cut = (
        talker.prepare([Message("user", [picture])], ChatOptions(max_slice_nums=limit)) for limit in (1, None)
    )
    assert len(whole.row.image_bounds) == 1
    assert len(cut.row.image_bounds) == len(cut.images[0].sizes) == 7


def test_the_return_value_follows_the_options(talker: Chat, loaded: LoadedModel) -> None:
    text = chat(loaded, ask("hello"), **BRIEF)
    assert isinstance(text, str)
    answer = chat(talker, ask("hello"), return_dict=True, **BRIEF)
    assert isinstance(answer, ChatAnswer)
    assert answer.text == text
    assert (len(answer.ids), answer.finish, answer.speaker, len(answer.wave)) == (6, "length", None, 0)
    assert chat(talker, [ask("hello"), ask(RED, "what?")], **BRIEF) == [text, chat(talker, ask(RED, "what?"), **BRIEF)]


def test_image_goes_in_front(talker: Chat) -> None:
    first = chat(talker, [{"role": "user", "content": "what?"}], image=RED, return_dict=True, **BRIEF)
    second = chat(talker, ask(RED, "what?"), return_dict=True, **BRIEF)
    assert isinstance(first, ChatAnswer)
    assert isinstance(second, ChatAnswer)
    assert torch.equal(first.embeds, second.embeds)


@pytest.mark.parametrize("do_sample", [False, True])
def test_streamed_pieces_make_the_answer(talker: Chat, do_sample: bool) -> None:
    options: dict[str, Any] = {"max_new_tokens": 30, "do_sample": do_sample, "seed": 4}
    pieces = chat(talker, ask("tell me"), stream=True, **options)
    assert not isinstance(pieces, str | ChatAnswer | list)
    assert "".join(pieces) == chat(talker, ask("tell me"), **options)


def test_leaving_a_stream_early_frees_its_place(talker: Chat) -> None:
    for _ in range(3):
        pieces = talker.pieces([Message("user", ["tell me"])], ChatOptions(max_new_tokens=30))
        next(pieces)
        pieces.close()
    assert chat(talker, ask("hello"), **BRIEF)


def test_draws_follow_the_seed(talker: Chat) -> None:
    def draw(seed: int) -> Any:
        return chat(talker, ask("hello"), max_new_tokens=8, min_new_tokens=8, temperature=3.0, seed=seed)

    assert draw(1) == draw(1)
    assert len({draw(seed) for seed in range(4)}) > 1


def test_min_new_tokens_forbid_an_early_end(talker: Chat) -> None:
    answers = [
        chat(talker, ask("hello"), return_dict=True, max_new_tokens=20, min_new_tokens=20, temperature=5.0, seed=seed)
        for seed in range(4)
    ]
    assert all(isinstance(answer, ChatAnswer) and len(answer.ids) == 20 for answer in answers)


def test_speech_goes_to_a_file(talker: Chat, tmp_path: Path) -> None:
    path = tmp_path / "answer.wav"
    answer = chat(talker, ask("hello"), output_audio_path=path, speech=SpeechSampling(greedy=True), **BRIEF)
    assert isinstance(answer, ChatAnswer)
    assert answer.codes is not None
    wave, rate = soundfile.read(path, dtype="float32")
    assert rate == 24_000
    assert len(wave) == len(answer.wave) == 512 * len(answer.codes) > 0
    np.testing.assert_allclose(wave, answer.wave, atol=1 / 32768)


def test_a_long_prompt_is_cut(talker: Chat) -> None:
    options = ChatOptions(max_inp_length=30, **BRIEF)
    answer = talker.answer([Message("user", [RED, TONE, "what is this?"])], options)
    assert len(answer.embeds) == 30


@pytest.mark.parametrize(
    ("messages", "options", "words"),
    [
        ([], {}, "empty"),
        ([{"role": "assistant", "content": "hi"}], {}, "begin with"),
        ([{"role": "user", "content": "hi"}, {"role": "robot", "content": "hi"}], {}, "role is 'robot'"),
        ([{"role": "user"}], {}, "a role and a content"),
        (ask(3.5), {}, "part is float"),
        ([Message("user", [f"see {MARK}"])], {}, "give it as TypedText"),
        (ask(np.zeros((2, 8_000), np.float32)), {}, "one channel"),
        (ask(np.zeros(100, np.float32)), {}, "at least 321"),
        (ask("hi"), {"beam_width": 3}, "beam_width is not an option"),
        (ask("hi"), {"max_new_tokens": 0}, "max_new_tokens is 0"),
        (ask("hi"), {"temperature": 0.0}, "temperature"),
        (ask("hi"), {"num_beams": 1}, "num_beams"),
        (ask("hi"), {"stream": True, "sampling": False}, "streamed"),
        (ask("hi"), {"generate_audio": True, "max_inp_length": 5}, "max_inp_length"),
    ],
)
def test_mistakes_are_explained(talker: Chat, messages: Any, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        chat(talker, messages, **options)


QUESTIONS = (PATH / "questions-with-marks.txt").read_text(encoding="utf-8").splitlines()


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize("before", [[], [RED], [TONE], [RED, TONE]], ids=["alone", "picture", "sound", "both"])
def test_marks_in_a_question_are_words(talker: Chat, question: str, before: list[Any]) -> None:
    """Whatever is typed, the pictures and sounds stay in their places, and the marks are spelled out."""
    written = talker.prepare(messages_of(ask(*before, question)), ChatOptions())
    plain = talker.prepare(messages_of(ask(*before, "what?")), ChatOptions())
    assert written.row.image_bounds.tolist() == plain.row.image_bounds.tolist()
    assert written.row.audio_bounds.tolist() == plain.row.audio_bounds.tolist()
    specials = {*talker.voice.builder.specials.stop, *talker.voice.loaded.tokenizer.added_tokens_decoder}
    assert sum(token in specials for token in written.row.ids.tolist()) == sum(
        token in specials for token in plain.row.ids.tolist()
    )
    assert question in talker.tokenizer.decode(written.row.ids.tolist())
    assert isinstance(chat(talker, ask(*before, question), **BRIEF), str)


def test_a_conversation_must_fit_the_context(loaded: LoadedModel) -> None:
    small = Chat(loaded, context=64)
    with pytest.raises(InputError, match=r"takes \d+ of 64 tokens"):
        chat(small, ask(RED))
    answer = chat(small, ask("hello"), max_new_tokens=2048, min_new_tokens=2048, do_sample=False, return_dict=True)
    assert isinstance(answer, ChatAnswer)
    assert len(answer.embeds) + len(answer.ids) == 64


def test_an_unwritable_file_is_named(talker: Chat, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"answer\.xyz cannot be written"):
        chat(talker, ask("hi"), output_audio_path=tmp_path / "answer.xyz", **BRIEF)
