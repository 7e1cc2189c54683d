"""Takes the network from this process for good: a seccomp filter (Linux) that outlives exec and reaches all threads.

Refused from then on: new sockets of any family, io_uring (by which sockets are made without a socket call), another
process's memory and files (ptrace, process_vm_*, pidfd_getfd), and entering another namespace. What was open stays
open. Files are not part of it: a process that may write where another program reads can still talk to that one.
"""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from collections.abc import Mapping
from typing import Final, NamedTuple


class _Machine(NamedTuple):
    architecture: int  # AUDIT_ARCH_* of linux/audit.h
    seccomp: int  # number of seccomp(2)
    refused: tuple[int, ...]  # socket, io_uring_setup, ptrace, process_vm_readv, process_vm_writev, setns, pidfd_getfd


_MACHINES: Final[Mapping[str, _Machine]] = {
    "x86_64": _Machine(0xC000003E, 317, (41, 425, 101, 310, 311, 308, 438)),
    "aarch64": _Machine(0xC00000B7, 277, (198, 425, 117, 270, 271, 268, 438)),
}
_NO_NEW_PRIVILEGES: Final = 38  # PR_SET_NO_NEW_PRIVS of prctl(2)
_SET_FILTER, _ALL_THREADS = 1, 1  # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06  # BPF: ld abs, jeq, jge, ret
_ALLOW, _KILL, _ERRNO = 0x7FFF0000, 0x80000000, 0x00050000
_OTHER_ABI: Final = 0x40000000  # x32: other numbers for the same calls
_NUMBER, _ARCHITECTURE = 0, 4  # offsets in struct seccomp_data


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def without_network() -> bool:
    """Whether this process has no way to the network from now on. False where the system has no such filter."""
    machine = _MACHINES.get(platform.machine())
    if sys.platform != "linux" or machine is None:
        return False
    code = _filter(machine)
    program = _Program(len(code) // 8, code)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
        return False
    return bool(libc.syscall(machine.seccomp, _SET_FILTER, _ALL_THREADS, ctypes.byref(program)) == 0)


def _filter(machine: _Machine) -> bytes:
    refuse = _ERRNO | errno.EPERM
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE),
        (_EQUAL, 1, 0, machine.architecture),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_AT_LEAST, 0, 1, _OTHER_ABI),
        (_RETURN, 0, 0, refuse),
    ]
    for call in machine.refused:
        steps += [(_EQUAL, 0, 1, call), (_RETURN, 0, 0, refuse)]
    steps.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("HBBI", *step) for step in steps)
