"""Functions run in forked children, as another user when asked, with what they returned or raised brought back."""

from __future__ import annotations

import os
import pickle
import pwd
import sys
import traceback
from collections.abc import Callable
from typing import Any

import pytest

NOBODY = 65534


def in_child(function: Callable[[], Any], *, uid: int | None = None, gids: tuple[int, ...] = ()) -> Any:
    """The function's result, from a forked child. Fails when it raised, or died: the signal is named."""
    receive_fd, send_fd = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(receive_fd)
            if uid is not None:
                os.setgroups(gids)
                os.setresgid(uid, uid, uid)
                os.setresuid(uid, uid, uid)
            answer: tuple[bool, Any] = (True, function())
        except BaseException:
            answer = (False, traceback.format_exc())
        with os.fdopen(send_fd, "wb") as pipe:
            pickle.dump(answer, pipe)
        sys.stdout.flush()
        os._exit(0)
    os.close(send_fd)
    with os.fdopen(receive_fd, "rb") as pipe:
        data = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert code >= 0, f"the child died of signal {-code}"
    good, result = pickle.loads(data)
    assert good, result
    return result


def is_root() -> bool:
    if os.geteuid():
        return False
    try:
        pwd.getpwuid(NOBODY)
    except KeyError:
        return False
    return True


needs_root = pytest.mark.skipif(not is_root(), reason="needs root, to act as another user or to mount")
