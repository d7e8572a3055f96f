"""A model directory in the Hugging Face layout → a model that can run.

::

    config.json  preprocessor_config.json  tokenizer.json  tokenizer_config.json
    model.safetensors.index.json + shards   (or one model.safetensors)
    assets/chattts_tokenizer/  assets/Vocos.pt  (or vocos.safetensors)

Nothing of the directory is executed: no remote code, no pickles beyond plain tensors.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from engine.checkpoint.adapter import Adapter
from engine.checkpoint.devices import DeviceMap, connect, free_memory, plan_devices, resolve_devices, resolve_dtype
from engine.checkpoint.quantize import BYTES, Quantizer, choose
from engine.checkpoint.weights import (
    AGAIN,
    Shard,
    assign,
    check_tensors,
    find_shards,
    has_weights,
    read_header,
    read_tensors,
)
from engine.config import CONFIG_FILE, OmniConfig, TTSConfig
from engine.config_reader import read_json
from engine.config_sizes import parameters_by_part
from engine.errors import CheckpointError, ConfigError, TokenizerError
from engine.model.decoder import store_by_input
from engine.model.omni import OmniModel
from engine.model.vocos import Vocos
from engine.processing.pronunciation import Pronunciation
from engine.processing.tokens import SPECIALS, SpecialIds
from engine.processing.words import WordTokens

__all__ = ["LoadedModel", "build_untrained", "has_weights", "load_checkpoint"]

LLM_TOKENIZER_DIRS = ("llm_tokenizer", ".")
TTS_TOKENIZER_DIRS = ("tts_tokenizer", "assets/chattts_tokenizer")
READER_TOKENIZER_DIRS = ("reader_tokenizer", "assets/reader_tokenizer")
SPEECH_TOKENS = ("[Stts]", "[spk_emb]", "[Ptts]", "[Etts]", "[PAD]")
VOCOS_FILES = ("assets/Vocos.pt", "assets/vocos.safetensors", "vocos.safetensors", "Vocos.pt")
VOICES_FILE = "assets/voices.safetensors"
LEXICON_FILE = "lexicon.txt.gz"
"""Beside the talker's tokenizer, where that one knows phones only."""
M = TypeVar("M", bound=nn.Module)
NEVER_READ = "tts.model.embed_tokens.weight"
"""The speech backbone's own embedding table, which no one looks anything up in."""


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """All that a session needs. The modules are in evaluation mode and frozen."""

    model: OmniModel
    vocos: Vocos
    """Always float32."""
    tokenizer: PreTrainedTokenizerFast
    tts_tokenizer: PreTrainedTokenizerFast
    config: OmniConfig
    trained: bool
    """False for random weights."""
    parameters: int
    """Number of weights, vocoder included, without the table that is never read and that a checkpoint may lack."""
    voices: Mapping[str, Tensor] = field(default_factory=dict)
    """Stored voices: unit vectors [tts hidden] by name. A model that has some speaks with them; the published one has
    none and takes its voice from the language model's state."""
    words: WordTokens | None = None
    """What the tokens of the reader stand for; None where the model has none."""
    pronunciation: Pronunciation | None = None
    """How text becomes the phones that the talker reads; None where its tokenizer takes text."""


