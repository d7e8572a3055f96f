"""A model directory in the Hugging Face layout → a model that can run.

::

    config.json  preprocessor_config.json  tokenizer.json  tokenizer_config.json   (tokenizer.model for V 2.0)
    model.safetensors.index.json + shards   (or one model.safetensors, or pytorch_model*.bin)
    assets/chattts_tokenizer/  assets/Vocos.pt  (or vocos.safetensors)              (MiniCPM-o 2.6 only)

Which model of the family it is, ``config.json`` says. Nothing of the directory is executed: no remote code, no pickles
beyond plain tensors.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from engine.checkpoint.adapter import Adapter
from engine.checkpoint.devices import DeviceMap, connect, free_memory, plan_devices, resolve_devices, resolve_dtype
from engine.checkpoint.load_options import DEFAULTS, LoadOptions
from engine.checkpoint.nf4 import NF4, Nf4Quantizer
from engine.checkpoint.quantize import Quantizer, bytes_of, choose
from engine.checkpoint.stored import Stored, StoredReader, stored_format
from engine.checkpoint.tokenizer_files import (
    FamilyTokenizer,
    load_pronunciation,
    load_speech_tokenizer,
    load_tokenizer,
    load_words,
)
from engine.checkpoint.vocoder import load_vocoder, vocoder_file
from engine.checkpoint.weights import (
    Shard,
    assign,
    check_tensors,
    find_shards,
    has_weights,
    read_header,
    read_tensors,
)
from engine.config import OmniConfig, VisionLanguageConfig, read_config
from engine.model.decoder import store_by_input
from engine.model.int4 import GroupedWeight
from engine.model.omni import OmniModel
from engine.model.vision_language import VisionLanguageModel
from engine.model.vocos import Vocos
from engine.processing.pronunciation import Pronunciation
from engine.processing.words import WordTokens

__all__ = ["LoadedModel", "LoadedVisionLanguage", "build_untrained", "has_weights", "load_checkpoint", "load_model"]

VOICES_FILE = "assets/voices.safetensors"
M = TypeVar("M", bound=nn.Module)
NEVER_READ = "tts.model.embed_tokens.weight"
"""The speech backbone's own embedding table, which no one looks anything up in."""


@dataclass(frozen=True, slots=True)
class LoadedVisionLanguage:
    """A model that sees and writes: all of a MiniCPM-V model. The modules are in evaluation mode and frozen."""

    model: VisionLanguageModel
    tokenizer: FamilyTokenizer
    config: VisionLanguageConfig
    trained: bool
    """False for random weights."""
    parameters: int
    """Number of weights, vocoder included, without the table that is never read and that a checkpoint may lack."""


@dataclass(frozen=True, slots=True)
class LoadedModel(LoadedVisionLanguage):
    """MiniCPM-o 2.6: all that a call's session needs."""

    model: OmniModel
    tokenizer: PreTrainedTokenizerFast
    config: OmniConfig
    vocos: Vocos
    """Always float32."""
    tts_tokenizer: PreTrainedTokenizerFast
    voices: Mapping[str, Tensor] = field(default_factory=dict)
    """Stored voices: unit vectors [tts hidden] by name. A model that has some speaks with them; the published one has
    none and takes its voice from the language model's state."""
    words: WordTokens | None = None
    """What the tokens of the reader stand for; None where the model has none."""
    pronunciation: Pronunciation | None = None
    """How text becomes the phones that the talker reads; None where its tokenizer takes text."""
    namer: LoadedVisionLanguage | None = None
    """Another model of the family, which says in words what a picture shows; None where this one has eyes, or none."""


def load_model(directory: str | Path, options: LoadOptions = DEFAULTS) -> LoadedVisionLanguage:
    """Load a directory of any model of the family: a :class:`LoadedModel` for MiniCPM-o 2.6.

    Weights are read tensor by tensor straight to their place, so that memory never holds a second copy. Raises
    LoadError (ConfigError, CheckpointError, TokenizerError) with file, key and remedy.
    """
    directory, config = Path(directory), read_config(directory)
    if isinstance(config, OmniConfig):
        return _load_omni(directory, config, options)
    weights = _Weights(directory, config, options)
    tokenizer = load_tokenizer(directory, config)
    with torch.device("meta"):
        model = VisionLanguageModel(weights.config)
    weights.check(model)
    parameters = count(model)
    weights.read(model, progress=options.progress)
    return LoadedVisionLanguage(_freeze(model), tokenizer, weights.config, True, parameters)


def load_checkpoint(directory: str | Path, options: LoadOptions = DEFAULTS) -> LoadedModel:
    """Load a MiniCPM-o 2.6 directory, as :func:`load_model`. Raises ConfigError for another model of the family."""
    directory = Path(directory)
    return _load_omni(directory, OmniConfig.from_dir(directory), options)


