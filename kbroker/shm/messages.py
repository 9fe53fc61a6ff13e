"""What a reader and a worker say to each other on the unix socket: one msgpack map per SOCK_SEQPACKET message.

A reader's message has `op` and `v` (the protocol version); the worker's has `op`. Unknown fields are skipped, so that a
newer peer may say more. A reader has one request under way at a time and is answered in order; a wake may come at any
time in between.

    reader                              worker
    hello                           →
                                    ←   welcome                       or error, and a hang-up
    open                            →
                                    ←   opened + control page, segment [, index]
    taken                           →                                 within shm.handover.timeout.ms
    segment                         →
                                    ←   next_segment [+ segment] [, index]
    taken                           →                                 only after a descriptor
    arm                             →
                                    ←   wake                          once for each armed partition, at once if past
    close                           →
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Final, get_type_hints

import msgpack

from kbroker.errors import InvalidRequest, UnsupportedVersion

PROTOCOL_VERSION: Final = 1
MESSAGE_BYTES_MAX: Final = 16 * 1024
ARM_MAX: Final = 500
"""The most partitions in one arm, so that it fits into a message."""

NOT_KNOWN: Final = -1


@dataclass(slots=True)
class Hello:
    """The first message of a connection. `software` is for the worker's log."""

    OP: ClassVar[str] = "hello"
    software: str = ""


@dataclass(slots=True)
class Welcome:
    OP: ClassVar[str] = "welcome"
    version: int
    open_max: int


@dataclass(slots=True)
class Open:
    """Read `topic`-`partition` from `offset` on. `last_epoch`: leader epoch of the last record read, or -1.

    An empty `topic_id` means any topic of that name.
    """

    OP: ClassVar[str] = "open"
    topic: str
    partition: int
    offset: int
    last_epoch: int = NOT_KNOWN
    topic_id: bytes = b""


@dataclass(slots=True)
class Opened:
    """`diverging_offset` ≥ 0: the log was cut there, and what the reader holds beyond is gone; nothing was opened.

    Else as NextSegment, with the number that stands for the partition on this connection.
    """

    OP: ClassVar[str] = "opened"
    handle: int = NOT_KNOWN
    topic_id: bytes = b""
    diverging_offset: int = NOT_KNOWN
    base_offset: int = NOT_KNOWN
    position: int = NOT_KNOWN
    closed_bytes: int = NOT_KNOWN
    next_base_offset: int = NOT_KNOWN
    files_generation: int = NOT_KNOWN


@dataclass(slots=True)
class Segment:
    """The segment that has `offset`. The reader holds the one at `held_base` of `files_generation` (-1: none)."""

    OP: ClassVar[str] = "segment"
    handle: int
    offset: int
    held_base: int = NOT_KNOWN
    files_generation: int = NOT_KNOWN


@dataclass(slots=True)
class NextSegment:
    """A segment, handed over unless the reader has that file. The batch with the offset asked for starts at byte
    `position`; -1: the reader must find it, by the segment's index, which is handed over if there is one.

    `closed_bytes` and `next_base_offset`: where it ends and the next begins, or -1 while it may grow.
    """

    OP: ClassVar[str] = "next_segment"
    base_offset: int
    position: int
    closed_bytes: int
    next_base_offset: int
    files_generation: int


@dataclass(slots=True)
class Taken:
    """The descriptors of the last answer have arrived."""

    OP: ClassVar[str] = "taken"


@dataclass(slots=True)
class Arm:
    """Wake me once for each of these when there is a record at `offsets[i]` (below the last stable offset when
    `committed`), or when the partition is closed or deleted.
    """

    OP: ClassVar[str] = "arm"
    handles: list[int]
    offsets: list[int]
    committed: bool = False


@dataclass(slots=True)
class Wake:
    OP: ClassVar[str] = "wake"
    handles: list[int]


@dataclass(slots=True)
class Close:
    """The reader no longer reads this partition. Not answered."""

    OP: ClassVar[str] = "close"
    handle: int


