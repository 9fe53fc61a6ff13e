"""Every error of kbroker, with Kafka's error codes.

    KbrokerError
    ├── RequestError          the peer asked for something wrong, or at the wrong time; has a Kafka code
    │   └── RetriableError    the same request may succeed later, unchanged
    ├── StorageError          the disk's fault: the partition stops acknowledging, the rest goes on
    ├── ConfigError           a setting has a wrong name or value: says which, and what is allowed
    ├── StartError            the broker cannot start here: says why and what to do
    └── ClientError           raised in the client's process only
        ├── BufferFull        the producer's buffer stayed full for max_block_ms
        ├── ClientClosed      used after close()
        ├── ForkedClient      used in a forked child
        ├── BrokerUnavailable nobody answered at that address
        ├── ConcurrentAccess  two threads, or two tasks, in one client that is for one at a time
        ├── LogTruncated      records that were read have vanished (power cut, acks=1)
        ├── CorruptRecord     what lies at an offset is no record: which offsets, and where to go on
        └── DeserializationError  a deserializer raised for one record: which, and why

A code says what a client does next, so every RequestError carries one. `error_for(code, message)` makes the right
class from what came over the wire.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from kbroker.types import TopicPartition


class KbrokerError(Exception):
    """Base of all errors that kbroker raises on purpose. `str(error)` is a sentence fit for a user."""


class RequestError(KbrokerError):
    """The peer's fault, or the wrong moment. `code` is Kafka's error code (int16)."""

    code: ClassVar[int] = 42

    @property
    def message(self) -> str:
        """What was wrong and what to do."""
        return str(self)


class RetriableError(RequestError):
    """Try again, unchanged, after a back-off and fresh metadata."""


class StorageError(KbrokerError):
    """The disk failed or lied. Kafka's KAFKA_STORAGE_ERROR (56): the client retries after fresh metadata."""

    code: ClassVar[int] = 56


class ConfigError(KbrokerError):
    """A setting's name or value is wrong."""

    code: ClassVar[int] = 40


class StartError(KbrokerError):
    """The broker cannot start: folder locked, path too long, port taken …"""


class ClientError(KbrokerError):
    """Raised in the client's own process; never crosses the wire."""


class UnknownServerError(RequestError):
    code = -1


class OffsetOutOfRange(RequestError):
    """`earliest` is the log start offset and `next_offset` the log end where known, else -1."""

    code = 1

    def __init__(self, message: str, *, earliest: int = -1, next_offset: int = -1) -> None:
        super().__init__(message)
        self.earliest = earliest
        self.next_offset = next_offset


class CorruptMessage(RetriableError):
    code = 2


class UnknownTopicOrPartition(RetriableError):
    code = 3


class LeaderNotAvailable(RetriableError):
    """The partition's worker is not up yet, or still recovering its log."""

    code = 5


class NotLeaderOrFollower(RetriableError):
    code = 6


class RequestTimedOut(RetriableError):
    code = 7


class MessageTooLarge(RequestError):
    code = 10


class OffsetMetadataTooLarge(RequestError):
    code = 12


class NetworkError(RetriableError):
    """The connection to a broker process ended before the answer came: nobody knows whether it acted."""

    code = 13


class CoordinatorLoadInProgress(RetriableError):
    """The coordinator is still reading what its groups were."""

    code = 14


class CoordinatorNotAvailable(RetriableError):
    """The coordinator is away, or could not store what was asked."""

    code = 15


class NotCoordinator(RetriableError):
    code = 16


class InvalidTopic(RequestError):
    code = 17


class RecordListTooLarge(RequestError):
    code = 18


class RecordsRefused(RequestError):
    """Single records of a batch are at fault: `records` says of each, by its number in the batch, why."""

    def __init__(self, message: str, records: Mapping[int, str] | None = None) -> None:
        super().__init__(message)
        self.records = records or {}


