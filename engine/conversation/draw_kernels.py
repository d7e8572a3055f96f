"""The kernels of how text tokens and audio codes are drawn, see :mod:`engine.model.kernels`; what each does is said in
:mod:`engine.conversation.text_steps` and :mod:`engine.conversation.speech_steps`.

Flags are bytes: 0 or 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine.conversation.sampling import temperatures
from engine.model.kernels import WIDE, jit, width


@jit
def _text_scores(
    logits: tl.tensor, seen: tl.tensor, stops: tl.tensor, step: tl.tensor, least: tl.tensor, out: tl.tensor,
    size: tl.tensor, stop_count: tl.tensor, penalty: tl.tensor, temperature: tl.tensor, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    row, i = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = i < size
    score = tl.load(logits + row * size + i, mask=inside, other=0.0).to(tl.float32)
    early = tl.load(step + row) < tl.load(least + row)
    for n in range(stop_count):
        banned = (i == tl.load(stops + n)) & early & (score == score)
        score = tl.where(banned, float("-inf"), score)
    known = tl.load(seen + row * size + i, mask=inside, other=0) != 0
    score = tl.where(known, tl.where(score < 0, score * penalty, score / penalty), score)
    tl.store(out + row * size + i, score / temperature, mask=inside)


def text_scores(
    logits: Tensor, seen: Tensor, stops: Tensor, step: Tensor, least: Tensor, penalty: float, temperature: float
) -> Tensor:
    rows, size = logits.shape
    assert all(tensor.is_contiguous() for tensor in (logits, seen))
    out = torch.empty(rows, size, device=logits.device)
    _text_scores[(rows, triton.cdiv(size, WIDE))](
        logits, seen.view(torch.uint8), stops, step, least, out, size, len(stops), penalty, temperature, BLOCK=WIDE
    )
    return out


@jit
def _draw(chances: tl.tensor, uniform: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """The place at which the sum of ``chances``, whatever their total, exceeds ``uniform`` of it: see ``pick``."""
    climb = tl.cumsum(chances, 0)
    total = tl.max(climb, 0)
    below = tl.sum(((climb <= uniform * total) & inside).to(tl.int32), 0)
    return tl.minimum(below, tl.sum(((climb < total) & inside).to(tl.int32), 0))


@jit
def _choose_text(
    best: tl.tensor, ids: tl.tensor, uniform: tl.tensor, stops: tl.tensor, limit: tl.tensor, step: tl.tensor,
    last: tl.tensor, drawn: tl.tensor, seen: tl.tensor, alive: tl.tensor, sound: tl.tensor, mass: tl.tensor,
    count: tl.tensor, stop_count: tl.tensor, steps: tl.tensor, size: tl.tensor, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    row, i = tl.program_id(0).to(tl.int64), tl.arange(0, BLOCK)
    inside = i < count
    now, counts = tl.load(step + row), tl.load(alive + row) != 0
    score = tl.load(best + row * count + i, mask=inside, other=float("-inf"))
    top = tl.load(best + row * count)
    chance = tl.exp(score - top)
    chance = chance / tl.sum(chance, 0)
    # The probability of what comes before each: what is more likely, or as likely and further back (as a sort has it).
    tied = (score[None, :] == score[:, None]) & (i[None, :] > i[:, None])
    before = tl.sum(tl.where((score[None, :] > score[:, None]) | tied, chance[None, :], 0.0), 1)
    chance = tl.where((before < mass) | (before == 0.0), chance, 0.0)
    choice = _draw(chance, tl.load(uniform + row * steps + now), inside)
    chosen = tl.sum(tl.where(i == choice, tl.load(ids + row * count + i, mask=inside, other=0), 0), 0)
    finite = (top > float("-inf")) & (top < float("inf"))  # false for what is no number, too
    stopped = chosen < 0
    for n in range(stop_count):
        stopped = stopped | (chosen == tl.load(stops + n))
    goes_on = counts & ~stopped & (now + 1 < tl.load(limit + row))
    was_seen, was_sound = tl.load(seen + row * size + chosen) != 0, tl.load(sound + row) != 0
    tl.debug_barrier()
    tl.store(last + row, chosen)
    tl.store(drawn + row * steps + now, chosen)
    tl.store(seen + row * size + chosen, (was_seen | counts).to(tl.uint8))
    tl.store(step + row, now + 1)
    tl.store(sound + row, (was_sound & (finite | ~counts)).to(tl.uint8))
    tl.store(alive + row, goes_on.to(tl.uint8))


def choose_text_(
    best: Tensor, ids: Tensor, uniform: Tensor, stops: Tensor, limit: Tensor, step: Tensor, last: Tensor,
    drawn: Tensor, seen: Tensor, alive: Tensor, sound: Tensor, mass: float,
) -> None:  # fmt: skip
    rows, count = best.shape
    seen, alive, sound = (flags.view(torch.uint8) for flags in (seen, alive, sound))
    _choose_text[(rows,)](
        best, ids, uniform, stops, limit, step, last, drawn, seen, alive, sound, mass,
        count, len(stops), uniform.shape[1], seen.shape[1], BLOCK=width(count), num_warps=8,
    )  # fmt: skip


@jit
def _choose_codes(
    logits: tl.tensor, uniform: tl.tensor, alive: tl.tensor, begun: tl.tensor, guard: tl.tensor, step: tl.tensor,
    history: tl.tensor, drawn: tl.tensor, sound: tl.tensor, temperature: tl.tensor, mass: tl.tensor, count: tl.tensor,
    least: tl.tensor, penalty: tl.tensor, size: tl.tensor, steps: tl.tensor, window: tl.tensor,
    PENALTY: tl.constexpr, GREEDY: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    # A program draws one code of one row.
    row, q, i = tl.program_id(0), tl.program_id(1), tl.arange(0, BLOCK)
    codes = tl.num_programs(1)
    each, inside = (row * codes + q).to(tl.int64), i < size
    now = tl.load(step + row)
    score = tl.load(logits + each * size + i, mask=inside, other=float("-inf")).to(tl.float32)
    top = tl.max(score, 0)
    finite = (tl.sum((score != score).to(tl.int32), 0) == 0) & (top > float("-inf")) & (top < float("inf"))
    score = score / tl.load(temperature + q)
    warps = tl.load(begun + row) != 0
    if PENALTY:
        times = i * 0
        for n in range(window):
            times += (i == tl.load(history + each * window + n)).to(tl.int32)
        factor = tl.exp2(times.to(tl.float32) * tl.log2(penalty))
        score = tl.where(warps, tl.where(score < 0, score * factor, score / factor), score)
    # The best ones by turns, of equals the last (as a sort has it), while there is probability left to make up.
    top = tl.max(score, 0)
    total = tl.sum(tl.exp(score - top), 0)
    kept, had, made_up, worst, following = i < 0, 0, 0.0, top, top
    goes_on = warps & finite
    while goes_on:
        place = tl.max(tl.where((score == following) & ~kept, i, -1), 0)
        kept = kept | (i == place)
        had += 1
        made_up += tl.exp(following - top) / total
        worst = following
        following = tl.max(tl.where(kept, float("-inf"), score), 0)
        wanted = (made_up < mass) & ((had < count) | (following == worst))
        goes_on = (following > float("-inf")) & (wanted | (had < least))
    score = tl.where(kept | ~warps, score, float("-inf"))
    ends = (tl.load(guard + row) <= now) | (i < size - 1)
    score = tl.where(ends, score, float("-inf"))
    top = tl.max(score, 0)
    if GREEDY:
        code = tl.min(tl.where(score == top, i, BLOCK), 0)
    else:
        code = _draw(tl.exp(score - top), tl.load(uniform + (row * steps + now) * codes + q), inside)
    code = tl.minimum(code, size - 1).to(tl.int64)
    tl.debug_barrier()
    tl.store(drawn + (row * steps + now) * codes + q, code)
    if PENALTY:
        tl.store(history + each * window + now % window, code)
    if ~finite & (tl.load(alive + row) != 0):
        tl.store(sound + row, 0)  # as all codes of the row would


def choose_codes_(
    logits: Tensor, uniform: Tensor, alive: Tensor, begun: Tensor, guard: Tensor, step: Tensor, history: Tensor,
    drawn: Tensor, sound: Tensor, temperature: Sequence[float], mass: float, count: int, least: int, penalty: float,
    greedy: bool,
) -> None:  # fmt: skip
    rows, codes, size = logits.shape
    assert all(tensor.is_contiguous() for tensor in (logits, history))
    alive, begun, sound = (flags.view(torch.uint8) for flags in (alive, begun, sound))
    _choose_codes[(rows, codes)](
        logits, uniform, alive, begun, guard, step, history, drawn, sound,
        temperatures(tuple(temperature), logits.device), mass, max(count, least), least, penalty,
        size, uniform.shape[1], history.shape[2], PENALTY=penalty != 1.0, GREEDY=greedy, BLOCK=width(size),
    )  # fmt: skip


@jit
def _go_on(
    drawn: tl.tensor, limit: tl.tensor, step: tl.tensor, begun: tl.tensor, alive: tl.tensor, embeds: tl.tensor,
    embeddings: tl.tensor, offsets: tl.tensor, end: tl.tensor, steps: tl.tensor, hidden: tl.tensor,
    CODES: tl.constexpr, BLOCK: tl.constexpr,
) -> None:  # fmt: skip
    row, i = tl.program_id(0), tl.arange(0, BLOCK)
    now, counts = tl.load(step + row), tl.load(alive + row) != 0
    total = tl.zeros((BLOCK,), tl.float32)
    ended = now < 0
    for q in tl.static_range(CODES):
        code = tl.load(drawn + (row * steps + now) * CODES + q)
        ended = ended | (code == end)
        total += tl.load(embeddings + (code + tl.load(offsets + q)) * hidden + i, mask=i < hidden, other=0.0)
    goes_on = counts & ~ended & (now + 1 < tl.load(limit + row))
    tl.debug_barrier()
    tl.store(embeds + row * hidden + i, total, mask=i < hidden)
    tl.store(begun + row, 1)
    tl.store(step + row, now + 1)
    tl.store(alive + row, goes_on.to(tl.uint8))


def go_on_(
    drawn: Tensor, limit: Tensor, step: Tensor, begun: Tensor, alive: Tensor, embeds: Tensor, embeddings: Tensor,
    offsets: Tensor, end: int,
) -> None:  # fmt: skip
    rows, steps, codes = drawn.shape
    hidden = embeds.shape[1]
    begun, alive = begun.view(torch.uint8), alive.view(torch.uint8)
    _go_on[(rows,)](
        drawn, limit, step, begun, alive, embeds, embeddings, offsets, end, steps, hidden,
        CODES=codes, BLOCK=width(hidden),
    )  # fmt: skip
