"""A `sitecustomize` for a broker under test: writes down which of its threads does what to the disk.

Python runs it at the start of the program, before anything of kbroker. Lines are `PROCESS loop|other CALL PATH STACK`.
"""

from __future__ import annotations

import errno
import functools
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(os.environ["DISK_WATCH"])
"""`calls` is written there. While `fail-FILENAME` is there, a sync of a file of that name fails."""
OTHERS = (
    *("fdatasync", "fsync", "ftruncate", "link", "listdir", "mkdir", "rename", "rmdir", "statvfs", "fstatvfs"),
    "unlink",
)

_open, _readlink, _exists = os.open, os.readlink, os.path.exists


def _note(call: str, path: str) -> None:
    thread = "loop" if threading.current_thread() is threading.main_thread() else "other"
    frame = sys._getframe(2)
    stack: list[str] = []
    while frame is not None and len(stack) < 30:
        if "kbroker" in frame.f_code.co_filename or "workers" in frame.f_code.co_filename:
            stack.append(f"{Path(frame.f_code.co_filename).name}:{frame.f_code.co_name}")
        frame = frame.f_back  # type: ignore[assignment]
    try:
        title = Path("/proc/self/cmdline").read_bytes().split(b"\0")[0].decode().removeprefix("kbroker: ")
    except OSError:
        title = "?"
    # Opened for each line: children close what they do not know.
    calls = _open(FOLDER / "calls", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(calls, "\t".join((title, thread, call, path, " < ".join(stack))).encode() + b"\n")
    os.close(calls)


def _watched(call: str, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def watched(*arguments: Any, **named: Any) -> Any:
        target = arguments[0] if arguments else "."
        path = _readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else os.fspath(target)
        _note(call, str(path))
        if call == "fdatasync" and _exists(FOLDER / f"fail-{Path(str(path)).name}"):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return function(*arguments, **named)

    return watched


def _watched_open(path: Any, flags: int, *arguments: Any, **named: Any) -> int:
    if flags & os.O_CREAT:
        _note("create", str(path))
    return _open(path, flags, *arguments, **named)


for name in OTHERS:
    setattr(os, name, _watched(name, getattr(os, name)))
os.open = _watched_open
