"""A trainer that opens a socket of its own gets none, nor does a program that it starts; what it had goes on."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

LEAKY = """
import os, socket, subprocess, sys
from fedsecure.node.isolation import without_network
ours, theirs = socket.socketpair()
listener = socket.create_server(("127.0.0.1", 0))
assert without_network()
ours.sendall(b"order")
assert theirs.recv(9) == b"order"
for family in (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX):
    try:
        socket.socket(family, socket.SOCK_STREAM)
    except PermissionError:
        pass
    else:
        sys.exit("a socket was opened")
child = subprocess.run([sys.executable, "-c", "import socket; socket.create_connection(('127.0.0.1', 1))"],
                       capture_output=True, text=True)
assert "PermissionError" in child.stderr, child.stderr
print("none")
"""


@pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in ("x86_64", "aarch64"), reason="seccomp filter of Linux"
)
def test_a_trainer_has_no_socket_of_its_own() -> None:
    said = subprocess.run([sys.executable, "-c", LEAKY], capture_output=True, text=True, check=False)
    assert (said.stdout, said.returncode) == ("none\n", 0), said.stderr
