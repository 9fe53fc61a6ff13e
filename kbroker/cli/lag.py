"""How far groups are behind: every partition of the topics that a group reads or has committed for counts."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from kbroker.cli.table import print_table
from kbroker.types import TopicPartition
from kbroker.wording import duration

if TYPE_CHECKING:
    from kbroker.clients.admin import Admin
    from kbroker.clients.consumer import Consumer
    from kbroker.clients.groups import GroupDescription
    from kbroker.clients.records import OffsetAndMetadata


class PartitionLag(NamedTuple):
    """How far a group is behind in one partition.

    `start`, `end`: the log start offset and the high watermark. `committed` -1: nothing was committed; then `lag`
    counts from the log start, or is 0 for a group whose members begin at the end. `committed_at_ms`: when, in ms since
    1970; None: never, or the broker does not tell.
    """

    topic: str
    partition: int
    committed: int
    start: int
    end: int
    lag: int
    committed_at_ms: int | None
    member: str
    host: str


class GroupLag(NamedTuple):
    """A group and how far it is behind, partition by partition."""

    group: str
    state: str
    member_count: int
    partitions: list[PartitionLag]

    @property
    def lag(self) -> int:
        """Of all partitions together, in records."""
        return sum(one.lag for one in self.partitions)

    @property
    def committed_at_ms(self) -> int | None:
        """When the group has committed last, anywhere."""
        return max((one.committed_at_ms for one in self.partitions if one.committed_at_ms is not None), default=None)

    def facts(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "group": self.group,
            "state": self.state,
            "members": self.member_count,
            "lag": self.lag,
            "committed_at_ms": self.committed_at_ms,
            "commit_age_ms": _age_ms(self.committed_at_ms),
            "partitions": [one._asdict() for one in self.partitions],
        }


def group_lag(admin: Admin, consumer: Consumer, group: GroupDescription, *, begins_at_end: bool = False) -> GroupLag:
    """Ask how far `group` is behind. `begins_at_end`: its members start at the end where nothing is committed."""
    committed = admin.list_consumer_group_offsets(group.group)
    readers = {tp: member for member in group.members for tp in member.assignment}
    topics = {tp.topic for tp in (*committed, *readers)}.union(*(member.topics for member in group.members))
    partitions = [
        TopicPartition(topic, number)
        for topic in sorted(topics)
        for number in sorted(consumer.partitions_for_topic(topic) or ())
    ]
    starts, ends = consumer.beginning_offsets(partitions), consumer.end_offsets(partitions)
    lags = []
    for tp in partitions:
        reader = readers.get(tp)
        lags.append(
            _partition_lag(
                tp,
                committed.get(tp),
                (starts[tp], ends[tp]),
                ("", "") if reader is None else (reader.member_id, reader.host),
                begins_at_end,
            )
        )
    return GroupLag(group.group, group.state, len(group.members), lags)


def _partition_lag(
    tp: TopicPartition,
    committed: OffsetAndMetadata | None,
    span: tuple[int, int],
    reader: tuple[str, str],
    begins_at_end: bool,
) -> PartitionLag:
    start, end = span
    if committed is None:
        return PartitionLag(*tp, -1, start, end, 0 if begins_at_end else end - start, None, *reader)
    # What was deleted meanwhile is no longer to be read.
    lag = max(0, end - max(start, committed.offset))
    at_ms = committed.committed_at_ms if committed.committed_at_ms >= 0 else None
    return PartitionLag(*tp, committed.offset, start, end, lag, at_ms, *reader)


def _age_ms(at_ms: int | None) -> int | None:
    return None if at_ms is None else max(0, int(time.time() * 1000) - at_ms)


def age(at_ms: int | None) -> str:
    """How long ago that was, for people; `-` for never."""
    age_ms = _age_ms(at_ms)
    return "-" if age_ms is None else f"{duration(age_ms / 1000)} ago"


def print_partition_lags(lags: Iterable[PartitionLag]) -> None:
    """A table with a row for each partition."""
    print_table(
        ("topic", "partition", "committed", "end", "lag", "last commit", "member"),
        [
            (
                one.topic,
                one.partition,
                "-" if one.committed < 0 else one.committed,
                one.end,
                one.lag,
                age(one.committed_at_ms),
                one.member,
            )
            for one in lags
        ],
        right=("partition", "committed", "end", "lag", "last commit"),
    )


def print_group_lags(lags: Sequence[GroupLag]) -> None:
    """A table with a row for each group."""
    print_table(
        ("group", "state", "members", "lag", "last commit"),
        [(one.group, one.state, one.member_count, one.lag, age(one.committed_at_ms)) for one in lags],
        right=("members", "lag", "last commit"),
    )
