"""The operators' log: one line per event on standard error.

Under systemd ($JOURNAL_STREAM names standard error) each line starts with its priority as journald reads it, `<3>` for
an error, and has no time of its own; elsewhere it starts with the local time. Names that clients choose stand in
messages and in tracebacks: none of them may begin a line or move a terminal's cursor (`kbroker.wording.printable`).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Mapping
from types import TracebackType

from kbroker.wording import printable

log = logging.getLogger(__name__)

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


def stderr_is_journal(environment: Mapping[str, str] = os.environ, fd: int = 2) -> bool:
    """Whether descriptor `fd` is the stream to the journal that $JOURNAL_STREAM names as DEVICE:INODE."""
    named = environment.get("JOURNAL_STREAM", "")
    try:
        there = os.fstat(fd)
    except OSError:
        return False
    return named == f"{there.st_dev}:{there.st_ino}"


class LineFormat(logging.Formatter):
    """`2026-01-31T12:00:00.123+01:00 WARNING worker 0: message`, or `<4>worker 0: message` for the journal."""

    def __init__(self, process: str, journal: bool) -> None:
        super().__init__()
        self.process = process
        self.journal = journal

    def format(self, record: logging.LogRecord) -> str:
        """One line; with a traceback several, indented, each with its priority."""
        message = printable(record.getMessage())
        if record.exc_info and record.exc_info[1] is not None:
            trace = "".join(traceback.format_exception(record.exc_info[1])).rstrip("\n")
            message += "".join(f"\n    {printable(line)}" for line in trace.split("\n"))
        if self.journal:
            prefix = f"<{_PRIORITIES.get(record.levelno, 6)}>"
            return "\n".join(prefix + line for line in f"{self.process}: {message}".split("\n"))
        moment = time.localtime(record.created)
        zone = time.strftime("%z", moment)
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", moment)
        return f"{stamp}.{int(record.msecs):03}{zone[:3]}:{zone[3:]} {record.levelname} {self.process}: {message}"


def start_logging(process: str, level: int = logging.INFO) -> None:
    """Send everything that `logging` gets to standard error, named after this process. May be called again.

    Warnings of Python's, and exceptions that nobody has caught, in threads too, go the same way.
    """
    # A log that cannot be written (terminal gone, pipe closed) must not hurt the broker.
    logging.raiseExceptions = False
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormat(process, stderr_is_journal()))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.getLogger("kbroker").handlers.clear()  # the command line's
    logging.captureWarnings(True)
    sys.excepthook = _log_uncaught
    threading.excepthook = _log_uncaught_in_thread
    sys.unraisablehook = _log_unraisable


def _log_uncaught(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    log.critical("not caught", exc_info=(kind, error, trace))


def _log_uncaught_in_thread(found: threading.ExceptHookArgs) -> None:
    if found.exc_value is not None and found.exc_type is not SystemExit:
        name = found.thread.name if found.thread is not None else "?"
        log.critical("not caught in thread %s", name, exc_info=found.exc_value)


def _log_unraisable(found: sys.UnraisableHookArgs) -> None:
    log.error("%s %r", found.err_msg or "not caught in", found.object, exc_info=found.exc_value)