def load_checkpoint(
    directory: str | Path,
    *,
    device: str = "auto",
    dtype: str = "auto",
    quantize: str = "auto",
    adapter: str | Path | None = None,
    progress: bool = True,
) -> LoadedModel:
    """Load a MiniCPM-o 2.6 directory.

    ``device``: ``auto``, ``cpu``, ``mps``, ``cuda``, ``cuda:N`` or several (``cuda:0,cuda:1``), over which the language
    model's layers are then spread; ``dtype``: ``auto``, ``float32``, ``bfloat16`` or ``float16``; ``quantize``:
    ``none``, ``int8`` or ``int4`` (the language model's weights), or ``auto``, see :func:`~.quantize.choose`;
    ``adapter``: a directory in peft's layout, put into the weights before these are quantised. Weights are read tensor
    by tensor straight to their place, so that memory never holds a second copy. Raises LoadError (ConfigError,
    CheckpointError, TokenizerError) with file, key and remedy.
    """
    directory = Path(directory)
    config = OmniConfig.from_dir(directory)
    if config.quantization is not None:
        method = config.quantization.get("quant_method", "an unknown method")
        problem = f"says that the weights are stored quantised with {method}, which is not supported yet"
        remedy = "use the bf16 checkpoint, with quantize=int4 to make it small"
        raise ConfigError(directory / CONFIG_FILE, problem, remedy, key="quantization_config")
    devices = resolve_devices(device)
    kind = resolve_dtype(dtype, devices[0])
    chosen = choose(quantize, devices[0], parameters_by_part(config)[""]) if kind == torch.float32 else quantize
    quantizer = None if chosen in ("auto", "none") else Quantizer(chosen, devices[0], kind)
    tuned = None if adapter is None else Adapter.read(Path(adapter))
    shards = find_shards(directory)
    config = replace(config, vision=replace(config.vision, drop_last_layer=_drops_vision_layer(config, shards)))
    tokenizer, tts_tokenizer = _load_tokenizers(directory, config)
    vocoder = _vocos_file(directory)

    with torch.device("meta"):
        model = OmniModel(config)
    expected = {key: parameter.shape for key, parameter in model.named_parameters(remove_duplicate=False)}
    if tuned is not None:
        tuned.check_keys(expected)
    voices = _load_voices(directory / VOICES_FILE, config, devices[0], kind)
    check_tensors(shards, expected, optional=_optional(config), ignored=_ignored(config), source=directory)
    vocos = _load_vocos(vocoder, config, devices[0])
    parameters = count(model, vocos)
    device_map = _plan(model, devices, kind, quantizer)

    def place(key: str) -> tuple[torch.device, torch.dtype] | None:
        return (device_map.device_of(key), kind) if key in expected else None

    def take(key: str, tensor: Tensor) -> None:
        assign(model, key, tensor if tuned is None else tuned(key, tensor))
        if quantizer is not None and quantizer.covers(key):
            quantizer(model, key)

    read_tensors(shards, place, take, progress=progress)
    _fill_optional(model, device_map.home, kind)
    if device_map.is_spread:
        connect(model.llm.model.layers, model.llm.model.norm, device_map)
    _store_for_steps(model)
    words, pronunciation = _load_words(directory, config), _load_pronunciation(directory)
    return LoadedModel(
        _freeze(model), vocos, tokenizer, tts_tokenizer, config, True, parameters, voices, words, pronunciation
    )


