"""A client's bytes -> requests: the size prefix, the request header, and what is no Kafka at all.

    framer.receive(data)                            # what a recv() gave
    while (request := framer.next_request()):       # None: more bytes are needed
        ...

A frame is an int32 size and as many bytes: the header, then the message's body.

    api_key int16 · version int16 · correlation_id int32 · client_id nullable string (int16 length)
    · tagged fields, with header version 2 only

No allocation precedes a check: a size is held against the limit of its API before anything is kept for it, and the
buffer of a frame that comes in pieces grows with what has come, not with what was announced.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from struct import Struct
from typing import Final, NamedTuple

from kbroker.errors import MalformedRequest, UnsupportedVersion
from kbroker.kafka.apis import APIS, BY_KEY, Api, ApiKey
from kbroker.kafka.reader import Refused, read_varint, skip_tags

_SIZE_BYTES: Final = 4
_HEAD: Final = Struct(">hhih")  # api_key, version, correlation_id, length of client_id (-1: null)
_WHOLE_HEAD: Final = Struct(">ihhih")  # the same with the size before it
_PEEK: Final = Struct(">ih")  # size, api_key: enough to know the frame's limit
_SIZE: Final = Struct(">i")
_FRAME_BYTES_MIN: Final = _HEAD.size
_FIRST_BUFFER_BYTES: Final = 64 * 1024
_GROWTH: Final = 4
_HEADER_TAGS_MAX: Final = 64
_NOTHING: Final = memoryview(b"")

# What other protocols send first, and what an operator should read.
_OTHERS: Final[tuple[tuple[bytes, str], ...]] = (
    (b"\x16\x03", "a TLS handshake (this listener is plain text: set security.protocol=PLAINTEXT in the client)"),
    (b"GET ", "HTTP"),
    (b"POST", "HTTP"),
    (b"PUT ", "HTTP"),
    (b"HEAD", "HTTP"),
    (b"DELE", "HTTP"),
    (b"OPTI", "HTTP"),
    (b"PATC", "HTTP"),
    (b"CONN", "HTTP"),
    (b"TRAC", "HTTP"),
    (b"PRI ", "HTTP/2"),
    (b"SSH-", "SSH"),
    (b"PROX", "a proxy's PROXY line"),
    (b"\r\n\r\n", "a proxy's PROXY header"),
    (b"\xff\x00\x00\x00", "ZeroMQ (native clients have a port of their own)"),
    (b"*", "Redis"),
    (b"EHLO", "SMTP"),
    (b"HELO", "SMTP"),
    (b"AMQP", "AMQP"),
)


@dataclass(frozen=True, slots=True)
class FrameLimits:
    """The largest frames that are taken, in bytes after the size prefix."""

    produce_bytes: int = 100 * 1024 * 1024
    other_bytes: int = 4 * 1024 * 1024
    """All but Produce."""
    stranger_bytes: int = 64 * 1024
    """All, from a peer that must log in and has not yet: see `RequestFramer.trusted`."""

    @property
    def of_any_bytes(self) -> int:
        """A frame up to this size is taken whoever sends it, and whatever it asks."""
        return min(self.stranger_bytes, self.produce_bytes, self.other_bytes)


@dataclass(slots=True)
class Request:
    """A request as it came: its header, and the body that codec.read_request decodes.

    `body` is a view into what `receive` was given, or into the framer's own buffer when the frame came in pieces.
    `supported` is False only for ApiVersions, which is answered even then (in version 0, with error 35).
    """

    api_key: int
    version: int
    correlation_id: int
    client_id: str | None
    body: memoryview
    size_bytes: int
    supported: bool = True


class _Header(NamedTuple):
    """A request's header; `rest` is what follows the length of the client id: the id itself and tagged fields."""

    api_key: int
    version: int
    client_bytes: int
    rest: bytes
    client_id: str | None


_NO_HEADER: Final = _Header(-1, -1, -1, b"", None)


