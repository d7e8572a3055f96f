"""``python -m engine.tune``: fine-tune a model on conversations about pictures, from a shell."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from engine.checkpoint.devices import resolve_devices, resolve_dtype
from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import load_model
from engine.errors import InputError, ModelError, is_out_of_memory
from engine.serving.live_engine import MINI

EPILOG = """\
examples
  python -m engine.tune MiniCPM-V-2_6 --data train.json --eval eval.json --out adapter
  make run MODEL=MiniCPM-o-2_6 ADAPTER=adapter
  python -m engine.tune MiniCPM-V-2_6 --merge adapter --out merged
  accelerate launch --multi_gpu --num_processes 2 -m engine.tune MODEL --data train.json --out adapter

The data format and what is trained are described in docs/tuning.md. The packages that it needs:
`pip install -r engine/requirements-tune.txt`.
"""


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m engine.tune",
        description="Fine-tune a model on conversations about pictures.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", nargs="?", type=Path, default=MINI, metavar="MODEL", help="model directory")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the result (default: tuned, with --merge merged)"
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--data", type=Path, metavar="FILE", help="conversations to learn (JSON)")
    what.add_argument("--merge", type=Path, metavar="ADAPTER", help="write MODEL with this adapter in it, and end")
    parser.add_argument("--eval", type=Path, metavar="FILE", help="conversations that are only measured")
    train = parser.add_argument_group("what is trained")
    train.add_argument("--full", action="store_true", help="all weights of the language model instead of an adapter")
    train.add_argument("--vision", action="store_true", help="the vision tower, too")
    train.add_argument("--rank", type=int, default=64, metavar="N", help="of the adapter (default: 64)")
    train.add_argument("--alpha", type=int, default=64, metavar="N", help="its scale is alpha / rank (default: 64)")
    train.add_argument("--dropout", type=float, default=0.05, metavar="X", help="in the adapter (default: 0.05)")
    train.add_argument("--targets", metavar="REGEX", help="names of linear layers (default: q, k, v, o of all layers)")
    train.add_argument(
        "--quantize", choices=("none", "nf4", "int8"), default="none",
        help="keep the weights under the adapter in 4 bits (bitsandbytes) or 8 (torchao, on a card)",
    )  # fmt: skip
    how = parser.add_argument_group("how")
    how.add_argument("--steps", type=int, metavar="N", help="optimizer steps; goes before --epochs")
    how.add_argument("--epochs", type=float, default=3.0, metavar="X", help="times through the data (default: 3)")
    how.add_argument("--batch", type=int, default=1, metavar="N", help="conversations at once (default: 1)")
    how.add_argument("--accumulate", type=int, default=1, metavar="N", help="batches of a step (default: 1)")
    how.add_argument("--learning-rate", type=float, metavar="X", help="default: 1e-4 for an adapter, 1e-6 for --full")
    how.add_argument("--weight-decay", type=float, default=0.1, metavar="X", help="default: 0.1")
    how.add_argument(
        "--max-length", type=int, default=2048, metavar="N", help="tokens of a conversation (default: 2048)"
    )
    how.add_argument("--max-slices", type=int, metavar="N", help="cells that a picture may be cut into")
    how.add_argument("--evaluate-every", type=int, default=100, metavar="N", help="steps, as between saved states")
    how.add_argument("--recompute", action="store_true", help="less memory for more time (gradient checkpointing)")
    how.add_argument("--seed", type=int, default=0, metavar="N", help="of the order and of the adapter (default: 0)")
    how.add_argument("--device", default="auto", help="auto, cpu, mps, cuda or cuda:N (default: auto)")
    how.add_argument("--dtype", default="auto", help="auto, float32, bfloat16 or float16 (default: auto)")
    how.add_argument("--resume", action="store_true", help="go on with what --out holds")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0, or 1 after an error that was printed."""
    options = build_parser().parse_args(arguments)
    options.out = options.out or Path("merged" if options.merge else "tuned")
    try:
        _run(options)
    except ImportError as error:
        print(f"{error}; install it with `pip install -r engine/requirements-tune.txt`", file=sys.stderr)
        return 1
    except (ModelError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        remedies = "--quantize nf4, --recompute, --batch 1, --max-slices, --max-length, or no --full"
        print(f"memory ran out; use {remedies}", file=sys.stderr)
        return 1
    return 0


def _device(name: str) -> str:
    """What ``--device`` means: of several processes each has a card of its own unless told otherwise. Raises
    InputError for more than one."""
    if "," in name:
        raise InputError(f"--device {name} names several cards; use accelerate launch, one process for each")
    card = os.environ.get("LOCAL_RANK") if name == "auto" and torch.cuda.is_available() else None
    return name if card is None else f"cuda:{card}"


def _check_quantize(options: argparse.Namespace, device: torch.device) -> None:
    """Raise InputError where quantised weights cannot be trained on."""
    if options.quantize != "none" and options.full:
        raise InputError(
            f"--quantize {options.quantize} is for an adapter; leave out --full, whose weights are trained"
        )
    if options.quantize == "int8" and device.type == "cpu":
        raise InputError("--quantize int8 needs a card: on a CPU it is for answers only; use --quantize nf4, or none")


def _run(options: argparse.Namespace) -> None:
    from engine.tune.output import merge, plot, save

    if options.merge:
        merge(options.model, options.merge, options.out)
        return
    from engine.tune.data import Conversations
    from engine.tune.learner import recompute, with_all
    from engine.tune.lora import TARGETS, LoraOptions, with_adapter
    from engine.tune.training import STATE, Trainer, TrainingOptions

    if options.resume is False and (options.out / STATE).exists():
        raise InputError(f"{options.out} holds a run already; go on with --resume, or name a new folder")
    device = resolve_devices(_device(options.device))[0]
    dtype = resolve_dtype(options.dtype, device)
    training = TrainingOptions(
        steps=options.steps,
        epochs=options.epochs,
        batch=options.batch,
        accumulate=options.accumulate,
        learning_rate=options.learning_rate or (1e-6 if options.full else 1e-4),
        weight_decay=options.weight_decay,
        evaluate_every=options.evaluate_every,
        seed=options.seed,
        dtype=dtype,
    )
    lora = LoraOptions(options.rank, options.alpha, options.dropout, options.targets or TARGETS)
    _check_quantize(options, device)
    how = LoadOptions(str(device), options.dtype, options.quantize, for_training=True)
    loaded = load_model(options.model, how)
    limits = {"max_length": options.max_length, "max_slices": options.max_slices}
    data = Conversations(options.data, loaded, **limits)
    evaluation = Conversations(options.eval, loaded, **limits) if options.eval else None
    torch.manual_seed(options.seed)
    learner = with_all(loaded.model, vision=options.vision) if options.full else with_adapter(
        loaded.model, lora, vision=options.vision
    )  # fmt: skip
    if options.recompute:
        recompute(learner.model.llm.model.layers)
    options.out.mkdir(parents=True, exist_ok=True)
    trainer = Trainer(learner, data, training, options.out, evaluation)
    if options.resume:
        trainer.resume()
    trainer.run()
    if trainer.accelerator.is_main_process:
        save(learner, options.model, options.out)
        plot(options.out)
        count = sum(weight.numel() for weight in learner.trainable().values())
        print(
            f"{options.out}: {count:,} weights trained on {len(data)} conversations, loss {trainer.progress.loss:.3f}"
        )