def build_untrained(directory: str | Path, seed: int = 0, *, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """The model of a directory that has configuration and tokenizers but no weights, with random ones.

    The same ``seed`` gives the same weights on every device. Raises LoadError.
    """
    directory = Path(directory)
    config = OmniConfig.from_dir(directory)
    tokenizer, tts_tokenizer = _load_tokenizers(directory, config)
    home = resolve_devices(device)[0]
    made = torch.device("cpu")  # wherever it goes, so that a seed means the same
    plan_devices([made], [free_memory(made)], [], config.parameters * torch.float32.itemsize)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model, vocos = OmniModel(config), Vocos(config.vocos)
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
    model = model.to(home, resolve_dtype(dtype, home))
    _store_for_steps(model)
    vocos, parameters = _freeze(vocos.to(home)), count(model, vocos)
    words = _load_words(directory, config)
    return LoadedModel(_freeze(model), vocos, tokenizer, tts_tokenizer, config, False, parameters, words=words)


def count(model: OmniModel, vocos: Vocos) -> int:
    """Number of weights, see :attr:`LoadedModel.parameters`. A model that is quantised has fewer afterwards."""
    read = [weight for key, weight in model.named_parameters() if key != NEVER_READ]
    return sum(weight.numel() for weight in [*read, *vocos.parameters()])


def _store_for_steps(model: OmniModel) -> None:
    """On a CPU, store what every step of text or speech is multiplied with as a product of few rows reads it best."""
    heads: list[nn.Module] = [] if model.llm.tied else [model.llm.lm_head]
    for module in [*model.llm.model.layers.modules(), *model.tts.model.layers.modules(), *heads]:
        # A quantised weight is a tensor of another class, with a layout of its own.
        if isinstance(module, nn.Linear) and type(module.weight.data) is Tensor and module.weight.device.type == "cpu":
            module.weight.data = store_by_input(module.weight.data)


def _freeze(module: M) -> M:
    return module.requires_grad_(False).eval()


def _drops_vision_layer(config: OmniConfig, shards: list[Shard]) -> bool:
    """What the configuration says; where it says nothing, whether the checkpoint lacks the last layer."""
    if config.vision.drop_last_layer is not None:
        return config.vision.drop_last_layer
    last = f"vpm.encoder.layers.{config.vision.num_hidden_layers - 1}."
    return not any(key.startswith(last) for shard in shards for key in shard.tensors)


def _optional(config: OmniConfig) -> Callable[[str], bool]:
    tied = {"llm.lm_head.weight"} if config.llm.tie_word_embeddings else set()
    return lambda key: key == NEVER_READ or key in tied


def _ignored(config: OmniConfig) -> Callable[[str], bool]:
    """Tensors of a vocoder that was saved along, and of a vision layer that the configuration drops."""
    dropped = f"vpm.encoder.layers.{config.vision.num_layers}."
    if config.vision.num_layers == config.vision.num_hidden_layers:
        return lambda key: key.startswith("vocos.")
    return lambda key: key.startswith(("vocos.", dropped))


def _plan(model: OmniModel, devices: list[torch.device], dtype: torch.dtype, quantizer: Quantizer | None) -> DeviceMap:
    layers, other = [0.0] * len(model.llm.model.layers), 0.0
    for key, weight in model.named_parameters():
        covered = quantizer is not None and quantizer.covers(key)
        size = weight.numel() * (BYTES[quantizer.name] if quantizer is not None and covered else dtype.itemsize)
        if key.startswith("llm.model.layers."):
            layers[int(key.split(".", 4)[3])] += size
        else:
            other += size
    return plan_devices(devices, [free_memory(device) for device in devices], list(map(int, layers)), int(other))


def _fill_optional(model: OmniModel, device: torch.device, dtype: torch.dtype) -> None:
    """Give the parameters that a checkpoint may leave out a value that takes no memory."""
    unread = model.tts.model.embed_tokens.weight
    if unread.is_meta:
        assign(model, NEVER_READ, torch.zeros(1, 1, device=device, dtype=dtype).expand(unread.shape))
    model.llm.tie()


def _load_tokenizers(directory: Path, config: OmniConfig) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    llm, llm_path = _load_tokenizer(directory, LLM_TOKENIZER_DIRS)
    tts, tts_path = _load_tokenizer(directory, TTS_TOKENIZER_DIRS)
    SpecialIds.resolve(llm, str(llm_path))
    _check_declared(llm_path, SPECIALS.values())
    _check_declared(tts_path, SPEECH_TOKENS)
    _check_size(llm, llm_path, config.llm.vocab_size, "vocab_size")
    _check_size(tts, tts_path, config.tts.num_text_tokens, "tts_config.num_text_tokens")
    _check_speech_tokens(tts, tts_path, config.tts)
    return llm, tts


def _load_words(directory: Path, config: OmniConfig) -> WordTokens | None:
    """The tokenizer of the reader, if there is one."""
    if config.reader is None:
        return None
    path = next((p for d in READER_TOKENIZER_DIRS if (p := directory / d / "tokenizer.json").is_file()), None)
    if path is None:
        raise TokenizerError(directory / READER_TOKENIZER_DIRS[-1] / "tokenizer.json", "is missing", AGAIN)
    try:
        words = Tokenizer.from_file(str(path))
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise TokenizerError(path, f"cannot be read ({type(error).__name__}: {error})", AGAIN) from error
    if words.get_vocab_size() > config.reader.vocab_size:
        problem = f"has {words.get_vocab_size()} tokens, but reader_config.vocab_size is {config.reader.vocab_size}"
        raise TokenizerError(path, problem, f"use the tokenizer and {CONFIG_FILE} of one checkpoint")
    return WordTokens(words, config.reader.vocab_size)


def _load_pronunciation(directory: Path) -> Pronunciation | None:
    """The lexicon of a talker that reads phones, if there is one."""
    path = next((p for d in TTS_TOKENIZER_DIRS if (p := directory / d / LEXICON_FILE).is_file()), None)
    if path is None:
        return None
    try:
        return Pronunciation.from_file(path)
    except (OSError, EOFError, ValueError) as error:  # gzip raises the first two
        raise TokenizerError(path, f"cannot be read ({type(error).__name__}: {error})", AGAIN) from error


def _load_tokenizer(directory: Path, places: tuple[str, ...]) -> tuple[PreTrainedTokenizerFast, Path]:
    folder = next((directory / place for place in places if (directory / place).is_dir()), directory / places[-1])
    path, settings = folder / "tokenizer.json", folder / "tokenizer_config.json"
    if not path.is_file():
        raise TokenizerError(path, "is missing", AGAIN)
    read_json(settings)
    try:
        return PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True), path
    except Exception as error:  # the tokenizers library raises bare exceptions
        raise TokenizerError(path, f"cannot be read ({type(error).__name__}: {error})", AGAIN) from error


