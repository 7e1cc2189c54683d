"""A health endpoint for the machine's own monitoring: plain HTTP on loopback, and on nothing else.

    GET /health    200 while the node's loop turns and 503 if it has not for STALE_S; phase, stage and round as JSON
    GET /metrics   the same and bytes sent and received, as Prometheus reads it

No name of a peer or study, nothing computed from volumes. Off unless the operator configures it.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import socket
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import BoundedSemaphore, Thread, Timer
from typing import Any, Final

from fedsecure.errors import SettingsError
from fedsecure.node.vitals import Status

STALE_S: Final = 60.0  # a turn that hashes, signs and writes a large model takes seconds
_AT_ONCE: Final = 8  # connections: whoever has an account on this machine must not use up the node's descriptors
_LONGEST_S: Final = 5.0  # for one request, however slowly it is said


class Health:
    """Serves until `close`. `status` gives the node's latest, or None before its first turn."""

    def __init__(self, address: str, status: Callable[[], Status | None]) -> None:
        """address: 127.0.0.1:PORT or [::1]:PORT. Raises SettingsError for any other, or if it is taken."""
        host, port = _loopback(address)
        handler = type("_Handler", (_Handler,), {"status": staticmethod(status)})
        try:
            self._server = _Server((host, port), handler)
        except OSError as error:
            raise SettingsError(f"the health endpoint cannot listen on {address}: {error.strerror}") from None
        self.port = int(self._server.server_address[1])
        self._thread = Thread(target=self._server.serve_forever, name="health", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Server(ThreadingHTTPServer):
    """So many connections at once, each for so long; what a client breaks off is no news."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._free = BoundedSemaphore(_AT_ONCE)
        super().__init__(address, handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's asks a name server for a name that nobody needs

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        late = Timer(_LONGEST_S, _hang_up, (request,))
        late.daemon = True
        late.start()
        try:
            super().process_request_thread(request, client_address)
        finally:
            late.cancel()
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing: the base class prints a traceback, with paths, into the node's log."""


def _hang_up(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    status: Callable[[], Status | None]
    timeout = _LONGEST_S  # seconds for a client to say its next words

    def do_GET(self) -> None:
        status = self.status()
        alive = status is not None and time.time() - status.at < STALE_S
        match self.path:
            case "/health":
                self._answer(200 if alive else 503, "application/json", _as_json(status, alive))
            case "/metrics":
                self._answer(200, "text/plain; version=0.0.4", _as_metrics(status, alive))
            case _:
                self._answer(404, "text/plain", "GET /health or /metrics\n")

    def _answer(self, code: int, kind: str, text: str) -> None:
        raw = text.encode()
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002  the base class's name
        """Nothing: monitoring asks every few seconds."""

    def version_string(self) -> str:
        return "fedsecure"


def _as_json(status: Status | None, alive: bool) -> str:
    if status is None:
        return json.dumps({"alive": alive, "phase": "starting"}) + "\n"
    at = status.standing
    return json.dumps({"alive": alive, "phase": at.phase, "stage": at.stage, "round": at.round}) + "\n"


def _as_metrics(status: Status | None, alive: bool) -> str:
    values: dict[str, float] = {"alive": int(alive)}
    if status is not None:
        values |= {"stage": status.standing.stage, "round": status.standing.round, "started_seconds": status.started}
        values["sent_bytes"] = sum(contact.sent for contact in status.peers.values())
        values["received_bytes"] = sum(contact.received for contact in status.peers.values())
        values["sum_awaited"] = len(status.standing.sum.awaited) if status.standing.sum else 0
        values["refusals"] = sum(contact.refused for contact in status.peers.values())
    return "".join(f"fedsecure_{name} {value}\n" for name, value in values.items())


def _loopback(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    try:
        if ipaddress.ip_address(host.strip("[]")).is_loopback and 0 <= int(port) < 65536:
            return host.strip("[]"), int(port)
    except ValueError:
        pass
    raise SettingsError("health is 127.0.0.1:PORT: it answers whoever asks, so it listens on loopback alone")
