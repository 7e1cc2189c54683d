"""A ZeroMQ socket under CURVE and the thread that owns it: what both ends of `zmq_curve` share."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from abc import ABC, abstractmethod
from typing import Final

import zmq
from zmq.utils.monitor import recv_monitor_message

from protocols.handshake import Party
from protocols.session import MAXIMUM_PACKET

_PACKETS: Final = 32  # of one connection waiting in libzmq, each way; a session has no more than its window under way
_CURVE_OVERHEAD: Final = 33  # bytes a CurveZMQ MESSAGE adds; libzmq's limit is on what is on the wire
_HEARTBEAT_MS: Final = 5_000
_SILENCE_MS: Final = 15_000  # a connection silent for so long is dropped
_HANDSHAKE_MS: Final = 5_000
_RECONNECT_MS: Final = 100
_RECONNECT_MAXIMUM_MS: Final = 5_000
_LINGER_MS: Final = 2_000  # how long `close` waits for frames just sent
_TURN_S: Final = 0.5  # between looks at the clock
_SOON_S: Final = 0.02  # between looks at a socket that takes nothing yet


class Endpoint(ABC):
    """A socket and the thread that owns it. `_lock` guards whatever thread and callers share."""

    def __init__(self, party: Party, kind: int) -> None:
        self._lock = threading.RLock()
        self._linger_s = _LINGER_MS / 1000
        self._deadline: float | None = None  # set by `close`
        self._failure: BaseException | None = None
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._context = zmq.Context()
        self._socket = self._context.socket(kind)
        _configure(self._socket, party)
        self._monitor = self._socket.get_monitor_socket()
        self._thread = threading.Thread(target=self._run, name="fedsecure-channel", daemon=True)

    def close(self) -> None:
        if self._context.closed:
            return
        if self._thread.is_alive():
            with self._lock:
                self._deadline = time.monotonic() + self._linger_s
            self._nudge()
            self._thread.join()
        self._socket.disable_monitor()
        self._monitor.close()
        self._socket.close()
        self._release()
        self._context.term()
        with self._lock:
            os.close(self._wake)
            self._wake = -1  # its number may soon be somebody else's

    def _nudge(self) -> None:
        with self._lock:
            if self._wake >= 0:
                os.eventfd_write(self._wake, 1)

    def _run(self) -> None:
        try:
            self._turns()
        except BaseException as error:
            self._failure = error
            raise

    def _healthy(self) -> None:
        """Raises RuntimeError if the thread has ended by an error of ours: nothing would ever arrive again."""
        if self._failure is not None:
            raise RuntimeError("the channel has failed") from self._failure

    def _turns(self) -> None:
        poller = zmq.Poller()
        poller.register(self._wake, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        while True:
            with self._lock:
                now = time.monotonic()
                self._listen(now)
                self._housekeeping(now)
                room = self._receive(now)
                waiting = self._flush(now)
                if self._deadline is not None and (now > self._deadline or not waiting):
                    return
            poller.register(self._socket, zmq.POLLIN if room else 0)
            ready = dict(poller.poll(int(1000 * (_SOON_S if waiting else _TURN_S))))
            if self._wake in ready:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wake)

    def _listen(self, now: float) -> None:
        while self._monitor.poll(0):
            event = recv_monitor_message(self._monitor)
            self._noticed(event["event"], event["value"], now)

    def _packets(self) -> list[list[zmq.Frame]]:
        """Multipart messages that have arrived, a few at a time so that others get their turn."""
        messages: list[list[zmq.Frame]] = []
        with contextlib.suppress(zmq.Again):
            while len(messages) < _PACKETS // 4:
                messages.append(self._socket.recv_multipart(zmq.DONTWAIT, copy=False))
        return messages

    @abstractmethod
    def _noticed(self, event: int, value: int, now: float) -> None:
        """An event of the socket's monitor."""

    @abstractmethod
    def _housekeeping(self, now: float) -> None:
        """Whatever is due by the clock."""

    @abstractmethod
    def _receive(self, now: float) -> bool:
        """Take in packets. Whether there is room for more."""

    @abstractmethod
    def _flush(self, now: float) -> bool:
        """Put on the wire what can be. Whether something waits that cannot leave yet."""

    @abstractmethod
    def _release(self) -> None:
        """Free what else this end holds."""


def _configure(socket: zmq.Socket[bytes], party: Party) -> None:
    """Keys and limits, all of which must be set before the socket binds or connects."""
    socket.curve_publickey = party.identity.public.channel
    socket.curve_secretkey = party.identity.channel_key
    socket.maxmsgsize = MAXIMUM_PACKET + _CURVE_OVERHEAD
    socket.sndhwm = _PACKETS
    socket.rcvhwm = _PACKETS // 2
    socket.handshake_ivl = _HANDSHAKE_MS
    socket.heartbeat_ivl = _HEARTBEAT_MS
    socket.heartbeat_timeout = _SILENCE_MS
    socket.heartbeat_ttl = _SILENCE_MS
    socket.reconnect_ivl = _RECONNECT_MS
    socket.reconnect_ivl_max = _RECONNECT_MAXIMUM_MS
    socket.linger = _LINGER_MS
