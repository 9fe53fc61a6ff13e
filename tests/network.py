"""A network with nothing in it but loopback, so that a broker's usual ports are surely free."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import uuid
from collections.abc import Iterator

import pytest

USUAL_PORTS = range(9092, 9100)


@contextlib.contextmanager
def own_network() -> Iterator[list[str]]:
    """The words before a command that make it run in a network namespace of its own, which ends with the context.

    Without root there is none: then the words are none, and the test is skipped where a usual port is taken.
    """
    if os.geteuid() or not shutil.which("ip"):
        if taken := [port for port in USUAL_PORTS if _is_taken(port)]:
            pytest.skip(f"port {taken[0]} is taken, and a network of one's own needs root and `ip`")
        yield []
        return
    name = f"kbroker-{uuid.uuid4().hex[:8]}"
    _run("ip", "netns", "add", name)
    try:
        _run("ip", "-n", name, "link", "set", "lo", "up")
        yield ["ip", "netns", "exec", name]
    finally:
        _run("ip", "netns", "delete", name)


def _is_taken(port: int) -> bool:
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        return True
    return False


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=30)
