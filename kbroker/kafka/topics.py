"""CreateTopics, DeleteTopics and CreatePartitions: what is asked for each topic, and the answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

from kbroker.errors import InvalidConfig, InvalidReplicaAssignment, InvalidRequest, RequestError, UnknownTopicId
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.cluster import TopicFacts
from kbroker.kafka.schema import NO_UUID

BY_ID = 6
"""From this version of DeleteTopics on a topic may be named by its id."""


class Result(NamedTuple):
    """What became of one topic's request."""

    error_code: int = 0
    message: str | None = None


class Nodes(NamedTuple):
    """The nodes that partitions may be assigned to: of `all` only those that lead users' topics."""

    all: Collection[int]
    leading: Collection[int]

    @property
    def named(self) -> str:
        """For people."""
        return f"partitions go to one of {', '.join(map(str, sorted(self.leading)))}"


class NewTopic(NamedTuple):
    """A topic to be made. -1: the broker's default. `nodes`: who is to have each partition, where that was asked."""

    name: str
    partitions: int
    replication_factor: int
    settings: dict[str, str]
    nodes: tuple[int, ...] = ()


class Made(NamedTuple):
    """A topic that was made, or would be. `configs` in the form of the answer to CreateTopics."""

    topic_id: bytes
    partition_count: int
    configs: Sequence[Any]


def creations(request: Any, nodes: Nodes) -> list[NewTopic | Result]:
    """For each topic asked for what is to be made, or why it cannot be."""
    often = Counter(topic.name for topic in request.topics)
    found: list[NewTopic | Result] = []
    for topic in request.topics:
        try:
            found.append(_creation(topic, often[topic.name], nodes))
        except RequestError as error:
            found.append(Result(error.code, str(error)))
    return found


def _creation(topic: Any, often: int, nodes: Nodes) -> NewTopic:
    if often > 1:
        raise InvalidRequest(f"topic {topic.name:.80} is named {often} times in one request")
    partitions, replication_factor = topic.num_partitions, topic.replication_factor
    chosen: tuple[int, ...] = ()
    if topic.assignments:
        what = f"topic {topic.name:.80}: a manual partition assignment was specified, but"
        if replication_factor != -1:
            raise InvalidRequest(f"{what} replication factor was not set to -1")
        if partitions != -1:
            raise InvalidRequest(f"{what} numPartitions was not set to -1")
        by_index: dict[int, int] = {}
        for item in topic.assignments:
            if item.partition_index in by_index:
                raise InvalidReplicaAssignment(
                    f"found multiple manual partition assignments for partition {item.partition_index}"
                )
            by_index[item.partition_index] = _assigned(item.broker_ids, nodes)
        if sorted(by_index) != list(range(len(by_index))):
            raise InvalidReplicaAssignment("partitions should be a consecutive 0-based integer sequence")
        chosen = tuple(by_index[index] for index in range(len(by_index)))
        partitions, replication_factor = len(chosen), 1
    if any(item.value is None for item in topic.configs):
        raise InvalidConfig(f"topic {topic.name:.80}: a setting needs a value")
    settings = {item.name: item.value for item in topic.configs}
    return NewTopic(topic.name, partitions, replication_factor, settings, chosen)


def _assigned(broker_ids: Sequence[int], nodes: Nodes) -> int:
    """The node that is to have a partition. Raises InvalidReplicaAssignment, as Apache Kafka words it where it does."""
    what = "the manual partition assignment includes"
    if not broker_ids:
        raise InvalidReplicaAssignment(f"{what} an empty replica list")
    for number, node in enumerate(sorted(broker_ids)):
        if node not in nodes.all:
            raise InvalidReplicaAssignment(f"{what} broker {node}, but no such broker is registered: {nodes.named}")
        if node in sorted(broker_ids)[:number]:
            raise InvalidReplicaAssignment(f"{what} the broker {node} more than once")
    if len(broker_ids) > 1:
        raise InvalidReplicaAssignment(
            f"{what} a partition with {len(broker_ids)} replicas; this host keeps one of each: name one broker"
        )
    if broker_ids[0] not in nodes.leading:
        raise InvalidReplicaAssignment(
            f"{what} broker {broker_ids[0]}, which leads internal topics only: {nodes.named}"
        )
    return broker_ids[0]


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
    """A topic to be deleted as the client named it. `fault`: why it cannot be."""

    name: str | None
    topic_id: bytes
    fault: Result | None = None


def deletions(
    request: Any, version: int, name_of: Callable[[bytes], str | None], topics: Mapping[str, TopicFacts]
) -> list[Deletion]:
    """The topics to be deleted, each once."""
    if version < BY_ID:
        asked = [Deletion(name, NO_UUID) for name in request.topic_names]
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
    if item.name is not None and item.topic_id != NO_UUID:
        return item._replace(
            fault=Result(InvalidRequest.code, "a topic is named by its name or by its id, not by both")
        )
    if item.name is not None:
        known = topics.get(item.name)
        return item if known is None else item._replace(topic_id=known.topic_id)
    if item.topic_id == NO_UUID:
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
    """A topic that is to have so many partitions in all. `nodes`: who is to have each new one, where that was asked."""

    name: str
    total: int
    nodes: tuple[int, ...] = ()


def growths(request: Any, topics: Mapping[str, TopicFacts], nodes: Nodes) -> list[Growth | Result]:
    """For each topic what is to become of it, or why it cannot be."""
    often = Counter(topic.name for topic in request.topics)
    found: list[Growth | Result] = []
    for topic in request.topics:
        known = topics.get(topic.name)
        try:
            found.append(_growth(topic, often[topic.name], len(known.partitions) if known else topic.count, nodes))
        except RequestError as error:
            found.append(Result(error.code, str(error)))
    return found


def _growth(topic: Any, often: int, have: int, nodes: Nodes) -> Growth:
    if often > 1:
        raise InvalidRequest(f"topic {topic.name:.80} is named {often} times in one request")
    added = topic.count - have
    if topic.assignments is None or added <= 0:
        return Growth(topic.name, topic.count)
    if len(topic.assignments) != added:
        raise InvalidReplicaAssignment(
            f"attempted to add {added} additional partition(s), but only {len(topic.assignments)} assignment(s) were "
            "specified"
        )
    return Growth(topic.name, topic.count, tuple(_assigned(item.broker_ids, nodes) for item in topic.assignments))


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
