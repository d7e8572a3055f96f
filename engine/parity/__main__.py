"""``python -m engine.parity DIR``: one row per stage; exit status 0 only if all rows hold, 2 for a damaged set."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from engine.chat.offline import Chat
from engine.checkpoint.load_options import LoadOptions
from engine.checkpoint.loader import LoadedModel, load_model
from engine.conversation.streaming import StreamingModel
from engine.errors import ModelError
from engine.parity import pictures, tuning
from engine.parity.chat import compare_chat
from engine.parity.conversation import compare_stream
from engine.parity.goldens import GoldenSet, SetError
from engine.parity.hearing import compare_hearing
from engine.parity.ledger import StageRow, table
from engine.parity.senses import compare_batch_audio, compare_images
from engine.parity.voice import compare_dvae, compare_sampler, compare_speech, compare_vocos, compare_xfade

Stage = Callable[[GoldenSet, StreamingModel, StageRow], None]
OPTIONAL = ("apm_reset",)
"""Stages that not every set has."""
STAGES: dict[str, Stage] = {
    "image": compare_images,
    "batch_audio": compare_batch_audio,
    "stream": compare_stream,
    "apm_reset": compare_hearing,
    "chat": compare_chat,
    "tts": compare_speech,
    "sampler": compare_sampler,
    "dvae": compare_dvae,
    "vocos": compare_vocos,
    "xfade": compare_xfade,
}


def compare(folder: Path, only: str | None = None) -> list[StageRow]:
    """Compare all stages with the golden set in ``folder``, or the one named. Raises SetError, LoadError."""
    goldens = GoldenSet(folder)
    loaded = load_model(folder, LoadOptions(device="cpu", dtype="float32", progress=False))
    if isinstance(loaded, LoadedModel):
        return compare_set(goldens, StreamingModel(loaded, sessions=2), only)
    return compare_picture_set(goldens, Chat(loaded), only)


def compare_picture_set(goldens: GoldenSet, chat: Chat, only: str | None = None) -> list[StageRow]:
    """Compare a MiniCPM-V model that is loaded already; ``only`` may name a case or a kind of them."""
    rows = []
    for name, compare_case in (*pictures.cases(goldens, chat), *tuning.cases(goldens)):
        if only in (None, name, name.partition(".")[0]):
            rows.append(_compared(goldens, StageRow(name), compare_case))
    if only is None:
        rows += _others(goldens, [row.stage for row in rows])
    return rows


def compare_set(goldens: GoldenSet, stream: StreamingModel, only: str | None = None) -> list[StageRow]:
    """Compare a model that is loaded already."""
    rows = []
    for name, stage in STAGES.items():
        cases = [name] if name != "tts" else [key for key in goldens.manifest if key.startswith("tts.")] or ["tts"]
        for case in cases:
            if case in OPTIONAL and not goldens.left(case) and case not in goldens.manifest:
                continue
            if only in (None, name, case):
                rows.append(_compare(goldens, stream, StageRow(case), stage))
    return rows if only is not None else [*rows, *_others(goldens, [row.stage for row in rows])]


def _others(goldens: GoldenSet, stages: Sequence[str]) -> list[StageRow]:
    """A row of what no stage knows, if there is any."""
    left = goldens.left_behind(set(stages))
    return [StageRow("others", problems=[f"{key} was not compared: no stage knows it" for key in left])] if left else []


def _compare(goldens: GoldenSet, stream: StreamingModel, row: StageRow, stage: Stage) -> StageRow:
    if not any(key.startswith(f"{row.stage}.") for key in goldens.expected):
        row.problems.append("the set has no expected tensors of this stage; give a complete set")
        return row
    return _compared(goldens, row, partial(stage, goldens, stream))


def _compared(goldens: GoldenSet, row: StageRow, stage: Callable[[StageRow], None]) -> StageRow:
    try:
        stage(row)
    except SetError as error:
        row.problems.append(str(error))
    except Exception as error:  # whatever a damaged set leads to, the other stages are still compared
        row.problems.append(f"the stage broke off ({type(error).__name__}: {error})")
    row.problems += [f"{key} was not compared" for key in goldens.left(row.stage)]
    return row


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m engine.parity", description=compare.__doc__)
    parser.add_argument("folder", type=Path, help="a golden set: config.json, weights, inputs, expected, manifest.json")
    parser.add_argument("--stage", help="compare one stage only")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)
    try:
        rows = compare(arguments.folder, arguments.stage)
    except (SetError, ModelError) as error:
        print(error, file=sys.stderr)
        return 2
    if not rows:
        print(f"{arguments.folder} has no stage {arguments.stage}; leave out --stage to see all", file=sys.stderr)
        return 2
    print(table(rows))
    return 0 if all(row.holds for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
