"""The kernels of a card against the definitions of their chains: in Triton's interpreter, or on a card where there is
one."""

from __future__ import annotations

import copy
import importlib
import inspect
import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.checkpoint.loader import LoadedModel
from engine.conversation.sampling import SpeechSampling, speech_probabilities
from engine.model.fused import Fused, launches_of, swiglu
from tests.engine_stream.chains import MANY, chains
from tests.engine_stream.test_steps import Callers

pytest.importorskip("triton", reason="Triton, which the kernels are written in, is there for Linux only")

ON_CARD = torch.cuda.is_available()
DTYPES = (torch.float32, torch.bfloat16)


@pytest.fixture
def interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps on a CPU run the kernels."""
    for chain in Fused.every.values():
        monkeypatch.setattr(chain, "interpreted", True)


@pytest.mark.parametrize(
    ("rows", "dtype"), [(rows, DTYPES[index % 2]) for index, rows in enumerate((1, 1, 2, 3, 9, 16, 32, 64))]
)
def test_a_kernel_does_what_its_definition_says(rows: int, dtype: torch.dtype) -> None:
    seen = set()
    for chain, args in chains(rows, dtype, seed=rows):
        ours, theirs = on_device(args), on_device(args)
        made, expected = chain.kernel(*ours), chain.plain(*theirs)
        places = sound_rows(chain, args)
        for name, mine, other in zip(names(chain), [*ours, made], [*theirs, expected], strict=True):
            if isinstance(mine, Tensor):
                if name != "sound" and places is not None and len(mine) == rows:
                    mine, other = mine[places], other[places]
                assert_near(mine, other, f"{chain.name} {name}")
        seen.add(chain.name)
    assert rows > MANY or seen == {chain.name for chain in Fused.every.values()}


def on_device(args: list[Any]) -> list[Any]:
    device = "cuda" if ON_CARD else "cpu"
    return [value.to(device, copy=True) if isinstance(value, Tensor) else value for value in args]


def names(chain: Fused[..., Any]) -> list[str]:
    return [*inspect.signature(chain.plain).parameters, "result"]


def sound_rows(chain: Fused[..., Any], args: list[Any]) -> Tensor | None:
    """The rows whose draw counts, where not all do: nobody looks at what is drawn from what is no number."""
    if not chain.name.startswith("choose"):
        return None
    given: Tensor = args[0]
    return (given.float().flatten(1) < float("inf")).all(1).nonzero()[:, 0]


def assert_near(mine: Tensor, other: Tensor, what: str) -> None:
    """Whole numbers and flags are the same; others are but for their last bits."""
    rtol = 2e-2 if mine.dtype == torch.bfloat16 else 1e-5
    atol = 0.0 if not mine.is_floating_point() else rtol
    torch.testing.assert_close(
        mine, other, rtol=rtol if atol else 0.0, atol=atol, equal_nan=True, msg=lambda text: f"{what}: {text}"
    )


def test_of_equals_one_that_may_be_drawn_is() -> None:
    """Of many equal scores at the edge of what is kept, torch keeps some and a kernel others."""
    chain, args = next(case for case in chains(8, torch.float32, seed=1) if case[0].name == "choose_codes_")
    args[0] = args[0].round()
    names_of = names(chain)
    step, begun, guard = (args[names_of.index(name)] for name in ("step", "begun", "guard"))
    sampling = SpeechSampling(tuple(args[names_of.index("temperature")]))
    chances = speech_probabilities(
        args[0], args[names_of.index("history")], sampling, warp=begun, allow_end=guard <= step
    )  # fmt: skip
    ours = on_device(args)
    chain.kernel(*ours)
    for row in range(8):
        for code, scores, possible in zip(
            ours[names_of.index("drawn")][row, step[row]].tolist(), args[0][row], chances[row] > 0, strict=True
        ):
            assert scores[code] in scores[possible]


def test_a_chain_is_what_it_tells_torch() -> None:
    """Its schema names what it changes, and it runs on tensors that have no numbers."""
    for chain, args in chains(3, torch.float32, seed=0):
        operator = getattr(torch.ops.omnicall, chain.name).default
        torch.library.opcheck(operator, tuple(args), test_utils=("test_schema", "test_faketensor"))


@pytest.mark.skipif(ON_CARD, reason="counts what Triton's interpreter runs")
def test_a_chain_launches_as_often_as_it_says(monkeypatch: pytest.MonkeyPatch) -> None:
    executor = importlib.import_module("triton.runtime.interpreter").GridExecutor
    plain, count = executor.__call__, 0

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal count
        count += 1
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(executor, "__call__", counted)
    for chain, args in chains(2, torch.float32, seed=0):
        before = count
        chain.kernel(*on_device(args))
        assert count - before == chain.launches == launches_of(getattr(torch.ops.omnicall, chain.name).default)


def test_a_kernel_that_fails_is_given_up(caplog: pytest.LogCaptureFixture) -> None:
    """Before it has done anything: its chain goes on operation by operation, and the log says so once."""
    chain = copy.copy(swiglu)
    chain._kernels = "engine.model.nowhere"
    both = torch.randn(2, 6)
    for _ in range(2):
        assert torch.equal(chain._on_card(both), swiglu.plain(both))
    assert ["swiglu is done operation by operation" in record.message for record in caplog.records] == [True]


def test_every_kernel_compiles_for_a_card() -> None:
    """To the machine code of an H100, by the compiler that comes with Triton: no card is needed."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    command = [sys.executable, "-m", "tests.engine_stream.chains"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert done.stdout.split() == sorted(f"_{chain.name.rstrip('_')}" for chain in Fused.every.values())


@pytest.mark.skipif(ON_CARD, reason="the interpreter runs on a CPU")
def test_blocks_of_kernels_say_the_same(loaded: LoadedModel, interpreted: None) -> None:
    """Whole steps of text and speech, with sessions in slots that are no neighbours."""
    model = copy.deepcopy(loaded.model)
    model.join()
    ours, theirs = (Callers(replace(loaded, model=which), 4, paged=True) for which in (model, loaded.model))
    results = []
    for callers in (ours, theirs):
        for chain in Fused.every.values():
            chain.interpreted = callers is ours
        states = [callers.session(seed) for seed in range(4)]
        works = [callers.decode(states[slot], 3 + slot, 3) for slot in (3, 1)]
        done = callers.executor.run(works)
        again = callers.executor.run([callers.more(*pair, 2) for pair in zip(works, done, strict=True)])
        voices = [callers.voice(seed, 14) for seed in range(2)]
        callers.executor.run([callers.speak(voice, 14, 3, seed) for seed, voice in enumerate(voices)])
        results.append(([one.ids for one in [*done, *again]], [voice.codes.tolist() for voice in voices]))
    assert results[0] == results[1]
