"""Options of the server: each is a flag of ``python -m app``, an environment variable and a make variable.

A flag wins over the environment; an empty variable counts as not set. The dataclass below is the whole list.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, field, fields
from pathlib import Path
from typing import Any, NoReturn

from app.errors import StartError
from app.server.proxies import Network, networks
from app.text import is_unicode, printable
from engine.foreign import INSTEAD, foreign_format


def _whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"\d{1,9}", text) else None
        if value is None or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def _one_of(*words: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in words:
            raise ValueError(f"must be one of {', '.join(words)}")
        return text.lower()

    return parse


def _addresses(text: str) -> tuple[str, ...]:
    """Comma-separated addresses of this machine; each is tried, since one that cannot be bound gives silent calls."""
    found = []
    for word in text.replace(",", " ").split():
        try:
            address = ipaddress.ip_address(word)
        except ValueError:
            raise ValueError(f"must be IP addresses separated by commas, and {word!r} is none") from None
        family = socket.AF_INET if address.version == 4 else socket.AF_INET6
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.bind((word, 0))
            except OSError:
                raise ValueError(f"names {word}, which is not an address of this machine") from None
        found.append(str(address))
    return tuple(found)


def _ice_url(*schemes: str) -> Callable[[str], str]:
    pattern = re.compile(rf"({'|'.join(schemes)}):[^\s:?/]+(:\d{{1,5}})?(\?transport=(udp|tcp))?")

    def parse(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(f"must look like {schemes[0]}:host.example:3478")
        return text

    return parse


def _key(text: str) -> str:
    if text.lower() == "auto":
        return "auto"
    if len(text) < 8 or not text.isprintable():
        raise ValueError("must be auto, or a text of at least 8 characters")
    return text


def _secret(text: str) -> str:
    if len(text) < 8 or not (text.isascii() and text.isprintable()) or " " in text:
        raise ValueError("must be at least 8 characters of ASCII, without spaces")
    return text


SMALL = "small"
"""The model that is assembled on this machine."""


def _option(default: Any, parse: Callable[[str], Any], help: str) -> Any:
    return field(default=default, metadata={"parse": parse, "help": help})


@dataclass(frozen=True, slots=True)
class ServerOptions:
    """What the person who starts the server can choose."""

    host: str = _option("0.0.0.0", str, "address to listen on; 127.0.0.1 keeps the server to this machine")
    port: int = _option(8443, _whole(0, 65535), "TCP port; 0 takes any free one")
    ice_hosts: tuple[str, ...] = _option(
        (), _addresses, "addresses to gather and announce for media (all of the machine's when not set)"
    )
    stun_url: str = _option("", _ice_url("stun"), "STUN server, only needed behind NAT")
    turn_url: str = _option("", _ice_url("turn", "turns"), "TURN server")
    turn_username: str = _option("", str, "user name at the TURN server")
    turn_password: str = _option("", str, "password at the TURN server; the page gets it too")
    engine: str = _option("mini", _one_of("mini", "scripted"), "the model, or scripted answers for work on the page")
    model: str = _option("", str, "small, or the folder of a checkpoint, to load in place of the shipped mini model")
    language: str = _option("", str, "folder of a Qwen2.5 Instruct model that small takes for its own language model")
    cache: str = _option("", str, "folder in which small, or its ears, are assembled (the user's cache when not set)")
    transcribe: str = _option(
        "", _one_of(SMALL), "small shows callers what they say, read by small's ears whatever model answers"
    )
    device: str = _option("auto", str, "where the model runs: auto, cpu, mps, cuda or cuda:N")
    dtype: str = _option("auto", str, "precision of the weights: auto, float32, bfloat16 or float16")
    adapter: str = _option("", str, "directory of a fine-tuned adapter of the model, in peft's layout")
    quantize: str = _option("auto", str, "quantization of the language model: auto, none, int8, int4 or fp8")
    script: str = _option("", str, "JSON file with the answers of the scripted engine")
    key: str = _option("", _key, "key that callers need: auto for a new one at every start, or a text of your own")
    api_key: str = _option("", _secret, "key that programs show for /v1/ as a bearer token; KEY when not set")
    remote_urls: str = _option("off", _one_of("off", "on"), "whether /v1/ fetches what a request links: off or on")
    max_calls: int = _option(
        0,
        _whole(1, 1000),
        "calls at the same time; further callers queue (as many as there is room for when not set)",
    )
    context: int = _option(
        0, _whole(256, 1_000_000), "tokens that a call remembers (8192, or fewer where memory is short, when not set)"
    )
    max_call_s: int = _option(0, _whole(0, 604_800), "seconds after which a call ends, announced before; 0 is no limit")
    idle_end_s: int | None = _option(
        None, _whole(0, 86_400), "seconds without a sign of life after which a call ends, announced before; 0 is never"
    )
    away_after_s: int | None = _option(
        None, _whole(0, 86_400), "seconds without a sign of life after which a person counts as away; 0 is never"
    )
    prompt_after_s: int | None = _option(
        None, _whole(0, 3_600), "seconds of silence after which the model says a word of its own; 0 is never"
    )
    prompt_text: str = _option("", str, "how the model is asked for that word")
    record: str = _option("", str, "folder that gets a bundle of every call (calls are not recorded when not set)")
    vad: str = _option("", _one_of("webrtc", "silero"), "voice activity detector of calls that do not choose one")
    grace_s: int = _option(60, _whole(0, 3600), "seconds for which a call without its peer can be resumed")
    drain_s: int = _option(8, _whole(0, 3600), "seconds that answers get to be finished when the server is stopped")
    proxies: tuple[Network, ...] = _option(
        (), networks, "addresses or networks of reverse proxies that are believed about whom they pass on"
    )
    offers_per_minute: int = _option(120, _whole(0, 100_000), "offers that one address may make; 0 is no limit")
    log_level: str = _option("info", _one_of("debug", "info", "warning", "error"), "how much to log")
    tls_cert: str = _option("", str, "PEM certificate of one's own (chain included), with TLS_KEY")
    tls_key: str = _option("", str, "PEM private key of TLS_CERT")

    @classmethod
    def parse(cls, arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> ServerOptions:
        """Options from flags and environment. Raises StartError with a sentence on an unknown flag or a bad value."""
        parser = _Parser(prog="python -m app", description="The call server.", allow_abbrev=False)
        for option in fields(cls):
            variable = option.name.upper()
            default = f", {option.default} when not set" if option.default else ""
            parser.add_argument(
                _flag(option), metavar=variable, help=f"{option.metadata['help']} [variable {variable}{default}]"
            )
        flags = vars(parser.parse_args(arguments))
        values = {}
        for option in fields(cls):
            text, where = flags[option.name], _flag(option)
            if text is None:
                text, where = environment.get(option.name.upper(), "").strip(), option.name.upper()
            if not is_unicode(text):
                raise StartError(f"{where}={printable(text)}: {where} must be UTF-8 text.")
            if text:
                try:
                    values[option.name] = option.metadata["parse"](text)
                except ValueError as error:
                    raise StartError(f"{where}={text}: {where} {error}.") from None
        options = cls(**values)
        options._check()
        return options

    def _check(self) -> None:
        if self.turn_url and not (self.turn_username and self.turn_password):
            raise StartError("TURN_URL needs TURN_USERNAME and TURN_PASSWORD as well.")
        if self.model and self.engine == "scripted":
            raise StartError("MODEL and ENGINE=scripted exclude each other: the scripted engine loads no model.")
        if self.script and self.engine != "scripted":
            raise StartError("SCRIPT needs ENGINE=scripted: only that engine reads its answers from a file.")
        if self.language and self.model != SMALL:
            raise StartError("LANGUAGE needs MODEL=small: no other model takes one.")
        if self.cache and SMALL not in (self.model, self.transcribe):
            raise StartError("CACHE needs MODEL=small or TRANSCRIBE=small: nothing else is assembled.")
        if self.transcribe == SMALL and self.engine == "scripted":
            raise StartError("TRANSCRIBE and ENGINE=scripted exclude each other: the scripted engine does not listen.")
        if problem := foreign_format(self.model):
            raise StartError(f"MODEL={self.model} {problem}; {INSTEAD}.")
        if self.model and self.model != SMALL and not Path(self.model).is_dir():
            raise StartError(
                f"MODEL={self.model}: there is no such folder. Name small, or the folder that holds config.json."
            )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise StartError(f"{message[:1].upper()}{message[1:]}. `python -m app --help` lists the options.")


def _flag(option: Field[Any]) -> str:
    return "--" + option.name.replace("_", "-")
