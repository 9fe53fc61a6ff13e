"""The native protocol's messages: what a client may ask, and what it is answered.

On the wire a message is `[request id][header][payload …]`. The header is a msgpack map: a request's fields plus `op`
(its name) and `v` (the protocol version); an answer's fields plus `error` (Kafka's code, 0 when all is well), and with
an error `message`. Payload frames are record batches as they lie in the log; nobody on the way opens them.

Who answers: `hello` the front (and, on its own endpoint, a worker); what concerns one partition the worker that owns
it; everything else the coordinator.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

PROTOCOL_VERSION = 1


@dataclass(slots=True)
class Credit:
    """How many payload bytes this client has taken so far from one incarnation of a worker.

    What the worker has sent and the client has not taken is bounded (`native.bytes.in.flight.max`); above the bound
    fetches are answered THROTTLING_QUOTA_EXCEEDED. `incarnation` 0: nothing taken yet.
    """

    incarnation: int = 0
    received_bytes: int = 0


# --- asked of the front, or of a worker on its own endpoint ---


@dataclass(slots=True)
class Hello:
    """The first message on a connection."""

    OP: ClassVar[str] = "hello"
    client_id: str = ""
    software: str = ""


@dataclass(slots=True)
class HelloAnswer:
    """Who answers, on which host (`boot_id` of its kernel), which limits hold.

    `frame_bytes_max`, `frames_max`, `requests_in_flight_max`, `bytes_in_flight_max`: see the settings `native.*`.
    """

    version: int
    node: int
    incarnation: int
    cluster_id: str
    boot_id: str
    frame_bytes_max: int
    frames_max: int
    requests_in_flight_max: int
    bytes_in_flight_max: int


# --- asked of the coordinator ---


@dataclass(slots=True)
class Metadata:
    """Topics (None: all) with the owner of each partition. `auto_create` makes missing ones where that is allowed."""

    OP: ClassVar[str] = "metadata"
    topics: list[str] | None = None
    auto_create: bool = False


@dataclass(slots=True)
class NodeInfo:
    """A process that clients may talk to. Empty paths: not offered. Paths are of use on the same host only."""

    node: int
    incarnation: int
    endpoint: str
    """Where the process itself is reached (`unix://…`); clients on other hosts go through the front."""
    shm_path: str
    """unix socket that hands out descriptors for shared-memory reads."""


@dataclass(slots=True)
class PartitionInfo:
    partition: int
    leader: int
    leader_epoch: int


@dataclass(slots=True)
class TopicInfo:
    """A topic; with `error` not 0 only `name` and `message` count.

    `batch_bytes_max`: the largest record batch that its partitions take (message.max.bytes); 0: not told.
    """

    name: str
    error: int = 0
    message: str = ""
    topic_id: bytes = b""
    partitions: list[PartitionInfo] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)
    batch_bytes_max: int = 0


@dataclass(slots=True)
class MetadataAnswer:
    cluster_id: str
    boot_id: str
    nodes: list[NodeInfo]
    topics: list[TopicInfo]


@dataclass(slots=True)
class NewTopic:
    """`partitions` -1: the broker's `num.partitions`. `settings`: topic settings by Kafka's names, values as text.

    `replication_factor` is 1 or -1 (the default): one host holds one copy.
    """

    name: str
    partitions: int = -1
    replication_factor: int = -1
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class CreateTopics:
    OP: ClassVar[str] = "create_topics"
    topics: list[NewTopic]
    timeout_ms: int = 30_000
    validate_only: bool = False


@dataclass(slots=True)
class TopicResult:
    name: str
    error: int = 0
    message: str = ""


@dataclass(slots=True)
class TopicResults:
    """One result for each topic that was asked about, in the order of the request."""

    topics: list[TopicResult]


@dataclass(slots=True)
class DeleteTopics:
    OP: ClassVar[str] = "delete_topics"
    names: list[str]
    timeout_ms: int = 30_000


@dataclass(slots=True)
class CreatePartitions:
    """More partitions for a topic: `total` in all afterwards."""

    OP: ClassVar[str] = "create_partitions"
    name: str
    total: int
    timeout_ms: int = 30_000


@dataclass(slots=True)
class DescribeSettings:
    """The settings of a topic, or with an empty name of the broker."""

    OP: ClassVar[str] = "describe_settings"
    topic: str = ""


@dataclass(slots=True)
class SettingInfo:
    """`source`: `topic`, `broker` (set at start) or `default`."""

    name: str
    value: str
    source: str
    doc: str
    allowed: str


@dataclass(slots=True)
class SettingsAnswer:
    settings: list[SettingInfo]


@dataclass(slots=True)
class AlterSettings:
    """Change a topic's own settings: `set` gives new values, `remove` falls back to the broker's."""

    OP: ClassVar[str] = "alter_settings"
    topic: str
    set: dict[str, str] = field(default_factory=dict)
    remove: list[str] = field(default_factory=list)
    timeout_ms: int = 30_000


@dataclass(slots=True)
class InitProducerId:
    """A producer id that nobody else has or will ever have."""

    OP: ClassVar[str] = "init_producer_id"


@dataclass(slots=True)
class ProducerIdAnswer:
    producer_id: int
    producer_epoch: int


@dataclass(slots=True)
class BrokerStatus:
    """What every process of the broker is doing, as `kbroker status` shows it on the broker's own host."""

    OP: ClassVar[str] = "broker_status"


