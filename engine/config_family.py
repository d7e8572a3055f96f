"""What all models of the family have: a language model that sees. The MiniCPM-V models are just that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.config_language import NAMES, Generation, LLMConfig, read_language_config
from engine.config_reader import Reader, read_json
from engine.config_sizes import check_size, language_weights, sight_weights
from engine.config_vision import (
    REMEDY,
    ImageConfig,
    VisionConfig,
    read_image_config,
    read_query_num,
    read_vision_config,
)
from engine.errors import ConfigError
from engine.foreign import INSTEAD, foreign_format

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
TYPES = {"MiniCPMO": "minicpmo", "MiniCPMV": "minicpmv"}
"""The model type that goes with an architecture."""
VERSIONS: dict[str, Generation] = {"2": "v-2.0", "2.0": "v-2.0", "2.5": "v-2.5", "2.6": "v-2.6"}


@dataclass(frozen=True, slots=True)
class VisionLanguageConfig:
    """Everything that language and eyes need to know to be built."""

    generation: Generation
    llm: LLMConfig
    vision: VisionConfig
    image: ImageConfig
    query_num: int
    sees: bool
    """False for a model without eyes (``init_vision`` is false): no ``vpm``, no ``resampler``."""
    quantization: Mapping[str, Any] | None
    """The checkpoint's own ``quantization_config``, if its weights are stored quantised."""

    @property
    def takes_pictures(self) -> bool:
        """Whether pictures reach the language model."""
        return self.sees

    @property
    def resampler_heads(self) -> int:
        return max(1, self.llm.hidden_size // 128)

    def weights_by_part(self) -> dict[str, int]:
        """Weights of every part, keyed by where ``config.json`` gives its sizes (``""``: at the top), to about one per
        cent: norms and biases are left out."""
        return {"": language_weights(self), "vision_config": sight_weights(self)}

    @property
    def parameters(self) -> int:
        """Weights of all parts, to about one per cent."""
        return sum(self.weights_by_part().values())

    @classmethod
    def from_dicts(
        cls, config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None = None, source: str | Path = CONFIG_FILE
    ) -> VisionLanguageConfig:
        """A MiniCPM-V model from the contents of the two files; ``source`` is the name used in errors. Raises
        ConfigError."""
        root, pre = readers(config, preprocessor, source)
        generation = recognise(root)
        if generation == "o-2.6":
            raise root.error("architectures", f"is {NAMES[generation]}'s", "read it as an OmniConfig")
        built = cls(
            generation=generation,
            llm=read_language_config(root, generation),
            vision=read_vision_config(root, generation),
            image=read_image_config(pre, root, generation),
            query_num=read_query_num(root, generation),
            sees=True,
            quantization=root.block("quantization_config").data or None,
        )
        check_sight(built, root, pre)
        check_size(built.weights_by_part(), root)
        return built


def readers(
    config: Mapping[str, Any], preprocessor: Mapping[str, Any] | None, source: str | Path
) -> tuple[Reader, Reader]:
    """Of both files."""
    return Reader(config, source), Reader(preprocessor or {}, Path(source).with_name(PREPROCESSOR_FILE))


def read_files(directory: str | Path) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """Both files of a model directory, and the path of the first. Raises ConfigError."""
    directory = Path(directory)
    if problem := foreign_format(directory):
        raise ConfigError(directory, problem, INSTEAD)
    if not directory.is_dir():
        problem = "is not a directory" if directory.exists() else "does not exist"
        raise ConfigError(directory, problem, f"give the path of a local directory of {_any_name()}")
    path = directory / CONFIG_FILE
    if not path.is_file():
        remedy = f"give the directory that holds config.json, the tokenizer and the *.safetensors of {_any_name()}"
        raise ConfigError(path, "is missing", remedy)
    config, preprocessor = read_json(path), directory / PREPROCESSOR_FILE
    if recognise(Reader(config, path)) in ("v-2.0", "v-2.5") and not preprocessor.is_file():
        return config, {}, path  # the first checkpoints came without
    return config, read_json(preprocessor), path


def recognise(root: Reader) -> Generation:
    """Which model a ``config.json`` describes. Raises ConfigError for one of no or another family."""
    remedy = f"give the directory of {_any_name()}"
    found, model_type = root.data.get("architectures") or [], root.data.get("model_type")
    names = found if isinstance(found, list) else [found]
    known = [name for name in TYPES if name in names or (not names and model_type == TYPES[name])]
    if not known:
        named = ", ".join(map(str, names)) or model_type or "nothing"
        problem = f"names the architecture {named}, not {' or '.join(TYPES)}"
        raise root.error("architectures", problem, remedy)
    if model_type not in (None, TYPES[known[0]]):
        raise root.error("model_type", f"is {model_type!r}, not {TYPES[known[0]]!r}", remedy)
    version = root.data.get("version")
    if known[0] == "MiniCPMO":
        if str(version or "2.6") != "2.6":
            raise root.error("version", f"is {version}, a sister model with another layout", remedy)
        return "o-2.6"
    if version is None:
        # V 2.0 says no version; nor do early files of 2.5, which have no timm tower.
        return "v-2.0" if {"vision_encoder", "scale_emb"} & root.data.keys() else "v-2.5"
    if str(version) not in VERSIONS:
        raise root.error("version", f"is {version}, a sister model with another layout", remedy)
    return VERSIONS[str(version)]


def check_sight(config: VisionLanguageConfig, root: Reader, pre: Reader) -> None:
    """Raise ConfigError where the parts of a model that sees do not fit together."""
    width = config.llm.hidden_size
    if width % 4 or width % config.resampler_heads:
        problem = f"is {width}, which the resampler cannot split into {config.resampler_heads} heads"
        raise root.error("hidden_size", problem, REMEDY)
    if config.image.query_num != config.query_num:
        problem = f"is {config.image.query_num}, but query_num in {CONFIG_FILE} is {config.query_num}"
        raise pre.error("image_feature_size", problem, REMEDY)
    if config.image.patch_size != config.vision.patch_size:
        problem = f"is {config.image.patch_size}, but the vision tower has patches of {config.vision.patch_size} pixels"
        raise pre.error("patch_size", problem, REMEDY)


def _any_name() -> str:
    return ", ".join(NAMES.values())
