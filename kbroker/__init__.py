"""kbroker: Kafka's log, groups and protocol for one Linux host, in Python.

    from kbroker import Producer, Consumer, Admin, TopicPartition, ConsumerRecord

`kbroker.aio` has the same clients for asyncio. All errors are KbrokerErrors; `kbroker.errors` draws their tree.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from kbroker.errors import (
    BrokerUnavailable,
    BufferFull,
    ClientClosed,
    ClientError,
    ConcurrentAccess,
    ConfigError,
    CoordinatorLoadInProgress,
    CoordinatorNotAvailable,
    CorruptMessage,
    CorruptRecord,
    DeserializationError,
    DuplicateSequence,
    FencedInstanceId,
    FencedLeaderEpoch,
    FencedMemberEpoch,
    ForkedClient,
    GroupIdNotFound,
    GroupMaxSizeReached,
    GroupSubscribedToTopic,
    IllegalGeneration,
    InconsistentGroupProtocol,
    InconsistentTopicId,
    InvalidCommitOffsetSize,
    InvalidConfig,
    InvalidGroupId,
    InvalidPartitions,
    InvalidProducerEpoch,
    InvalidRecord,
    InvalidRegularExpression,
    InvalidReplicaAssignment,
    InvalidReplicationFactor,
    InvalidRequest,
    InvalidSessionTimeout,
    InvalidTimestamp,
    InvalidTopic,
    KafkaStorageError,
    KbrokerError,
    LeaderNotAvailable,
    LogTruncated,
    MalformedRequest,
    MemberIdRequired,
    MessageTooLarge,
    NetworkError,
    NonEmptyGroup,
    NotCoordinator,
    NotLeaderOrFollower,
    OffsetMetadataTooLarge,
    OffsetOutOfRange,
    OutOfOrderSequence,
    PolicyViolation,
    RebalanceInProgress,
    RecordListTooLarge,
    RecordsRefused,
    RequestError,
    RequestTimedOut,
    RetriableError,
    StaleMemberEpoch,
    StartError,
    StorageError,
    ThrottlingQuotaExceeded,
    TopicAlreadyExists,
    UnknownLeaderEpoch,
    UnknownMemberId,
    UnknownProducerId,
    UnknownServerError,
    UnknownTopicId,
    UnknownTopicOrPartition,
    UnreleasedInstanceId,
    UnstableOffsetCommit,
    UnsupportedAssignor,
    UnsupportedCompressionType,
    UnsupportedForMessageFormat,
    UnsupportedVersion,
)
from kbroker.types import TopicPartition

__version__ = "0.1.0"
__all__ = [
    "Admin",
    "BrokerUnavailable",
    "BufferFull",
    "ClientClosed",
    "ClientError",
    "ConcurrentAccess",
    "ConfigEntry",
    "ConfigError",
    "Consumer",
    "ConsumerRebalanceListener",
    "ConsumerRecord",
    "CoordinatorLoadInProgress",
    "CoordinatorNotAvailable",
    "CorruptMessage",
    "CorruptRecord",
    "DeserializationError",
    "DuplicateSequence",
    "FencedInstanceId",
    "FencedLeaderEpoch",
    "FencedMemberEpoch",
    "ForkedClient",
    "GroupDescription",
    "GroupIdNotFound",
    "GroupListing",
    "GroupMaxSizeReached",
    "GroupSubscribedToTopic",
    "IllegalGeneration",
    "InconsistentGroupProtocol",
    "InconsistentTopicId",
    "InvalidCommitOffsetSize",
    "InvalidConfig",
    "InvalidGroupId",
    "InvalidPartitions",
    "InvalidProducerEpoch",
    "InvalidRecord",
    "InvalidRegularExpression",
    "InvalidReplicaAssignment",
    "InvalidReplicationFactor",
    "InvalidRequest",
    "InvalidSessionTimeout",
    "InvalidTimestamp",
    "InvalidTopic",
    "KafkaStorageError",
    "KbrokerError",
    "LeaderNotAvailable",
    "LogTruncated",
    "MalformedRequest",
    "MemberDescription",
    "MemberIdRequired",
    "MessageTooLarge",
    "NetworkError",
    "NewTopic",
    "NonEmptyGroup",
    "NotCoordinator",
    "NotLeaderOrFollower",
    "OffsetAndMetadata",
    "OffsetAndTimestamp",
    "OffsetMetadataTooLarge",
    "OffsetOutOfRange",
    "OutOfOrderSequence",
    "PartitionDescription",
    "PolicyViolation",
    "Producer",
    "RebalanceInProgress",
    "RecordBatch",
    "RecordFuture",
    "RecordListTooLarge",
    "RecordMetadata",
    "RecordsRefused",
    "RequestError",
    "RequestTimedOut",
    "RetriableError",
    "StaleMemberEpoch",
    "StartError",
    "StorageError",
    "ThrottlingQuotaExceeded",
    "TopicAlreadyExists",
    "TopicDescription",
    "TopicPartition",
    "UnknownLeaderEpoch",
    "UnknownMemberId",
    "UnknownProducerId",
    "UnknownServerError",
    "UnknownTopicId",
    "UnknownTopicOrPartition",
    "UnreleasedInstanceId",
    "UnstableOffsetCommit",
    "UnsupportedAssignor",
    "UnsupportedCompressionType",
    "UnsupportedForMessageFormat",
    "UnsupportedVersion",
    "__version__",
]

if TYPE_CHECKING:
    from kbroker.clients.admin import Admin as Admin
    from kbroker.clients.consumer import Consumer as Consumer
    from kbroker.clients.futures import RecordFuture as RecordFuture
    from kbroker.clients.groups import GroupDescription as GroupDescription
    from kbroker.clients.groups import GroupListing as GroupListing
    from kbroker.clients.groups import MemberDescription as MemberDescription
    from kbroker.clients.producer import Producer as Producer
    from kbroker.clients.rebalance_listener import ConsumerRebalanceListener as ConsumerRebalanceListener
    from kbroker.clients.record_batch import RecordBatch as RecordBatch
    from kbroker.clients.records import ConfigEntry as ConfigEntry
    from kbroker.clients.records import ConsumerRecord as ConsumerRecord
    from kbroker.clients.records import NewTopic as NewTopic
    from kbroker.clients.records import OffsetAndMetadata as OffsetAndMetadata
    from kbroker.clients.records import OffsetAndTimestamp as OffsetAndTimestamp
    from kbroker.clients.records import PartitionDescription as PartitionDescription
    from kbroker.clients.records import RecordMetadata as RecordMetadata
    from kbroker.clients.records import TopicDescription as TopicDescription
else:
    # Imported on first use: the broker's own processes need no client. Type checkers do not see this: they know the
    # names above, and are to complain about any other.
    _HOMES = {
        "Admin": "kbroker.clients.admin",
        "Consumer": "kbroker.clients.consumer",
        "RecordFuture": "kbroker.clients.futures",
        "GroupDescription": "kbroker.clients.groups",
        "GroupListing": "kbroker.clients.groups",
        "MemberDescription": "kbroker.clients.groups",
        "Producer": "kbroker.clients.producer",
        "ConsumerRebalanceListener": "kbroker.clients.rebalance_listener",
        "RecordBatch": "kbroker.clients.record_batch",
        "ConfigEntry": "kbroker.clients.records",
        "ConsumerRecord": "kbroker.clients.records",
        "NewTopic": "kbroker.clients.records",
        "OffsetAndMetadata": "kbroker.clients.records",
        "OffsetAndTimestamp": "kbroker.clients.records",
        "PartitionDescription": "kbroker.clients.records",
        "RecordMetadata": "kbroker.clients.records",
        "TopicDescription": "kbroker.clients.records",
    }

    def __getattr__(name):
        if name not in _HOMES:
            raise AttributeError(f"module 'kbroker' has no attribute {name!r}")
        found = globals()[name] = getattr(importlib.import_module(_HOMES[name]), name)
        return found

    def __dir__():
        return sorted({*globals(), *__all__})