@dataclass(slots=True)
class BrokerStatusAnswer:
    """`document`: what the supervisor tells, as JSON."""

    document: str


# --- asked of the worker that owns the partition ---


@dataclass(slots=True)
class Produce:
    """Append the payload frames (each one or more whole batches) to one partition.

    `acks`: 0, 1 or -1 (all). acks=0 is answered as well (at once; the answer promises nothing). `topic_id` empty: any
    topic of that name.
    """

    OP: ClassVar[str] = "produce"
    topic: str
    partition: int
    acks: int = -1
    timeout_ms: int = 30_000
    topic_id: bytes = b""


@dataclass(slots=True)
class ProduceAnswer:
    """Where the first batch was put. `append_time_ms` is -1 unless the topic says LogAppendTime."""

    base_offset: int
    next_offset: int
    log_start_offset: int
    append_time_ms: int


@dataclass(slots=True)
class FetchPartition:
    """`last_epoch`: leader epoch of the last record read, or -1; a log cut behind the reader is noticed by it."""

    topic: str
    partition: int
    offset: int
    max_bytes: int = 1 << 20
    last_epoch: int = -1
    topic_id: bytes = b""


@dataclass(slots=True)
class Fetch:
    """Read partitions of one worker (the front routes by the first). Waits up to `max_wait_ms` for `min_bytes`."""

    OP: ClassVar[str] = "fetch"
    partitions: list[FetchPartition]
    max_wait_ms: int = 500
    min_bytes: int = 1
    max_bytes: int = 8 << 20
    credit: Credit = field(default_factory=Credit)


@dataclass(slots=True)
class FetchedPartition:
    """`frames`: how many of the answer's payload frames (0 or 1) belong to this partition, in order.

    With `error` not 0 the facts are still given where they are known. `diverging_offset` ≥ 0: the log was cut there
    and what the reader holds from `last_epoch` beyond it is gone (KIP-320).
    """

    topic: str
    partition: int
    error: int = 0
    message: str = ""
    frames: int = 0
    high_watermark: int = -1
    last_stable_offset: int = -1
    log_start_offset: int = -1
    leader_epoch: int = -1
    diverging_offset: int = -1


@dataclass(slots=True)
class FetchAnswer:
    """`incarnation` is the worker's, for the credit of the next fetch."""

    incarnation: int
    partitions: list[FetchedPartition]


@dataclass(slots=True)
class OffsetQuery:
    """`timestamp_ms`: -2 log start, -1 high watermark, else the first record that is not older."""

    topic: str
    partition: int
    timestamp_ms: int


@dataclass(slots=True)
class ListOffsets:
    """Partitions of one worker (the front routes by the first)."""

    OP: ClassVar[str] = "list_offsets"
    partitions: list[OffsetQuery]


@dataclass(slots=True)
class OffsetFound:
    """`offset` and `timestamp_ms` -1: no record is that young."""

    topic: str
    partition: int
    error: int = 0
    message: str = ""
    offset: int = -1
    timestamp_ms: int = -1
    leader_epoch: int = -1


@dataclass(slots=True)
class OffsetsAnswer:
    partitions: list[OffsetFound]


@dataclass(slots=True)
class DeleteRecords:
    """Begin a partition's log at `before_offset`; -1: at the high watermark."""

    OP: ClassVar[str] = "delete_records"
    topic: str
    partition: int
    before_offset: int
    timeout_ms: int = 10_000


@dataclass(slots=True)
class RecordsDeleted:
    """Where the log begins now, on the disk too."""

    log_start_offset: int


@dataclass(slots=True)
class RepairLog:
    """Check every byte of a partition's log and go past what is corrupt; with `accept_loss` also past what is lost.

    The partition is out of service meanwhile: some seconds for each GB.
    """

    OP: ClassVar[str] = "repair_log"
    topic: str
    partition: int
    accept_loss: bool = False


@dataclass(slots=True)
class LogRepaired:
    """Sentences that name offsets: `passed_over` without which the log goes on from now, `pending` what still keeps it
    from taking records: it is lost, and that was not accepted.
    """

    passed_over: list[str]
    pending: list[str]


@dataclass(slots=True)
class ReportCorrupt:
    """A reader says that the batch which has `offset` is corrupt: the worker looks at its segment, once in a while."""

    OP: ClassVar[str] = "report_corrupt"
    topic: str
    partition: int
    offset: int


@dataclass(slots=True)
class CorruptReported:
    """It will be looked at. What is found shows in the broker's status and log."""


Request = Any
"""One of the messages above that has an OP."""

REQUESTS: tuple[type, ...] = (
    Hello,
    Metadata,
    CreateTopics,
    DeleteTopics,
    CreatePartitions,
    DescribeSettings,
    AlterSettings,
    InitProducerId,
    BrokerStatus,
    Produce,
    Fetch,
    ListOffsets,
    DeleteRecords,
    RepairLog,
    ReportCorrupt,
)

PARTITION_OPS = frozenset({Produce.OP, Fetch.OP, ListOffsets.OP, DeleteRecords.OP, RepairLog.OP, ReportCorrupt.OP})
"""Operations that go to the worker owning a partition; all others but `hello` go to the coordinator."""
