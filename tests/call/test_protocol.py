"""The wire: what is accepted, what is refused and with which words."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from app.call.config import CallConfig, OptionError
from app.call.protocol import SCHEMA, ProtocolError, check_event, encode, make_event, parse_message

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def test_the_schema_is_one() -> None:
    Draft202012Validator.check_schema(SCHEMA)


def test_a_command_is_read() -> None:
    command = parse_message('{"v":1,"type":"input.text","seq":4,"t":1.5,"new":0,"data":{"text":"hi","more":1}}')
    assert (command.type, command.seq, command.data["text"], command.known) == ("input.text", 4, "hi", True)
    assert not parse_message('{"v":1,"type":"later"}').known


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        ("", "bad_json"), ("{", "bad_json"), ("[]", "bad_json"), ("[" * 16_000, "bad_json"),
        ('{"v":1,"type":"ping","data":{"nonce":NaN}}', "bad_json"),
        ('{"v":1,"type":"ping","data":{"nonce":"\\ud800"}}', "bad_json"),
        ('{"v":1,"type":"ping","data":{"nonce":1e999}}', "bad_json"),
        ('{"v":1,"type":"session.update","data":{"\\udc00":1}}', "bad_json"),
        ('"' + "x" * 16_400, "message_too_large"), ("ä" * 9_000, "message_too_large"),
        ('{"type":"ping"}', "unsupported_version"), ('{"v":2,"type":"ping"}', "unsupported_version"),
        ('{"v":1}', "invalid_message"), ('{"v":1,"type":3}', "invalid_message"),
        ('{"v":1,"type":"ping","data":[]}', "invalid_message"), ('{"v":1,"type":"mic.state"}', "invalid_message"),
        ('{"v":1,"type":"input.text","data":{"text":""}}', "invalid_message"),
        ('{"v":1,"type":"playback.report","data":{"epoch":-1,"played_ms":0}}', "invalid_message"),
    ],
)  # fmt: skip
def test_what_is_no_command_is_refused(raw: str, code: str) -> None:
    with pytest.raises(ProtocolError) as refusal:
        parse_message(raw)
    assert refusal.value.code == code
    assert len(refusal.value.message) < 400


@given(JSON, st.sampled_from(list(SCHEMA["$defs"]["client"]["properties"])))
def test_nothing_but_protocol_errors(data: object, kind: str) -> None:
    for message in (data, {"v": 1, "type": kind, "data": data}):
        with contextlib.suppress(ProtocolError):
            parse_message(json.dumps(message))


def test_events_are_checked() -> None:
    event = make_event("vad", {"speaking": True, "level": -20.0}, seq=0, t_samples=320, turn=0, epoch=0)
    check_event(event)
    assert json.loads(encode(event))["t"] == 0.02
    for wrong in ({**event, "type": "nonsense"}, {**event, "data": {}}, {**event, "more": 1}):
        with pytest.raises(ProtocolError):
            check_event(wrong)


def test_options_are_read_back_as_they_were() -> None:
    config = CallConfig.from_mapping({"vad": {"kind": "silero", "end_silence_ms": 700.0}, "barge_in": False})
    assert (config.vad.end_silence_ms, config.vad.onset_ms, config.barge_in) == (700, CallConfig().vad.onset_ms, False)
    assert CallConfig.from_mapping(json.loads(json.dumps(config.as_mapping()))) == config


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"vda": {}}, "vda"), ({"vad": 3}, "vad"), ({"vad": {"kind": "best"}}, "vad.kind"), ({"seed": True}, "seed"),
        ({"vad": {"onset_ms": 1e9}}, "vad.onset_ms"), ({"vad": {"onset_ms": 20.5}}, "vad.onset_ms"),
        ({"vad": {"onset_ms": 500}}, "onset_window_ms"), ({"turn": {"hangover_ms": 4000}}, "hangover_ms"),
        ({"prompt": "\ud83d"}, "prompt"), ({"voice": "\udcff"}, "voice"), ({"\ud83d": 1}, "no option"),
        ({"prompt": None}, "prompt"), ({"speak": 1}, "speak"), ({"turn": {"max_turn_s": float("nan")}}, "max_turn_s"),
    ],
)  # fmt: skip
def test_wrong_options_are_named(options: dict[str, object], word: str) -> None:
    with pytest.raises(OptionError, match=word):
        CallConfig.from_mapping(options)
