"""Consumer: records out of partitions, through shared memory or ZeroMQ, read by the caller's own thread."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType

from kbroker.clients.consumer_reading import FOREVER_MS, Iteration
from kbroker.clients.consumer_steps import ConsumerSteps
from kbroker.clients.record_batch import RecordBatch
from kbroker.clients.records import ConsumerRecord, OffsetAndMetadata, OffsetAndTimestamp
from kbroker.types import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, TopicPartition


class Consumer(ConsumerSteps):
    """Reads partitions, alone or in a group. A context manager; one that is dropped unclosed leaves its group, without
    a commit. For one thread at a time: a second one that comes meanwhile gets ConcurrentAccess. Only `assignment`,
    `paused`, `transport` and the like may be looked at from others.

    `Consumer('topic', group='name')` shares the topic's partitions with all other members of that group, Kafka's
    clients included, and goes on at the offsets that the group has committed. Without a group, `Consumer('topic')`
    reads all partitions of the topics named, from the end (as it is when the constructor returns) unless
    `auto_offset_reset` says 'earliest'; partitions that a topic gets later, and topics that appear later, are read from
    their start. Without topics, `assign` says what to read.

    `server` as for Producer. Raises BrokerUnavailable when nobody answers within `api_timeout_ms` (10000), ConfigError
    naming a wrong argument.

    - `auto_offset_reset`: 'latest', 'earliest' or 'none': where to stand without a position, or where retention has
      removed what stands there; 'none' raises OffsetOutOfRange from `poll`.
    - `transport`: 'auto' reads through shared memory where the broker is on this host and lets us, else through
      ZeroMQ, and changes between them without losing or doubling a record; 'shm' and 'zmq' insist.
    - `max_poll_records` (500): the most that one `poll` returns. `consumer_timeout_ms`: iteration ends when nothing
      came for so long (None: never).
    - `fetch_max_bytes` (8 MiB), `max_partition_fetch_bytes` (1 MiB): the most that is read ahead in one go, in all and
      for one partition, but for a single larger batch. `fetch_min_bytes` (1), `fetch_max_wait_ms` (500): through
      ZeroMQ the broker waits for so much, or so long.
    - `key_deserializer`, `value_deserializer`: functions of bytes (`json.loads`); null stays None. When one raises,
      the records before are delivered, then comes DeserializationError naming the record, until you `seek` past it;
      `on_deserialization_error='skip'` ('raise') passes over such records with a warning.
    - `check_crcs` (True): every batch is checked when it is decoded. What cannot be read raises CorruptRecord, naming
      the offsets and where to go on, again until you `seek` there; `on_corrupt='skip'` ('raise') goes on by itself,
      with a warning.
    - `isolation_level`: 'read_uncommitted', or 'read_committed': only what no open transaction holds back.
    - `direct` (True): through ZeroMQ, on the broker's host, talk to the process that owns a partition; False: through
      the front only. Shared memory is another matter: see `transport`.
    - `metadata_max_age_ms` (300000): how often new partitions are looked for.

    In a group (KIP-848: the broker assigns, and only partitions that move are interrupted):

    - `group` (or `group_id`); `group_instance_id` makes the member static: it may be away for a session timeout and
      keeps its partitions. Of two at once one gets FencedInstanceId, or after a minute UnreleasedInstanceId, by poll.
      `partition_assignor`: 'uniform' or 'range' (None: what the group has).
    - `enable_auto_commit` (True): where the caller stands is committed every `auto_commit_interval_ms` (5000), when
      partitions are given up, and at close; a record counts as done when the next `poll`, or step of the iteration,
      begins. `auto_offset_reset` says where to begin without a commit.
    - `max_poll_interval_ms` (300000): a caller who takes longer between two polls loses the partitions, with a warning.
    """

    _POLL = "a poll"

    def _made(self) -> None:
        self._cluster.run(self._connect())

    def _user(self) -> object:
        return threading.get_ident()

    # --- reading ---

    def poll(self, timeout_ms: int = 0, max_records: int | None = None) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Records by partition, as soon as there are some; {} when none came within `timeout_ms` (≥ 0).

        At most `max_records` (default: max_poll_records). While the broker is away it is looked for until the time is
        up. Raises OffsetOutOfRange (auto_offset_reset='none'), LogTruncated, CorruptRecord, DeserializationError,
        ClientClosed, ConcurrentAccess; in a group what the coordinator refuses for good, and what the listener raises.
        """
        return self._cluster.run(self._poll(timeout_ms, max_records))

    def poll_batches(self, timeout_ms: int = 0) -> list[RecordBatch]:
        """Whole batches, as soon as there are some; [] when none came within `timeout_ms` (≥ 0). Raises as `poll`.

        Nothing is decoded, nor checked, until a batch is iterated over: that raises CorruptRecord. Positions move past
        the batches that are returned.
        """
        return self._cluster.run(self._poll_batches(timeout_ms))

    def __iter__(self) -> Iterator[ConsumerRecord]:
        """Records of all partitions, for ever, or until nothing came for `consumer_timeout_ms`. Raises as `poll`.

        Leaving the loop loses nothing: what was not yielded comes next time.
        """
        wait_ms = self.options.consumer_timeout_ms
        iteration = Iteration()
        while True:
            cursor = self._cluster.run(self._iterate(iteration, FOREVER_MS if wait_ms is None else wait_ms))
            if cursor is None:
                return
            records = cursor.records
            while records:
                for record in records:
                    cursor.given = record
                    yield record
                records = self._more(iteration, cursor, records)

    # --- what to read ---

    def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions from now on; those that are read already keep their position, others take theirs from
        `auto_offset_reset` at the next poll unless `seek` tells one.

        Raises UnknownTopicOrPartition, BrokerUnavailable; ConfigError for a consumer that was given topics. In a group,
        it begins at committed offsets and may commit, but is no member.
        """
        self._cluster.run(self._assign(partitions))

    def unsubscribe(self) -> None:
        """Read nothing any more: leave the group, after a last commit where commits are automatic."""
        self._cluster.run(self._unsubscribe())

    # --- what the group has committed ---

    def commit(self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | None = None) -> None:
        """Commit these offsets (of the next record to read), or where the caller stands in all partitions.

        Returns when they are durable. Raises ConfigError without a group, StaleMemberEpoch or UnknownMemberId when the
        partitions are another member's by now, BrokerUnavailable.
        """
        self._cluster.run(self._commit(offsets))

    def committed(self, partition: TopicPartition) -> OffsetAndMetadata | None:
        """What the group has committed there; None: nothing. Raises ConfigError, BrokerUnavailable."""
        return self._cluster.run(self._committed(partition))

    # --- where to read ---

    def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """To the first record there is; without arguments in all assigned partitions. Raises as beginning_offsets."""
        self._cluster.run(self._seek_to(partitions, EARLIEST_TIMESTAMP))

    def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Behind the last record that is there now; without arguments in all. Raises as end_offsets."""
        self._cluster.run(self._seek_to(partitions, LATEST_TIMESTAMP))

    def seek_to_timestamp(self, timestamp_ms: int, *partitions: TopicPartition) -> None:
        """Go to the first record that is not older than `timestamp_ms` (ms since 1970 UTC, ≥ 0), or to the end when
        all are; without partitions, in all that are assigned. Raises as `seek_to_beginning`."""
        self._cluster.run(self._seek_to_timestamp(partitions, timestamp_ms))

    def position(self, partition: TopicPartition) -> int:
        """Offset of the next record for the caller. Raises OffsetOutOfRange when there is none, BrokerUnavailable."""
        return self._cluster.run(self._position(partition))

    def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset of the first record there is in each. Raises UnknownTopicOrPartition, BrokerUnavailable."""
        return self._cluster.run(self._offsets(partitions, EARLIEST_TIMESTAMP))

    def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The high watermark of each: the offset after the last record that may be read. Raises likewise."""
        return self._cluster.run(self._offsets(partitions, LATEST_TIMESTAMP))

    def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record that is not older than each timestamp (ms since 1970, ≥ 0); None: all are older.

        Raises UnknownTopicOrPartition, BrokerUnavailable, ConfigError.
        """
        return self._cluster.run(self._offsets_for_times(timestamps))

    # --- about the broker ---

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        """The numbers of the topic's partitions; None: there is no such topic. Raises BrokerUnavailable."""
        return self._cluster.run(self._partitions_for_topic(topic))

    def topics(self) -> set[str]:
        """The names of all topics. Raises BrokerUnavailable."""
        return self._cluster.run(self._all_topics())

    def close(self) -> None:
        """Leave the group and free everything. A second call does nothing; nor does one in a child after fork."""
        if not self._cluster.guard.forked:
            self._cluster.run(self._close())

    def __enter__(self) -> Consumer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
