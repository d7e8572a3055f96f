"""Downloads, conversions and our own parts → the checkpoint of small: a directory in the official layout.

::

    config.json  preprocessor_config.json  generation_config.json  notice.txt  examples.txt  prompt.txt
    tokenizer.json  tokenizer_config.json       the language model's, with MiniCPM-o's tokens on free ids
    model.safetensors.index.json
    language.safetensors                        llm.*
    ears.safetensors                            apm.* (Whisper's encoder), reader.* (its decoder)
    voice.safetensors                           tts.*, audio_projection_layer.*
    naming/                                     mini's eyes and language, a checkpoint of its own: says what is seen
    assets/                                     vocoder, talker's and reader's tokenizers, voices
    assembled.json                              what it was made of, and the SHA-256 of every file

Trained parts come from ``engine/small/parts/``: a ``NAME.safetensors`` there is one more shard whose tensors win, a
``NAME.json`` is laid over ``config.json`` (block by block: what a block of it does not name stays), and its ``assets/``
over these.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from engine.checkpoint.adapter import Adapter
from engine.checkpoint.weights import INDEX_FILE, read_header
from engine.config_reader import read_json
from engine.serving.live_engine import MINI
from engine.small import layout
from engine.small.ctranslate2 import whisper_tensors
from engine.small.fetch import AssemblyError, disk_errors, fetch, sha256_of
from engine.small.language import TABLE, LanguageSource, from_folder, from_gguf, with_extra
from engine.small.naming import naming_config, naming_tensors, write_naming
from engine.small.packages import QWEN, QWEN_TOLD, WHISPER, WHISPER_CONFIG, WHISPER_TOKENIZER
from engine.small.shards import Planned, planned, with_adapter, write_shard
from engine.small.voice import constant, stored_voices, talker

RECIPE = 6
"""To be raised when this package writes something else of the same parts."""
MANIFEST = "assembled.json"
EARS = (WHISPER, WHISPER_TOKENIZER, WHISPER_CONFIG)
HERE = Path(__file__).parent
PARTS, TEXTS = HERE / "parts", HERE / "texts"
TAUGHT = PARTS / "language"


@dataclass(frozen=True, slots=True)
class Order:
    """What to assemble, and where."""

    cache: Path
    language: Path | None = None
    """A makers' folder to take the language model from."""
    ears_only: bool = False
    """Nothing but what reads words."""

    @property
    def target(self) -> Path:
        """The directory of the checkpoint."""
        if self.ears_only:
            return self.cache / "small-ears"
        return self.cache / ("small" if self.language is None else f"small-{self.language.resolve().name}")

    @property
    def downloads(self) -> Path:
        """Where what is downloaded waits."""
        return self.cache / ("downloads-ears" if self.ears_only else "downloads")

    def recipe(self) -> dict[str, Any]:
        """What the checkpoint is made of; another recipe is another checkpoint."""
        ears = [whole.sha256 for whole in EARS]
        if self.ears_only:
            return {"recipe": RECIPE, "ears": ears}
        parts = {
            str(path.relative_to(folder)): sha256_of(path)
            for folder in (MINI, PARTS, TEXTS)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        return {
            "recipe": RECIPE,
            "language": QWEN.sha256 if self.language is None else _fingerprint(self.language),
            "ears": ears,
            "own": parts,
        }


def _fingerprint(folder: Path) -> str:
    """A folder of somebody's own: names, sizes and times, since hashing 15 GB at every start is no answer."""
    lines = [f"{folder.resolve()}"]
    for path in sorted(folder.glob("*.*")):
        lines.append(f"{path.name} {path.stat().st_size} {path.stat().st_mtime_ns}")
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def assemble(order: Order, *, progress: bool = True, tell: Callable[[str], None] = print) -> Path:
    """The directory of small, checked file by file, and made where it is missing, damaged or of another recipe.

    Raises AssemblyError, or LoadError for a language model that is not what it should be.
    """
    with _alone(order.cache):
        if order.language is not None and not order.language.is_dir():
            raise AssemblyError(f"LANGUAGE={order.language}: there is no such folder; name one that holds config.json")
        recipe = order.recipe()
        fault = _fault(order.target, recipe)
        if fault is None:
            return order.target
        what = "small's ears" if order.ears_only else "small"
        tell(f"Assembling {what} in {order.target}: {fault}.")
        if order.language is None and not order.ears_only:
            tell(QWEN_TOLD)
        make = _make_ears if order.ears_only else _make
        with _building(order, recipe) as folder:
            make(order, folder, progress=progress)
        return order.target


@contextmanager
def _alone(cache: Path) -> Iterator[None]:
    """Waits for others that assemble in the same cache."""
    with disk_errors(cache):
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def _fault(target: Path, recipe: dict[str, Any]) -> str | None:
    """Why a directory is not what the recipe makes; None if it is."""
    if not (target / MANIFEST).is_file():
        return "it is not there yet"
    try:
        made = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
        if made["recipe"] != recipe:
            return "it was made of other parts"
        for name, sha256 in made["files"].items():
            if not (target / name).is_file() or sha256_of(target / name) != sha256:
                return f"{name} is missing or damaged"
    except (ValueError, KeyError, TypeError, AttributeError):
        return f"{MANIFEST} is damaged"
    return None


@contextmanager
def _building(order: Order, recipe: dict[str, Any]) -> Iterator[Path]:
    """A folder that becomes the order's own, with a manifest, when all is written; downloads go then."""
    building = order.target.with_name(f"{order.target.name}.partial")
    shutil.rmtree(building, ignore_errors=True)
    (building / "assets").mkdir(parents=True)
    yield building
    files = {str(path.relative_to(building)): sha256_of(path) for path in sorted(building.rglob("*")) if path.is_file()}
    _document(building / MANIFEST, {"recipe": recipe, "files": files})
    shutil.rmtree(order.target, ignore_errors=True)
    os.replace(building, order.target)
    shutil.rmtree(order.downloads, ignore_errors=True)


def _make(order: Order, folder: Path, *, progress: bool) -> None:
    wholes = [*EARS, *([QWEN] if order.language is None else [])]
    whisper, reader_tokenizer, whisper_config, *gguf = fetch(wholes, order.downloads, progress=progress)
    language = with_extra(from_folder(order.language) if order.language else from_gguf(gguf[0]))
    if order.language is None and TAUGHT.is_dir():
        language = replace(language, tensors=with_adapter(language.tensors, Adapter.read(TAUGHT)))
    voices = stored_voices()
    _write_weights(folder, language, whisper, voices["default"], progress=progress)
    _write_assets(folder, reader_tokenizer, voices)
    _write_documents(folder, language, read_json(whisper_config))


def _make_ears(order: Order, folder: Path, *, progress: bool) -> None:
    """What :func:`engine.checkpoint.reader.load_reader` takes."""
    whisper, reader_tokenizer, whisper_config = fetch(EARS, order.downloads, progress=progress)
    write_shard(folder / "model.safetensors", _ears(whisper), lambda _: None)
    _write_reader_tokenizer(folder, reader_tokenizer)
    _document(folder / "config.json", layout.SENSES | {"reader_config": _reader(read_json(whisper_config))})
    _document(folder / "preprocessor_config.json", layout.PREPROCESSOR)


def _write_weights(folder: Path, language: LanguageSource, whisper: Path, voice: Tensor, *, progress: bool) -> None:
    width: int = language.sizes["hidden_size"]
    shards: dict[str, list[Planned]] = {
        "language.safetensors": language.tensors,
        "ears.safetensors": _ears(whisper),
        "voice.safetensors": [*talker(width, voice), *_blank(language)],
    }
    trained = {path: read_header(path) for path in sorted(PARTS.glob("*.safetensors"))}
    ours = {key for header in trained.values() for key in header}
    shards = {name: [tensor for tensor in tensors if tensor.key not in ours] for name, tensors in shards.items()}
    size = sum(tensor.size for tensors in shards.values() for tensor in tensors)
    index: dict[str, str] = {}
    seen = naming_tensors()
    with tqdm(
        total=size + sum(tensor.size for tensor in seen),
        unit="B",
        unit_scale=True,
        desc="Writing weights",
        disable=not progress,
    ) as bar:
        for name, tensors in shards.items():
            write_shard(folder / name, tensors, bar.update)
            index |= dict.fromkeys((tensor.key for tensor in tensors), name)
        write_naming(folder / "naming", seen, bar.update)
    for path, header in trained.items():
        shutil.copyfile(path, folder / path.name)
        index |= dict.fromkeys(header, path.name)
    _document(folder / INDEX_FILE, {"metadata": {"total_size": size}, "weight_map": index})


def _ears(whisper: Path) -> list[Planned]:
    """Whisper's encoder and decoder."""
    renamed = {"encoder.": "apm.", "decoder.": "reader."}
    return [
        planned(new + key.removeprefix(old), tensor)
        for key, tensor in whisper_tensors(whisper)
        for old, new in renamed.items()
        if key.startswith(old)
    ]


def _blank(language: LanguageSource) -> list[Planned]:
    """A projector that hears nothing: every sound is a space, which disturbs this language model least."""
    space = language.tokenizer.encode(" ", add_special_tokens=False).ids[0]
    table = next(tensor for tensor in language.tensors if tensor.key == TABLE)
    row = torch.cat([piece[space : space + 1].float() for piece in table.pieces()])
    return constant("audio_projection_layer", layout.SENSES["audio_config"]["d_model"], row[0])


def _write_assets(folder: Path, reader_tokenizer: Path, voices: dict[str, Tensor]) -> None:
    assets = folder / "assets"
    shutil.copytree(MINI / "assets" / "chattts_tokenizer", assets / "chattts_tokenizer")
    shutil.copyfile(MINI / "assets" / "vocos.safetensors", assets / "vocos.safetensors")
    _write_reader_tokenizer(folder, reader_tokenizer)
    save_file({name: vector.contiguous() for name, vector in voices.items()}, assets / "voices.safetensors")
    if (PARTS / "assets").is_dir():
        shutil.copytree(PARTS / "assets", assets, dirs_exist_ok=True)


def _write_reader_tokenizer(folder: Path, source: Path) -> None:
    place = folder / "assets" / "reader_tokenizer"
    place.mkdir()
    shutil.copyfile(source, place / "tokenizer.json")


def _reader(whisper: dict[str, Any]) -> dict[str, Any]:
    """The block ``reader_config``."""
    suppressed = {"suppress_tokens": whisper["suppress_ids"], "begin_suppress_tokens": whisper["suppress_ids_begin"]}
    return layout.READER | suppressed


def _write_documents(folder: Path, language: LanguageSource, whisper: dict[str, Any]) -> None:
    language.tokenizer.save(str(folder / "tokenizer.json"))
    mini = read_json(MINI / "config.json")
    voice = {block: mini[block] for block in ("tts_config", "dvae_config", "vocos_config")}
    config = layout.config(language, _reader(whisper), voice) | {"naming_config": naming_config()}
    _document(folder / "config.json", with_parts(config, PARTS))
    told = (TEXTS / "prompt.txt").read_text(encoding="utf-8").strip()
    _document(folder / "tokenizer_config.json", layout.TOKENIZER | {"chat_template": layout.chat_template(told)})
    _document(folder / "preprocessor_config.json", layout.PREPROCESSOR)
    _document(folder / "generation_config.json", layout.GENERATION)
    for path in sorted(TEXTS.iterdir()):
        shutil.copyfile(path, folder / path.name)


def with_parts(config: dict[str, Any], parts: Path) -> dict[str, Any]:
    """``config`` with what the parts lay over it, block by block."""
    laid = dict(config)
    for path in sorted(parts.glob("*.json")):
        for key, value in read_json(path).items():
            laid[key] = laid.get(key, {}) | value if isinstance(value, dict) else value
    return laid


def _document(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
