"""CreateTopics, DeleteTopics and CreatePartitions: what is asked for each topic, and the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from kbroker.errors import InvalidConfig, InvalidRequest, UnknownTopicId
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import TopicFacts

BY_ID = 6
"""From this version of DeleteTopics on a topic may be named by its id."""
INVALID_REPLICA_ASSIGNMENT = 39
_NO_ID = bytes(16)


class Result(NamedTuple):
    """What became of one topic's request."""

    error_code: int = 0
    message: str | None = None


class NewTopic(NamedTuple):
    """A topic to be made. -1: the broker's default."""

    name: str
    partitions: int
    replication_factor: int
    settings: dict[str, str]


def creations(request: Any) -> list[NewTopic | Result]:
    """For each topic asked for what is to be made, or why it cannot be."""
    often = Counter(topic.name for topic in request.topics)
    return [_creation(topic, often[topic.name]) for topic in request.topics]


def _creation(topic: Any, often: int) -> NewTopic | Result:
    if often > 1:
        return _named_often(topic.name, often)
    partitions, replication_factor = topic.num_partitions, topic.replication_factor
    if topic.assignments:
        # Which node gets which partition is decided here: a client cannot know better on one host.
        if partitions != -1 or replication_factor != -1:
            return Result(InvalidRequest.code, "with assignments, partitions and replication factor must both be -1")
        indexes = sorted(item.partition_index for item in topic.assignments)
        if indexes != list(range(len(indexes))):
            return Result(INVALID_REPLICA_ASSIGNMENT, "the assigned partitions must be consecutive from 0")
        if any(len(item.broker_ids) != 1 for item in topic.assignments):
            return Result(INVALID_REPLICA_ASSIGNMENT, "there is one broker host, so only 1 replica is possible")
        partitions, replication_factor = len(indexes), 1
    settings = {item.name: item.value for item in topic.configs if item.value is not None}
    if len(settings) < len(topic.configs):
        return Result(InvalidConfig.code, f"topic {topic.name:.80}: each setting needs a value, and may be named once")
    return NewTopic(topic.name, partitions, replication_factor, settings)


def created(
    request: Any,
    results: Sequence[Result],
    topics: Mapping[str, TopicFacts],
    settings_of: Callable[[str], Sequence[Any]],
) -> Any:
    """The answer to CreateTopics. `settings_of` has the settings of a topic that was made, in this answer's form."""
    types = codec.response_types(ApiKey.CREATE_TOPICS)
    answers = []
    once = {asked.name: (asked, result) for asked, result in zip(request.topics, results, strict=True)}
    for asked, result in once.values():
        answer = types.CreatableTopicResult(
            name=asked.name, error_code=result.error_code, error_message=result.message, configs=[]
        )
        topic = topics.get(asked.name)
        if topic is not None and not result.error_code:
            answer.topic_id = topic.topic_id
            answer.num_partitions = len(topic.partitions)
            answer.replication_factor = 1
            answer.configs = settings_of(asked.name)
        answers.append(answer)
    return types.CreateTopicsResponse(topics=answers)


class Deletion(NamedTuple):
    """A topic to be deleted as the client named it. `fault`: why it cannot be."""

    name: str | None
    topic_id: bytes
    fault: Result | None = None


def deletions(
    request: Any, version: int, name_of: Callable[[bytes], str | None], topics: Mapping[str, TopicFacts]
) -> list[Deletion]:
    """The topics to be deleted, each once."""
    if version < BY_ID:
        asked = [Deletion(name, _NO_ID) for name in request.topic_names]
    else:
        asked = [Deletion(item.name, item.topic_id) for item in request.topics]
    often = Counter(asked)
    found = [
        item._replace(fault=_named_often(item.name, often[item]))
        if often[item] > 1
        else _deletion(item, name_of, topics)
        for item in often
    ]
    # The same topic by its name and by its id is named twice as well.
    by_name = Counter(item.name for item in found if item.name is not None and item.fault is None)
    return [
        item._replace(fault=_named_often(item.name, 2)) if by_name[item.name or ""] > 1 else item
        for item in {(item.name, item.topic_id): item for item in found}.values()
    ]


def _deletion(item: Deletion, name_of: Callable[[bytes], str | None], topics: Mapping[str, TopicFacts]) -> Deletion:
    """Both the name and the id of what a request names by one of them."""
    if item.name is not None and item.topic_id != _NO_ID:
        return item._replace(
            fault=Result(InvalidRequest.code, "a topic is named by its name or by its id, not by both")
        )
    if item.name is not None:
        known = topics.get(item.name)
        return item if known is None else item._replace(topic_id=known.topic_id)
    if item.topic_id == _NO_ID:
        return item._replace(fault=Result(InvalidRequest.code, "a topic needs a name or an id"))
    name = name_of(item.topic_id)
    if name is None:
        return item._replace(fault=Result(UnknownTopicId.code, f"no topic has the id {item.topic_id.hex()}"))
    return item._replace(name=name)


def _named_often(name: str | None, often: int) -> Result:
    what = "a topic id" if name is None else f"topic {name:.80}"
    return Result(InvalidRequest.code, f"{what} is named {often} times in one request")


def deleted(asked: Sequence[Deletion], results: Sequence[Result]) -> Any:
    """The answer to DeleteTopics, `results` in the order of `asked`."""
    types = codec.response_types(ApiKey.DELETE_TOPICS)
    answers = [
        types.DeletableTopicResult(
            name=item.name, topic_id=item.topic_id, error_code=result.error_code, error_message=result.message
        )
        for item, result in zip(asked, results, strict=True)
    ]
    return types.DeleteTopicsResponse(responses=answers)


class Growth(NamedTuple):
    """A topic that is to have so many partitions in all."""

    name: str
    total: int


def growths(request: Any, topics: Mapping[str, TopicFacts]) -> list[Growth | Result]:
    """For each topic what is to become of it, or why it cannot be."""
    often = Counter(topic.name for topic in request.topics)
    return [_growth(topic, often[topic.name], topics) for topic in request.topics]


def _growth(topic: Any, often: int, topics: Mapping[str, TopicFacts]) -> Growth | Result:
    if often > 1:
        return _named_often(topic.name, often)
    known = topics.get(topic.name)
    if topic.assignments is not None and known is not None and topic.count > len(known.partitions):
        added = topic.count - len(known.partitions)
        if len(topic.assignments) != added:
            why = f"{added} partitions are added, but {len(topic.assignments)} are assigned"
            return Result(INVALID_REPLICA_ASSIGNMENT, why)
        if any(len(item.broker_ids) != 1 for item in topic.assignments):
            return Result(INVALID_REPLICA_ASSIGNMENT, "there is one broker host, so only 1 replica is possible")
    return Growth(topic.name, topic.count)


def grown(request: Any, results: Sequence[Result]) -> Any:
    """The answer to CreatePartitions."""
    types = codec.response_types(ApiKey.CREATE_PARTITIONS)
    once = {asked.name: result for asked, result in zip(request.topics, results, strict=True)}
    return types.CreatePartitionsResponse(
        results=[
            types.CreatePartitionsTopicResult(name=name, error_code=result.error_code, error_message=result.message)
            for name, result in once.items()
        ]
    )
