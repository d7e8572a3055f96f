"""What lies in the repository: no large files but the weights, no dead links in the documents."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
LARGEST = 1_000_000
"""Bytes. Whatever git holds it holds for ever: a clone pays for every version."""

WEIGHTS = (
    "engine/mini/checkpoint/model.safetensors",
    "engine/mini/checkpoint/assets/vocos.safetensors",
    "engine/small/parts/language/adapter_model.safetensors",
    "engine/small/parts/speech.safetensors",
    "engine/small/parts/assets/vocos.safetensors",
    "app/call/vad/assets/silero_vad_16k.onnx",
    "app/call/end_of_turn/assets/smart_turn_v3_2.onnx",
    "tests/goldens/o26-public/weights.safetensors",
    "tests/goldens/o26-public/expected.safetensors",
    "tests/goldens/v26-public/weights.safetensors",
    "tests/goldens/v26-public/expected.safetensors",
    "tests/goldens/llama3v25-public/weights.safetensors",
    "tests/goldens/llama3v25-public/expected.safetensors",
    "tests/goldens/v20-public/weights.safetensors",
    "tests/goldens/v20-public/adapter/adapter_model.safetensors",
)
"""May be larger. One that changes is committed once for a change of weights, when it is final."""


def tracked(*patterns: str) -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z", *patterns], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return [path for name in listed.stdout.decode().split("\0") if (path := ROOT / name).is_file() and name]


def test_no_file_is_large_but_the_weights() -> None:
    large = {str(path.relative_to(ROOT)) for path in tracked() if path.stat().st_size > LARGEST}
    assert large == set(WEIGHTS)


def test_documents_link_to_what_is_there() -> None:
    documents = tracked("*.md")
    assert documents
    links = [
        (document.relative_to(ROOT), target)
        for document in documents
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text(encoding="utf-8"))
        if "://" not in target
    ]
    assert links
    assert not [link for link in links if not (ROOT / link[0]).parent.joinpath(link[1]).exists()]
