"""``python -m engine.chat``: one question to a model, from a shell."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image
from tqdm import tqdm

from engine.chat.media import (
    VIDEO_SLICES,
    check_writable,
    fits_in_slices,
    load_frames,
    load_sound,
    load_units,
    write_sound,
)
from engine.chat.offline import Chat, ChatAnswer, ChatOptions
from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedModel, LoadedVisionLanguage, build_untrained, has_weights, load_model
from engine.client import OUTPUT_RATE, EngineError
from engine.config_language import NAMES
from engine.errors import InputError, ModelError, OutOfMemoryError, is_out_of_memory, reason
from engine.processing.image import open_image
from engine.processing.prompts import READ_PROMPT, TASK_PROMPTS, UNIT, Message, Part, TypedText, get_sys_prompt
from engine.serving.live_engine import MINI, read_sampling
from engine.spec import QUANTIZATIONS

VOICED = {"omni": "omni", "assistant": "audio_assistant", "roleplay": "audio_roleplay", "cloning": "voice_cloning"}
"""Modes that begin with a system prompt, and its name there."""
MODES = ("chat", *VOICED, *TASK_PROMPTS)
FEED_BLOCK = 512
"""Tokens of a conversation that are read between two movements of the bar."""

EPILOG = """\
modes
  chat        pictures, video frames, sound and a question, in this order (default)
  omni        a video with sound (or --image and --audio), heard and seen second by second as in a call
  assistant   a spoken question to an assistant; --voice is how it should sound
  roleplay    the same, but it plays the person whose --voice it hears
  cloning     read --question aloud with --voice
  mimick      repeat --audio, voice included
  transcribe  write down what is said in --audio
  speaker     guess who speaks in --audio
  caption     sum up --audio
  scene       name the scene of --audio in a word

examples
  python -m engine.chat MODEL --image a.jpg --image b.jpg --question "What changed?"
  python -m engine.chat MODEL --example cat.jpg "What is it?" "A cat." --image x.jpg --question "What is it?"
  python -m engine.chat MODEL --image cat.jpg --turn "What is it?" "A cat." --question "Which colour has it?"
  python -m engine.chat MODEL --video walk.mp4 --question "Where does it lead?" --max-frames 32
  python -m engine.chat MODEL --mode omni --video talk.mp4 --voice anna.wav --speak answer.wav
  python -m engine.chat MODEL --mode cloning --voice anna.wav --question "Good morning." --speak anna-says.wav
  python -m engine.chat MODEL --mode transcribe --audio note.m4a --language en --greedy

