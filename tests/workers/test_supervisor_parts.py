"""Back-off, reload, notifier, log lines and /proc, each by itself."""

from __future__ import annotations

import logging
import os
import re
import signal
import sys

import pytest

from kbroker.config import make_config
from kbroker.workers.logs import LineFormat, stderr_is_journal
from kbroker.workers.notify import Notifier
from kbroker.workers.proc_facts import cpu_s_of, is_dying, memory_of, state_of
from kbroker.workers.process import ChildProcess
from kbroker.workers.reload import reloaded

NO_PROCESS = 1 << 22  # above the kernel's largest pid


def test_back_off_doubles_to_a_second() -> None:
    process = ChildProcess("worker-0", "worker", 0)
    delays = []
    for process.early_deaths in range(10):
        delays.append(process.backoff_ms)
    assert delays == [0, 0, 50, 100, 200, 400, 800, 1000, 1000, 1000]
    process.early_deaths = 1_000_000
    assert process.backoff_ms == 1000


def test_reload_tells_apart_what_can_follow() -> None:
    running = make_config({"log.retention.ms": "5", "num.partitions": "3"})
    wanted = make_config({"log.retention.ms": "7", "workers": "9", "log.flush.acks.all": "page-cache"})
    result = reloaded(running, wanted)
    assert result.changes == {"log.retention.ms": "7", "log.flush.acks.all": "page-cache", "num.partitions": "1"}
    assert result.needs_restart == ["workers"]
    assert result.config.log.retention_ms == 7
    assert result.config.server.workers == running.server.workers
    assert reloaded(result.config, wanted).changes == {}


@pytest.mark.parametrize(
    ("environment", "watchdog_ms"),
    [
        ({}, 0),
        ({"WATCHDOG_USEC": "2000000"}, 0),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "2000000"}, 2000),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, 0),
        ({"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "soon"}, 0),
    ],
)
def test_watchdog_interval(environment: dict[str, str], watchdog_ms: int) -> None:
    notifier = Notifier(environment)
    assert notifier.watchdog_ms == watchdog_ms
    notifier.ready()  # nobody listens: nothing happens
    notifier.close()


def record(message: str, level: int = logging.ERROR) -> logging.LogRecord:
    return logging.LogRecord("kbroker", level, __file__, 1, message, (), None)


def test_log_lines() -> None:
    line = LineFormat("worker 0", journal=False).format(record("it broke"))
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}[+-]\d\d:\d\d ERROR worker 0: it broke", line)
    assert LineFormat("worker 0", journal=True).format(record("it broke")) == "<3>worker 0: it broke"
    assert LineFormat("front", journal=True).format(record("x", logging.INFO)) == "<6>front: x"


def test_a_name_in_a_log_line_cannot_begin_another() -> None:
    line = LineFormat("front", journal=True).format(record("client a\n<0>b\x1b[2J\u2028c"))
    assert line == "<3>front: client a\\x0a<0>b\\x1b[2J\\u2028c"


@pytest.mark.parametrize("journal", [False, True])
def test_a_name_in_a_traceback_cannot_either(journal: bool) -> None:
    failed = record("failed")
    try:
        raise RuntimeError("client a\n<0>b\x1b]0;owned\x07\u202e\x9b2J")
    except RuntimeError:
        failed.exc_info = sys.exc_info()
    lines = LineFormat("front", journal=journal).format(failed).split("\n")
    assert all(line.startswith("<3>    " if journal else "    ") for line in lines[1:] if "front: " not in line)
    assert not [character for line in lines for character in line if not character.isprintable()]


def test_each_line_of_a_traceback_has_its_priority() -> None:
    failed = record("failed")
    try:
        raise RuntimeError("mistake")
    except RuntimeError:
        failed.exc_info = sys.exc_info()
    lines = LineFormat("front", journal=True).format(failed).split("\n")
    assert len(lines) > 2
    assert all(line.startswith("<3>") for line in lines)


def test_the_journal_is_known_by_its_inode() -> None:
    with open(os.devnull, encoding="utf-8") as file:
        there = os.fstat(file.fileno())
        assert stderr_is_journal({"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino}"}, file.fileno())
        assert not stderr_is_journal({"JOURNAL_STREAM": f"{there.st_dev}:{there.st_ino + 1}"}, file.fileno())
        assert not stderr_is_journal({}, file.fileno())


def test_facts_of_processes() -> None:
    rss_bytes, own_bytes = memory_of(os.getpid())
    assert rss_bytes >= own_bytes > 1 << 20
    assert cpu_s_of(os.getpid()) > 0
    assert state_of(os.getpid()) in "RS"
    assert memory_of(NO_PROCESS) == (0, 0)
    assert cpu_s_of(NO_PROCESS) == 0
    assert state_of(NO_PROCESS) == ""


def test_who_is_dying() -> None:
    assert not is_dying(os.getpid())
    assert is_dying(NO_PROCESS)
    pid = os.fork()
    if pid == 0:
        signal.pause()
    assert not is_dying(pid)
    os.kill(pid, signal.SIGKILL)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    assert is_dying(pid)  # a zombie
    os.waitpid(pid, 0)
