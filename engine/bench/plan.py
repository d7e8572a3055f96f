"""The official model without numbers: what it weighs, what a session takes, and that every network fits its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from engine.bench.callers import PICTURE, PROMPT_TOKENS, SPEECH, TEXT, UNIT_TOKENS, WAVE_CONTEXT
from engine.bench.costs import BOUND, CARDS, EXPECTED, FUSED, Costs
from engine.bench.full import OFFICIAL
from engine.bench.memory import weight_bytes
from engine.config import OmniConfig
from engine.conversation.sampling import Noise
from engine.conversation.session import SessionPool, SessionState
from engine.conversation.storage import SessionRoom, choose_room, session_bytes
from engine.conversation.work import Decode, Feed, Hear, Read, Render, See, Speak, Voice, Work
from engine.model.kv import whole
from engine.model.omni import OmniModel
from engine.model.vocos import Vocos

CARD = torch.device("cuda")


@dataclass(frozen=True, slots=True)
class Plan:
    """Bytes of the weights and of one session, part by part."""

    config: OmniConfig
    dtype: torch.dtype
    weights: dict[str, int]
    session_bytes: dict[str, int]

    def room(self, total: int) -> SessionRoom:
        """What an engine would be started with on a card of ``total`` bytes. Raises LoadError where nothing fits."""
        return choose_room(self.config, CARD, self.dtype, total - sum(self.weights.values()))


def plan(config: OmniConfig, dtype: torch.dtype, *, context: int = 8_192) -> Plan:
    """What a model of these sizes takes; sessions of ``context`` tokens."""
    weights = weight_bytes(config, dtype)
    return Plan(config, dtype, weights, session_bytes(config, min(context, config.llm.max_positions), dtype))


def blank(config: OmniConfig, dtype: torch.dtype) -> tuple[OmniModel, Vocos]:
    """A model and its vocoder (float32) on ``meta``."""
    with torch.device("meta"):
        model, vocos = OmniModel(config), Vocos(config.vocos)
    return model.to(dtype).requires_grad_(False).eval(), vocos.requires_grad_(False).eval()


@torch.inference_mode()
def passes(config: OmniConfig, dtype: torch.dtype) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every network once, on ``meta``: what it is and the shape that comes out."""
    model, vocos = blank(config, dtype)
    pool = SessionPool(model, sessions=2, context=8_192)
    vision, audio = config.vision, config.audio
    slices, side = 10, config.image.scale_resolution // vision.patch_size
    patches = torch.empty(slices, side * side, 3 * vision.patch_size**2, device="meta", dtype=dtype)
    yield f"{slices} slices of a picture", tuple(model.see(patches, [(side, side)] * slices).shape)
    mel = torch.empty(2, audio.num_mel_bins, 100, device="meta", dtype=dtype)
    heard = model.apm.stream(mel, [100, 100], pool.audio.place([0, 1], [0, 0], [50, 50], sight=whole))
    yield "a second of sound, two sessions", tuple(model.audio_projection_layer(heard).shape)
    embeds = torch.empty(2, UNIT_TOKENS, config.llm.hidden_size, device="meta", dtype=dtype)
    states = model.llm(embeds, cache=pool.llm.place([0, 1], [4_000, 8_000], [UNIT_TOKENS] * 2))
    yield "a unit, two sessions", tuple(states.shape)
    yield "logits", tuple(model.llm.logits(states[:, -1]).shape)
    codes = torch.empty(2, config.tts.num_vq, WAVE_CONTEXT + 25, device="meta", dtype=torch.int64)
    yield "a wave, two sessions", tuple(vocos(model.tts.dvae.decode(codes)).shape)


def batches(rows: int, context: int) -> list[tuple[str, list[Work], int]]:
    """Work of ``rows`` sessions, and into how many parts its time is divided."""
    nothing = torch.empty(0)
    state, voice = SessionState(0, 0, Noise(0), length=context), Voice(0, nothing, nothing)
    wave = torch.empty(WAVE_CONTEXT + 25, 0)
    one: list[tuple[str, Work, int]] = [
        ("picture, 448 x 448", See(PICTURE), 1),
        ("second of sound", Hear(state, nothing), 1),
        (f"unit of {UNIT_TOKENS} tokens", Feed(state, torch.empty(UNIT_TOKENS, 0)), 1),
        ("prompt of an answer and a token", Decode(state, (0,) * PROMPT_TOKENS, 1, TEXT, nothing, Noise(0)), 1),
        ("token of text", Decode(state, (0,), 8, TEXT, nothing, Noise(0)), 8),
        ("text into the speech model", Read(voice, 0, (0,) * 10), 1),
        ("code of speech", Speak(voice, 25, 10, 0, SPEECH, Noise(0)), 25),
        ("wave of 25 codes", Render(wave), 1),
    ]
    return [(what, [work] * rows, parts) for what, work, parts in one]


def print_plan() -> None:
    """Sizes, shapes, and for every stage what bounds it and what is expected."""
    config = OmniConfig.from_dicts(OFFICIAL)
    found = plan(config, torch.bfloat16)
    for title, sizes in (("weights", found.weights), ("a session of 8,192 tokens", found.session_bytes)):
        parts = ", ".join(f"{name} {size / 1e6:,.0f}" for name, size in sizes.items())
        print(f"{title}: {sum(sizes.values()) / 1e6:,.0f} MB ({parts})")
    for name, total in (("H100", 80 << 30), ("H200", 139 << 30)):
        print(f"{name}: {found.room(total)}")
    for what, shape in passes(config, torch.bfloat16):
        print(f"{what}: {' x '.join(map(str, shape))}")
    cases = [(card, rows) for card in CARDS for rows in (1, 16, 64)]
    heads = [f"{card.name} x{rows}" for card, rows in cases]
    print(f"{'bound / expected, ms':<34}" + "".join(f"{head:>16}" for head in heads))
    for index, (what, _, divided) in enumerate(batches(1, 4_096)):
        print(f"{what:<34}", end="")
        for card, rows in cases:
            works = batches(rows, 4_096)[index][1]
            limits = (Costs(card, FUSED, captured=True, reach=reach) for reach in (BOUND, EXPECTED))
            times = (f"{1e3 * cost(works).alone / divided:.2f}" for cost in limits)
            print(f"{' / '.join(times):>16}", end="")
        print()
