"""Words for people that more than one part of kbroker needs."""

from __future__ import annotations

import difflib
import errno
import re
from collections.abc import Iterable

_UNSAFE = (
    # C0, DEL, C1: line ends, what terminals take for commands
    "\x00-\x1f\x7f-\x9f"
    # Unicode's category Cf, the separators of lines and paragraphs, and what else has no width (Default_Ignorable)
    "\xad\u034f\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U000110bd\U000110cd\U00013430-\U0001343f"
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    # halves of a pair alone: bytes that were not UTF-8
    "\ud800-\udfff"
)
_ONE_UNSAFE = re.compile(f"[{_UNSAFE}]")
_ONE_UNSAFE_IN_LINES = re.compile(f"(?![\t\n])[{_UNSAFE}]")
_REMEDIES = {
    errno.ENOSPC: "free space there, or delete topics",
    errno.EDQUOT: "free space there, delete topics, or raise the user's quota",
    errno.EROFS: "make it writable again; the kernel's log (dmesg) says why it is not",
    errno.EIO: "the kernel's log (dmesg) tells of the disk",
    errno.EMFILE: "raise LimitNOFILE= of the unit, or `ulimit -n` of the shell",
    errno.ENFILE: "raise the host's fs.file-max",
}


def printable(text: str, *, keep_lines: bool = False) -> str:
    r"""`text` from outside (a record, a name, a client's id …) as it may stand on a terminal and in a log line.

    Escaped as `\x1b`, `\u202e` or `\U000e0001` is all that can move a cursor, begin a line, turn the direction of
    writing or hide: control characters (C0, DEL, C1), format characters (Unicode's category Cf: bidi embeddings,
    overrides and isolates, zero width, BOM, tags), separators of lines and paragraphs, other characters without width,
    and lone surrogates. `keep_lines` lets tabs and newlines pass, for values that may have many lines. Every command
    calls it for what it shows on a terminal (`kbroker/cli/output.py`), and the formatter of the broker's log for every
    line (`workers/logs.py`); what goes into a pipe stays as it is.
    """
    if text.isascii() and text.isprintable():
        return text
    return (_ONE_UNSAFE_IN_LINES if keep_lines else _ONE_UNSAFE).sub(_escaped, text)


def printable_bytes(data: bytes, *, keep_lines: bool = False) -> str:
    r"""As `printable`, for bytes; those that are not UTF-8 stand as `\xff`."""
    return printable(data.decode("utf-8", "backslashreplace"), keep_lines=keep_lines)


def printable_json(text: str) -> str:
    r"""As `printable`, for a JSON document, which stays one that says the same: `\u001b`, pairs beyond U+FFFF."""
    return _ONE_UNSAFE_IN_LINES.sub(_escaped_in_json, text)


def _escaped(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _escaped_in_json(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x10000:
        return f"\\u{code:04x}"
    code -= 0x10000
    return f"\\u{0xD800 + (code >> 10):04x}\\u{0xDC00 + (code & 0x3FF):04x}"


def counted(count: int, noun: str) -> str:
    """`1 topic`, `2 topics`: for nouns that take an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`; did you mean NAME?` with the nearest of `known`, or nothing where none is near."""
    near = difflib.get_close_matches(name, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def with_remedy(error: BaseException) -> str:
    """What an error of the system says, and what somebody who reads it at night can do, where that is known."""
    remedy = _REMEDIES.get(error.errno or 0) if isinstance(error, OSError) else None
    return f"{error}; {remedy}" if remedy else str(error)


def duration(seconds: float) -> str:
    """`8s`, `4m 5s`, `3h 7m`, `2d 1h`."""
    minutes, whole_seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    for count, unit, less, less_unit in ((days, "d", hours, "h"), (hours, "h", minutes, "m")):
        if count:
            return f"{count}{unit} {less}{less_unit}"
    return f"{minutes}m {whole_seconds}s" if minutes else f"{whole_seconds}s"
