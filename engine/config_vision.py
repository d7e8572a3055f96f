"""Sizes and settings of the eyes: the vision tower (``vpm.*``), and how pictures become patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from engine.config_language import Generation
from engine.config_reader import Reader

Tower = Literal["navit", "one_row", "timm"]
"""Where a patch's position comes from: ``navit``, the row and column of its place in its own slice; ``one_row``, its
number among the patches of the longest slice that is looked at with it, all slices being one row each; ``timm``, a
square table that is stretched to the slice, in a tower with the names of the timm library."""

TOWERS: dict[Generation, Tower] = {"o-2.6": "navit", "v-2.6": "navit", "v-2.5": "one_row", "v-2.0": "timm"}
TIMM_NAME = "vit_so400m_patch14_siglip_384.webli"
REMEDY = "restore the official configuration"


@dataclass(frozen=True, slots=True)
class VisionConfig:
    """SigLIP tower (``vpm.*``)."""

    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    """Encoder layers before the last one may be dropped."""
    drop_last_layer: bool | None
    """None when the file does not say: then the checkpoint's own number of layers decides."""
    num_heads: int
    num_channels: int
    patch_size: int
    image_size: int
    layer_norm_eps: float
    batch_size: int
    """Slices that go through the tower at once."""
    tower: Tower = "navit"
    alone: bool = False
    """Slices are looked at one by one; matters to ``one_row`` only, where it changes the numbers."""

    @property
    def num_layers(self) -> int:
        """Encoder layers that exist (the published class drops the last one unless told otherwise)."""
        return self.num_hidden_layers - (self.drop_last_layer is not False)

    @property
    def patches_per_side(self) -> int:
        return self.image_size // self.patch_size

    @property
    def layer_keys(self) -> str:
        """What the names of the encoder layers' weights begin with; the number of the layer follows."""
        return "vpm.blocks." if self.tower == "timm" else "vpm.encoder.layers."

    @property
    def mixes_slices(self) -> bool:
        """Whether what is seen in a slice depends on the others that are looked at with it."""
        return self.tower == "one_row" and not self.alone


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """How pictures become patches (``preprocessor_config.json``)."""

    max_slice_nums: int
    scale_resolution: int
    patch_size: int
    use_image_id: bool
    query_num: int
    norm_mean: tuple[float, float, float]
    norm_std: tuple[float, float, float]


def read_vision_config(root: Reader, generation: Generation) -> VisionConfig:
    """Of ``config.json``. Raises ConfigError."""
    tower = TOWERS[generation]
    drop = root.get("drop_vision_last_layer", False) if "drop_vision_last_layer" in root.data else None
    config = _timm(root, drop) if tower == "timm" else _siglip(root, drop, tower)
    if config.hidden_size % config.num_heads:
        problem = f"is {config.num_heads}, which does not divide the width {config.hidden_size}"
        raise root.error("vision_config.num_attention_heads", problem, REMEDY)
    return config


def _siglip(root: Reader, drop: bool | None, tower: Tower) -> VisionConfig:
    vision = root.block("vision_config")
    vision.expect("hidden_act", "gelu_pytorch_tanh")
    vision.expect("model_type", *(("siglip_vision_model", "siglip") if tower == "navit" else ("idefics2", "siglip")))
    return VisionConfig(
        hidden_size=vision.positive("hidden_size", 1152),
        intermediate_size=vision.positive("intermediate_size", 4304),
        num_hidden_layers=vision.positive("num_hidden_layers", 27),
        drop_last_layer=drop,
        num_heads=vision.positive("num_attention_heads", 16),
        num_channels=vision.positive("num_channels", 3),
        patch_size=vision.positive("patch_size", 14),
        image_size=vision.positive("image_size", 980),
        layer_norm_eps=vision.get("layer_norm_eps", 1e-6),
        batch_size=root.positive("vision_batch_size", 16),
        tower=tower,
        alone=tower == "one_row" and not root.get("batch_vision_input", True),
    )


def _timm(root: Reader, drop: bool | None) -> VisionConfig:
    """A tower whose sizes follow from its name; a block ``timm_vision`` (or ``golden_vision``) overrides them."""
    block = root.block("timm_vision", "golden_vision")
    if not block.data:
        root.expect("vision_encoder", TIMM_NAME)
    return VisionConfig(
        hidden_size=block.positive("embed_dim", 1152),
        intermediate_size=block.positive("mlp_hidden", 4304),
        num_hidden_layers=block.positive("depth", 27),
        drop_last_layer=drop,
        num_heads=block.positive("num_heads", 16),
        num_channels=3,
        patch_size=root.positive("patch_size", 14),
        image_size=block.positive("img_size", 384),
        layer_norm_eps=block.get("norm_eps", 1e-6),
        batch_size=1,
        tower="timm",
    )


def read_image_config(pre: Reader, root: Reader, generation: Generation) -> ImageConfig:
    """Of ``preprocessor_config.json`` and, where the published code looks there, ``config.json``. Raises
    ConfigError."""
    # V 2.0 has its settings at the top of config.json, V 2.5 in a block; from 2.6 on the preprocessor's count.
    own = {"v-2.0": root, "v-2.5": root.block("slice_config")}.get(generation, pre)
    numbered = generation in ("o-2.6", "v-2.6")
    if generation != "o-2.6":
        for reader in (pre, root, root.block("slice_config")):
            reader.expect("slice_mode", True)
    if generation == "v-2.6":
        _check_agreement(pre, root)
    patch = root.positive("patch_size", 14) if generation == "v-2.0" else pre.positive("patch_size", _patch(root))
    return ImageConfig(
        max_slice_nums=own.positive("max_slice_nums", 1 if generation == "v-2.5" else 9),
        scale_resolution=own.positive("scale_resolution", 448, most=4_096),
        patch_size=patch,
        use_image_id=numbered and pre.get("use_image_id", root.get("use_image_id", True)),
        query_num=pre.positive("image_feature_size", read_query_num(root, generation)),
        norm_mean=_triple(pre, "norm_mean"),
        norm_std=_triple(pre, "norm_std"),
    )


def read_query_num(root: Reader, generation: Generation) -> int:
    """Vectors that a slice becomes. Raises ConfigError."""
    return root.positive("query_num", 96 if generation == "v-2.5" else 64)


def _patch(root: Reader) -> int:
    return root.block("vision_config").positive("patch_size", 14)


def _check_agreement(pre: Reader, root: Reader) -> None:
    """V 2.6 says some settings twice, and refuses to run where they differ."""
    for block, key, default in ((root.block("slice_config"), "max_slice_nums", 9), (root, "use_image_id", True)):
        if key in block.data and key in pre.data and block.get(key, default) != pre.get(key, default):
            problem = f"is {pre.data[key]!r}, but config.json says {block.data[key]!r}"
            raise pre.error(key, problem, "restore both files from one checkpoint")


def _triple(pre: Reader, key: str) -> tuple[float, float, float]:
    """Three channel values; a single number stands for all three."""
    value = pre.data.get(key, 0.5)
    values = [value] * 3 if isinstance(value, int | float) else value
    if not isinstance(values, list) or len(values) != 3 or not all(isinstance(v, int | float) for v in values):
        raise pre.error(key, f"is {value!r}, not three numbers", REMEDY)
    return float(values[0]), float(values[1]), float(values[2])
