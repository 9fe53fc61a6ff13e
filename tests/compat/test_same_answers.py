"""The same odd requests to Apache Kafka's own broker and to ours: the answers must agree."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Protocol

import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker
from tests.broker.kafka_client import KafkaClient, batch
from tests.compat.apache_kafka import ApacheKafka

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

Facts = list[Any]


class Side(Protocol):
    """One of the two brokers."""

    any: KafkaClient

    def leader(self, topic: str, index: int = 0) -> KafkaClient: ...


class Ours:
    def __init__(self, broker: Broker, stack: ExitStack) -> None:
        self._clients = [stack.enter_context(KafkaClient(broker, node)) for node in (0, 1)]
        self.any = self._clients[1]

    def leader(self, topic: str, index: int = 0) -> KafkaClient:
        node: int = self.any.metadata(topic)[topic].partitions[index].leader_id
        return self._clients[node]


class Theirs:
    def __init__(self, broker: ApacheKafka, stack: ExitStack) -> None:
        self.any = stack.enter_context(KafkaClient(broker.port, 1))

    def leader(self, topic: str, index: int = 0) -> KafkaClient:
        # Its metadata may be there before its partitions are.
        deadline = time.monotonic() + 20
        while fetched(self.any, topic, {index: 0}).responses[0].partitions[0].error_code:
            assert time.monotonic() < deadline
            time.sleep(0.05)  # between two looks
        return self.any


@pytest.fixture(scope="module")
def sides(apache: ApacheKafka) -> Iterator[tuple[Side, Side]]:
    with Broker(workers=1, listeners="PLAINTEXT://127.0.0.1:0") as ours, ExitStack() as stack:
        yield Ours(ours, stack), Theirs(apache, stack)


def fetched(
    client: KafkaClient,
    topic: str | bytes,
    offsets: dict[int, int],
    version: int = 12,
    session: tuple[int, int] = (0, -1),
    forgotten: tuple[int, ...] = (),
    **fields: Any,
) -> Any:
    types = codec.request_types(ApiKey.FETCH)
    named = {"topic_id": topic} if isinstance(topic, bytes) else {"topic": topic}
    item = {"partition_max_bytes": fields.pop("partition_max_bytes", 1 << 20)}
    item |= {name: fields.pop(name, -1) for name in ("current_leader_epoch", "last_fetched_epoch")}
    wanted = [types.FetchPartition(partition=index, fetch_offset=offset, **item) for index, offset in offsets.items()]
    request = types.FetchRequest(
        max_wait_ms=0,
        min_bytes=0,
        max_bytes=fields.pop("max_bytes", 1 << 24),
        session_id=session[0],
        session_epoch=session[1],
        topics=[types.FetchTopic(partitions=wanted, **named)] if wanted else [],
        forgotten_topics_data=[types.ForgottenTopic(partitions=list(forgotten), **named)] if forgotten else [],
        **fields,
    )
    return client.ask(ApiKey.FETCH, version, request)


def told(answer: Any) -> Facts:
    """All of a fetch's answer but its session id."""
    return [
        answer.error_code,
        [
            (
                item.partition_index,
                item.error_code,
                item.high_watermark,
                item.last_stable_offset,
                item.log_start_offset,
                len(item.records or b""),
                list(item.aborted_transactions or ()),  # null or empty: no client cares
                item.preferred_read_replica,
                item.diverging_epoch and (item.diverging_epoch.epoch, item.diverging_epoch.end_offset),
            )
            for topic in answer.responses
            for item in topic.partitions
        ],
    ]