def _allocate(_least_bytes: int, best_bytes: int) -> bytearray:
    return bytearray(best_bytes)


class RequestFramer:
    """One connection's incoming bytes. Pure: it is given bytes and asked for requests.

    `trusted`: False where the peer must log in first, and until it has; it keeps every frame within
    `limits.stranger_bytes`. Where nobody has to log in the first frame is as any other: many clients ask ApiVersions on
    one of their connections only, or on none, and begin with a Produce.

    `allocate(least, best)` makes the buffer of a frame that comes in pieces: at least so many bytes, of any content,
    and better so many. After an error the stream cannot be read on: each further call raises it again, and the
    connection is to be closed.
    """

    def __init__(
        self, limits: FrameLimits, *, trusted: bool = True, allocate: Callable[[int, int], bytearray] = _allocate
    ) -> None:
        self.limits = limits
        self._of_any_bytes = limits.of_any_bytes
        self._allocate = allocate
        self.trusted = trusted
        self._data = _NOTHING
        self._position = 0
        self._own: bytearray | None = None  # a frame that comes in pieces, size prefix included
        self._filled = 0
        self._wanted_bytes = 0  # the whole of it, prefix included; 0: not known yet
        self._client: tuple[bytes, str | None] = (b"", "")
        self._last = _NO_HEADER
        self._error: MalformedRequest | UnsupportedVersion | None = None
        self._has_begun = False

    @property
    def buffered_bytes(self) -> int:
        """What this connection holds in memory: an unfinished frame, and what `hold` has copied."""
        return (0 if self._own is None else len(self._own)) + len(self._data) - self._position

    @property
    def client_id(self) -> str:
        """What the peer last called itself."""
        return self._client[1] or ""

    @property
    def received_bytes(self) -> int:
        """What of the unfinished frame has come."""
        return 0 if self._own is None else self._filled

    @property
    def missing_bytes(self) -> int:
        """What of the unfinished frame is still to come, as far as its size is known."""
        return 0 if self._own is None else max(0, self._wanted_bytes - self._filled)

    @property
    def growth_bytes(self) -> int:
        """How much more memory `room` would take now for the unfinished frame."""
        own = self._own
        if own is None or not self._wanted_bytes or self._filled < len(own):
            return 0
        return self._best_bytes(self._filled + 1) - len(own)

    def has_begun(self) -> bool:
        """Whether a frame was begun, and not ended, since this was asked last."""
        begun, self._has_begun = self._has_begun, False
        return begun

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Takes what came from the peer. Call next_request() until it gives None before `data`'s buffer is reused:
        then what was not used has been copied, and only the requests still look into it."""
        assert self._position == len(self._data), "next_request() has more to give"
        self._data = memoryview(data)
        self._position = 0

    def hold(self) -> None:
        """Copies what next_request() has not yet used, for a caller that stops asking and reuses its buffer.

        The copy is writable as that is: batches are numbered in place.
        """
        if self._position < len(self._data):
            self._data = memoryview(bytearray(self._data[self._position :]))
            self._position = 0

    def next_request(self) -> Request | None:
        """The next whole request, or None: more bytes are needed.

        Raises MalformedRequest (a size that cannot be, a header that is broken, another protocol), UnsupportedVersion
        (an API or version that is not served); both say what came.
        """
        if self._error is not None:
            raise self._error
        if self._position == len(self._data) and self._own is None:
            self._data = _NOTHING  # all of it is used: an idle connection keeps no buffer alive
            self._position = 0
            return None
        request = self._like_the_last()
        if request is not None:
            return request
        try:
            frame = self._whole_frame() if self._own is None else self._frame_of_pieces()
            if frame is not None:
                return self._request(frame)
            self._data = _NOTHING  # as above: what is left of it was copied
            self._position = 0
            return None
        except (MalformedRequest, UnsupportedVersion) as error:
            self._error = error
            self._own = None
            self._data = _NOTHING
            self._position = 0
            raise

    def _like_the_last(self) -> Request | None:
        """The next request when all of it is there and its header says what the last one's did, as most do."""
        data, start = self._data, self._position
        if self._own is not None or len(data) - start < _WHOLE_HEAD.size:
            return None
        size, api_key, version, correlation_id, client_bytes = _WHOLE_HEAD.unpack_from(data, start)
        end = start + _SIZE_BYTES + size
        last = self._last
        if (
            api_key != last.api_key
            or version != last.version
            or client_bytes != last.client_bytes
            or not _FRAME_BYTES_MIN <= size <= self._of_any_bytes
            or end > len(data)
        ):
            return None
        start += _WHOLE_HEAD.size
        begin = start + len(last.rest)
        if begin > end or data[start:begin] != last.rest:
            return None
        self._position = end
        return Request(api_key, version, correlation_id, last.client_id, data[begin:end], size)

    def room(self) -> memoryview | None:
        """Where the next bytes of an unfinished frame belong, so that a recv_into() saves a copy: say how many came
        with `filled`. None: nothing is unfinished, or its size is not known yet; use `receive`."""
        if self._own is None or not self._wanted_bytes:
            return None
        self._reserve(self._filled + 1)
        return memoryview(self._own)[self._filled : self._wanted_bytes]

    def filled(self, received_bytes: int) -> None:
        """So many bytes were put at the beginning of `room()`."""
        self._filled += received_bytes

    def _whole_frame(self) -> memoryview | None:
        """The next frame if `data` holds all of it; else what there is of it moves to a buffer of its own."""
        start, have = self._position, len(self._data)
        size = self._frame_bytes(self._data, start, have)
        if size is not None and start + _SIZE_BYTES + size <= have:
            self._position = end = start + _SIZE_BYTES + size
            return self._data[start + _SIZE_BYTES : end]
        if start < have:
            rest = self._data[start:]
            self._has_begun = True
            self._wanted_bytes = 0 if size is None else _SIZE_BYTES + size
            least = max(len(rest), _PEEK.size)
            self._own = self._allocate(least, least if size is None else self._best_bytes(least))
            self._own[: len(rest)] = rest
            self._filled = len(rest)
        return None

    def _frame_of_pieces(self) -> memoryview | None:
        """The frame that came in pieces, when the last one is there."""
        assert self._own is not None
        if not self._wanted_bytes:
            self._take(_PEEK.size)
            size = self._frame_bytes(self._own, 0, self._filled)
            if size is None:
                return None
            self._wanted_bytes = _SIZE_BYTES + size
        self._take(self._wanted_bytes)
        if self._filled < self._wanted_bytes:
            return None
        frame = memoryview(self._own)[_SIZE_BYTES : self._wanted_bytes]
        self._own = None
        return frame

    def _take(self, wanted: int) -> None:
        """Moves bytes from `data` until the frame has `wanted` of them, or `data` is used up."""
        more = min(wanted - self._filled, len(self._data) - self._position)
        if more <= 0:
            return
        self._reserve(self._filled + more)
        assert self._own is not None
        self._own[self._filled : self._filled + more] = self._data[self._position : self._position + more]
        self._filled += more
        self._position += more

    def _reserve(self, used: int) -> None:
        """Makes the frame's buffer hold `used` bytes. A new one each time: a view of the old one may still be out."""
        assert self._own is not None
        if used <= len(self._own):
            return
        grown = self._allocate(used, self._best_bytes(used))
        grown[: self._filled] = memoryview(self._own)[: self._filled]
        self._own = grown

    def _best_bytes(self, used: int) -> int:
        """How large a buffer is made for so many bytes of the unfinished frame: with room for what follows."""
        return min(self._wanted_bytes, max(_GROWTH * used, _FIRST_BUFFER_BYTES))

    def _frame_bytes(self, data: memoryview | bytearray, start: int, have: int) -> int | None:
        """The size of the frame at `start`, checked; None when too little of it is there to tell."""
        if have - start < _PEEK.size:
            if have - start >= _SIZE_BYTES:
                (size,) = _SIZE.unpack_from(data, start)
                self._check_size(size, None, data, start)
            return None
        size, api_key = _PEEK.unpack_from(data, start)
        if not _FRAME_BYTES_MIN <= size <= self._of_any_bytes:
            self._check_size(size, api_key, data, start)
        return int(size)

    def _check_size(self, size: int, api_key: int | None, data: memoryview | bytearray, start: int) -> None:
        limits = self.limits
        if not self.trusted:
            limit = limits.stranger_bytes
        elif api_key is None or api_key == ApiKey.PRODUCE:
            limit = limits.produce_bytes
        else:
            limit = limits.other_bytes
        if _FRAME_BYTES_MIN <= size <= limit:
            return
        begin = bytes(data[start : start + 16])
        for sign, name in _OTHERS:
            if begin.startswith(sign):
                raise MalformedRequest(f"this is not Kafka: the bytes {begin!r} look like {name}")
        if size < _FRAME_BYTES_MIN:
            raise MalformedRequest(f"a frame of {size} bytes cannot be: the smallest has {_FRAME_BYTES_MIN}")
        which = "a frame" if api_key is None else f"a frame of {_name(api_key)}"
        first = "" if self.trusted else " from a client that has not logged in"
        raise MalformedRequest(f"{which} of {size} bytes is too large: at most {limit} are taken{first}")

    def _request(self, frame: memoryview) -> Request:
        api_key, version, correlation_id, client_bytes = _HEAD.unpack_from(frame, 0)
        api = BY_KEY.get(api_key)
        supported = api is not None and api.min_version <= version <= api.max_version
        if api is None or (not supported and api_key != ApiKey.API_VERSIONS):
            raise UnsupportedVersion(_refusal(api, api_key, version))
        position = _HEAD.size
        if client_bytes >= 0:
            end = position + client_bytes
            if end > len(frame):
                raise MalformedRequest(
                    f"{api.name} v{version} request header: client_id: {client_bytes} bytes are announced and "
                    f"{len(frame) - position} are left"
                )
            client_id = self._client_id(bytes(frame[position:end]))
            position = end
        elif client_bytes == -1:
            client_id = None
        else:
            raise MalformedRequest(
                f"{api.name} v{version} request header: client_id: the length {client_bytes} is negative"
            )
        if supported and version >= api.flexible_version:
            position = _after_tags(frame, position, api, version)
        if supported:
            self._last = _Header(api_key, version, client_bytes, bytes(frame[_HEAD.size : position]), client_id)
        return Request(api_key, version, correlation_id, client_id, frame[position:], len(frame), supported)

    def _client_id(self, text: bytes) -> str | None:
        """What is not UTF-8 in it is replaced (U+FFFD), as Kafka does: it is a name for people."""
        known, client_id = self._client
        if text != known:
            client_id = text.decode(errors="replace")
            self._client = (text, client_id)
        return client_id


def _after_tags(frame: memoryview, position: int, api: Api, version: int) -> int:
    """Where the header ends: its tagged fields are skipped."""
    try:
        count = frame[position]
        position += 1
        if not count:
            return position
        if count > 0x7F:
            count, position = read_varint(frame, position, count)
        if count > _HEADER_TAGS_MAX:
            raise Refused(f"{count} tagged fields, and {_HEADER_TAGS_MAX} are taken")
        return skip_tags(frame, position, count)
    except IndexError:
        why = f"the frame's {len(frame)} bytes end here"
    except Refused as error:
        why = str(error)
    raise MalformedRequest(f"{api.name} v{version} request header: tags: {why}")


def _name(api_key: int) -> str:
    api = BY_KEY.get(api_key)
    return f"API {api_key}" if api is None else api.name


def _refusal(api: Api | None, api_key: int, version: int) -> str:
    if api is None:
        return f"API {api_key} version {version} is not supported: {len(APIS)} APIs are, and ApiVersions lists them"
    return f"{api.name} version {version} is not supported: {api.min_version} to {api.max_version} are"
