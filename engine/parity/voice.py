"""Stages ``sampler``, ``dvae``, ``vocos``, ``xfade``, and ``tts.*``: speech from a scripted text."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from engine.conversation.sampling import SpeechSampling, speech_probabilities
from engine.conversation.speech import TextItem, crossfade
from engine.conversation.streaming import StreamingModel
from engine.conversation.work import Read, Recall, Render, Speak, Step
from engine.parity.goldens import GoldenSet
from engine.parity.ledger import SIGNAL, SPEECH_LOGITS, StageRow
from engine.parity.probe import Probe, Record, Run, greedy_options
from engine.parity.sampled import kept_close, kept_same

LOGIT_SCALE = 20.0
"""The sampler golden's scores are divided by 20 times the temperatures."""


@torch.inference_mode()
def compare_sampler(goldens: GoldenSet, stream: StreamingModel, row: StageRow) -> None:
    config, plain = stream.config.tts, SpeechSampling()
    yes = torch.tensor([True])
    logits, history = goldens.take("sampler.logits"), goldens.take("sampler.history").long()
    for key, found in goldens.keys(r"sampler\.probs_rp([\d.]+)"):
        sampling = SpeechSampling(
            temperature=tuple(LOGIT_SCALE * value for value in plain.temperature),
            top_p=config.top_p,
            top_k=config.top_k,
            repetition_penalty=float(found[1]),
        )
        chances = speech_probabilities(logits[None], history[None], sampling, warp=yes, allow_end=yes)
        row.close(key, chances[0], goldens.take(key))


@torch.inference_mode()
def compare_dvae(goldens: GoldenSet, stream: StreamingModel, row: StageRow) -> None:
    dvae, codes = stream.model.tts.dvae, goldens.take("dvae.codes").long()
    kept_close(goldens, row, "dvae.vq_feats", dvae.features(codes))
    kept_close(goldens, row, "dvae.mel", dvae.decode(codes))


@torch.inference_mode()
def compare_vocos(goldens: GoldenSet, stream: StreamingModel, row: StageRow) -> None:
    # Of the set's own mel where it keeps the whole one: the stages are then judged apart.
    mel = stream.model.tts.dvae.decode(goldens.expected["dvae.codes"].long())
    kept = goldens.expected.get("dvae.mel")
    kept_close(
        goldens, row, "vocos.wav", stream.vocos(kept if kept is not None and kept.shape == mel.shape else mel), SIGNAL
    )


def compare_xfade(goldens: GoldenSet, stream: StreamingModel, row: StageRow) -> None:
    first, second = goldens.take("xfade.a"), goldens.take("xfade.b")
    expected = goldens.take("xfade.out0"), goldens.take("xfade.out1")
    overlap = len(first) + len(second) - len(expected[0]) - len(expected[1])
    for index, joined in enumerate(crossfade(first, second, overlap)):
        row.close(f"xfade.out{index}", joined, expected[index], SIGNAL)


class ScriptedText:
    """Text pieces given in advance, the first with the speaker."""

    def __init__(self, pieces: list[str], speaker: Tensor) -> None:
        self.items = [TextItem(text, None if index else speaker) for index, text in enumerate(pieces)]

    def next(self, most: int | None = None) -> Step[TextItem | None]:
        yield from ()
        return self.items.pop(0) if self.items else None


def compare_speech(goldens: GoldenSet, stream: StreamingModel, row: StageRow) -> None:
    """One ``tts.*`` case."""
    name = row.stage
    case, probe = goldens.section(name), Probe(stream)
    state = stream.open()
    slot = stream.pool.speech.allocate()
    try:
        script = ScriptedText(case["pieces"], goldens.take(f"{name}.spk_embeds"))
        speech = stream.exact_speech(state, script, greedy_options(stream), slot)
        run = probe.run(speech.task())
    finally:
        stream.pool.speech.release(slot)
        stream.pool.drop(state)
    compare_run(stream, row, name, case, run, finished="finished")
    for index, codes in enumerate(speech.segments):
        kept_same(goldens, row, f"{name}.audio_codes_segment{index}", codes)
    wave = torch.cat([chunk.wave for chunk in run.outputs]) if run.outputs else torch.empty(0)
    row.same(f"{name}.wav_total", len(wave), case["wav_total"])
    kept_close(goldens, row, f"{name}.wav", wave, SIGNAL)


def compare_run(
    stream: StreamingModel, row: StageRow, name: str, case: dict[str, Any], run: Run, finished: str
) -> None:
    """What the manifest tells about a spoken answer."""
    row.same(f"{name}.texts", [chunk.text for chunk in run.outputs], case["texts"])
    row.same(f"{name}.wav_lens", [len(chunk.wave) for chunk in run.outputs], case["wav_lens"])
    spoken = run.of(Speak)
    row.same(
        f"{name}.codes_after_each_tts_generate",
        [record.count for record in spoken],
        case["codes_after_each_tts_generate"],
    )
    row.same(f"{name}.{finished}", [record.result.finished for record in spoken], case[finished])
    row.same(
        f"{name}.tts_prefill_positions",
        [[start, start + len(record.result) - 1] for start, record in _reads(stream, run)],
        case["tts_prefill_positions"],
    )
    codes = [len(record.work.codes) for record in run.of(Render)]
    row.same(f"{name}.dvae_codes_per_call", codes, case["dvae_codes_per_call"])


def _reads(stream: StreamingModel, run: Run) -> list[tuple[int, Record]]:
    """First position and record of everything that was fed to the speech model in one pass."""
    codes_start = stream.config.tts.condition_length - 1
    reads = run.of(Read, Recall)
    return [(record.work.start if isinstance(record.work, Read) else codes_start, record) for record in reads]


def compare_speech_tensors(goldens: GoldenSet, row: StageRow, name: str, probe: Probe, run: Run) -> None:
    """Tensors kept of a spoken answer of the ``stream`` stage."""
    logits = probe.speech_logits(run)
    for index, scores in enumerate(logits):
        kept_close(goldens, row, f"{name}.tts_logits_step{index}", scores, SPEECH_LOGITS)
    for index, read in enumerate(run.of(Read, Recall)):
        kept_close(goldens, row, f"{name}.tts_prefill{index}_inputs_embeds", read.inputs["voice"][0][0])
        kept_close(goldens, row, f"{name}.tts_prefill{index}_hidden", read.result)
    for index, mel in enumerate(probe.speech_mels(run)):
        kept_close(goldens, row, f"{name}.dvae_mel_call{index}", mel)
    for index, chunk in enumerate(run.outputs):
        kept_close(goldens, row, f"{name}.wav{index}", chunk.wave, SIGNAL)