class IllegalGeneration(RequestError):
    """The group has gone on to another generation: join again."""

    code = 22


class InconsistentGroupProtocol(RequestError):
    """The members of the group have no protocol in common with this one."""

    code = 23


class InvalidGroupId(RequestError):
    code = 24


class UnknownMemberId(RequestError):
    """The group does not know that member, or not any more: join again as a new one."""

    code = 25


class InvalidSessionTimeout(RequestError):
    code = 26


class RebalanceInProgress(RequestError):
    """The group's members are joining anew: join again with the same member id."""

    code = 27


class InvalidCommitOffsetSize(RequestError):
    code = 28


class InvalidTimestamp(RecordsRefused):
    code = 32


class UnsupportedVersion(RequestError):
    code = 35


class TopicAlreadyExists(RequestError):
    code = 36


class InvalidPartitions(RequestError):
    code = 37


class InvalidReplicationFactor(RequestError):
    code = 38


class InvalidReplicaAssignment(RequestError):
    code = 39


class InvalidConfig(RequestError):
    code = 40


class InvalidRequest(RequestError):
    code = 42


class MalformedRequest(InvalidRequest):
    """The bytes are no Kafka message: lengths or counts beyond the frame, text that is not UTF-8, a frame too large,
    or another protocol altogether. Nothing after them can be trusted, so the connection ends."""


class UnsupportedForMessageFormat(RequestError):
    code = 43


class PolicyViolation(RequestError):
    """A setting of the topic or the broker does not allow it."""

    code = 44


class OutOfOrderSequence(RequestError):
    code = 45


class DuplicateSequence(RequestError):
    code = 46


class InvalidProducerEpoch(RequestError):
    code = 47


class UnknownProducerId(RequestError):
    code = 59


class KafkaStorageError(RetriableError):
    """What a client sees of a StorageError."""

    code = 56


class NonEmptyGroup(RequestError):
    code = 68


class GroupIdNotFound(RequestError):
    code = 69


class FencedLeaderEpoch(RetriableError):
    code = 74


class UnknownLeaderEpoch(RetriableError):
    code = 75


class UnsupportedCompressionType(RequestError):
    code = 76


class MemberIdRequired(RequestError):
    """The answer holds the id with which a new member is to join."""

    code = 79


class GroupMaxSizeReached(RequestError):
    code = 81


class FencedInstanceId(RequestError):
    """Another member has taken over that static member's place."""

    code = 82


class GroupSubscribedToTopic(RequestError):
    code = 86


class InvalidRecord(RecordsRefused):
    code = 87


class UnstableOffsetCommit(RetriableError):
    """An open transaction may still change that offset."""

    code = 88


class ThrottlingQuotaExceeded(RetriableError):
    """A limit on requests or bytes in flight was reached; wait for answers before asking more."""

    code = 89


class UnknownTopicId(RetriableError):
    code = 100


class InconsistentTopicId(RetriableError):
    """The topic was deleted and made anew: it has another id now."""

    code = 103


class FencedMemberEpoch(RequestError):
    code = 110


class UnreleasedInstanceId(RequestError):
    code = 111


class UnsupportedAssignor(RequestError):
    code = 112


class StaleMemberEpoch(RequestError):
    code = 113


class InvalidRegularExpression(RequestError):
    code = 128


class BufferFull(ClientError):
    """The producer's buffer stayed full for `max_block_ms`: the broker is slower than the caller, or away."""


class ClientClosed(ClientError):
    """The client was used after close()."""


class ForkedClient(ClientError):
    """The client was made before fork() and used in the child: make a new one there."""


class BrokerUnavailable(ClientError):
    """Nobody answered at the server's address within the time allowed."""


