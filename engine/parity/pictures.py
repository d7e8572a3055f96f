"""The golden sets of the MiniCPM-V models: ``weights``, ``image.*``, ``chat.*``, ``stream``, ``tokenizer`` and ``vpm``.

What was asked and how is in the manifest, what came of it there and in the expected tensors. Which cases there are, and
how much is kept of a tensor, is read from the set.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from engine.chat.offline import Chat, ChatAnswer, ChatOptions
from engine.chat.offline import chat as ask
from engine.media.picture import open_picture
from engine.model.timm_vision import TimmVisionTower
from engine.parity.goldens import GoldenSet, SetError
from engine.parity.ledger import EXACT, StageRow
from engine.parity.sampled import kept_close, kept_same, sampled
from engine.processing.image import ImageSlices, pad_slices
from engine.processing.tokens import ImageSlot

KNOWN = {
    "image": ("image", "max_slice_nums", "n_slices", "pixel_values_sha256", "placeholder", "size_wh", "sizes_wh",
              "tgt_sizes", "vpm_padded_length"),
    "chat": ("attention_mask_zeros", "generate_kwargs", "generated_ids", "image_bound", "kwargs", "min_gap", "msgs",
             "n_slices", "prompt", "text", "tgt_sizes"),
}  # fmt: skip
"""What the manifest tells of a case that is compared here, says how to ask, or repeats in words what is compared in
numbers (the prompt, which is compared in tokens)."""
LIMITS = ("max_new_tokens", "min_new_tokens", "pad_token_id")
"""Of an answer's generation, what is seen in the answer itself."""
GREEDY_PENALTY = 1.05
"""Of the goldens' greedy answers, unless a case says otherwise; a beam search has its own."""
Compare = Callable[[StageRow], None]


def cases(goldens: GoldenSet, chat: Chat) -> Iterator[tuple[str, Compare]]:
    """Every stage of the set, by name."""
    if "state_dict_shapes" in goldens.manifest:
        yield "weights", partial(compare_weights, goldens, chat)
    for name in goldens.manifest.get("image", {}):
        yield f"image.{name}", partial(compare_picture, goldens, chat, name)
    for name in goldens.manifest.get("chat", {}):
        yield f"chat.{name}", partial(compare_answer, goldens, chat, name)
    if "stream" in goldens.manifest:
        yield "stream", partial(compare_pieces, goldens, chat)
    if "tokenizer_probe" in goldens.manifest:
        yield "tokenizer", partial(compare_tokenizer, goldens, chat)
    if goldens.keys(r"vpm\.pos_embed_.*"):
        yield "vpm", partial(compare_positions, goldens, chat)


def compare_weights(goldens: GoldenSet, chat: Chat, row: StageRow) -> None:
    """Names and sizes of the weights, how many there are, and the sizes of the pictures."""
    own = {name: list(weight.shape) for name, weight in chat.model.state_dict().items()}
    told = dict(goldens.section("state_dict_shapes"))
    row.same("state_dict_shapes", sorted(own.items()), sorted((name, told[name]) for name in told))
    _told(row, "manifest", goldens.manifest, "params", sum(weight.numel() for weight in chat.model.parameters()))
    for name, case in goldens.manifest.get("images", {}).items():
        row.same(f"images.{name}.size_wh", list(goldens.picture(name).size), case["size_wh"])


def _remark(row: StageRow, stage: str, case: dict[str, Any]) -> None:
    """Say what of the manifest nobody knows here."""
    row.remarks += [
        f"manifest.json tells {name}, which nothing here knows" for name in case if name not in KNOWN[stage]
    ]


