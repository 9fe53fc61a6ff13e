"""Patterns by which consumers subscribe to topics (KIP-848): RE2, which takes linear time whatever the pattern.

Python's own `re` would let one hostile pattern freeze the coordinator, and its syntax is not what clients were told.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import re2

from kbroker.errors import InvalidRegularExpression
from kbroker.groups.limits import PATTERN_BYTES_MAX
from kbroker.types import INTERNAL_TOPICS

_MEMORY_BYTES_MAX: Final = 1 << 20


def compiled(pattern: str) -> Any:
    """RE2's program; InvalidRegularExpression says what is wrong with the pattern."""
    if len(pattern.encode()) > PATTERN_BYTES_MAX:
        raise InvalidRegularExpression(
            f"SubscribedTopicRegex has {len(pattern.encode())} bytes, at most {PATTERN_BYTES_MAX} are allowed."
        )
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY_BYTES_MAX
    try:
        return re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else "no RE2 pattern"
        raise InvalidRegularExpression(
            f"SubscribedTopicRegex `{pattern}` is not a valid regular expression (RE2): {reason}."
        ) from error


def matching(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """The topics whose whole name matches. No pattern matches internal ones: who reads `.*` wants what applications
    wrote."""
    program = compiled(pattern)
    return frozenset(name for name in names if name not in INTERNAL_TOPICS and program.fullmatch(name))