def fetch_sessions(side: Side, topic: str) -> Facts:
    side.any.create(topic, 3)
    for index in range(3):
        side.leader(topic, index)
    client = side.leader(topic)
    facts: Facts = []
    first = fetched(client, topic, {0: 0, 1: 0, 9: 0}, session=(0, 0))
    facts += [told(first), first.session_id > 0]
    session = first.session_id
    facts.append(told(fetched(client, topic, {}, session=(session, 1))))
    client.produce(topic, 1, b"x" * 10)
    facts.append(told(fetched(client, topic, {9: 0}, session=(session, 2), forgotten=(9,))))
    facts.append(told(fetched(client, topic, {1: 1}, session=(session, 3))))
    facts.append(told(fetched(client, topic, {1: 1}, session=(session, 3))))
    facts.append(told(fetched(client, topic, {}, session=(session, 9))))
    facts.append(told(fetched(client, b"?" * 16, {0: 0}, 13, session=(session, 4))))
    last = fetched(client, topic, {}, session=(session, 4), forgotten=(0, 1))
    facts += [told(last), last.session_id]
    facts.append(told(fetched(client, topic, {}, session=(session, 5))))
    none = fetched(client, topic, {}, session=(0, 0))
    facts += [told(none), none.session_id > 0]
    facts.append(told(fetched(client, topic, {}, session=(0, 7))))
    return facts


def fetch_by_id(side: Side, topic: str) -> Facts:
    topic_id = side.any.create(topic, 1)
    client = side.leader(topic)
    first = fetched(client, topic_id, {0: 0}, 13, session=(0, 0))
    facts: Facts = [told(first), told(fetched(client, b"?" * 16, {0: 0, 1: 0}, 13))]
    side.any.delete(topic)
    return facts