@torch.inference_mode()
def compare_picture(goldens: GoldenSet, chat: Chat, name: str, row: StageRow) -> None:
    case, stream, key = goldens.section("image")[name], chat.stream, f"image.{name}"
    slices = stream.images(_picture_of(goldens, name, case), case.get("max_slice_nums"))
    patch = stream.config.vision.patch_size
    _remark(row, "image", case)
    _told(row, key, case, "n_slices", len(slices.sizes))
    _told(row, key, case, "tgt_sizes", [list(size) for size in slices.sizes])
    _told(row, key, case, "sizes_wh", [[columns * patch, rows * patch] for rows, columns in slices.sizes])
    plain = chat.dialect.one_picture
    pixels = [(_picture if plain else _strip)(slices, index) for index in range(len(slices.sizes))]
    for index, wanted in enumerate(case.get("pixel_values_sha256", [])):
        found = hashlib.sha256(pixels[index].contiguous().numpy().tobytes()).hexdigest()
        row.same(f"{key}.slice{index}.pixel_values_sha256", found, wanted)
    tokens = stream.builder([ImageSlot(slices.grid)], use_image_id=stream.config.image.use_image_id)
    if "placeholder" in case:
        wanted = stream.builder.text(case["placeholder"])
        row.same(f"{key}.placeholder", tokens.ids, wanted)
    patches, sizes = pad_slices([slices])
    _told(row, key, case, "vpm_padded_length", patches.shape[1])
    features = stream.model.vpm(patches.to(stream.model.dtype), sizes)
    for index, (rows, columns) in enumerate(sizes):
        for wanted, found_key in goldens.keys(rf"{re.escape(key)}\.slice{index}\.pixel_values_(.*)"):
            row.close(
                wanted, _kept_pixels(pixels[index], found_key[1], goldens.expected[wanted]), goldens.take(wanted), EXACT
            )
        kept_close(goldens, row, f"{key}.slice{index}.vpm", features[index, : rows * columns])
    kept_close(goldens, row, f"{key}.resampler", stream.model.resampler(features, sizes))


def _told(row: StageRow, key: str, case: dict[str, Any], name: str, own: Any, *, listed: bool = False) -> None:
    """Compare what the manifest tells of a case, if it does; ``listed``: one alone is as good as a list of one."""
    wanted = case.get(name)
    if wanted is not None:
        row.same(f"{key}.{name}", own, wanted if isinstance(wanted, list) or not listed else [wanted])


def _picture_of(goldens: GoldenSet, name: str, case: dict[str, Any]) -> Any:
    """The input whose name the case's begins with, the longest there is; or the one that the case names."""
    named = case.get("image")
    if isinstance(named, str):
        return goldens.picture(Path(named).stem)
    fitting = [stem for stem in goldens.pictures if name == stem or name.startswith(f"{stem}_")]
    if not fitting:
        raise SetError(f"images/ holds no picture for the case image.{name}; restore the folder")
    return goldens.pictures[max(fitting, key=len)]