def _check_declared(path: Path, tokens: Iterable[str]) -> None:
    """Refuse tokens that the files give no id to: transformers would silently add them behind the vocabulary."""
    config = read_json(path.with_name("tokenizer_config.json"))
    added = {entry.get("content") for entry in config.get("added_tokens_decoder", {}).values()}
    vocabulary = Tokenizer.from_file(str(path)).get_vocab(with_added_tokens=True)
    for token in tokens:
        if token not in vocabulary and token not in added:
            remedy = "use the tokenizers of MiniCPM-o 2.6"
            raise TokenizerError(path, "is not in the vocabulary", remedy, key=token)


def _check_size(tokenizer: PreTrainedTokenizerFast, path: Path, rows: int, key: str) -> None:
    highest = max(tokenizer.get_vocab().values(), default=0)
    if highest >= rows:
        problem = f"has the token id {highest}, but {key} in {CONFIG_FILE} is {rows}"
        raise TokenizerError(path, problem, f"use the tokenizer and {CONFIG_FILE} of one checkpoint")


def _check_speech_tokens(tokenizer: PreTrainedTokenizerFast, path: Path, config: TTSConfig) -> None:
    wanted = {
        "[spk_emb]": config.spk_emb_token_id,
        "[Ptts]": config.audio_bos_token_id,
        "[Etts]": config.text_eos_token_id,
    }
    for text, number in wanted.items():
        found = tokenizer.convert_tokens_to_ids(text)
        if found != number:
            problem = f"has the id {found} where {CONFIG_FILE} says {number}"
            raise TokenizerError(path, problem, f"use the tokenizer and {CONFIG_FILE} of one checkpoint", key=text)


def _vocos_file(directory: Path) -> Path:
    for name in VOCOS_FILES:
        if (directory / name).is_file():
            return directory / name
    problem = "is missing, and so is vocos.safetensors"
    raise CheckpointError(directory / VOCOS_FILES[0], problem, "download the vocoder with the checkpoint")


def _load_vocos(path: Path, config: OmniConfig, device: torch.device) -> Vocos:
    """The vocoder in float32. What it needs for encoding, and its window (a constant), is left out."""
    with torch.device("meta"):
        vocos = Vocos(config.vocos)
    expected = {key: parameter.shape for key, parameter in vocos.named_parameters()}
    if path.suffix == ".safetensors":
        shards = [Shard(path, read_header(path))]
        check_tensors(shards, expected, ignored=_not_vocoding, source=path)
        place = (device, torch.float32)
        read_tensors(shards, lambda key: place if key in expected else None, lambda k, t: assign(vocos, k, t))
    else:
        for key, tensor in _checked_pickle(path, expected).items():
            assign(vocos, key, tensor.to(device, torch.float32, copy=True))
    return _freeze(vocos)


def _load_voices(path: Path, config: OmniConfig, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The stored voices, if the checkpoint has some."""
    if not path.is_file():
        return {}
    shards, found = [Shard(path, read_header(path))], dict[str, Tensor]()
    expected = dict.fromkeys(shards[0].tensors, torch.Size([config.tts.hidden_size]))
    check_tensors(shards, expected, source=path)
    read_tensors(shards, lambda key: (device, dtype), found.__setitem__)
    return found


def _not_vocoding(key: str) -> bool:
    return key.startswith(("feature_extractor.", "head.istft."))


def _checked_pickle(path: Path, expected: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Tensors of a torch file, read without running anything in it. Raises CheckpointError."""
    try:
        held: Any = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        problem = "holds more than plain tensors, or is damaged"
        raise CheckpointError(path, problem, "download the official Vocos.pt again") from error
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise CheckpointError(path, "is truncated or no torch file", AGAIN) from error
    if not isinstance(held, dict) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        raise CheckpointError(path, "is not a dictionary of tensors", "download the official Vocos.pt again")
    state: dict[str, Tensor] = {key: tensor for key, tensor in held.items() if not _not_vocoding(key)}
    remedy = f"use Vocos.pt and {CONFIG_FILE} of the same checkpoint"
    for key in [*state, *expected]:
        if key not in expected or key not in state:
            problem = "is missing" if key in expected else "is unexpected: the vocoder has no such tensor"
            raise CheckpointError(path, problem, remedy, key=key)
        if state[key].shape != expected[key] or not state[key].is_floating_point():
            stored = f"{list(state[key].shape)} of {str(state[key].dtype).removeprefix('torch.')}"
            problem = f"has the size {stored} where {list(expected[key])} of floating-point numbers is needed"
            raise CheckpointError(path, problem, remedy, key=key)
        if not state[key].isfinite().all():
            raise CheckpointError(path, "holds numbers that are infinite or none at all", AGAIN, key=key)
    return state
