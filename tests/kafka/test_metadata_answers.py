"""Metadata answers are put together from parts: byte for byte what the compiled writer makes, also after changes."""

from __future__ import annotations

from typing import Any

import pytest

from kbroker.kafka import codec, metadata
from kbroker.kafka.apis import BY_KEY, ApiKey
from kbroker.kafka.cluster import Cluster, Node
from kbroker.kafka.metadata_answers import MetadataAnswers
from kbroker.types import OFFSETS_TOPIC
from kbroker.wire.messages import PartitionInfo, TopicInfo

METADATA = BY_KEY[ApiKey.METADATA]
VERSIONS = range(METADATA.min_version, METADATA.max_version + 1)
TYPES = codec.request_types(ApiKey.METADATA)


def topic(name: str, leaders: list[int], number: int) -> TopicInfo:
    partitions = [PartitionInfo(index, leader, 5) for index, leader in enumerate(leaders)]
    return TopicInfo(name, topic_id=bytes([number]) * 16, partitions=partitions)


def cluster(host: str, topics: dict[str, TopicInfo]) -> Cluster:
    def name_of(topic_id: bytes) -> str | None:
        return next((name for name, known in topics.items() if known.topic_id == topic_id), None)

    nodes = [Node(node, host, 9092 + node) for node in range(3)]
    return Cluster("a cluster", nodes, topics, name_of, lambda _topic, _index, epoch: epoch)


@pytest.fixture
def topics() -> dict[str, TopicInfo]:
    return {"b": topic("b", [1, 2] * 100, 1), "a": topic("a", [9], 2), OFFSETS_TOPIC: topic(OFFSETS_TOPIC, [0], 3)}


def plain(request: Any, version: int, known: Cluster, refused: dict[str, int]) -> bytes:
    return b"".join(
        codec.write_response(ApiKey.METADATA, version, 77, metadata.answer(request, version, known, refused))
    )


def requests(version: int) -> list[Any]:
    found = [
        TYPES.MetadataRequest(topics=None if version else []),
        TYPES.MetadataRequest(topics=[TYPES.MetadataRequestTopic(name=name) for name in ("a", "x", "b", "a")]),
        TYPES.MetadataRequest(topics=[TYPES.MetadataRequestTopic(name=str(number)) for number in range(200)]),
    ]
    if version:
        found.append(TYPES.MetadataRequest(topics=[]))
    if version >= 10:
        ids = [TYPES.MetadataRequestTopic(name=None, topic_id=bytes([number]) * 16) for number in (1, 9, 3)]
        found.append(TYPES.MetadataRequest(topics=ids))
    if version >= 8:
        named = [TYPES.MetadataRequestTopic(name=name) for name in ("a", "x")]
        cluster_too = version <= 10
        found += [
            TYPES.MetadataRequest(
                topics=topics,
                include_topic_authorized_operations=True,
                include_cluster_authorized_operations=cluster_too,
            )
            for topics in (named, None)
        ]
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_it_is_what_the_writer_makes(version: int, topics: dict[str, TopicInfo]) -> None:
    answers = MetadataAnswers()
    for host in ("::1", "a.host"):
        known = cluster(host, topics)
        for request in requests(version) * 2:
            expected = plain(request, version, known, {"x": 17})
            assert answers.encode(request, version, 77, known, {"x": 17}) == expected


@pytest.mark.parametrize("version", [0, 4, 13])
def test_what_has_changed_is_made_anew_and_only_that(version: int, topics: dict[str, TopicInfo]) -> None:
    answers = MetadataAnswers()
    known = cluster("::1", topics)
    everything, *others = requests(version)
    for request in (everything, *others):
        answers.encode(request, version, 77, known)
    topics["a"] = topic("a", [1, 1], 4)
    topics["new"] = topic("new", [2], 5)
    del topics["b"]
    before = topics[OFFSETS_TOPIC]
    topics[OFFSETS_TOPIC] = topic(OFFSETS_TOPIC, [1], 6)  # nobody says so: it is not looked at again
    answers.forget(["a", "new", "b"])
    kept = {**topics, OFFSETS_TOPIC: before}
    assert answers.encode(everything, version, 77, known) == plain(everything, version, cluster("::1", kept), {})
    answers.forget([OFFSETS_TOPIC])
    for request in (everything, *others):
        assert answers.encode(request, version, 77, known) == plain(request, version, known, {})


def test_names_that_are_not_there_are_not_remembered(topics: dict[str, TopicInfo]) -> None:
    answers = MetadataAnswers()
    known = cluster("::1", topics)
    for request in requests(12):
        answers.encode(request, 12, 77, known)
    for remembered in answers._topics.values():
        assert remembered.keys() == topics.keys()
