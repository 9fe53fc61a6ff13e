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
        return Result(InvalidRequest.code, f"topic {topic.name:.80} is named {often} times in one request")
    partitions, replication_factor = topic.num_partitions, topic.replication_factor
    if topic.assignments:
        # Which node gets which partition is decided here: a client cannot know better on one host.
        indexes = sorted(item.partition_index for item in topic.assignments)
        if partitions != -1 or indexes != list(range(len(indexes))):
            return Result(InvalidRequest.code, "assignments must be consecutive from 0, without a number of partitions")
        partitions, replication_factor = len(indexes), max(len(item.broker_ids) for item in topic.assignments)
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
    for asked, result in zip(request.topics, results, strict=True):
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
    """A topic to be deleted as the client named it; `name` None: its id is not known."""

    name: str | None
    topic_id: bytes


def deletions(request: Any, version: int, names: Mapping[bytes, str]) -> list[Deletion]:
    """The topics to be deleted. `names` has the topics by their ids."""
    if version < BY_ID:
        return [Deletion(name, bytes(16)) for name in request.topic_names]
    return [Deletion(item.name or names.get(item.topic_id), item.topic_id) for item in request.topics]


def deleted(asked: Sequence[Deletion], results: Mapping[str, Result]) -> Any:
    """The answer to DeleteTopics."""
    types = codec.response_types(ApiKey.DELETE_TOPICS)
    answers = []
    for item in asked:
        if item.name is None:
            result = Result(UnknownTopicId.code, f"no topic has the id {item.topic_id.hex()}")
        else:
            result = results[item.name]
        answers.append(
            types.DeletableTopicResult(
                name=item.name, topic_id=item.topic_id, error_code=result.error_code, error_message=result.message
            )
        )
    return types.DeleteTopicsResponse(responses=answers)


def grown(request: Any, results: Sequence[Result]) -> Any:
    """The answer to CreatePartitions."""
    types = codec.response_types(ApiKey.CREATE_PARTITIONS)
    return types.CreatePartitionsResponse(
        results=[
            types.CreatePartitionsTopicResult(
                name=asked.name, error_code=result.error_code, error_message=result.message
            )
            for asked, result in zip(request.topics, results, strict=True)
        ]
    )
