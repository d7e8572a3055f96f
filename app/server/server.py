"""The server: certificates, engine, HTTP and calls, from start to the last closed peer."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from aiohttp import web
from aiortc import RTCIceServer

from app.call.config import CallConfig
from app.errors import StartError
from app.openai import routes as chat_api
from app.replay.record import Recordings
from app.server import access, api, connections, pages, proxies
from app.server.access import Access
from app.server.addresses import origin, reachable_hosts
from app.server.announce import announcement
from app.server.calls import CallRegistry
from app.server.certs import Certificates, ensure_certificates, own_certificates
from app.server.limits import RateLimiter
from app.server.options import ServerOptions
from app.webrtc import patches
from app.webrtc.patches import host_addresses
from app.webrtc.peer import PeerSettings
from engine.client import Engine, EngineError
from engine.serving.factory import create_engine
from engine.spec import EngineSpec

log = logging.getLogger(__name__)

PROGRESS_EVERY_S = 5.0
CALLS_CLOSE_S = 1.1
CLOSE_S = 1.7
"""What all of :meth:`Server.close` may take; the engine gets what the calls leave of it."""

EXIT_WITHIN_S = 1.9
"""When its calls are over nothing keeps the process for longer: no decoder, no worker, no client."""


class Server:
    """One server with its engine. Use as ``async with``: leaving it ends all calls."""

    def __init__(self, options: ServerOptions, engine: Engine) -> None:
        """Raises StartError if RECORD names a folder that cannot be written."""
        self.options = options
        self.engine = engine
        self.port = options.port
        key = options.key or options.api_key  # who asks programs for a key does not leave the pages open
        self.access = Access(key, options.port, options.api_key) if key else None
        self._begun = time.monotonic()
        self._was_ready = False
        self._ice_servers = ice_servers(options)
        self._workers = ThreadPoolExecutor(2, "jpeg")
        self._recordings = Recordings(options.record) if options.record else None
        self.registry = CallRegistry(
            engine,
            PeerSettings(self._ice_servers, self._workers),
            max_calls=options.max_calls,
            grace_s=options.grace_s,
            max_call_s=options.max_call_s,
            defaults=call_defaults(options),
            recordings=self._recordings,
        )
        self._runner: web.AppRunner | None = None
        self._in_step: asyncio.Task[None] | None = None
        self._listening: list[asyncio.Server] = []

    async def __aenter__(self) -> Server:
        patches.apply()
        host_addresses.choose(self.options.ice_hosts)
        self._in_step = asyncio.create_task(self.registry.keep_in_step())
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def listen(self, certificates: Certificates | None) -> None:
        """Answer HTTP from now on (TLS with ``certificates``). Raises StartError if the port cannot be had."""
        app = web.Application(
            client_max_size=api.MAX_BODY_BYTES,
            middlewares=[proxies.as_the_client, api.errors_as_json, chat_api.errors_in_form, access.behind_the_key],
        )
        app[proxies.PROXIES] = self.options.proxies
        app[access.ACCESS] = self.access
        app[api.REGISTRY] = self.registry
        app[api.LIMITER] = RateLimiter(self.options.offers_per_minute)
        app[api.CANDIDATE_LIMITER] = RateLimiter(api.CANDIDATES_PER_MINUTE)
        app[api.READY] = self.readiness
        app[chat_api.CHAT_API] = chat_api.ChatApi(
            self.engine, begun=int(time.time()), remote=self.options.remote_urls == "on"
        )
        app.add_routes([*api.routes, *access.routes, *chat_api.routes])
        pages.add_pages(app, certificates.ca if certificates else None, self.origins, self._only_chats)
        self._runner = web.AppRunner(app, shutdown_timeout=0.2)
        await self._runner.setup()
        tls = certificates.ssl_context() if certificates else None
        try:
            self._listening, self.port = await connections.listen(
                self._runner, self.options.host, self.options.port, tls, self.options.proxies
            )
        except OSError as error:
            raise StartError(_why_not_listening(self.options, error)) from error

    def origins(self) -> list[str]:
        """The addresses of the pages for other devices, the likeliest first."""
        return [origin(host, self.port) for host in reachable_hosts(self.options.host)]

    def _only_chats(self) -> bool:
        info = self.engine.info
        return info is not None and not info.speaks

    async def start_engine(self) -> None:
        """Load the engine and warm it up, telling how long it takes. Raises StartError."""
        loading = asyncio.create_task(self.engine.start())
        try:
            while not (await asyncio.wait([loading], timeout=PROGRESS_EVERY_S))[0]:
                log.info("loading the engine: %.0f s", time.monotonic() - self._begun)
            info = await loading
        except EngineError as error:
            raise StartError(f"The engine could not be started. {error.message}") from error
        finally:
            loading.cancel()
        self._was_ready = True
        log.info(
            "engine %s on %s, %.1f M parameters, %d calls of %s tokens, ready after %.1f s",
            info.name,
            info.device,
            info.parameters / 1e6,
            self.registry.most,
            f"{info.context_limit:,}",
            time.monotonic() - self._begun,
        )
        if not info.trained:
            log.warning("the engine is UNTRAINED: what it says means nothing")
        if info.note:
            log.info("%s", info.note)

    def readiness(self) -> dict[str, Any]:
        """The body of ``GET /ready``."""
        body: dict[str, Any] = {
            "ready": self.engine.info is not None and not self.registry.closing,
            "calls": len(self.registry),
            "max_calls": self.registry.most,
            "recording": bool(self.options.record),
            "ice_servers": [_for_browser(server) for server in self._ice_servers],
        }
        if self.registry.closing:
            return body | {"progress": None, "message": "The server is being stopped; try again in a minute."}
        if (info := self.engine.info) is not None:
            return body | {
                "name": info.name,
                "trained": info.trained,
                "device": info.device,
                "parameters": info.parameters,
                "context_limit": info.context_limit,
                "hears": info.hears,
                "sees": info.sees,
                "speaks": info.speaks,
                "voices": list(info.voices),
                "note": info.note,
                "examples": list(info.examples),
            }
        if self._was_ready:
            message = "The model does not answer, or is being started again; try again in a few seconds."
        else:
            message = f"The model is being loaded, for {time.monotonic() - self._begun:.0f} s so far."
        return body | {"progress": None, "message": message}

    async def close(self) -> None:
        """End all calls, stop answering, stop the engine. Takes less than two seconds whatever happens."""
        begin = asyncio.get_running_loop().time()
        if self._in_step is not None:
            self._in_step.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(begin + CALLS_CLOSE_S):
                await self.registry.close()
                for listening in self._listening:
                    listening.close()
                if self._runner is not None:
                    await self._runner.cleanup()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(begin + CLOSE_S):
                await asyncio.gather(self.engine.stop(), self._finish_recordings())
        self._workers.shutdown(wait=False, cancel_futures=True)

    async def _finish_recordings(self) -> None:
        if self._recordings is None:
            return
        if not await asyncio.to_thread(self._recordings.finish, CLOSE_S - CALLS_CLOSE_S):
            log.warning("a recording was not finished in time; its folder is named .partial")


class StopSignals:
    """SIGTERM and SIGINT. The first one asks the server to stop, another one to stop at once."""

    def __init__(self, drain_s: float) -> None:
        """Belongs on a running event loop; ``drain_s`` is how long calls may take to end after the first signal."""
        self._drain_s = drain_s
        self.asked = asyncio.Event()
        self.insisted = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._receive)

    def _receive(self) -> None:
        first = not self.asked.is_set()
        (self.asked if first else self.insisted).set()
        exit_within(self._drain_s + EXIT_WITHIN_S if first else EXIT_WITHIN_S)


def exit_within(seconds: float) -> None:
    """Whatever happens, this process is gone by then."""
    guard = threading.Timer(seconds, os._exit, [0])
    guard.daemon = True
    guard.start()


async def serve(options: ServerOptions) -> None:
    """Run the server until SIGTERM or SIGINT; then answers that are being given are finished within ``drain_s``, unless
    there is a second signal. Raises StartError if it cannot be started."""
    stop = StopSignals(options.drain_s)
    certificates = own_certificates(options.tls_cert, options.tls_key) if options.tls_cert or options.tls_key else None
    certificates = certificates or ensure_certificates()
    try:
        engine = create_engine(engine_spec(options))
    except EngineError as error:
        raise StartError(error.message) from error
    async with Server(options, engine) as server:
        await server.listen(certificates)
        stopping = asyncio.create_task(stop.asked.wait())
        starting = asyncio.create_task(server.start_engine())
        await asyncio.wait([stopping, starting], return_when=asyncio.FIRST_COMPLETED)
        if not starting.done():
            starting.cancel()
            exit_within(EXIT_WITHIN_S)
            return
        starting.result()
        lines = announcement(options.host, server.port, server.access, colours=sys.stdout.isatty())
        print(*lines, sep="\n", flush=True)
        await stopping
        draining = asyncio.create_task(server.registry.drain(options.drain_s))
        insisting = asyncio.create_task(stop.insisted.wait())
        await asyncio.wait([draining, insisting], return_when=asyncio.FIRST_COMPLETED)
        draining.cancel()
        insisting.cancel()
        exit_within(EXIT_WITHIN_S)


def engine_spec(options: ServerOptions) -> EngineSpec:
    """The engine that the options ask for. Raises EngineError ``bad_options``."""
    return EngineSpec(
        kind="scripted" if options.engine == "scripted" else "model",
        model=options.model or None,
        device=options.device,
        dtype=options.dtype,
        quantize=options.quantize,
        adapter=options.adapter or None,
        transcriber=options.transcribe or None,
        max_sessions=options.max_calls,
        context=options.context,
        admit_by_cost=not options.max_calls,
        script=options.script or None,
    )


def call_defaults(options: ServerOptions) -> CallConfig:
    """What the options say of calls whose callers do not choose for themselves. Raises OptionError."""
    chosen: dict[str, Any] = {"vad": {"kind": options.vad}} if options.vad else {}
    names = ("prompt_after_s", "prompt_text", "away_after_s", "idle_end_s")
    silence = {name: value for name in names if (value := getattr(options, name)) not in (None, "")}
    return CallConfig.from_mapping(chosen | {"silence": silence})


def ice_servers(options: ServerOptions) -> tuple[RTCIceServer, ...]:
    """The STUN and TURN servers of the options: none, unless somebody names one."""
    servers = []
    if options.stun_url:
        servers.append(RTCIceServer(options.stun_url))
    if options.turn_url:
        servers.append(RTCIceServer(options.turn_url, options.turn_username, options.turn_password))
    return tuple(servers)


def _for_browser(server: RTCIceServer) -> dict[str, Any]:
    """As RTCPeerConnection's configuration takes it."""
    entry = {"urls": server.urls}
    return entry if server.username is None else entry | {"username": server.username, "credential": server.credential}


def _why_not_listening(options: ServerOptions, error: OSError) -> str:
    where = origin(options.host, options.port).removeprefix("https://")
    if error.errno == errno.EADDRINUSE:
        return (
            f"Port {options.port} is taken by another program: stop that program, or choose another port, "
            f"e.g. `make run PORT={options.port + 1000 if options.port < 64000 else 8443}`."
        )
    if error.errno == errno.EACCES:
        return f"Listening on {where} is not permitted: choose a port above 1023, e.g. `make run PORT=8443`."
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return f"HOST={options.host} is not an address of this machine; 0.0.0.0 is all of them, 127.0.0.1 only itself."
    return f"Listening on {where} failed: {error}."