@dataclass(slots=True)
class Error:
    """A message of the reader was refused: Kafka's code, and words. For an offset out of range, what is there."""

    OP: ClassVar[str] = "error"
    code: int
    message: str
    earliest: int = NOT_KNOWN
    next_offset: int = NOT_KNOWN


FromReader = Hello | Open | Segment | Taken | Arm | Close
FromWorker = Welcome | Opened | NextSegment | Wake | Error

_KINDS: Final[dict[Any, type]] = {int: int, list[int]: list, str: str, bytes: bytes, bool: bool}
"""The types that a field may have, and what msgpack makes of them. Lists are of integers."""
_INTEGER_MAX: Final = 2**63 - 1  # msgpack knows larger ones; none is smaller than -(2**63)


@dataclass(slots=True)
class _Form:
    """How one kind of message is checked: each field's name, type, and default (MISSING: it must be there)."""

    cls: Any
    fields: list[tuple[str, Any, Any]] = field(default_factory=list)


def _forms(*classes: Any) -> dict[str, _Form]:
    found = {}
    for cls in classes:
        hints = get_type_hints(cls)
        found[cls.OP] = _Form(cls, [(item.name, _KINDS[hints[item.name]], item.default) for item in fields(cls)])
    return found


_FROM_READER = _forms(Hello, Open, Segment, Taken, Arm, Close)
_FROM_WORKER = _forms(Welcome, Opened, NextSegment, Wake, Error)


def encode(message: FromReader | FromWorker) -> bytes:
    """A message's bytes."""
    values = {name: getattr(message, name) for name in message.__dataclass_fields__}
    packed: bytes = msgpack.packb({"op": message.OP, "v": PROTOCOL_VERSION, **values})
    return packed


def decode_from_reader(data: bytes | bytearray | memoryview) -> FromReader:
    """A reader's message. Raises InvalidRequest or UnsupportedVersion, naming what was wrong."""
    found: FromReader = _decode(data, _FROM_READER)
    return found


def decode_from_worker(data: bytes | bytearray | memoryview) -> FromWorker:
    """A worker's message. Raises InvalidRequest or UnsupportedVersion, naming what was wrong."""
    found: FromWorker = _decode(data, _FROM_WORKER)
    return found


def _decode(data: bytes | bytearray | memoryview, forms: dict[str, _Form]) -> Any:
    try:
        # The receiver has bounded the bytes; msgpack bounds every count by the bytes that are there.
        values = msgpack.unpackb(data, raw=False, strict_map_key=True)
    except Exception as error:  # msgpack raises many kinds; all mean the same
        raise InvalidRequest(f"the message is not msgpack: {error or type(error).__name__}") from None
    if type(values) is not dict:
        raise InvalidRequest(f"the message must be a map, not {type(values).__name__}")
    version = values.get("v")
    if type(version) is not int or version != PROTOCOL_VERSION:
        raise UnsupportedVersion(f"version {version!r:.40} of the descriptor protocol is not spoken here; 1 is")
    op = values.get("op")
    form = forms.get(op) if type(op) is str else None
    if form is None:
        raise InvalidRequest(f"unknown operation {op!r:.60}; known are {', '.join(forms)}")
    found = []
    for name, kind, default in form.fields:
        value = values.get(name, default)
        if type(value) is not kind:
            raise _fault(f"{op}.{name}", kind, value)
        if kind is int:
            if value > _INTEGER_MAX:
                raise _fault(f"{op}.{name}", int, value)
        elif kind is list:
            for entry in value:
                if type(entry) is not int or entry > _INTEGER_MAX:
                    raise _fault(f"{op}.{name}", int, entry)
        found.append(value)
    return form.cls(*found)


def _fault(where: str, kind: type, value: Any) -> InvalidRequest:
    if value is MISSING:
        return InvalidRequest(f"{where} is missing")
    wanted = {int: "a 64-bit integer", list: "a list"}.get(kind, kind.__name__)
    found = value if kind is type(value) is int else type(value).__name__
    return InvalidRequest(f"{where} must be {wanted}, not {found}")
