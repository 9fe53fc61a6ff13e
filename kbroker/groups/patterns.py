"""Patterns by which consumers subscribe to topics (KIP-848): RE2, which takes linear time whatever the pattern.

Python's own `re` would let one hostile pattern freeze the coordinator, and its syntax is not what clients were told.

Linear is not little: a pattern of 73 bytes can be a program of 30,000 instructions, each of which may be looked at for
each letter of each name. So programs are bounded, and what a match may take at most is counted in steps (instructions
times letters, some 2 to 4 ns each) before it is made. More than a few are left to a thread, as `Effects.patterns` says.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import re2

from kbroker.errors import InvalidRegularExpression
from kbroker.groups.limits import PATTERN_BYTES_MAX
from kbroker.types import INTERNAL_TOPICS

PROGRAM_MAX: Final = 2_500
"""Instructions of one pattern: about 2 ms for the longest name."""
REPETITIONS_MAX: Final = 2_000
"""The sum of the numbers in a pattern's repetitions: RE2 writes each of them out before it counts."""
CLASSES_MAX: Final = 4
"""Unicode classes (`\\p{…}`), some of which have hundreds of ranges."""
STEPS_AT_ONCE: Final = 300_000
"""Steps of one request that are made at once: 1 ms at the very most."""
COMPILING_STEPS: Final = 100_000
"""What it takes to compile a pattern, in steps."""
_MEMORY_BYTES_MAX: Final = 128 << 10
_KEPT_MAX: Final = 256
_REPETITION: Final = re.compile(r"\{(\d+)(?:,(\d*))?\}")
_CLASS: Final = re.compile(r"\\[pP]")


class Steps:
    """How many steps may still be made at once."""

    def __init__(self, left: int = STEPS_AT_ONCE) -> None:
        self.left = left

    def take(self, steps: int) -> bool:
        """Whether there are so many left; then they are used up."""
        if steps > self.left:
            return False
        self.left -= steps
        return True


def compiled(pattern: str) -> Any:
    """RE2's program; InvalidRegularExpression says what is wrong with the pattern."""
    program, fault = _compiled(pattern)
    if fault:
        raise InvalidRegularExpression(f"SubscribedTopicRegex {fault}")
    return program


@lru_cache(_KEPT_MAX)
def _compiled(pattern: str) -> tuple[Any, str]:
    """The program, or what is wrong: that is kept as well, lest one who asks again and again costs more."""
    size_bytes = len(pattern.encode())
    if size_bytes > PATTERN_BYTES_MAX:
        return None, f"has {size_bytes} bytes, at most {PATTERN_BYTES_MAX} are allowed."
    repetitions = sum(int(most or least) for least, most in _REPETITION.findall(pattern))
    if repetitions > REPETITIONS_MAX or len(_CLASS.findall(pattern)) > CLASSES_MAX:
        return None, (
            f"`{pattern}` is too dear: the numbers in its repetitions may be {REPETITIONS_MAX} together, and it may "
            f"have {CLASSES_MAX} classes of Unicode's. Repetitions such as {{0,1000}} are dear; `*` and `+` are not."
        )
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _MEMORY_BYTES_MAX
    try:
        program = re2.compile(pattern, options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace") if error.args else "no RE2 pattern"
        if "too large" not in reason:
            return None, f"`{pattern}` is not a valid regular expression (RE2): {reason}."
        instructions = "many"
    else:
        if program.programsize <= PROGRAM_MAX:
            return program, ""
        instructions = str(program.programsize)
    return None, (
        f"`{pattern}` is too dear: it compiles to {instructions} instructions, {PROGRAM_MAX} are allowed. Repetitions "
        "such as {0,1000} multiply; `*` and `+` do not."
    )


def steps_of(program: Any, names: Iterable[str]) -> int:
    """What matching these names takes at most."""
    found: int = program.programsize * sum(map(len, names))
    return found


def matching(pattern: str, names: Iterable[str]) -> frozenset[str]:
    """The topics whose whole name matches. No pattern matches internal ones: who reads `.*` wants what applications
    wrote."""
    return _matching(compiled(pattern), names)


def matching_within(pattern: str, names: Collection[str], steps: Steps) -> frozenset[str] | None:
    """As `matching`, if there are steps enough for it; None: there are not."""
    if not names:
        return frozenset()
    if not steps.take(COMPILING_STEPS):
        return None
    program = compiled(pattern)
    return _matching(program, names) if steps.take(steps_of(program, names)) else None


def matching_piece(pattern: str, names: Sequence[str], steps: int) -> tuple[int, frozenset[str]]:
    """Match about so many steps' worth of the first names, one at least: how many those were, and which match."""
    program = compiled(pattern)
    count = 0
    for name in names:
        count += 1
        steps -= program.programsize * len(name)
        if steps <= 0:
            break
    return count, _matching(program, names[:count])


def _matching(program: Any, names: Iterable[str]) -> frozenset[str]:
    return frozenset(name for name in names if name not in INTERNAL_TOPICS and program.fullmatch(name))
