"""DescriptorServer: hands out descriptors of control pages and segments, and wakes readers that sleep.

It runs on the worker's event loop and never waits: not for a reader that does not read, not for one that does not
acknowledge. What a reader does costs others nothing but the few µs of its message.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Final

from kbroker.config import ShmConfig
from kbroker.errors import (
    InvalidRequest,
    OffsetOutOfRange,
    RequestError,
    StorageError,
    ThrottlingQuotaExceeded,
    UnknownTopicId,
    UnknownTopicOrPartition,
    UnsupportedVersion,
    code_of,
)
from kbroker.shm.access import Access, peer_of
from kbroker.shm.connection import Connection, EventLoop, Handle, HungUp
from kbroker.shm.control_page import LIVE, ControlPage
from kbroker.shm.messages import (
    ARM_MAX,
    MESSAGE_BYTES_MAX,
    PROTOCOL_VERSION,
    Arm,
    Close,
    Error,
    FromReader,
    Hello,
    NextSegment,
    Open,
    Opened,
    Segment,
    Taken,
    Wake,
    Welcome,
)
from kbroker.shm.shared import SharedPartition, diverging_offset, end_of, open_index, open_segment, place

_log = logging.getLogger("kbroker.shm")

_MESSAGES_A_TURN: Final = 16
HANDOVERS_MAX: Final = 256
"""Hand-overs that no reader has acknowledged; one more, and the reader that has waited longest is hung up on. The
kernel bounds descriptors on their way for the whole process, so that hoarders would shut out everybody else."""
_LOG_INTERVAL_S: Final = 10.0


class DescriptorServer:
    """Serves the readers whose connections it is given by `admit`: non-blocking SOCK_SEQPACKET unix sockets.

    `lookup` gives the partition, or raises RequestError (not here, still recovering) or StorageError.
    Raises ConfigError when a user or group in the settings does not exist.
    """

    def __init__(
        self,
        loop: EventLoop,
        lookup: Callable[[str, int], SharedPartition],
        config: ShmConfig,
    ) -> None:
        self._loop = loop
        self._lookup = lookup
        self._config = config
        self._access = Access(config)
        self._connections: dict[int, Connection] = {}
        self._armed: dict[tuple[str, int], set[Handle]] = {}
        """Who sleeps, by partition; none of the sets is empty, and each of its handles `is_armed`."""
        self._handovers: dict[int, Connection] = {}  # not acknowledged, oldest first
        self._buffer = bytearray(MESSAGE_BYTES_MAX + 1)
        self._logged_s = float("-inf")
        self._unlogged = 0

    # What the worker calls

    def published(self, place: tuple[str, int], page: ControlPage) -> None:
        """Wake the readers of that topic's partition that sleep until there is more. Call it after `page.publish`."""
        waiters = self._armed.get(place)
        if waiters is None:
            return
        high_watermark = page.high_watermark
        for handle in tuple(waiters):
            if handle.offset < (page.last_stable_offset if handle.committed else high_watermark):
                self._wake(handle)

    def forget(self, place: tuple[str, int]) -> None:
        """The partition is served no longer: wake all who wait for it. Its page says why: call `close_page` before."""
        for handle in tuple(self._armed.get(place, ())):
            self._wake(handle)

    @property
    def connection_count(self) -> int:
        return len(self._connections)

    def close(self) -> None:
        """Hang up on all readers. A second call does nothing."""
        for connection in tuple(self._connections.values()):
            self._hang_up(connection)

    # Connections

    def admit(self, sock: socket.socket, _address: object = None) -> None:
        """Somebody has connected."""
        try:
            self._welcome_or_refuse(sock)
        except OSError:  # gone again
            sock.close()

    def _welcome_or_refuse(self, sock: socket.socket) -> None:
        connection = Connection(sock, peer_of(sock), self._buffer)
        refusal = self._refusal(connection)
        if refusal is not None:
            with contextlib.suppress(HungUp):
                connection.send(refusal)
            connection.close()
            self._report(f"refused process {connection.peer.pid}: {refusal.message}")
            return
        self._connections[sock.fileno()] = connection
        self._await(connection)
        self._loop.add(sock.fileno(), select.EPOLLIN, partial(self._on_reader, connection))

    def _refusal(self, connection: Connection) -> Error | None:
        peer = connection.peer
        if not self._access.allows(peer):
            return Error(31, self._access.refusal(peer))  # CLUSTER_AUTHORIZATION_FAILED
        if len(self._connections) >= self._config.connections_max:
            most = self._config.connections_max
            return Error(
                ThrottlingQuotaExceeded.code, f"{most} readers are connected; shm.connections.max allows no more"
            )
        return None

    def _await(self, connection: Connection) -> None:
        connection.deadline = self._loop.call_later(
            self._config.handover_timeout_ms, lambda: self._hang_up(connection, "it takes too long to answer")
        )

    def _hang_up(self, connection: Connection, reason: str = "") -> None:
        fd = connection.fileno()
        if self._connections.pop(fd, None) is None:
            return
        if reason:
            self._report(f"hung up on process {connection.peer.pid}: {reason}")
        self._handovers.pop(fd, None)
        for handle in connection.handles.values():
            self._disarm(handle)
        self._loop.remove(fd)
        connection.close()

    def _report(self, line: str) -> None:
        """One line to the log, but not more often than every 10 s: a hostile peer must not fill the disk."""
        now_s = time.monotonic()
        if now_s - self._logged_s < _LOG_INTERVAL_S:
            self._unlogged += 1
            return
        more = f" ({self._unlogged} such lines left out)" if self._unlogged else ""
        self._logged_s, self._unlogged = now_s, 0
        _log.warning("shared memory: %s%s", line, more)

    # Messages

    def _on_reader(self, connection: Connection, _events: int) -> None:
        for _ in range(_MESSAGES_A_TURN):
            try:
                message = connection.receive()
                if message is None:
                    return
                self._serve(connection, message)
                if type(message) is Arm:
                    return  # now it sleeps: looking for more would be one more system call for each wake-up
            except HungUp:
                self._hang_up(connection)
            except UnsupportedVersion as error:
                self._refuse(connection, error)
                self._hang_up(connection, str(error))
            except (RequestError, StorageError, OSError) as error:
                self._refuse(connection, error)
            if connection.is_closed:
                return

    def _refuse(self, connection: Connection, error: Exception) -> None:
        if isinstance(error, OSError):
            error = StorageError(f"cannot hand out descriptors: {error}")
        answer = Error(code_of(error), str(error))
        if isinstance(error, OffsetOutOfRange):
            answer.earliest, answer.next_offset = error.earliest, error.next_offset
        try:
            connection.send(answer)
        except HungUp as gone:
            self._hang_up(connection, str(gone))

    def _serve(self, connection: Connection, message: FromReader) -> None:
        if isinstance(message, Arm) and connection.greeted:
            self._arm(connection, message)
        elif isinstance(message, Hello):
            if connection.greeted:
                raise InvalidRequest("hello comes once")
            connection.met_deadline()
            connection.greeted = True
            connection.send(Welcome(PROTOCOL_VERSION, self._config.open_max))
        elif not connection.greeted:
            raise InvalidRequest(f"the first message must be hello, not {message.OP}")
        elif isinstance(message, Taken):
            connection.met_deadline()
            self._handovers.pop(connection.fileno(), None)
        elif isinstance(message, Close):
            handle = connection.handles.pop(message.handle, None)
            if handle is not None:
                self._disarm(handle)
        elif connection.fileno() in self._handovers:
            raise InvalidRequest(f"{message.OP} before the descriptors of the last answer were acknowledged by taken")
        elif isinstance(message, Open):
            self._open(connection, message)
        elif isinstance(message, Segment):
            self._next_segment(connection, message)

    # Descriptors

    def _open(self, connection: Connection, request: Open) -> None:
        if len(connection.handles) >= self._config.open_max:
            raise ThrottlingQuotaExceeded(
                f"{len(connection.handles)} partitions are open on this connection; shm.open.max allows no more"
            )
        partition = self._lookup(request.topic, request.partition)
        if request.topic_id and request.topic_id != partition.topic_id:
            raise UnknownTopicId(f"{request.topic} was deleted and made again")
        cut_at = diverging_offset(partition, request)
        if cut_at >= 0:
            connection.send(Opened(diverging_offset=cut_at))
            return
        segment, position = place(partition, request.offset)
        descriptors: list[int] = []
        try:
            descriptors.append(partition.control_page.open_for_reader())
            descriptors.append(open_segment(segment))
            if position < 0:
                descriptors += open_index(segment)
            handle = Handle(connection, (request.topic, request.partition), partition.topic_id)
            answer = Opened(handle.number, partition.topic_id)
            answer.base_offset, answer.position = segment.base_offset, position
            answer.closed_bytes, answer.next_base_offset = end_of(segment)
            answer.files_generation = partition.control_page.files_generation
            self._hand_over(connection, answer, descriptors)
            connection.handles[handle.number] = handle
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _next_segment(self, connection: Connection, request: Segment) -> None:
        handle = connection.handles.get(request.handle)
        if handle is None:
            raise InvalidRequest(f"no partition is open as {request.handle}")
        partition = self._opened(handle)
        page = partition.control_page
        segment, position = place(partition, request.offset)
        closed_bytes, next_base_offset = end_of(segment)
        answer = NextSegment(segment.base_offset, position, closed_bytes, next_base_offset, page.files_generation)
        held = request.held_base == segment.base_offset and request.files_generation == page.files_generation
        descriptors: list[int] = []
        try:
            if not held:
                descriptors.append(open_segment(segment))
            if position < 0:
                descriptors += open_index(segment)
            if descriptors:
                self._hand_over(connection, answer, descriptors)
            else:
                connection.send(answer)
        finally:
            for descriptor in descriptors:
                os.close(descriptor)

    def _hand_over(self, connection: Connection, answer: Opened | NextSegment, descriptors: list[int]) -> None:
        if len(self._handovers) >= HANDOVERS_MAX:
            oldest = next(iter(self._handovers.values()))
            self._hang_up(oldest, "too many readers have not acknowledged their descriptors")
        connection.send(answer, descriptors)
        self._handovers[connection.fileno()] = connection
        self._await(connection)

    def _opened(self, handle: Handle) -> SharedPartition:
        topic, number = handle.place
        partition = self._lookup(topic, number)
        if partition.topic_id != handle.topic_id:
            raise UnknownTopicOrPartition(f"{topic} was deleted and made again")
        return partition

    # Wake-ups

    def _arm(self, connection: Connection, request: Arm) -> None:
        if len(request.handles) != len(request.offsets) or len(request.handles) > ARM_MAX:
            raise InvalidRequest(f"arm takes as many handles as offsets, and {ARM_MAX} at most")
        try:
            handles = [connection.handles[number] for number in request.handles]
        except KeyError as unknown:
            raise InvalidRequest(f"no partition is open as {unknown}") from None
        ready = []
        for handle, offset in zip(handles, request.offsets, strict=True):
            if self._is_past(handle, offset, request.committed):
                self._disarm(handle)
                ready.append(handle.number)
                continue
            handle.offset = offset
            handle.committed = request.committed
            if not handle.is_armed:
                handle.is_armed = True
                waiters = self._armed.get(handle.place)
                if waiters is None:
                    self._armed[handle.place] = {handle}
                else:
                    waiters.add(handle)
        if ready:
            connection.send(Wake(ready))

    def _is_past(self, handle: Handle, offset: int, committed: bool) -> bool:
        try:
            page = self._opened(handle).control_page
        except (RequestError, StorageError):
            return True  # its page says why, or the next request does
        return offset < (page.last_stable_offset if committed else page.high_watermark) or page.state != LIVE

    def _disarm(self, handle: Handle) -> None:
        if not handle.is_armed:
            return
        handle.is_armed = False
        waiters = self._armed[handle.place]
        waiters.discard(handle)
        if not waiters:
            del self._armed[handle.place]

    def _wake(self, handle: Handle) -> None:
        if not handle.is_armed:
            return  # it was hung up on, for another of its handles
        try:
            handle.connection.send_encoded(handle.wake)
        except HungUp as gone:
            self._hang_up(handle.connection, str(gone))
        else:
            self._disarm(handle)
