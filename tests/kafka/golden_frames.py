"""Loads the frames in golden/, whose README says how they are written."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent / "golden"


class GoldenFrame(NamedTuple):
    """One captured frame, size prefix included. `api_key` and `version` are None for a request: it says them itself."""

    file_name: str
    line: int
    api_key: int | None
    version: int | None
    frame: bytes

    @property
    def name(self) -> str:
        return f"{self.file_name}:{self.line}"


def load_frames(folder: Path = FOLDER) -> list[GoldenFrame]:
    """Every frame of every file. Raises ValueError naming file and line that cannot be understood."""
    return [
        _parse(path.name, number, text)
        for path in sorted(folder.glob("*.frames"))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (text := line.partition("#")[0].strip())
    ]


def _parse(file_name: str, line: int, text: str) -> GoldenFrame:
    match text.split():
        case ["request", data]:
            return GoldenFrame(file_name, line, None, None, bytes.fromhex(data))
        case ["response", api_key, version, data]:
            return GoldenFrame(file_name, line, int(api_key), int(version), bytes.fromhex(data))
    raise ValueError(f"{file_name}:{line}: neither a request nor a response")