def fetch_limits(side: Side, topic: str) -> Facts:
    side.any.create(topic, 2)
    for index in range(2):
        client = side.leader(topic, index)
        for _ in range(3):
            client.produce(topic, index, b"x" * 1000)
    size = len(batch(b"x" * 1000))
    facts: Facts = []
    for partition_max_bytes in (0, 1, size - 1, size, 2 * size, 1 << 20):
        for max_bytes in (0, 1, size, 4 * size, 1 << 20):
            answer = fetched(client, topic, {0: 0, 1: 0}, partition_max_bytes=partition_max_bytes, max_bytes=max_bytes)
            facts.append((partition_max_bytes // size, max_bytes // size, told(answer)))
    for offsets in ({0: 3}, {0: 4}, {0: -1}, {0: 2, 7: 0}):
        facts.append(told(fetched(client, topic, offsets)))
        facts.append(told(fetched(client, topic, offsets, isolation_level=1)))
    return facts


def list_offsets(side: Side, topic: str) -> Facts:
    side.any.create(topic, 2)
    now_ms = time.time_ns() // 1_000_000
    client = side.leader(topic, 0)
    side.leader(topic, 1)
    types = codec.request_types(ApiKey.PRODUCE)
    for timestamp in (now_ms, now_ms + 20, now_ms + 10):
        data = types.PartitionProduceData(index=0, records=batch(b"x", timestamp_ms=timestamp))
        wanted = types.TopicProduceData(name=topic, partition_data=[data])
        client.ask(ApiKey.PRODUCE, 9, types.ProduceRequest(acks=-1, timeout_ms=9_000, topic_data=[wanted]))
    types = codec.request_types(ApiKey.LIST_OFFSETS)
    facts: Facts = []
    for version in (1, 2, 6, 7, 8, 9, 11):
        for index in (0, 1, 5):
            for timestamp in (-1, -2, -3, -4, -5, -6, -9, 0, now_ms + 5, now_ms + 21):
                asked = types.ListOffsetsPartition(partition_index=index, timestamp=timestamp, current_leader_epoch=-1)
                request = types.ListOffsetsRequest(
                    replica_id=-1, topics=[types.ListOffsetsTopic(name=topic, partitions=[asked])]
                )
                (found,) = client.ask(ApiKey.LIST_OFFSETS, version, request).topics[0].partitions
                at = found.timestamp - now_ms if found.timestamp > 0 else found.timestamp
                facts.append((version, index, timestamp if timestamp < 0 else "", found.error_code, found.offset, at))
    return facts


def leader_epochs(side: Side, topic: str) -> Facts:
    side.any.create(topic, 1)
    client = side.leader(topic)
    for _ in range(3):
        client.produce(topic, 0, b"a", b"b")
    epoch = client.metadata(topic)[topic].partitions[0].leader_epoch
    facts: Facts = []
    for known in (-1, epoch, epoch + 1):
        for last in (-1, epoch, epoch + 1, epoch + 9):
            for offset in (0, 3, 6):
                answer = fetched(client, topic, {0: offset}, current_leader_epoch=known, last_fetched_epoch=last)
                facts.append((known - epoch if known >= 0 else "", last - epoch if last >= 0 else "", told(answer)))
    types = codec.request_types(ApiKey.OFFSET_FOR_LEADER_EPOCH)
    for index, known, asked in (
        (0, -1, epoch), (0, epoch, epoch), (0, epoch + 1, epoch), (0, -1, epoch + 1), (0, -1, -1), (5, -1, epoch),
    ):  # fmt: skip
        item = types.OffsetForLeaderPartition(partition=index, current_leader_epoch=known, leader_epoch=asked)
        request = types.OffsetForLeaderEpochRequest(
            replica_id=-1, topics=[types.OffsetForLeaderTopic(topic=topic, partitions=[item])]
        )
        (found,) = client.ask(ApiKey.OFFSET_FOR_LEADER_EPOCH, 3, request).topics[0].partitions
        facts.append(
            (found.error_code, found.leader_epoch - epoch if found.leader_epoch >= 0 else "", found.end_offset)
        )
    return facts


def topic_partitions(side: Side, topic: str) -> Facts:
    for number in range(4):
        side.any.create(f"{topic}.{number}", 3)
    types = codec.request_types(ApiKey.DESCRIBE_TOPIC_PARTITIONS)
    names = [f"{topic}.{number}" for number in (2, 0, 9, 1, 0)]
    facts: Facts = []
    for limit in (1, 2, 3, 4, 5, 100):
        cursor = None
        for _ in range(9):
            request = types.DescribeTopicPartitionsRequest(
                topics=[types.TopicRequest(name=name) for name in names], response_partition_limit=limit, cursor=cursor
            )
            answer = side.any.ask(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, request)
            following = answer.next_cursor
            facts.append(
                (
                    limit,
                    [(one.name, one.error_code, [item.partition_index for item in one.partitions])
                     for one in answer.topics],
                    following and (following.topic_name, following.partition_index),
                )
            )  # fmt: skip
            if following is None:
                break
            cursor = types.Cursor(topic_name=following.topic_name, partition_index=following.partition_index)
    return facts


def odd_pages(side: Side, topic: str) -> Facts:
    side.any.create(f"{topic}.a", 3)
    types = codec.request_types(ApiKey.DESCRIBE_TOPIC_PARTITIONS)
    facts: Facts = []
    for limit, cursor in ((0, None), (9, ("a", 2)), (9, ("stranger", 0)), (9, ("a", -1))):
        request = types.DescribeTopicPartitionsRequest(
            topics=[types.TopicRequest(name=f"{topic}.{name}") for name in ("nobody", "a")],
            response_partition_limit=limit,
            cursor=cursor and types.Cursor(topic_name=f"{topic}.{cursor[0]}", partition_index=cursor[1]),
        )
        answer = side.any.ask(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, request)
        after = answer.next_cursor
        facts.append([(item.name, item.error_code, len(item.partitions)) for item in answer.topics])
        facts.append(after and (after.topic_name, after.partition_index))
    return facts


def delete_records(side: Side, topic: str) -> Facts:
    side.any.create(topic, 1)
    client = side.leader(topic)
    for _ in range(3):
        client.produce(topic, 0, b"a", b"b")
    side.any.create(f"{topic}-compact", 1, cleanup_policy="compact")
    side.leader(f"{topic}-compact")
    types = codec.request_types(ApiKey.DELETE_RECORDS)
    facts: Facts = []
    for name, index, offset in (
        (topic, 0, 3), (topic, 0, 2), (topic, 0, 7), (topic, 0, -2), (topic, 4, 0), (f"{topic}-compact", 0, 0),
        ("nowhere", 0, 0), (topic, 0, -1),
    ):  # fmt: skip
        partition = types.DeleteRecordsPartition(partition_index=index, offset=offset)
        request = types.DeleteRecordsRequest(
            topics=[types.DeleteRecordsTopic(name=name, partitions=[partition])], timeout_ms=9_000
        )
        (found,) = client.ask(ApiKey.DELETE_RECORDS, 2, request).topics[0].partitions
        facts.append((index, offset, found.error_code, found.low_watermark))
        facts.append(told(fetched(client, topic, {0: 3})))
    return facts


def create_topics(side: Side, topic: str) -> Facts:
    types = codec.request_types(ApiKey.CREATE_TOPICS)

    def new(
        name: str, partitions: int = 1, replicas: int = 1, assigned: tuple[tuple[int, int], ...] = (), node: int = 1
    ) -> Any:
        assignments = [
            types.CreatableReplicaAssignment(partition_index=index, broker_ids=[node] * count)
            for index, count in assigned
        ]
        return types.CreatableTopic(
            name=name, num_partitions=partitions, replication_factor=replicas, assignments=assignments
        )

    facts: Facts = []
    for number, asked in enumerate(
        (
            [new(f"{topic}.1"), new(f"{topic}.2"), new(f"{topic}.1")],
            [new(f"{topic}.2")],
            [new(f"{topic}_2")],
            [new("")],
            [new(".."), new("a/b"), new("x" * 250)],
            [new(f"{topic}.3", 0), new(f"{topic}.4", -2), new(f"{topic}.5", 1, 0), new(f"{topic}.6", 1, 2)],
            [new(f"{topic}.7", -1, -1, ((0, 1), (1, 1)))],
            [new(f"{topic}.8", 2, -1, ((0, 1), (1, 1)))],
            [new(f"{topic}.9", -1, -1, ((0, 1), (2, 1)))],
            [new(f"{topic}.10", -1, -1, ((0, 0),)), new(f"{topic}.11", -1, -1, ((0, 1),), node=77)],
            [],
        )
    ):
        answer = side.any.ask(ApiKey.CREATE_TOPICS, 7, types.CreateTopicsRequest(topics=asked, timeout_ms=9_000))
        facts.append((number, sorted((item.name, item.error_code, item.num_partitions) for item in answer.topics)))
    tried = types.CreateTopicsRequest(
        topics=[new(f"{topic}.12", 3), new(f"{topic}.13", -1, -1)], timeout_ms=9_000, validate_only=True
    )
    for item in side.any.ask(ApiKey.CREATE_TOPICS, 7, tried).topics:
        facts.append((item.name, item.error_code, item.num_partitions, item.replication_factor, bool(item.configs)))
    return facts


def delete_topics(side: Side, topic: str) -> Facts:
    ids = {name: side.any.create(name) for name in (f"{topic}.1", f"{topic}.2", f"{topic}.3")}
    types = codec.request_types(ApiKey.DELETE_TOPICS)

    def state(name: str | None = None, topic_id: bytes = bytes(16)) -> Any:
        return types.DeleteTopicState(name=name, topic_id=topic_id)

    facts: Facts = []
    for number, asked in enumerate(
        (
            [state(f"{topic}.1"), state(f"{topic}.1")],
            [state(topic_id=b"?" * 16), state("nowhere")],
            [state(f"{topic}.2"), state(topic_id=ids[f"{topic}.3"])],
            [state(f"{topic}.2")],
            [],
        )
    ):
        request = types.DeleteTopicsRequest(topics=asked, timeout_ms=9_000)
        answer = side.any.ask(ApiKey.DELETE_TOPICS, 6, request)
        named = {topic_id: name for name, topic_id in ids.items()}
        found = [(item.name or "", named.get(item.topic_id, ""), item.error_code) for item in answer.responses]
        facts.append((number, sorted(found)))
    return facts


def create_partitions(side: Side, topic: str) -> Facts:
    side.any.create(topic, 2)
    types = codec.request_types(ApiKey.CREATE_PARTITIONS)

    def grown(count: int, assigned: int | None = None, name: str = topic, node: int = 1) -> Any:
        added = None if assigned is None else [types.CreatePartitionsAssignment(broker_ids=[node])] * assigned
        return types.CreatePartitionsTopic(name=name, count=count, assignments=added)

    facts: Facts = []
    for number, asked in enumerate(
        (
            [grown(2)],
            [grown(1)],
            [grown(-1)],
            [grown(3, 2)],
            [grown(3, 1, node=77)],
            [grown(3), grown(4)],
            [grown(3, 1)],
            [grown(3, 0, "no")],
            [],
        )
    ):
        request = types.CreatePartitionsRequest(topics=asked, timeout_ms=9_000)
        answer = side.any.ask(ApiKey.CREATE_PARTITIONS, 3, request)
        facts.append((number, [(item.name, item.error_code) for item in answer.results]))
    return facts


def cluster(side: Side, topic: str) -> Facts:
    side.any.create(topic)
    leader = side.leader(topic).node
    facts: Facts = []
    types = codec.request_types(ApiKey.DESCRIBE_CLUSTER)
    for endpoint_type in (1, 2, 7):
        request = types.DescribeClusterRequest(endpoint_type=endpoint_type)
        facts.append(side.any.ask(ApiKey.DESCRIBE_CLUSTER, 1, request).error_code)
    types = codec.request_types(ApiKey.ELECT_LEADERS)
    wanted = [types.TopicPartitions(topic=topic, partitions=[0, 5]), types.TopicPartitions(topic="no", partitions=[0])]
    for asked in (wanted, [], None):
        request = types.ElectLeadersRequest(election_type=0, topic_partitions=asked, timeout_ms=9_000)
        answer = side.any.ask(ApiKey.ELECT_LEADERS, 2, request)
        results = {(one.topic, item.partition_id): item.error_code for one in answer.replica_election_results
                   for item in one.partition_result}  # fmt: skip
        facts.append((answer.error_code, sorted(results.items()) if asked else len(results)))
    types = codec.request_types(ApiKey.ALTER_PARTITION_REASSIGNMENTS)
    for name, replicas in ((topic, None), (topic, [leader]), (topic, [77]), (topic, []), ("no", [1])):
        item = types.ReassignablePartition(partition_index=0, replicas=replicas)
        request = types.AlterPartitionReassignmentsRequest(
            timeout_ms=9_000, topics=[types.ReassignableTopic(name=name, partitions=[item])]
        )
        answer = side.any.ask(ApiKey.ALTER_PARTITION_REASSIGNMENTS, 0, request)
        facts.append((answer.error_code, answer.responses[0].partitions[0].error_code))
    types = codec.request_types(ApiKey.LIST_PARTITION_REASSIGNMENTS)
    request = types.ListPartitionReassignmentsRequest(timeout_ms=9_000, topics=None)
    facts.append(len(side.any.ask(ApiKey.LIST_PARTITION_REASSIGNMENTS, 0, request).topics))
    types = codec.request_types(ApiKey.LIST_TRANSACTIONS)
    request = types.ListTransactionsRequest(state_filters=["Ongoing", "Nonsense"], producer_id_filters=[])
    answer = side.any.ask(ApiKey.LIST_TRANSACTIONS, 0, request)
    facts.append((answer.error_code, list(answer.unknown_state_filters), len(answer.transaction_states)))
    types = codec.request_types(ApiKey.DESCRIBE_CLIENT_QUOTAS)
    component = types.ComponentData(entity_type="user", match_type=2, match=None)
    request = types.DescribeClientQuotasRequest(components=[component], strict=False)
    answer = side.any.ask(ApiKey.DESCRIBE_CLIENT_QUOTAS, 1, request)
    facts.append((answer.error_code, answer.entries))
    return facts


def metadata(side: Side, topic: str) -> Facts:
    topic_id = side.any.create(topic, 2)
    for index in range(2):
        side.leader(topic, index)
    types = codec.request_types(ApiKey.METADATA)
    named = [types.MetadataRequestTopic(name=name) for name in (topic, "no", topic, "no/pe")]
    by_id = [types.MetadataRequestTopic(name=None, topic_id=item) for item in (topic_id, b"?" * 16)]
    facts: Facts = []
    for version, asked in ((4, named), (9, named), (12, named), (12, by_id), (12, [])):
        request = types.MetadataRequest(topics=asked, allow_auto_topic_creation=False)
        answer = side.any.ask(ApiKey.METADATA, version, request)
        found = [
            (item.name or "", item.error_code, item.is_internal, len(item.partitions), item.topic_id == topic_id)
            for item in answer.topics
        ]
        facts.append((version, sorted(found)))
    return facts


def operations(side: Side, topic: str) -> Facts:
    side.any.create(topic)
    facts: Facts = []
    types = codec.request_types(ApiKey.METADATA)
    for version in (8, 10, 13):
        for asks in (False, True):
            request = types.MetadataRequest(
                topics=[types.MetadataRequestTopic(name=name) for name in (topic, "no")],
                allow_auto_topic_creation=False,
                include_topic_authorized_operations=asks,
                include_cluster_authorized_operations=asks,
            )
            answer = side.any.ask(ApiKey.METADATA, version, request)
            told_of = sorted((item.name, item.topic_authorized_operations) for item in answer.topics)
            facts.append((version, asks, told_of, answer.cluster_authorized_operations))
    types = codec.request_types(ApiKey.DESCRIBE_TOPIC_PARTITIONS)
    request = types.DescribeTopicPartitionsRequest(
        topics=[types.TopicRequest(name=topic)], response_partition_limit=9, cursor=None
    )
    facts.append(side.any.ask(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, request).topics[0].topic_authorized_operations)
    types = codec.request_types(ApiKey.DESCRIBE_CLUSTER)
    for asks in (False, True):
        request = types.DescribeClusterRequest(endpoint_type=1, include_cluster_authorized_operations=asks)
        facts.append(side.any.ask(ApiKey.DESCRIBE_CLUSTER, 1, request).cluster_authorized_operations)
    return facts


def odd_configs(side: Side, topic: str) -> Facts:
    side.any.create(topic)
    types = codec.request_types(ApiKey.DESCRIBE_CONFIGS)
    facts: Facts = []
    for kind, name in (
        (2, "no"), (2, "no/pe"), (2, ""), (2, "x" * 250), (4, "77"), (4, "x"), (16, "metrics"), (16, ""), (32, "g"),
        (32, ""), (8, "x"), (99, "x"),
    ):  # fmt: skip
        resource = types.DescribeConfigsResource(resource_type=kind, resource_name=name, configuration_keys=None)
        answer = side.any.ask(ApiKey.DESCRIBE_CONFIGS, 4, types.DescribeConfigsRequest(resources=[resource]))
        (found,) = answer.results
        facts.append((kind, name, found.error_code))
    types = codec.request_types(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS)
    for users in (None, [], [types.UserName(name="ann"), types.UserName(name="bob")]):
        request = types.DescribeUserScramCredentialsRequest(users=users)
        answer = side.any.ask(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS, 0, request)
        facts.append((answer.error_code, sorted((item.user, item.error_code) for item in answer.results)))
    return facts


def odd_coordinators(side: Side, _topic: str) -> Facts:
    facts: Facts = []
    types = codec.request_types(ApiKey.LIST_GROUPS)
    answer = side.any.ask(ApiKey.LIST_GROUPS, 4, types.ListGroupsRequest(states_filter=["Nonsense"]))
    facts.append((answer.error_code, len(answer.groups)))
    types = codec.request_types(ApiKey.FIND_COORDINATOR)
    request = types.FindCoordinatorRequest(key_type=7, coordinator_keys=["x"])
    facts.append([item.error_code for item in side.any.ask(ApiKey.FIND_COORDINATOR, 4, request).coordinators])
    return facts


def producers(side: Side, topic: str) -> Facts:
    side.any.create(topic)
    client = side.leader(topic)
    types = codec.request_types(ApiKey.DESCRIBE_PRODUCERS)
    wanted = [
        types.TopicRequest(name=topic, partition_indexes=[0, 7]),
        types.TopicRequest(name="no", partition_indexes=[0]),
    ]
    answer = client.ask(ApiKey.DESCRIBE_PRODUCERS, 0, types.DescribeProducersRequest(topics=wanted))
    return sorted(
        (one.name, item.partition_index, item.error_code, len(item.active_producers))
        for one in answer.topics
        for item in one.partitions
    )


SCENARIOS: tuple[Callable[[Side, str], Facts], ...] = (
    fetch_sessions, fetch_by_id, fetch_limits, leader_epochs, list_offsets, topic_partitions, odd_pages, delete_records,
    create_topics, delete_topics, create_partitions, cluster, metadata, operations, producers, odd_configs,
    odd_coordinators,
)  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
def test_both_answer_alike(sides: tuple[Side, Side], scenario: Callable[[Side, str], Facts]) -> None:
    ours, theirs = (scenario(side, scenario.__name__) for side in sides)
    assert ours == theirs
