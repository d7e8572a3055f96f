"""What the server prints when it can be called: under which addresses, by whom, and the line that begins with ready."""

from __future__ import annotations

from app.server.access import Access
from app.server.addresses import EVERYWHERE, LOOPBACK, origin, reachable_hosts
from app.server.qr import blocks


def announcement(listening: str, port: int, access: Access | None, *, colours: bool) -> list[str]:
    """The lines for a server that listens on this host and port; the last one is ``ready https://…``."""
    hosts = reachable_hosts(listening)
    own = origin("localhost" if listening in (*EVERYWHERE, *LOOPBACK) else listening, port)
    way_in = f"/{access.fragment}" if access else ""
    lines = [
        f"on your network: {origin(host, port)}{way_in}   (first time: /help tells how to trust it)" for host in hosts
    ]
    if access:
        lines += [f"on this machine: {own}{way_in}"] if listening in (*EVERYWHERE, *LOOPBACK) else []
        lines += [blocks(origin(hosts[0], port) + way_in, colours=colours)] if hosts else []
        lines += ["only who has this key may call"]
    else:
        narrower = "" if listening in LOOPBACK else ", HOST=127.0.0.1 keeps the server to this machine"
        lines += [f"anyone who reaches port {port} may call; KEY=auto asks for a key{narrower}"]
    return [*lines, f"ready {own}"]
