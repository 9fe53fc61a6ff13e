"""What clients fill is bounded in sum in real processes with little memory: nobody dies of it, at a start neither."""

from __future__ import annotations

import time

import pytest

from kbroker.errors import InvalidCommitOffsetSize, KbrokerError
from kbroker.testing import Broker
from kbroker.wire import group_messages as g
from kbroker.wire import messages as m
from tests.broker.raw_client import RawClient, batch, direct

LEAST = 128 << 20
"""The least that worker.memory.max.bytes may be."""
PARTITIONS = 100
TEXT = "x" * 4_000
HOT = "(?:.?.?.?){0,80}x"
DEAR = "(((a?.?){0,40}.?){0,25})z"


def commit(client: RawClient, group: str, partitions: int = PARTITIONS, text: str = TEXT) -> int:
    """Commit in so many partitions of `t`; the first one's error."""
    offsets = [g.OffsetCommit("t", partition, 7, -1, text) for partition in range(partitions)]
    return client.ask(g.OffsetResults, g.CommitOffsets(group, offsets)).offsets[0].error


def committed(client: RawClient, group: str) -> int:
    found = client.ask(g.CommittedOffsets, g.FetchOffsets(group, [g.TopicPartitions("t", [0])]))
    return found.offsets[0].offset


def restarts(broker: Broker) -> dict[str, int]:
    return {process["name"]: process["restarts"] for process in broker.status()["processes"] if process["restarts"]}


def test_commits_of_many_groups_and_a_log_with_more_than_there_is_room_for() -> None:
    with Broker({"worker.memory.max.bytes": LEAST}) as broker:
        with RawClient(broker.server) as client:
            client.create("t", PARTITIONS)
            assert commit(client, "good", 1, "") == 0
            codes = [commit(client, f"bad{number}") for number in range(120)]
            assert codes[0] == 0
            assert codes[-1] == InvalidCommitOffsetSize.code
            assert commit(client, "good", 1, "") == 0
            assert client.ask(g.GroupResults, g.DeleteGroups(["bad0"])).groups[0].error == 0
            assert commit(client, "bad0") == 0
        assert restarts(broker) == {}
        assert "groups.memory.max.bytes is" in broker.log
        # Ten times as much as the next start has room for.
        broker.stop()
        broker.settings["groups.memory.max.bytes"] = 3 << 20
        broker.start()
        with RawClient(broker.server) as client:
            assert committed(client, "good") == 7
            with pytest.raises(KbrokerError):
                committed(client, "bad0")
        status = broker.status()
        assert status["state"] == "degraded"
        (outage,) = status["outages"]
        assert "groups.memory.max.bytes" in outage["why"]
        assert "left out" in broker.log
        assert restarts(broker) == {}
        broker.stop()
        del broker.settings["groups.memory.max.bytes"]
        broker.start()
        with RawClient(broker.server) as client:
            assert committed(client, "bad0") == committed(client, "good") == 7
        assert broker.status()["outages"] == []


def test_made_up_producer_ids() -> None:
    with Broker({"producer.ids.max": 300}, workers=1) as broker:
        with RawClient(direct(broker)) as client, RawClient(broker.server) as admin:
            admin.create("t", 2)
            for producer_id in range(1_000):
                sent = batch(1, producer_id=producer_id, sequence=0)
                assert client.produce("t", sent, partition=producer_id % 2, acks=1).base_offset == producer_id // 2
            again = client.produce("t", sent, partition=1)
            assert again.base_offset == 499, "a repeat of one that is remembered"
        assert "idempotent producers that wrote longest ago were forgotten" in broker.log
        broker.kill_all()
        broker.start()
        with RawClient(broker.server) as client:
            again = client.produce("t", sent, partition=1)
            assert again.base_offset == 499
        assert restarts(broker) == {}


def beat(client: RawClient, group: str, pattern: str, epoch: int = 0) -> g.GroupHeartbeatAnswer:
    joins = epoch == 0
    request = g.GroupHeartbeat(
        group, "member", epoch, rebalance_timeout_ms=60_000 if joins else -1,
        pattern=pattern if joins else None, topics=[] if joins else None, owned=[] if joins else None,
    )  # fmt: skip
    return client.ask(g.GroupHeartbeatAnswer, request)


def test_dear_patterns_beside_others() -> None:
    """Against many topics, at a restart of the coordinator, and when topics come."""
    with Broker({"partitions.max": 1_000}) as broker, RawClient(broker.server) as client:
        names = [f"topic-{number:03}" + "y" * 200 for number in range(200)]
        made = client.ask(m.TopicResults, m.CreateTopics([m.NewTopic(name) for name in names]))
        assert not any(result.error for result in made.topics)
        with pytest.raises(KbrokerError, match="too dear"):
            beat(client, "refused", DEAR)
        for number in range(20):
            beat(client, f"hot{number}", f"(?:{HOT}|{number}z)")
        started = time.monotonic()
        answer = beat(client, "good", "topic-00.*")
        assert time.monotonic() - started < 1
        broker.kill_and_wait("coordinator")
        client.create("topic-00-late")
        deadline = time.monotonic() + 20
        found: set[str] = set()
        while len(found) < 11:
            assert time.monotonic() < deadline, found
            answer = client.ask_until_served(
                g.GroupHeartbeatAnswer, g.GroupHeartbeat("good", "member", answer.member_epoch)
            )
            found |= {entry.topic for entry in answer.assignment or ()}
        assert restarts(broker) == {"coordinator": 1}
