"""The measure of turns itself: calls are made, replayed and counted, and the counts are what was put in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from app.replay.bundle_media import BundleError
from app.replay.turns import Tally, ToBeHeard, count, main, read_turns
from tests.ears.corpus import Recording
from tests.turns.make import calls, write

SPEECH = sorted((Path(__file__).parents[1] / "data" / "speech").glob("*.flac"))


def people() -> list[Recording]:
    return [Recording(path.stem, path.stem, "", soundfile.read(path, dtype="float32")[0]) for path in SPEECH]


def event(kind: str, t: float, epoch: int = 1, **data: str) -> dict[str, object]:
    return {"type": kind, "t": t, "epoch": epoch, "data": data}


def test_a_turn_is_answered_cut_off_or_left_alone() -> None:
    heard = [ToBeHeard("turn", 1.0, 3.0), ToBeHeard("turn", 5.0, 7.0), ToBeHeard("turn", 9.0, 10.0)]
    events = [event("response.started", 3.5), event("response.started", 6.0, 2)]
    tally = Tally()
    count(heard, events, {1: 0.7}, tally, 0.16)
    assert (tally.turns, tally.cut_off, tally.unanswered, tally.false_answers) == (3, 1, 1, 0)
    assert tally.gaps == [pytest.approx(0.5 + 0.7 - 0.34)]  # 340 ms of its work were done in the silence


def test_a_sound_survives_unless_it_stops_or_causes_an_answer() -> None:
    heard = [ToBeHeard("sound", 1.0, 1.3), ToBeHeard("sound", 5.0, 5.3), ToBeHeard("sound", 9.0, 9.3)]
    events = [
        event("response.done", 1.2, status="cancelled", reason="barge_in"),
        event("response.started", 5.9, 2),
        event("response.done", 9.2, 2, status="completed", reason="completed"),
    ]
    tally = Tally()
    count(heard, events, {}, tally, 0.16)
    assert (tally.sounds, tally.survived, tally.false_answers) == (3, 1, 1)


def test_an_interruption_is_obeyed_from_its_pause_on() -> None:
    heard = [ToBeHeard("interruption", 1.0, 2.5)]
    events = [
        event("response.paused", 1.14, reason="voice"),
        event("response.done", 1.6, status="cancelled", reason="barge_in"),
        event("response.started", 3.0, 3),
    ]
    tally = Tally()
    count(heard, events, {}, tally, 0.16)
    assert (tally.interruptions, tally.obeyed, tally.turns) == (1, 1, 1)
    assert tally.stops == [pytest.approx(0.14)]


@pytest.mark.parametrize("line", ['{"kind": "turn"}', '{"kind": "song", "begin_s": 0, "end_s": 1}', "[]"])
def test_a_broken_list_of_what_is_heard_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "turns.jsonl").write_text(line + "\n")
    with pytest.raises(BundleError, match="line 1"):
        read_turns(tmp_path)


def test_made_calls_go_through_the_whole_app(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    made = {name: (room, pieces) for name, room, pieces in calls(people(), rng, 1)}
    for name in ("whole-000", "pause1500-000", "interrupt-000", "cough-000"):
        write(tmp_path / name, *made[name], rng)
    script = tmp_path / "long.json"
    script.write_text(json.dumps({"answers": [" ".join(["word"] * 30)]}))
    folders = [str(path) for path in sorted(tmp_path.iterdir()) if path.is_dir()]
    options = ["--engine", "scripted", "--script", str(script), "--policy", "before", "--policy", "silence"]
    assert main([*folders, *options]) == 0
    *_, before, silence = capsys.readouterr().out.splitlines()
    cells = [cell.strip() for cell in silence.split("|")]
    assert cells[1] == "silence"
    assert cells[3] == "20 % of 5"  # a second and a half of silence is the end for silence alone
    assert cells[5] == "100 % of 1"
    assert cells[7] == "100 % of 1"
    assert before.startswith("| before |")
