"""What each message of the client does to its call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.call import turn
from app.call.config import FIXED_AT_START, OptionError
from app.call.protocol import VERSION, Command, ProtocolError, parse_command

if TYPE_CHECKING:
    from app.call.call import Call


class Commands:
    """Reads messages and carries them out. A message that cannot be understood gets an ``error`` that names it, one of
    an unknown type a ``warning``; neither changes anything else."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._by_type = {
            "hello": self._hello,
            "session.update": self._update,
            "input.text": self._text,
            "input.commit": self._commit,
            "input.discard": self._discard,
            "mic.state": self._microphone,
            "camera.state": self._camera,
            "response.cancel": self._cancel,
            "playback.report": self._playback,
            "feedback": self._feedback,
            "ping": self._ping,
            "bye": self._bye,
        }

    def receive(self, raw: str) -> None:
        """Carry out one message."""
        try:
            command = parse_command(raw)
            if command.known:
                self._by_type[command.type](command.data)
            else:
                self._ignore(command)
        except ProtocolError as error:
            self._refuse(error.code, error.message, error.ref_seq)
        except OptionError as error:
            self._refuse("bad_options", str(error), command.seq)

    def _hello(self, data: Mapping[str, Any]) -> None:
        self._call.hello(data.get("last_seq"))
        if data.get("protocol", VERSION) != VERSION:
            raise ProtocolError("unsupported_version", f"This server speaks version {VERSION} of the protocol.")

    def _update(self, data: Mapping[str, Any]) -> None:
        config = self._call.config.updated(data)
        fixed = {name: getattr(self._call.config, name) for name in FIXED_AT_START}
        refused = [name for name, value in fixed.items() if value != getattr(config, name)]
        self._call.set_config(config.updated(fixed))
        self._call.event("session.updated", {"config": self._call.config.as_mapping()})
        if refused:
            message = f"{', '.join(refused)} cannot change during a call; choose before the next one."
            self._call.event("warning", {"code": "fixed_at_start", "message": message})

    def _text(self, data: Mapping[str, Any]) -> None:
        text = data["text"].strip()
        if not text:
            raise ProtocolError("invalid_message", "The text is empty; type a word.")
        self._call.step(turn.Typed(text, data.get("speak", True)))

    def _commit(self, data: Mapping[str, Any]) -> None:
        self._call.step(turn.Commit())

    def _discard(self, data: Mapping[str, Any]) -> None:
        self._call.step(turn.Discard())

    def _microphone(self, data: Mapping[str, Any]) -> None:
        self._call.step(turn.Muted(data["muted"]))

    def _camera(self, data: Mapping[str, Any]) -> None:
        if "muted" in data:
            self._call.set_camera(off=data["muted"])

    def _cancel(self, data: Mapping[str, Any]) -> None:
        self._call.step(turn.CancelAnswer())

    def _playback(self, data: Mapping[str, Any]) -> None:
        self._call.report_buffer(data["epoch"], data.get("buffered_ms", 0.0))

    def _feedback(self, data: Mapping[str, Any]) -> None:
        """It is kept by whoever records the call."""

    def _ping(self, data: Mapping[str, Any]) -> None:
        self._call.event("pong", {"nonce": data.get("nonce")})

    def _bye(self, data: Mapping[str, Any]) -> None:
        self._call.end("bye")

    def _ignore(self, command: Command) -> None:
        message = f"Messages of type {command.type!r} are unknown to this server and were ignored."
        data = {"code": "unknown_type", "message": message}
        self._call.event("warning", data if command.seq is None else data | {"ref_seq": command.seq})

    def _refuse(self, code: str, message: str, seq: int | None) -> None:
        data: dict[str, Any] = {"code": code, "message": message, "retryable": False, "fatal": False}
        self._call.event("error", data if seq is None else data | {"ref_seq": seq})