class LogTruncated(ClientError):
    """Records that this consumer had read are gone from the log (KIP-320): a power cut took acks=1 records.

    `partition`, `offset` (where this consumer stood) and `diverging_offset` (the first offset that may differ) tell
    where to go on: seek there, or to the beginning or end.
    """

    def __init__(self, partition: object, offset: int, diverging_offset: int) -> None:
        super().__init__(
            f"{partition}: the log was truncated to offset {diverging_offset} behind this consumer at {offset} "
            "(records written with acks=1 were lost in a power cut); seek to go on"
        )
        self.partition = partition
        self.offset = offset
        self.diverging_offset = diverging_offset


class ConcurrentAccess(ClientError):
    """Two threads, or two asyncio tasks, were in one client that is for one at a time: give each one of its own."""


class CorruptRecord(ClientError):
    """What lies at an offset cannot be read as records: a wrong CRC, garbage, a count or length that cannot be.

    `topic`, `partition` and `offset` (the first that is affected) name the place. `next_offset` is where sound records
    may begin again, -1 where that is not known; `cause` says what is wrong.
    """

    def __init__(self, topic_partition: TopicPartition, offset: int, next_offset: int, cause: object) -> None:
        super().__init__(topic_partition, offset, next_offset, cause)
        self.topic_partition = topic_partition
        self.topic, self.partition = topic_partition
        self.offset = offset
        self.next_offset = next_offset
        self.cause = cause

    @property
    def fault(self) -> str:
        """Which offsets are corrupt, and why."""
        if self.next_offset > self.offset + 1:
            place = f"offsets {self.offset} to {self.next_offset - 1} are"
        else:
            place = f"offset {self.offset} is"
        return f"{self.topic_partition}: {place} corrupt: {self.cause}"

    @property
    def past(self) -> int:
        """Where to try to go on: `next_offset`, or the next one after `offset`."""
        return self.next_offset if self.next_offset >= 0 else self.offset + 1

    def __str__(self) -> str:
        return f"{self.fault}; seek to {self.past} to go on behind, or read with on_corrupt='skip'"


class DeserializationError(ClientError):
    """`key_deserializer` or `value_deserializer` raised for one record. Those before it were delivered.

    `topic`, `partition` and `offset` name the record; `origin` is "key" or "value" (KIP-1036), `cause` what was raised.
    The record as it lies in the log: `key` and `value` (bytes or None), `headers`, `timestamp` (ms since 1970).
    """

    def __init__(
        self,
        topic_partition: TopicPartition,
        offset: int,
        origin: str,
        cause: Exception,
        *,
        key: bytes | None = None,
        value: bytes | None = None,
        headers: Sequence[tuple[str, bytes | None]] = (),
        timestamp: int = -1,
    ) -> None:
        super().__init__(topic_partition, offset, origin, cause)
        self.topic_partition = topic_partition
        self.topic, self.partition = topic_partition
        self.offset = offset
        self.origin = origin
        self.cause = cause
        self.key = key
        self.value = value
        self.headers = headers
        self.timestamp = timestamp

    def __str__(self) -> str:
        return (
            f"{self.topic_partition}, offset {self.offset}: {self.origin}_deserializer raised "
            f"{type(self.cause).__name__}: {self.cause}; seek to {self.offset + 1} to go on behind it, or read with "
            "on_deserialization_error='skip'"
        )


def _classes(base: type[RequestError]) -> dict[int, type[RequestError]]:
    found: dict[int, type[RequestError]] = {}
    for cls in base.__subclasses__():
        if "code" in vars(cls):
            found[cls.code] = cls
        found.update(_classes(cls))
    return found


_BY_CODE = _classes(RequestError)


def error_for(code: int, message: str) -> RequestError:
    """The error for a Kafka code that came over the wire; an unlisted code gives UnknownServerError naming it."""
    cls = _BY_CODE.get(code)
    if cls is None:
        return UnknownServerError(f"{message} (error code {code})")
    return cls(message)


def code_of(error: BaseException) -> int:
    """Kafka's code for an error that is about to be answered; -1 for what we did not expect."""
    code = getattr(error, "code", -1)
    return code if isinstance(code, int) else -1
