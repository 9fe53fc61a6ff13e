"""What a name from outside may do to a terminal: nothing."""

from __future__ import annotations

import errno
import json
import os
import sys
import unicodedata

import pytest

from kbroker.wording import did_you_mean, printable, printable_bytes, printable_json, with_remedy

EVERY = "".join(map(chr, range(sys.maxunicode + 1)))


def unsafe(text: str) -> list[str]:
    """Characters of Unicode's categories control, format, surrogate, line and paragraph separator."""
    return [character for character in text if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")]


def test_every_character_that_is_not_for_people_is_escaped() -> None:
    assert unsafe(printable(EVERY)) == []
    assert unsafe(printable(EVERY, keep_lines=True)) == ["\t", "\n"]
    assert unsafe(printable_bytes(bytes(range(256)))) == []


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", "\\x1b]0;owned\\x07"),
        ("a\nb\tc\r", "a\\x0ab\\x09c\\x0d"),
        ("\x7f\x9b2J", "\\x7f\\x9b2J"),
        ("abc\u202edef\u2066\u2069", "abc\\u202edef\\u2066\\u2069"),
        ("or\u200bders\ufeff\u2028", "or\\u200bders\\ufeff\\u2028"),
        ("\U000e0041\udcff\u3164", "\\U000e0041\\udcff\\u3164"),
        ("é 漢字 😀 - C:\\temp", "é 漢字 😀 - C:\\temp"),
    ],
)
def test_as_it_is_shown(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_bytes_that_are_no_text_are_shown_as_numbers() -> None:
    assert printable_bytes(b"\xff\xc2\x9b\x1b\n\xc3\xa9", keep_lines=True) == "\\xff\\x9b\\x1b\n\xe9"


def test_json_stays_json_that_says_the_same() -> None:
    text = printable_json(json.dumps({EVERY: [EVERY]}, ensure_ascii=False, indent=2))
    assert set(unsafe(text)) == {"\n"}
    assert json.loads(text) == json.loads(json.dumps({EVERY: [EVERY]}))


def test_a_near_name() -> None:
    assert did_you_mean("ordres", ["orders", "payments"]) == "; did you mean orders?"
    assert did_you_mean("xyz", ["orders"]) == ""


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EMFILE, errno.ENFILE])
def test_what_a_system_error_asks_for_is_said(number: int) -> None:
    said = with_remedy(OSError(number, os.strerror(number), "/data/t-0"))
    assert said.startswith(f"[Errno {number}] {os.strerror(number)}: '/data/t-0'; ")


def test_other_errors_stand_as_they_are() -> None:
    assert with_remedy(OSError(errno.ENOENT, "gone")) == "[Errno 2] gone"
    assert with_remedy(ValueError("a word")) == "a word"