MODEL is a directory of MiniCPM-o 2.6, or of MiniCPM-V 2.6, MiniCPM-Llama3-V 2.5 or MiniCPM-V 2.0, which answer in mode
chat, without sound; without it the mini that ships with the project answers. A model whose generation_config.json says
do_sample: false answers greedily unless --temperature or --beams is given."""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine.chat",
        description="Ask a model about pictures, sound, video or text; read the answer or hear it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", type=Path, default=MINI, metavar="MODEL", help="model directory")
    ask = parser.add_argument_group("what to ask")
    ask.add_argument("--mode", choices=MODES, default="chat", help="see below (default: chat)")
    ask.add_argument("--question", metavar="TEXT", help="text of the question, or the text to read in mode cloning")
    ask.add_argument("--image", action="append", default=[], metavar="FILE", help="a picture; may be repeated")
    ask.add_argument("--audio", action="append", default=[], metavar="FILE", help="a sound; may be repeated")
    ask.add_argument("--video", metavar="FILE", help="a video: one frame per second, in mode omni with its sound")
    ask.add_argument("--max-frames", type=int, default=64, metavar="N", help="frames of a video at most (default: 64)")
    ask.add_argument("--voice", metavar="FILE", help="a voice to speak with, a few seconds long")
    ask.add_argument("--language", choices=("en", "zh"), default="en", help="of the built-in prompts (default: en)")
    ask.add_argument("--system", metavar="TEXT", help="a system message in front")
    ask.add_argument(
        "--example",
        action="append",
        nargs=3,
        default=[],
        metavar=("PICTURE", "QUESTION", "ANSWER"),
        help="a solved example in front of the question; may be repeated",
    )
    ask.add_argument(
        "--turn",
        action="append",
        nargs=2,
        default=[],
        metavar=("QUESTION", "ANSWER"),
        help="a turn before the question, which the pictures and sounds then belong to; may be repeated",
    )
    answer = parser.add_argument_group("how to answer")
    answer.add_argument("--speak", metavar="FILE", help="speak the answer into a .wav, .flac or .ogg file (24 kHz)")
    answer.add_argument("--stream", action="store_true", help="print the answer while it is made")
    answer.add_argument("--greedy", action="store_true", help="always take the likeliest token")
    answer.add_argument("--beams", type=int, metavar="N", help="search with N beams instead of drawing")
    defaults = ChatOptions()
    for name, kind in (("temperature", float), ("top_p", float), ("top_k", int), ("repetition_penalty", float)):
        default = getattr(defaults, name)
        note = "1.05, with beams 1.2" if default is None else default
        answer.add_argument(f"--{name.replace('_', '-')}", type=kind, metavar="X", help=f"default: {note}")
    answer.add_argument("--max-new-tokens", type=int, metavar="N", help="default: the model's")
    answer.add_argument("--min-new-tokens", type=int, metavar="N", help=f"default: {defaults.min_new_tokens}")
    answer.add_argument("--seed", type=int, metavar="N", help="of the random draws (default: 0)")
    answer.add_argument(
        "--max-slices", dest="max_slice_nums", type=int, metavar="N", help="cells that a picture may be cut into"
    )
    answer.add_argument(
        "--max-inp-length", type=int, metavar="N", help="cut the conversation after N tokens (default: it must fit)"
    )
    run = parser.add_argument_group("how to run")
    run.add_argument("--device", default="auto", help="auto, cpu, mps, cuda, cuda:N or cuda:0,cuda:1 (default: auto)")
    run.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)")
    run.add_argument("--adapter", metavar="DIR", help="a fine-tuned adapter of the model, in peft's layout")
    run.add_argument("--quantize", choices=QUANTIZATIONS, default="auto", help="weights of the language model")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 after an error that was printed."""
    parser = build_parser()
    options = parser.parse_args(arguments)
    if problem := _missing(options):
        parser.error(problem)
    try:
        if options.speak:
            check_writable(options.speak)
        messages, settings = conversation(options)
        loaded = _load(options)
        if not isinstance(loaded, LoadedModel):
            settings = _without_sound(options, loaded, messages, settings)
        answer = _ask(_chat(loaded), messages, settings, stream=options.stream)
        if options.speak:
            write_sound(options.speak, answer.wave)
            print(f"{options.speak}: {len(answer.wave) / OUTPUT_RATE:.1f} s of speech", file=sys.stderr)
    except (ModelError, EngineError) as error:
        return _fail(str(error))
    except Exception as error:  # a fault of this program is one sentence, too: where it is, and what to do
        return _fail(_fault(error))
    return 0


def _fail(sentence: str) -> int:
    """Print an error, which may name a path that is not UTF-8. Returns the exit status."""
    print(f"error: {sentence.encode(errors='backslashreplace').decode()}", file=sys.stderr)
    return 1


def _fault(error: Exception) -> str:
    if is_out_of_memory(error):
        return str(OutOfMemoryError())
    last = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(last.filename).name}:{last.lineno}"
    return (
        f"the program failed ({type(error).__name__}: {reason(error)}, at {where}); please report it with the command"
    )


def _missing(options: argparse.Namespace) -> str | None:
    """What a mode needs and was not given."""
    mode = options.mode
    question = (options.question or "").strip()
    if mode in TASK_PROMPTS and not options.audio:
        return f"mode {mode} needs --audio"
    if mode == "cloning" and not (options.voice and question):
        return "mode cloning needs --voice (who speaks) and --question (what to read)"
    if mode in ("assistant", "roleplay") and not (options.audio or question):
        return f"mode {mode} needs --audio or --question"
    if mode == "omni" and not (options.video or options.audio or options.image or question):
        return "mode omni needs --video, or --image, --audio or --question"
    if mode == "chat" and not (question or options.image or options.audio or options.video):
        return "give a --question, an --image, an --audio or a --video"
    if options.max_frames < 1:
        return "--max-frames must be at least 1"
    return None


def conversation(options: argparse.Namespace) -> tuple[list[Message], ChatOptions]:
    """The messages and settings that the command's options stand for. Raises InputError for unreadable files."""
    voice = load_sound(options.voice) if options.voice else None
    messages: list[Message] = [Message("system", [TypedText(options.system)])] if options.system else []
    if options.mode in VOICED:
        messages.append(get_sys_prompt(voice, VOICED[options.mode], options.language))
    for picture, question, solution in options.example:
        messages.append(Message("user", [open_image(Path(picture)), TypedText(question)]))
        messages.append(Message("assistant", [TypedText(solution)]))
    shown = _shown(options)
    for question, solution in options.turn:
        messages.append(Message("user", [*shown, TypedText(question)]))
        messages.append(Message("assistant", [TypedText(solution)]))
        shown = []
    messages.append(Message("user", [*shown, *([TypedText(options.question)] if options.question else [])]))
    return messages, _settings(options)