def _strip(slices: ImageSlices, index: int) -> Tensor:
    """A slice's patches side by side, as the published preprocessor gives them: [3, patch, patch · N]."""
    patches = slices.patches[index]
    side = int((patches.shape[1] // 3) ** 0.5)
    return patches.view(-1, 3, side, side).permute(1, 2, 0, 3).reshape(3, side, -1)


def _picture(slices: ImageSlices, index: int) -> Tensor:
    """A slice as a picture: [3, H, W]."""
    patches, (rows, columns) = slices.patches[index], slices.sizes[index]
    side = int((patches.shape[1] // 3) ** 0.5)
    cells = patches.view(rows, columns, 3, side, side).permute(2, 0, 3, 1, 4)
    return cells.reshape(3, rows * side, columns * side)


def _kept_pixels(pixels: Tensor, how: str, expected: Tensor) -> Tensor:
    """The corner, or the first patches: either way what lies at the beginning of every axis."""
    if not how.startswith(("first", "corner")):
        return pixels
    return pixels[tuple(slice(size) for size in expected.shape)]


@torch.inference_mode()
def compare_answer(goldens: GoldenSet, chat: Chat, name: str, row: StageRow) -> None:
    case, key = goldens.section("chat")[name], f"chat.{name}"
    _remark(row, "chat", case)
    answers = _answers(goldens, chat, case)
    _told(row, key, case, "text", [answer.text for answer in answers], listed=True)
    _told(row, key, case, "generated_ids", [list(answer.ids) for answer in answers])
    prompts = [answer.prompt for answer in answers]
    longest = max(len(prompt.row) for prompt in prompts)
    pads = [longest - len(prompt.row) for prompt in prompts]
    ids = [[0] * pad + prompt.row.ids.tolist() for pad, prompt in zip(pads, prompts, strict=True)]
    kept_same(goldens, row, f"{key}.input_ids", ids)
    bounds = [(prompt.row.image_bounds + pad).tolist() for pad, prompt in zip(pads, prompts, strict=True)]
    _told(row, key, case, "image_bound", bounds)
    sizes = [[list(size) for image in prompt.images for size in image.sizes] for prompt in prompts]
    _told(row, key, case, "tgt_sizes", sizes)
    _told(row, key, case, "n_slices", [len(slices) for slices in sizes])
    unseen = [row_ids.count(0) if chat.dialect.skips_id_0 else pad for pad, row_ids in zip(pads, ids, strict=True)]
    _told(row, key, case, "attention_mask_zeros", unseen)
    _compare_generation(row, key, case.get("generate_kwargs", {}), chat, _settings(goldens, case["kwargs"]))
    padding = chat.model.llm.embed(torch.zeros(longest, dtype=torch.long))
    fed = [torch.cat([padding[:pad], answer.embeds]) for pad, answer in zip(pads, answers, strict=True)]
    kept_close(goldens, row, f"{key}.embeds", torch.stack(fed))
    logits = torch.stack([chat.model.llm.logits(answer.states[-1]) for answer in answers])
    kept_close(goldens, row, f"{key}.logits_last", logits)


def _compare_generation(row: StageRow, key: str, told: dict[str, Any], chat: Chat, settings: dict[str, Any]) -> None:
    """How the answer's tokens were found: the settings of the chosen way, the defaults among them."""
    known = {item.name for item in fields(ChatOptions)}
    own: dict[str, Any] = ChatOptions(**{name: settings[name] for name in settings if name in known}).generation
    for name, value in told.items():
        if name == "eos_token_id":
            ends = value if isinstance(value, list) else [value]
            row.same(f"{key}.generate_kwargs.{name}", sorted(chat.stop_ids), sorted(ends))
        elif name in own:
            row.same(f"{key}.generate_kwargs.{name}", own[name], value)
        elif name not in LIMITS:
            row.remarks.append(f"manifest.json tells generate_kwargs.{name}, which nothing here knows")


def _answers(goldens: GoldenSet, chat: Chat, case: dict[str, Any]) -> list[ChatAnswer]:
    settings = _settings(goldens, case["kwargs"])
    answer = ask(chat, _with_pictures(goldens, case["msgs"]), return_dict=True, **settings)
    return cast("list[ChatAnswer]", answer if isinstance(answer, list) else [answer])


def _settings(goldens: GoldenSet, kwargs: dict[str, Any]) -> dict[str, Any]:
    """A case's settings; what is None is as good as left out."""
    settings = {name: _with_pictures(goldens, value) for name, value in kwargs.items() if value is not None}
    if settings.get("sampling", True):
        settings.setdefault("repetition_penalty", GREEDY_PENALTY)
    return settings


def _with_pictures(goldens: GoldenSet, value: Any) -> Any:
    """The same with the pictures in place of ``{"image": path}``."""
    if isinstance(value, list):
        return [_with_pictures(goldens, item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"image"}:
            return open_picture(goldens.folder / value["image"])
        return {name: _with_pictures(goldens, item) for name, item in value.items()}
    return value


def compare_pieces(goldens: GoldenSet, chat: Chat, row: StageRow) -> None:
    """The pieces of a streamed answer, of which the set has empty ones, too."""
    section = goldens.section("stream")
    found = re.match(r"chat\.(\w+)", str(section.get("same_as", "")))
    if found is None or found[1] not in goldens.section("chat"):
        raise SetError("manifest.json: stream.same_as names no case of chat; restore the file")
    case = goldens.section("chat")[found[1]]
    pieces = ask(chat, _with_pictures(goldens, case["msgs"]), stream=True, **_settings(goldens, case["kwargs"]))
    told = list(cast("Iterator[str]", pieces))
    row.same("stream.pieces", told, [piece for piece in section["pieces"] if piece])
    row.same("stream.joined", "".join(told), section["joined"])


def compare_tokenizer(goldens: GoldenSet, chat: Chat, row: StageRow) -> None:
    builder = chat.stream.builder
    for index, probe in enumerate(goldens.section("tokenizer_probe")):
        ids = [*builder.opening, *builder.text(probe["text"])]
        row.same(f"tokenizer_probe.{index}", ids, probe["ids"])


@torch.inference_mode()
def compare_positions(goldens: GoldenSet, chat: Chat, row: StageRow) -> None:
    tower = chat.model.vpm
    if not isinstance(tower, TimmVisionTower):
        raise SetError("the set keeps a stretched table of positions, which this model does not have")
    for key, found in goldens.keys(r"vpm\.pos_embed_(\d+)x(\d+)(.*)"):
        size = int(found[1]), int(found[2])
        expected = goldens.take(key)
        row.close(key, sampled(tower.positions(size), expected), expected)