def _load_omni(directory: Path, config: OmniConfig, options: LoadOptions) -> LoadedModel:
    weights = _Weights(directory, config, options)
    config = replace(config, vision=weights.config.vision)
    tokenizer, tts_tokenizer = load_tokenizer(directory, config), load_speech_tokenizer(directory, config)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    vocoder = vocoder_file(directory)
    with torch.device("meta"):
        model = OmniModel(config)
    voices = _load_voices(directory / VOICES_FILE, config, weights.devices[0], weights.dtype)
    weights.check(model)
    vocos = load_vocoder(vocoder, config, weights.devices[0])
    parameters = count(model, vocos)
    weights.read(model, progress=options.progress)
    return LoadedModel(
        _freeze(model),
        tokenizer,
        config,
        True,
        parameters,
        vocos,
        tts_tokenizer,
        voices,
        None if config.reader is None else load_words(directory, config.reader),
        load_pronunciation(directory),
        _load_namer(directory, config, options),
    )


def _load_namer(directory: Path, config: OmniConfig, options: LoadOptions) -> LoadedVisionLanguage | None:
    """In float32: how certain it is has been measured so. Raises LoadError."""
    if config.naming is None:
        return None
    device = str(resolve_devices(options.device)[0])
    return load_model(
        directory / config.naming.folder, LoadOptions(device, "float32", "none", progress=options.progress)
    )


class _Weights:
    """The weight files of a directory, on their way into a model."""

    def __init__(self, directory: Path, config: VisionLanguageConfig, options: LoadOptions) -> None:
        """Raises LoadError."""
        form = stored_format(directory, config.quantization)
        self.directory = directory
        self.devices = resolve_devices(options.device)
        self.dtype = resolve_dtype(options.dtype, self.devices[0])
        in_groups = form is not None and form.keeps_groups
        size = config.weights_by_part()[""]
        chosen = choose(options.quantize, self.devices[0], self.dtype, size, in_groups=in_groups)
        self.quantizer: Quantizer | None = None
        if chosen == NF4:
            self.quantizer = Nf4Quantizer(self.devices[0], self.dtype)
        elif chosen != "none":
            reads = isinstance(config, OmniConfig) and config.reader is not None
            self.quantizer = Quantizer(chosen, self.devices[0], self.dtype, reads=reads)
        self.for_training = options.for_training
        self.adapter = None if options.adapter is None else Adapter.read(Path(options.adapter))
        self.shards = find_shards(directory)
        self.form, self.stored = form, cast(StoredReader | None, None)
        vision = replace(config.vision, drop_last_layer=_drops_vision_layer(config, self.shards))
        self.config = replace(config, vision=vision)

    def check(self, model: VisionLanguageModel) -> None:
        """Compare the files with a model that is on the meta device. Raises CheckpointError."""
        expected, shards = _shapes(model), self.shards
        if self.adapter is not None:
            self.adapter.check_keys(expected)
        if self.form is not None:
            self.stored = StoredReader(self.form, shards, expected)
            shards = self.stored.plain(shards)
        check_tensors(
            shards,
            expected,
            optional=_optional(self.config),
            ignored=_ignored(self.config),
            source=self.directory,
        )

    def read(self, model: VisionLanguageModel, *, progress: bool) -> None:
        """Put the weights in their places. Raises LoadError."""
        expected, device_map = _shapes(model), _plan(model, self.devices, self.dtype, self.quantizer)

        def place(key: str) -> tuple[torch.device, torch.dtype] | None:
            base, dtype = (key, None) if self.stored is None else self.stored.kind(key)
            return (device_map.device_of(base), dtype or self.dtype) if base in expected or dtype else None

        def take(key: str, tensor: Tensor) -> None:
            whole = (key, tensor) if self.stored is None else self.stored.take(self.directory, key, tensor)
            if whole is not None:
                self._put(model, *whole)

        read_tensors(self.shards, place, take, progress=progress)
        _fill_optional(model, device_map.home, self.dtype)
        if device_map.is_spread:
            connect(model.llm.model.layers, model.llm.model.norm, device_map)
        if not self.for_training:
            store_for_steps(model)

    def _put(self, model: VisionLanguageModel, key: str, weight: Stored) -> None:
        """One weight, with the adapter in it, and quantised. One that is stored in groups of four bits stays as it is
        where that is what is wanted."""
        quantizer = self.quantizer if self.quantizer is not None and self.quantizer.covers(key) else None
        changed = self.adapter is not None and self.adapter.changes(key)
        if isinstance(weight, GroupedWeight):
            if quantizer is not None and quantizer.name == "int4" and weight.fits_kernel and not changed:
                quantizer(model, key, weight)
                return
            weight = weight.floats()
        weight = weight.to(self.dtype)
        assign(model, key, weight if self.adapter is None else self.adapter(key, weight))
        if quantizer is not None:
            quantizer(model, key)


