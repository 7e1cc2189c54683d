"""The trainer's door. Training runs in a process of its own, so that veto, deadlines, status and Ctrl-C never wait.

Orders and answers are small JSON lines over a socket pair; models and updates pass through the node's folder (see
workbench.py). `InlineTrainer` does the same work in this process, for federations that live in one.
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import signal
import socket
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any, Final, Protocol

import msgspec

from fedsecure.errors import FedsecureError
from fedsecure.node.isolation import without_network
from fedsecure.node.workbench import Workbench
from fedsecure.packing import Malformed
from fedsecure.progress import Measured, Observe, Progress, Scored, Step


class _Line(msgspec.Struct, frozen=True, tag=True, forbid_unknown_fields=True):
    pass


class TrainOrder(_Line, frozen=True):
    """Run the job of a round with the banks of these sites."""

    stage: int
    round: int
    banks: tuple[str, ...]


class PrepareOrder(_Line, frozen=True):
    """Make the first model of a stage, from the pre-trained encoder if it starts from one."""

    stage: int


class Told(_Line, frozen=True):
    """Progress from inside the round."""

    event: Progress


class Trained(_Line, frozen=True):
    """The round's job is done; these flows wait in outgoing/."""

    stage: int
    round: int
    flows: tuple[str, ...]


class PreparedModel(_Line, frozen=True):
    """models/prepared.safetensors is there."""

    stage: int


class Broke(_Line, frozen=True):
    """The trainer cannot go on. The reason holds no path and no name."""

    reason: str


Order = TrainOrder | PrepareOrder
Answer = Told | Trained | PreparedModel | Broke
_ORDERS: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(Order)
_ANSWERS: Final[msgspec.json.Decoder[Any]] = msgspec.json.Decoder(Answer)


class Trainer(Protocol):
    """Takes one order at a time; answers are polled."""

    def order(self, order: Order) -> None: ...
    def poll(self) -> list[Answer]: ...
    def cancel(self) -> None: ...
    def close(self) -> None: ...


def carry_out(bench: Workbench, order: Order, observe: Observe) -> Trained | PreparedModel | Broke:
    """One order, whatever happens: an error becomes an answer that names who is to blame and leaks nothing."""
    try:
        match order:
            case TrainOrder(stage, round_, banks):
                return Trained(stage, round_, tuple(bench.train(stage, round_, banks, _finite(observe))))
            case PrepareOrder(stage):
                bench.prepare(stage)
                return PreparedModel(stage)
    except (FedsecureError, Malformed) as error:
        return Broke(str(error))
    except Exception as error:  # noqa: BLE001 - a bug of ours must reach the operator as one, not as silence
        return Broke(f"internal error, please report it: {type(error).__name__} in {_where(error)}")


def _finite(observe: Observe) -> Observe:
    """Pass on what is a number. What is not ends the round: training diverged, and later numbers mean nothing."""

    def checked(event: Progress) -> None:
        match event:
            case Step(loss=float(value)) | Measured(value=value) | Scored(dice=value) if not math.isfinite(value):
                raise Malformed("training diverged: a loss or a measurement is not a number (learning rate too high?)")
            case _:
                observe(event)

    return checked


def _where(error: Exception) -> str:
    """Function and line of the innermost frames: enough to find the bug, and no path or value."""
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))


class InlineTrainer:
    """Carries out an order at once, in this process."""

    def __init__(self, folder: Path, observe: Observe) -> None:
        self._bench = Workbench(folder)
        self._observe = observe
        self._answers: list[Answer] = []

    def order(self, order: Order) -> None:
        self._answers.append(carry_out(self._bench, order, self._observe))

    def poll(self) -> list[Answer]:
        answers, self._answers = self._answers, []
        return answers

    def cancel(self) -> None:
        self._answers.clear()

    def close(self) -> None:
        pass


class ProcessTrainer:
    """A worker process behind a socket pair; started with the first order, ended by `cancel` and `close`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._buffer = b""
        self._busy = False  # an order is out that has not been answered

    def order(self, order: Order) -> None:
        if self._process is not None and self._process.poll() is not None:
            self.cancel()  # it ended while idle; nothing was lost
        if self._socket is None:
            self._socket = self._start()
        self._busy = True
        # A worker that is gone is noticed by the next poll.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(msgspec.json.encode(order) + b"\n")

    def poll(self) -> list[Answer]:
        if self._socket is None:
            return []
        gone = False
        while True:
            try:
                chunk = self._socket.recv(1 << 16, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                gone = True
                break
            self._buffer += chunk
        *lines, self._buffer = self._buffer.split(b"\n")
        answers: list[Answer] = [_ANSWERS.decode(line) for line in lines]
        if any(not isinstance(answer, Told) for answer in answers):
            self._busy = False
        if gone:
            busy = self._busy
            code = self._process.wait() if self._process else None
            self.cancel()
            if busy:  # an idle worker that ended is only started again
                answers.append(Broke(f"the training process ended by itself (exit code {code}); out of memory?"))
        return answers

    def cancel(self) -> None:
        """End the worker now. The next order starts a new one."""
        if self._socket is not None:
            self._socket.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._socket, self._process, self._buffer, self._busy = None, None, b"", False

    def close(self) -> None:
        self.cancel()

    def _start(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "fedsecure.node", "worker", str(self._folder), str(theirs.fileno())]
        self._process = subprocess.Popen(
            command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL, start_new_session=True
        )
        theirs.close()
        return ours


def serve(folder: Path, descriptor: int) -> None:
    """The worker's main loop: orders in, answers out, until the other end closes. On Linux it reaches no network."""
    die_with_parent()
    without_network()
    with socket.socket(fileno=descriptor) as line, line.makefile("rb") as orders:
        bench = Workbench(folder)

        def answer(value: Answer) -> None:
            line.sendall(msgspec.json.encode(value) + b"\n")

        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the node is gone, and so are we
            for raw in orders:
                answer(carry_out(bench, _ORDERS.decode(raw), lambda event: answer(Told(event))))


def die_with_parent() -> None:
    """A worker whose node was killed must not train on. Elsewhere than on Linux its next answer ends it."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl(2)
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
