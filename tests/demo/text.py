"""Real text of this machine: files whose lines become records, and for each the digest that must come out again."""

from __future__ import annotations

import hashlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

LEAST_BYTES = 64 << 20
MOST_BYTES = 100 << 20
LINES_MAX = 2_000_000
FILE_BYTES_MAX = 8 << 20
OPEN_AT_ONCE = 64
LINES_AT_A_TIME = 50

PLACES = (
    ("/usr/share/common-licenses", "*"),
    ("/usr/share/dict", "*"),
    (sysconfig.get_path("stdlib"), "**/*.py"),
    (sysconfig.get_path("purelib"), "**/*.py"),
    ("/var/lib/dpkg/info", "*.list"),
    ("/var/lib/dpkg/info", "*.md5sums"),
    ("/usr/lib/python3", "**/*.py"),
    ("/usr/share/doc", "**/*"),
    ("/usr/include", "**/*.h"),
    ("/var/log", "*.log"),
)


@dataclass(frozen=True)
class Expected:
    """What must come out for one key: the count and the digest of all lines, each with its newline."""

    lines: int
    sha256: str


def _candidates() -> Iterator[Path]:
    for folder, pattern in PLACES:
        try:
            yield from sorted(path for path in Path(folder).glob(pattern) if path.is_file() and not path.is_symlink())
        except OSError:
            continue


@dataclass(frozen=True)
class Source:
    """A file whose lines go in under `key`."""

    key: str
    path: Path
    size_bytes: int
    lines: int


def choose_files(least_bytes: int = LEAST_BYTES, most_bytes: int = MOST_BYTES) -> list[Source]:
    """All there are, up to `most_bytes` and LINES_MAX; where they are too few they come again under another key."""
    chosen: list[Source] = []
    seen: set[tuple[int, int]] = set()
    size_bytes = lines = 0
    for path in _candidates():
        try:
            facts = path.stat()
            if not 0 < facts.st_size <= FILE_BYTES_MAX or (facts.st_dev, facts.st_ino) in seen:
                continue
            source = Source(str(path), path, facts.st_size, path.read_bytes().count(b"\n") + 1)
        except OSError:
            continue
        if size_bytes + source.size_bytes > most_bytes or lines + source.lines > LINES_MAX:
            break
        seen.add((facts.st_dev, facts.st_ino))
        chosen.append(source)
        size_bytes += source.size_bytes
        lines += source.lines
    if not chosen:
        sys.exit("demo: no readable text file was found on this machine")
    once = tuple(chosen)
    again = 1
    while size_bytes < least_bytes and lines < LINES_MAX:
        again += 1
        chosen += [replace(source, key=f"{source.key}#{again}") for source in once]
        size_bytes += sum(source.size_bytes for source in once)
        lines += sum(source.lines for source in once)
    return chosen


class Text:
    """Hands out keyed lines, many files in turn, and remembers what it handed out."""

    def __init__(self, files: list[Source]) -> None:
        self._files = files
        self.expected: dict[str, Expected] = {}
        self.total_bytes = sum(source.size_bytes for source in files)

    def _open(self, source: Source) -> Iterator[bytes]:
        content = source.path.read_bytes()
        content = content if content.endswith(b"\n") else content + b"\n"
        lines = content[:-1].split(b"\n")
        self.expected[source.key] = Expected(len(lines), hashlib.sha256(content).hexdigest())
        return iter(lines)

    def __iter__(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """Keys with a few lines each, until all files are through."""
        waiting = iter(self._files)
        turning: list[tuple[bytes, Iterator[bytes]]] = []
        while True:
            for source in islice(waiting, OPEN_AT_ONCE - len(turning)):
                turning.append((os.fsencode(source.key), self._open(source)))
            if not turning:
                return
            still: list[tuple[bytes, Iterator[bytes]]] = []
            for key_bytes, lines in turning:
                some = list(islice(lines, LINES_AT_A_TIME))
                if some:
                    yield key_bytes, some
                    still.append((key_bytes, lines))
            turning = still
