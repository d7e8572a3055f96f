"""Options from flags and environment, and the sentences for wrong ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.call.config import CallConfig
from app.errors import StartError
from app.server.options import ServerOptions
from app.server.server import call_defaults, engine_spec, ice_servers


def test_the_defaults_need_nothing() -> None:
    options = ServerOptions.parse([], {})
    assert (options.host, options.port, options.engine, options.max_calls) == ("0.0.0.0", 8443, "mini", 0)
    assert ice_servers(options) == ()


def test_a_flag_wins_over_the_environment_and_an_empty_variable_is_none() -> None:
    environment = {"PORT": "9000", "HOST": "", "MAX_CALLS": " 7 ", "UNRELATED": "x"}
    options = ServerOptions.parse(["--port", "9001"], environment)
    assert (options.port, options.host, options.max_calls) == (9001, "0.0.0.0", 7)


def test_ice_addresses_must_be_this_machines() -> None:
    assert ServerOptions.parse(["--ice-hosts", "127.0.0.1, 127.0.0.2"], {}).ice_hosts == ("127.0.0.1", "127.0.0.2")
    with pytest.raises(StartError, match=r"203\.0\.113\.9, which is not an address of this machine"):
        ServerOptions.parse([], {"ICE_HOSTS": "203.0.113.9"})


def test_stun_and_turn_become_ice_servers() -> None:
    options = ServerOptions.parse(
        ["--stun-url", "stun:stun.example:3478", "--turn-url", "turn:turn.example?transport=tcp"],
        {"TURN_USERNAME": "u", "TURN_PASSWORD": "p"},
    )
    stun, turn = ice_servers(options)
    assert (stun.urls, stun.username) == ("stun:stun.example:3478", None)
    assert (turn.urls, turn.username, turn.credential) == ("turn:turn.example?transport=tcp", "u", "p")


def test_the_engine_is_described_by_plain_options(tmp_path: Path) -> None:
    spec = engine_spec(ServerOptions.parse(["--model", str(tmp_path), "--device", "cuda:1", "--max-calls", "3"], {}))
    assert (spec.kind, spec.model, spec.device, spec.max_sessions) == ("model", str(tmp_path), "cuda:1", 3)
    assert engine_spec(ServerOptions.parse(["--engine", "scripted"], {})).kind == "scripted"


def test_calls_follow_the_servers_options_where_nobody_chose() -> None:
    usual = CallConfig()
    assert call_defaults(ServerOptions.parse([], {})) == usual
    chosen = call_defaults(ServerOptions.parse(["--idle-end-s", "0"], {"PROMPT_AFTER_S": "20", "VAD": "silero"}))
    assert (chosen.silence.idle_end_s, chosen.silence.prompt_after_s, chosen.vad.kind) == (0, 20, "silero")
    assert chosen.silence.away_after_s == usual.silence.away_after_s


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--bogus", "1"], "Unrecognized arguments: --bogus 1"),
        (["--proxies", "10.0.0.1/8"], "must be IP addresses or networks (10.0.0.0/8) separated by commas; "),
        (["--port"], "expected one argument"),
        (["--port", "eighty"], "--port must be a whole number from 0 to 65535"),
        (["--port", "65536"], "--port must be a whole number from 0 to 65535"),
        (["--idle-end-s", "86401"], "--idle-end-s must be a whole number from 0 to 86400"),
        (["--max-calls", "0"], "--max-calls must be a whole number from 1 to 1000"),
        (["--engine", "gpt"], "--engine must be one of mini, scripted"),
        (["--key", "short"], "--key must be auto, or a text of at least 8 characters"),
        (["--vad", "none"], "--vad must be one of webrtc, silero"),
        (["--ice-hosts", "localhost"], "must be IP addresses separated by commas, and 'localhost' is none"),
        (["--stun-url", "https://example"], "must look like stun:host.example:3478"),
        (["--turn-url", "turn:example"], "TURN_URL needs TURN_USERNAME and TURN_PASSWORD"),
        (["--model", "/no/such/folder"], "there is no such folder"),
        (["--model", "/", "--engine", "scripted"], "exclude each other"),
        (["--turn-password", "caf\udce9"], "--turn-password=caf�: --turn-password must be UTF-8 text"),
        (["--script", "a.json"], "SCRIPT needs ENGINE=scripted"),
    ],
)
def test_a_wrong_option_gets_a_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(StartError) as caught:
        ServerOptions.parse(arguments, {})
    assert sentence in str(caught.value)


def test_a_wrong_variable_is_named_as_a_variable() -> None:
    with pytest.raises(StartError, match=r"^PORT=x: PORT must be a whole number"):
        ServerOptions.parse([], {"PORT": "x"})
