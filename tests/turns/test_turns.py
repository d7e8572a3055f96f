"""The measure of turns itself: calls are made, replayed and counted, and the counts are what was put in."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from app.replay.bundle_media import BundleError
from app.replay.turn_tally import Count, Tally, ToBeHeard, count, read_turns
from app.replay.turns import main, tables
from tests.ears.corpus import Recording
from tests.turns.make import write
from tests.turns.scenes import ANSWER, scenes
from tests.turns.sounds import MADE, REPORT, TUNING
from tests.turns.voicing import first_voiced

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
    assert (tally.cut_off, tally.unanswered, tally.false_answers) == (Count(1, 3), Count(1, 3), 0)
    assert tally.gaps == [pytest.approx(0.5 + 0.7 - 0.34)]  # 340 ms of its work were done in the silence


def test_a_sound_survives_unless_it_stops_or_causes_an_answer() -> None:
    heard = [ToBeHeard("sound", 1.0, 1.3, "cough"), ToBeHeard("sound", 5.0, 5.3, "hum"), ToBeHeard("sound", 9.0, 9.3)]
    events = [
        event("response.started", 0.5, reason="typed"),
        event("response.done", 1.2, status="cancelled", reason="barge_in"),
        event("response.started", 5.9, 2),
        event("response.done", 9.2, 2, status="completed", reason="completed"),
    ]
    tally = Tally()
    count(heard, events, {}, tally, 0.16)
    assert tally.survived == {"cough": Count(0, 1), "sound": Count(1, 1)}
    assert tally.alone == {"hum": Count(0, 1)}
    assert tally.false_answers == 1


def test_a_sound_before_a_turn_is_not_blamed_for_its_answer() -> None:
    heard = [ToBeHeard("sound", 1.0, 1.3, "cough"), ToBeHeard("turn", 1.6, 2.4)]
    tally = Tally()
    count(heard, [event("response.started", 2.6)], {}, tally, 0.16)
    assert (tally.alone, tally.cut_off, tally.unanswered) == ({"cough": Count(1, 1)}, Count(0, 1), Count(0, 1))


def test_an_interruption_is_obeyed_from_its_pause_on() -> None:
    heard = [ToBeHeard("interruption", 1.0, 2.5, voiced_s=1.06)]
    events = [
        event("response.paused", 1.14, reason="voice"),
        event("response.done", 1.6, status="cancelled", reason="barge_in"),
        event("response.started", 3.0, 3),
    ]
    tally = Tally()
    count(heard, events, {}, tally, 0.16)
    assert (tally.obeyed, tally.cut_off) == ({"interruption": Count(1, 1)}, Count(0, 1))
    measured = [tally.pauses, tally.voiced_pauses, tally.stops]
    assert measured == [[pytest.approx(0.14)], [pytest.approx(0.08)], [pytest.approx(0.54)]]


@pytest.mark.parametrize(("status", "well"), [("completed", 1), ("cancelled", 0)])
def test_an_overlap_is_well_when_the_answer_is_finished_and_the_person_answered(status: str, well: int) -> None:
    events = [event("response.done", 1.4, status=status, reason="barge_in"), event("response.started", 2.7, 2)]
    tally = Tally()
    count([ToBeHeard("turn", 1.0, 2.5, "overlap")], events, {}, tally, 0.16)
    assert tally.overlaps == Count(well, 1)


def test_the_tables_have_what_was_counted() -> None:
    tally = Tally(gaps=[0.2, 0.4], cut_off=Count(1, 4), survived={"cough": Count(3, 4)}, drafts_kept=2, minutes=2.0)
    turns, _, sounds = tables({"mine": tally}).split("\n\n")
    assert turns.splitlines()[-1] == "| mine | 300 / 380 / 390 | 25 % of 4 | – | 2, 0 |"
    assert sounds.splitlines()[-1] == "| mine | cough 75 % of 4 | – | 0.0 |"


def test_voice_begins_after_its_soft_consonant() -> None:
    time = np.arange(8_000) / 16_000
    hiss = 0.02 * np.random.default_rng(0).standard_normal(1_600)
    vowel = np.sum([np.sin(2 * np.pi * 120 * k * time) / k for k in range(1, 9)], axis=0) * 0.1
    assert first_voiced(np.concatenate([hiss, vowel]).astype(np.float32)) == pytest.approx(1_600, abs=320)


@pytest.mark.parametrize("kind", MADE)
def test_made_sounds_of_the_two_halves_differ(kind: str) -> None:
    """What thresholds were chosen on must not be what they are reported on."""
    one, other = (MADE[kind](half, np.random.default_rng(3)) for half in (TUNING, REPORT))
    assert np.abs(one).max() == pytest.approx(0.3)
    assert len(one) != len(other) or not np.allclose(one, other, atol=0.01)


@pytest.mark.parametrize("line", ['{"kind": "turn"}', '{"kind": "song", "begin_s": 0, "end_s": 1}', "[]"])
def test_a_broken_list_of_what_is_heard_is_refused(line: str, tmp_path: Path) -> None:
    (tmp_path / "turns.jsonl").write_text(line + "\n")
    with pytest.raises(BundleError, match="line 1"):
        read_turns(tmp_path)


def test_made_calls_go_through_the_whole_app(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    wanted = ("whole-000", "pause1500-000", "interrupt-000", "made-cough-000", "alone-knock-000", "overlap-000")
    for scene in scenes(people(), [], rng, 1, synthesizers=False):
        if scene.name in wanted:
            write(tmp_path / scene.name, scene, rng)
    script = tmp_path / "script.json"
    script.write_text(json.dumps({"answers": [ANSWER]}))
    options = ["--engine", "scripted", "--script", str(script), "--policy", "before", "--policy", "silence"]
    assert main([*(str(tmp_path / name) for name in wanted), *options]) == 0
    turns, interruptions, sounds = capsys.readouterr().out.split("\n\n")
    assert turns.splitlines()[-1].split(" | ")[2] == "25 % of 4"  # 1.5 s of silence are the end for silence alone
    assert interruptions.splitlines()[-1].endswith("| sentence 100 % of 1 | 100 % of 1 |")
    assert sounds.splitlines()[-1] == "| silence | made cough 100 % of 1 | knock 100 % of 1 | 0.0 |"
    assert turns.splitlines()[-2].startswith("| before |")
