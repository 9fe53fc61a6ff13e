"""OffsetCommit and OffsetFetch, for clients that are members of no group."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final, NamedTuple

from kbroker.errors import UnknownTopicOrPartition
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey

SEVERAL_GROUPS: Final = 8
"""From this version of OffsetFetch on several groups are asked about at once."""
METADATA_BYTES_MAX: Final = 4096
OFFSET_METADATA_TOO_LARGE: Final = 12
INVALID_GROUP_ID: Final = 24
UNKNOWN_MEMBER_ID: Final = 25
_NAME_BYTES_MAX: Final = 32_767


class Commit(NamedTuple):
    """An offset to be committed."""

    topic: str
    partition: int
    offset: int
    leader_epoch: int
    metadata: str


class Known(NamedTuple):
    """An offset that was committed."""

    offset: int
    leader_epoch: int
    metadata: str


Lookup = Callable[[str], dict[tuple[str, int], Known]]
"""What a group has committed, by topic and partition."""


def commits(request: Any, exists: Callable[[str, int], bool]) -> tuple[list[Commit], dict[tuple[str, int], int]]:
    """What can be committed, and the error code of what cannot."""
    accepted: list[Commit] = []
    refused: dict[tuple[str, int], int] = {}
    fault = 0
    if not request.group_id or len(request.group_id.encode()) > _NAME_BYTES_MAX:
        fault = INVALID_GROUP_ID
    elif request.member_id or request.generation_id_or_member_epoch >= 0:
        fault = UNKNOWN_MEMBER_ID  # groups have no members yet
    for topic in request.topics:
        for item in topic.partitions:
            metadata = item.committed_metadata or ""
            code = fault
            if not code and not exists(topic.name, item.partition_index):
                code = UnknownTopicOrPartition.code
            if not code and len(metadata.encode()) > METADATA_BYTES_MAX:
                code = OFFSET_METADATA_TOO_LARGE
            if code:
                refused[topic.name, item.partition_index] = code
            else:
                accepted.append(
                    Commit(
                        topic.name, item.partition_index, item.committed_offset, item.committed_leader_epoch, metadata
                    )
                )
    return accepted, refused


def committed(request: Any, refused: dict[tuple[str, int], int], error_code: int = 0) -> Any:
    """The answer to OffsetCommit. `error_code`: of all that was not refused."""
    types = codec.response_types(ApiKey.OFFSET_COMMIT)
    return types.OffsetCommitResponse(
        topics=[
            types.OffsetCommitResponseTopic(
                name=topic.name,
                partitions=[
                    types.OffsetCommitResponsePartition(
                        partition_index=item.partition_index,
                        error_code=refused.get((topic.name, item.partition_index), error_code),
                    )
                    for item in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


def fetched(request: Any, version: int, lookup: Lookup) -> Any:
    """The answer to OffsetFetch."""
    types = codec.response_types(ApiKey.OFFSET_FETCH)
    if version < SEVERAL_GROUPS:
        known = lookup(request.group_id)
        topics = _topics(request.topics, known, types.OffsetFetchResponseTopic, types.OffsetFetchResponsePartition)
        return types.OffsetFetchResponse(topics=topics)
    return types.OffsetFetchResponse(
        groups=[
            types.OffsetFetchResponseGroup(
                group_id=group.group_id,
                topics=_topics(
                    group.topics,
                    lookup(group.group_id),
                    types.OffsetFetchResponseTopics,
                    types.OffsetFetchResponsePartitions,
                ),
            )
            for group in request.groups
        ]
    )


def _topics(asked: Any, known: dict[tuple[str, int], Known], topic_type: Any, partition_type: Any) -> list[Any]:
    wanted: dict[str, Collection[int]] = {}
    if asked is None:
        for name, index in known:
            wanted[name] = [*wanted.get(name, ()), index]
    else:
        wanted = {topic.name: topic.partition_indexes for topic in asked}
    nothing = Known(-1, -1, "")
    topics = []
    for name, indexes in wanted.items():
        partitions = []
        for index in indexes:
            found = known.get((name, index), nothing)
            partitions.append(
                partition_type(
                    partition_index=index,
                    committed_offset=found.offset,
                    committed_leader_epoch=found.leader_epoch,
                    metadata=found.metadata,
                )
            )
        topics.append(topic_type(name=name, partitions=partitions))
    return topics