def _shapes(model: nn.Module) -> dict[str, torch.Size]:
    return {key: parameter.shape for key, parameter in model.named_parameters(remove_duplicate=False)}


def build_untrained(directory: str | Path, seed: int = 0, *, device: str = "auto", dtype: str = "auto") -> LoadedModel:
    """The model of a directory that has configuration and tokenizers but no weights, with random ones.

    The same ``seed`` gives the same weights on every device. Raises LoadError.
    """
    directory = Path(directory)
    config = OmniConfig.from_dir(directory)
    tokenizer, tts_tokenizer = load_tokenizer(directory, config), load_speech_tokenizer(directory, config)
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
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
    store_for_steps(model)
    vocos, parameters = _freeze(vocos.to(home)), count(model, vocos)
    words = None if config.reader is None else load_words(directory, config.reader)
    return LoadedModel(_freeze(model), tokenizer, config, False, parameters, vocos, tts_tokenizer, words=words)


def count(model: nn.Module, vocos: Vocos | None = None) -> int:
    """Number of weights, see :attr:`LoadedModel.parameters`. A model that is quantised has fewer afterwards."""
    read = [weight for key, weight in model.named_parameters() if key != NEVER_READ]
    return sum(weight.numel() for weight in [*read, *([] if vocos is None else vocos.parameters())])


def store_for_steps(model: VisionLanguageModel) -> None:
    """Store what every step of text or speech is multiplied with as its device reads it best: on a CPU, a product of
    few rows; elsewhere, few products. To be called once, when the weights are there to stay."""
    if model.device.type != "cpu":
        model.join()
        return
    heads: list[nn.Module] = [] if model.llm.tied else [model.llm.lm_head]
    speech = model.tts.model.layers.modules() if isinstance(model, OmniModel) else ()
    for module in [*model.llm.model.layers.modules(), *speech, *heads]:
        # A quantised weight is a tensor of another class, with a layout of its own.
        if isinstance(module, nn.Linear) and type(module.weight.data) is Tensor and module.weight.device.type == "cpu":
            module.weight.data = store_by_input(module.weight.data)


def _freeze(module: M) -> M:
    return module.requires_grad_(False).eval()


def _drops_vision_layer(config: VisionLanguageConfig, shards: list[Shard]) -> bool:
    """What the configuration says; where it says nothing, whether the checkpoint lacks the last layer."""
    if config.vision.drop_last_layer is not None:
        return config.vision.drop_last_layer
    last = f"{config.vision.layer_keys}{config.vision.num_hidden_layers - 1}."
    return not any(key.startswith(last) for shard in shards for key in shard.tensors)


def _optional(config: VisionLanguageConfig) -> Callable[[str], bool]:
    tied = {"llm.lm_head.weight"} if config.llm.tie_word_embeddings else set()
    return lambda key: key == NEVER_READ or key in tied


def _ignored(config: VisionLanguageConfig) -> Callable[[str], bool]:
    """Tensors of a vocoder that was saved along, and of a vision layer that the configuration drops."""
    dropped = ["vocos."] if isinstance(config, OmniConfig) else []
    if config.vision.num_layers < config.vision.num_hidden_layers:
        dropped.append(f"{config.vision.layer_keys}{config.vision.num_layers}.")
    return lambda key: key.startswith(tuple(dropped))


def _plan(
    model: VisionLanguageModel, devices: list[torch.device], dtype: torch.dtype, quantizer: Quantizer | None
) -> DeviceMap:
    layers, other = [0] * len(model.llm.model.layers), 0
    for key, weight in model.named_parameters():
        name = "none" if quantizer is None or not quantizer.covers(key) else quantizer.name
        size = bytes_of(name, weight.shape, dtype)
        if key.startswith("llm.model.layers."):
            layers[int(key.split(".", 4)[3])] += size
        else:
            other += size
    return plan_devices(devices, [free_memory(device) for device in devices], layers, other)


def _fill_optional(model: VisionLanguageModel, device: torch.device, dtype: torch.dtype) -> None:
    """Give the parameters that a checkpoint may leave out a value that takes no memory."""
    if isinstance(model, OmniModel) and model.tts.model.embed_tokens.weight.is_meta:
        shape = model.tts.model.embed_tokens.weight.shape
        assign(model, NEVER_READ, torch.zeros(1, 1, device=device, dtype=dtype).expand(shape))
    model.llm.tie()


def _load_voices(path: Path, config: OmniConfig, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    """The stored voices, if the checkpoint has some."""
    if not path.is_file():
        return {}
    shards, found = [Shard(path, read_header(path))], dict[str, Tensor]()
    expected = dict.fromkeys(shards[0].tensors, torch.Size([config.tts.hidden_size]))
    check_tensors(shards, expected, source=path)
    read_tensors(shards, lambda key: (device, dtype), found.__setitem__)
    return found
