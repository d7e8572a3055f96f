"""What a run leaves: an adapter in peft's layout, or a checkpoint; and the curve as a picture."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from peft import PeftModel
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from engine.checkpoint.adapter import Adapter
from engine.checkpoint.weights import INDEX_FILE, PICKLED_INDEX, find_shards, tensors_of
from engine.errors import InputError
from engine.tune.learner import Learner
from engine.tune.training import CURVE


def save(learner: Learner, source: Path, folder: Path) -> None:
    """Write the adapter, or else the whole checkpoint that was trained from the directory ``source``."""
    if isinstance(learner.tuned, PeftModel):
        learner.tuned.peft_config["default"].base_model_name_or_path = str(source.resolve())
        learner.tuned.save_pretrained(str(folder))
        (folder / "README.md").unlink(missing_ok=True)  # peft's form of a model card, with nothing filled in
        return
    trained = learner.trainable()
    write_checkpoint(source, folder, lambda key, tensor: trained[key].detach().cpu() if key in trained else tensor)


def merge(source: Path, adapter_folder: Path, target: Path) -> None:
    """A checkpoint of its own from the directory ``source`` and an adapter. Raises LoadError, and InputError for a
    target that exists."""
    adapter = Adapter.read(adapter_folder)
    if target.exists() and any(target.iterdir()):
        raise InputError(f"{target} is not empty; name a new folder")
    keys = {key for shard in find_shards(source) for key in shard.tensors}
    adapter.check_keys(keys)
    target.mkdir(parents=True, exist_ok=True)
    write_checkpoint(source, target, adapter)


def write_checkpoint(source: Path, target: Path, change: Callable[[str, Tensor], Tensor]) -> None:
    """Copy a model directory shard by shard into safetensors, each tensor as ``change`` (key, tensor) gives it, in the
    dtype that it had there. Memory holds one shard."""
    shards = find_shards(source)
    names = {shard.path.name for shard in shards} | {INDEX_FILE, PICKLED_INDEX}
    for path in sorted(source.iterdir()):
        if path.is_dir():
            shutil.copytree(path, target / path.name, dirs_exist_ok=True)
        elif path.name not in names:
            shutil.copyfile(path, target / path.name)
    index, size = dict[str, str](), 0
    for shard in tqdm(shards, desc="Writing weights", unit="file"):
        tensors = {
            key: change(key, stored).to(stored.dtype).contiguous() for key, stored in tensors_of(shard, shard.tensors)
        }
        save_file(tensors, target / f"{shard.path.stem}.safetensors", metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, f"{shard.path.stem}.safetensors")
        size += sum(tensor.nbytes for tensor in tensors.values())
    document = {"metadata": {"total_size": size}, "weight_map": index}
    (target / INDEX_FILE).write_text(json.dumps(document, indent=1), encoding="utf-8")


def plot(folder: Path) -> None:
    """Draw ``curve.png`` from the curve of a run."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = [json.loads(line) for line in (folder / CURVE).read_text(encoding="utf-8").splitlines()]
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for name, label in (("loss", "training"), ("evaluation", "evaluation")):
        points = [(line["step"], line[name]) for line in lines if name in line]
        if points:
            axes.plot(*zip(*points, strict=True), label=label, marker="o" if len(points) == 1 else None)
    axes.set(xlabel="step", ylabel="cross-entropy per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(folder / "curve.png", dpi=120)
    pyplot.close(figure)
