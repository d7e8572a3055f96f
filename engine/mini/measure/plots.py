"""The curves of all stages in one picture, ``curves.png`` beside the model card."""

from __future__ import annotations

import json
from pathlib import Path

TARGET = Path(__file__).resolve().parents[1] / "curves.png"
PROGRESS = ("step", "elapsed")


def plot(folder: Path, target: Path = TARGET) -> Path | None:
    """Draws every ``<stage>.jsonl`` in ``folder``: losses above, measured figures below. None when there are none."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    files = sorted(folder.glob("*.jsonl"))
    if not files:
        return None
    figure, axes = pyplot.subplots(2, len(files), figsize=(4 * len(files), 6), squeeze=False)
    for column, file in enumerate(files):
        entries = [json.loads(line) for line in file.read_text().splitlines()]
        for row, wanted in ((0, "loss"), (1, None)):
            axis = axes[row][column]
            chosen = [e for e in entries if ("loss" in e) == (wanted is not None)]
            for name in sorted({k for e in chosen for k in e if k not in PROGRESS}):
                points = [(e["step"], e[name]) for e in chosen if name in e]
                axis.plot(*zip(*points, strict=True), marker=".", label=name)
            axis.set_xlabel("step")
            if chosen:
                axis.legend(fontsize=7)
        axes[0][column].set_title(file.stem)
    figure.tight_layout()
    figure.savefig(target, dpi=80)
    pyplot.close(figure)
    return target
