"""A sandbox that forbids the kernel's asynchronous I/O: the broker syncs by threads, and says so."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the filter knows this machine's system calls only"),
]

# Forbids io_setup(2) to itself and all that it starts, as seccomp filters of containers do, then runs a broker.
PROGRAM = """
import ctypes, struct
from kbroker import Consumer, Producer
from kbroker.testing import Broker

IO_SETUP, EPERM = 206, 1
SET_NO_NEW_PRIVS, SET_SECCOMP, MODE_FILTER = 38, 22, 2
code = b"".join([
    struct.pack("HBBI", 0x20, 0, 0, 0),  # load the call's number
    struct.pack("HBBI", 0x15, 0, 1, IO_SETUP),  # another one: skip the next line
    struct.pack("HBBI", 0x06, 0, 0, 0x00050000 | EPERM),  # refuse
    struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000),  # allow
])
buffer = ctypes.create_string_buffer(code, len(code))
program = struct.pack("HxxxxxxP", len(code) // 8, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
none = ctypes.c_ulong(0)
assert libc.prctl(SET_NO_NEW_PRIVS, ctypes.c_ulong(1), none, none, none) == 0
assert libc.prctl(SET_SECCOMP, ctypes.c_ulong(MODE_FILTER), program, none, none) == 0

with Broker(workers=2) as broker:
    with Producer(broker.server) as producer:
        for number in range(100):
            producer.send("t", b"%d" % number).get(30)
    with Consumer("t", server=broker.server, auto_offset_reset="earliest", consumer_timeout_ms=10_000) as consumer:
        for number, record in zip(range(100), consumer):
            assert record.value == b"%d" % number
    assert broker.log.count("no asynchronous I/O of the kernel (io_setup: ") == 2, broker.log  # one for each worker
    print("done")
"""


def test_threads_sync_where_the_kernel_may_not(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout == "done\n", done.stderr