def _shown(options: argparse.Namespace) -> list[Part]:
    """What comes before the words of the first question."""
    images: list[Part] = [open_image(Path(name)) for name in options.image]
    sounds: list[Part] = [load_sound(name) for name in options.audio]
    if options.mode == "cloning":
        return [READ_PROMPT[options.language]]
    if options.mode in TASK_PROMPTS:
        return [TASK_PROMPTS[options.mode][options.language] + "\n", *sounds]
    if options.mode == "omni":
        units = load_units(options.video, limit=options.max_frames) if options.video else []
        still: list[Part] = [UNIT, *images, *sounds] if images or sounds else []
        return [*units, *still]
    frames: list[Part] = [*load_frames(options.video, limit=options.max_frames)] if options.video else []
    return [*images, *frames, *sounds]


def _settings(options: argparse.Namespace) -> ChatOptions:
    settings: dict[str, Any] = {"generate_audio": options.speak is not None}
    own = read_sampling(options.model)
    if options.greedy:
        settings["do_sample"] = False
    elif own.greedy and options.beams is None and options.temperature is None:
        settings |= {"do_sample": False, "repetition_penalty": own.repetition_penalty}
    if options.mode == "omni":
        settings |= {"omni_input": True, "max_slice_nums": 1, "use_image_id": False, "use_tts_template": True}
    elif options.video:
        settings |= {"max_slice_nums": VIDEO_SLICES, "use_image_id": False}
    if options.beams is not None:
        settings |= {"sampling": False, "num_beams": options.beams}
    names = ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens", "min_new_tokens", "seed")
    given = {name: getattr(options, name) for name in (*names, "max_slice_nums", "max_inp_length")}
    return ChatOptions(**settings | {name: value for name, value in given.items() if value is not None})


def _without_sound(
    options: argparse.Namespace, loaded: LoadedVisionLanguage, messages: Sequence[Message], settings: ChatOptions
) -> ChatOptions:
    """Settings for a model that only sees and writes. Raises InputError for what asks for more."""
    if options.mode != "chat":
        raise InputError(
            f"{NAMES[loaded.config.generation]} has no mode {options.mode}, for it neither hears nor speaks"
        )
    frames = sum(isinstance(part, Image.Image) for message in messages for part in message.content)
    whole = options.video and options.max_slice_nums is None and not fits_in_slices(loaded.config, frames)
    return replace(settings, max_slice_nums=1) if whole else settings


def _load(options: argparse.Namespace) -> LoadedVisionLanguage:
    if options.model == MINI and not has_weights(MINI):
        print("the mini has no weights yet: the answer of an untrained model follows", file=sys.stderr)
        return build_untrained(options.model, device=options.device, dtype=options.dtype)
    how = LoadOptions(
        device=options.device,
        dtype=options.dtype,
        quantize=options.quantize,
        adapter=options.adapter,
        progress=sys.stderr.isatty(),  # a bar rewrites its line, which only a terminal can
    )
    return load_model(options.model, how)


def _chat(loaded: LoadedVisionLanguage) -> Chat:
    """With a bar for what takes long, on a terminal."""
    return Chat(loaded, feed_block=FEED_BLOCK, progress=Bars()) if sys.stderr.isatty() else Chat(loaded)


class Bars:
    """One bar for each kind of thing that is worked through."""

    def __init__(self) -> None:
        self._bars: dict[str, tqdm[object]] = {}

    def __call__(self, what: str, done: int, total: int) -> None:
        if what not in self._bars:
            self._bars[what] = tqdm(total=total, unit=f" {what}", desc="Reading", leave=False)
        bar = self._bars[what]
        bar.update(done - bar.n)
        bar.refresh()
        if done >= total:
            self._bars.pop(what).close()


def _ask(chat: Chat, messages: list[Message], settings: ChatOptions, *, stream: bool) -> ChatAnswer:
    if not stream:
        answer = chat.answer(messages, settings)
        print(answer.text, flush=True)
        return answer
    pieces = chat.pieces(messages, settings)
    while True:
        try:
            print(next(pieces), end="", flush=True)
        except StopIteration as end:
            print(flush=True)
            streamed: ChatAnswer = end.value
            return streamed
