"""OffsetCommit, OffsetFetch, OffsetDelete: requests about committed offsets, as events, and the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final

from kbroker.errors import UnknownTopicId
from kbroker.groups import events
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.schema import NO_UUID

_RETENTION: Final = 4
"""Up to this version OffsetCommit says how long to keep the offsets."""
SEVERAL_GROUPS: Final = 8
"""From this version of OffsetFetch on several groups are asked about at once."""
_GROUP_ERROR: Final = 2
"""From this version of OffsetFetch on there is a place for an error that is not one partition's."""
_MEMBER_EPOCHS: Final = 9
"""From this version of OffsetCommit on members of KIP-848 commit by it."""
_TOPIC_IDS: Final = 10
"""From this version on OffsetCommit and OffsetFetch name topics by their ids."""

NameOf = Callable[[bytes], str | None]
IdOf = Callable[[str], bytes | None]


def commit(request: Any, version: int, name_of: NameOf, token: Any) -> events.CommitOffsets:
    """The event of an OffsetCommit request. A topic id that nobody has is left to `committed`."""
    if version >= _TOPIC_IDS:
        _name_topics(request.topics, name_of)
    return events.CommitOffsets(
        group_id=request.group_id,
        token=token,
        member_id=request.member_id,
        instance_id=request.group_instance_id,
        generation_id=request.generation_id_or_member_epoch,
        offsets=tuple(
            events.OffsetToCommit(
                topic.name,
                item.partition_index,
                item.committed_offset,
                item.committed_leader_epoch,
                item.committed_metadata or "",
            )
            for topic in request.topics
            if topic.name is not None
            for item in topic.partitions
        ),
        retention_ms=request.retention_time_ms if version <= _RETENTION else -1,
        knows_member_epochs=version >= _MEMBER_EPOCHS,
    )


def committed(request: Any, result: events.CommitOffsetsResult) -> Any:
    """The answer to the OffsetCommit request that `commit` was given."""
    types = codec.response_types(ApiKey.OFFSET_COMMIT)
    codes = iter(result.error_codes)
    return types.OffsetCommitResponse(
        topics=[
            types.OffsetCommitResponseTopic(
                name=topic.name,
                topic_id=topic.topic_id,
                partitions=[
                    types.OffsetCommitResponsePartition(
                        partition_index=item.partition_index,
                        error_code=next(codes) if topic.name is not None else UnknownTopicId.code,
                    )
                    for item in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )


def fetch(request: Any, version: int, name_of: NameOf, token_of: Callable[[int], Any]) -> list[events.FetchOffsets]:
    """The events of an OffsetFetch request, one for each group. `token_of`: the token of the group of that number."""
    if version < SEVERAL_GROUPS:
        stable = bool(request.require_stable)
        return [events.FetchOffsets(request.group_id, token_of(0), _places(request.topics), require_stable=stable)]
    found = []
    for number, group in enumerate(request.groups):
        if version >= _TOPIC_IDS:
            _name_topics(group.topics or (), name_of)
        found.append(
            events.FetchOffsets(
                group.group_id,
                token_of(number),
                _places(group.topics),
                group.member_id,
                group.member_epoch,
                bool(request.require_stable),
            )
        )
    return found


def fetched(request: Any, version: int, id_of: IdOf, results: Sequence[events.FetchOffsetsResult]) -> Any:
    """The answer to the OffsetFetch request that `fetch` was given."""
    types = codec.response_types(ApiKey.OFFSET_FETCH)
    if version < SEVERAL_GROUPS:
        (result,) = results
        if result.error_code and version < _GROUP_ERROR:
            places = _places(request.topics) or ()
            failed = [events.FetchedOffset(*place, error_code=result.error_code) for place in places]
            result = events.FetchOffsetsResult(0, tuple(failed))
        return types.OffsetFetchResponse(
            error_code=result.error_code,
            topics=[
                types.OffsetFetchResponseTopic(
                    name=name,
                    partitions=[_partition(types.OffsetFetchResponsePartition, item) for item in partitions],
                )
                for name, _, partitions in _by_topic(request.topics, result, id_of)
            ],
        )
    return types.OffsetFetchResponse(
        groups=[
            types.OffsetFetchResponseGroup(
                group_id=group.group_id,
                error_code=result.error_code,
                topics=[
                    types.OffsetFetchResponseTopics(
                        name=name,
                        topic_id=topic_id,
                        partitions=[_partition(types.OffsetFetchResponsePartitions, item) for item in partitions],
                    )
                    for name, topic_id, partitions in _by_topic(group.topics, result, id_of)
                    if version < _TOPIC_IDS or topic_id != NO_UUID
                ],
            )
            for group, result in zip(request.groups, results, strict=True)
        ]
    )


def _by_topic(
    asked: Any, result: events.FetchOffsetsResult, id_of: IdOf
) -> Iterator[tuple[str, bytes, list[events.FetchedOffset]]]:
    """Name, id and offsets of each topic, as they were asked for; when all were, of each that has some."""
    if result.error_code:
        return
    if asked is None:
        for name, partitions in groupby(result.offsets, lambda item: item.topic):
            yield name, id_of(name) or NO_UUID, list(partitions)
        return
    offsets = iter(result.offsets)
    for topic in asked:
        if topic.name is not None:
            yield topic.name, _id(topic), [next(offsets) for _ in topic.partition_indexes]
        else:
            code = UnknownTopicId.code
            yield "", _id(topic), [events.FetchedOffset("", i, error_code=code) for i in topic.partition_indexes]


def _id(topic: Any) -> bytes:
    """The id by which a topic was asked for; versions that name topics have none."""
    found: bytes = getattr(topic, "topic_id", NO_UUID)
    return found


def _partition(kind: Any, item: events.FetchedOffset) -> Any:
    return kind(
        partition_index=item.partition,
        committed_offset=item.offset,
        committed_leader_epoch=item.leader_epoch,
        metadata=item.metadata,
        error_code=item.error_code,
    )


def _places(topics: Any) -> tuple[tuple[str, int], ...] | None:
    """Topics and partitions that are asked for, without those that nobody knows; None: all."""
    if topics is None:
        return None
    return tuple((topic.name, index) for topic in topics if topic.name is not None for index in topic.partition_indexes)


def _name_topics(topics: Any, name_of: NameOf) -> None:
    """Give topics that come by id their names; None where nobody has the id."""
    for topic in topics:
        topic.name = name_of(topic.topic_id)


def delete(request: Any, token: Any) -> events.DeleteOffsets:
    """The event of an OffsetDelete request."""
    places = tuple((topic.name, item.partition_index) for topic in request.topics for item in topic.partitions)
    return events.DeleteOffsets(request.group_id, token, places)


def deleted(request: Any, result: events.DeleteOffsetsResult) -> Any:
    """The answer to the OffsetDelete request that `delete` was given."""
    types = codec.response_types(ApiKey.OFFSET_DELETE)
    if result.error_code:
        return types.OffsetDeleteResponse(error_code=result.error_code)
    codes = iter(result.error_codes)
    return types.OffsetDeleteResponse(
        topics=[
            types.OffsetDeleteResponseTopic(
                name=topic.name,
                partitions=[
                    types.OffsetDeleteResponsePartition(partition_index=item.partition_index, error_code=next(codes))
                    for item in topic.partitions
                ],
            )
            for topic in request.topics
        ]
    )
