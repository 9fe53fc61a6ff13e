"""CreateTopics, DeleteTopics and CreatePartitions: what is asked for each topic, and the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from kbroker.errors import InvalidConfig, InvalidReplicaAssignment, InvalidRequest, RequestError, UnknownTopicId
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.schema import NO_UUID

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


class Made(NamedTuple):
    """A topic that was made, or would be. `configs` in the form of the answer to CreateTopics."""

    topic_id: bytes
    partition_count: int
    configs: Sequence[Any]


def creations(request: Any, nodes: Collection[int]) -> list[NewTopic | Result]:
    """For each topic asked for what is to be made, or why it cannot be."""
    often = Counter(topic.name for topic in request.topics)
    found: list[NewTopic | Result] = []
    for topic in request.topics:
        try:
            found.append(_creation(topic, often[topic.name], nodes))
        except RequestError as error:
            found.append(Result(error.code, str(error)))
    return found


def _creation(topic: Any, often: int, nodes: Collection[int]) -> NewTopic:
    if often > 1:
        raise InvalidRequest(f"topic {topic.name:.80} is named {often} times in one request")
    partitions, replication_factor = topic.num_partitions, topic.replication_factor
    if topic.assignments:
        if (partitions, replication_factor) != (-1, -1):
            raise InvalidRequest(f"topic {topic.name:.80}: assignments go without numbers of partitions and replicas")
        indexes = sorted(item.partition_index for item in topic.assignments)
        if indexes != list(range(len(indexes))):
            raise InvalidReplicaAssignment(f"topic {topic.name:.80}: its partitions must be numbered from 0, each once")
        for item in topic.assignments:
            _check_assignment(item.broker_ids, nodes)
        partitions, replication_factor = len(indexes), max(len(item.broker_ids) for item in topic.assignments)
    if any(item.value is None for item in topic.configs):
        raise InvalidConfig(f"topic {topic.name:.80}: a setting needs a value")
    return NewTopic(topic.name, partitions, replication_factor, {item.name: item.value for item in topic.configs})


def _check_assignment(broker_ids: Sequence[int], nodes: Collection[int]) -> None:
    """Sound ones are taken; which node gets a partition is decided here: a client cannot know better on one host."""
    if not broker_ids or len(set(broker_ids)) < len(broker_ids) or not set(broker_ids) <= set(nodes):
        raise InvalidReplicaAssignment(f"{list(broker_ids)} must name nodes out of {sorted(nodes)}, each once")


def created(
    request: Any, asked: Sequence[NewTopic | Result], results: Sequence[Result], made: Callable[[NewTopic], Made]
) -> Any:
    """The answer to CreateTopics, with one item for each name."""
    types = codec.response_types(ApiKey.CREATE_TOPICS)
    answers = {}
    for topic, item, result in zip(request.topics, asked, results, strict=True):
        answer = answers[topic.name] = types.CreatableTopicResult(
            name=topic.name, error_code=result.error_code, error_message=result.message, configs=[]
        )
        if isinstance(item, NewTopic) and not result.error_code:
            answer.topic_id, answer.num_partitions, answer.configs = made(item)
            answer.replication_factor = 1
    return types.CreateTopicsResponse(topics=list(answers.values()))


class Deletion(NamedTuple):
    """A topic to be deleted, as the client named it; `refusal`: why it cannot be."""

    name: str | None
    topic_id: bytes
    refusal: Result | None = None


def deletions(request: Any, version: int, names: Mapping[bytes, str]) -> list[Deletion]:
    """The topics to be deleted, each once. `names` has the topics by their ids."""
    if version < BY_ID:
        found = [Deletion(name, NO_UUID) for name in request.topic_names]
    else:
        found = [_deletion(item, names) for item in request.topics]
    often = Counter(item.name for item in found)
    twice = Result(InvalidRequest.code, "a topic is named more than once in one request")
    return list(
        dict.fromkeys(item._replace(refusal=twice) if item.name and often[item.name] > 1 else item for item in found)
    )


def _deletion(item: Any, names: Mapping[bytes, str]) -> Deletion:
    if (item.name is None) == (item.topic_id == NO_UUID):
        return Deletion(item.name, item.topic_id, Result(InvalidRequest.code, "a topic is named by its name or its id"))
    if item.name is not None:
        return Deletion(item.name, NO_UUID)
    unknown = Result(UnknownTopicId.code, f"no topic has the id {item.topic_id.hex()}")
    name = names.get(item.topic_id)
    return Deletion(name, item.topic_id, None if name else unknown)


def deleted(asked: Sequence[Deletion], results: Mapping[str, Result]) -> Any:
    """The answer to DeleteTopics."""
    types = codec.response_types(ApiKey.DELETE_TOPICS)
    answers = []
    for item in asked:
        result = item.refusal or results[item.name or ""]
        answers.append(
            types.DeletableTopicResult(
                name=item.name, topic_id=item.topic_id, error_code=result.error_code, error_message=result.message
            )
        )
    return types.DeleteTopicsResponse(responses=answers)


def check_new_partitions(asked: Any, have: int, nodes: Collection[int]) -> None:
    """Raises InvalidReplicaAssignment unless a topic of CreatePartitions leaves it to the broker where they go, or
    names one node for each.
    """
    if asked.assignments is None:
        return
    added = asked.count - have
    if len(asked.assignments) != added or any(len(item.broker_ids) != 1 for item in asked.assignments):
        raise InvalidReplicaAssignment(f"{added} new partitions of {asked.name:.80} need {added} times one node")
    for item in asked.assignments:
        _check_assignment(item.broker_ids, nodes)


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
