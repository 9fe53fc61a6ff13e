"""The topics that the coordinator leads: opened, read, opened anew."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from kbroker.config import LogConfig
from kbroker.errors import KbrokerError, LeaderNotAvailable, NotLeaderOrFollower, UnknownTopicOrPartition
from kbroker.log import PartitionLog
from kbroker.types import OFFSETS_TOPIC, TopicPartition
from kbroker.wire.messages import PartitionInfo, TopicInfo
from kbroker.workers.internal_topics import InternalTopics
from kbroker.workers.loop import Loop
from kbroker.workers.parking import Parking

NAME = TopicPartition(OFFSETS_TOPIC, 0)
TOPIC_ID = b"i" * 16


class Waiter:
    def __init__(self) -> None:
        self.told: list[str] = []

    def look_again(self) -> int:
        self.told.append("look")
        return 1

    def abandon(self, error: KbrokerError) -> None:
        self.told.append(type(error).__name__)


def open_log(folder: Path) -> PartitionLog:
    return PartitionLog.open(folder, NAME, TOPIC_ID, LogConfig(retention_ms=-1), 0, 1_000)


@pytest.fixture
def log(tmp_path: Path) -> Iterator[PartitionLog]:
    opened = open_log(tmp_path / str(NAME))
    yield opened
    opened.abandon()


def topics_with(known: dict[str, TopicInfo]) -> tuple[InternalTopics, dict[str, TopicInfo]]:
    internal: dict[str, TopicInfo] = {}
    parking = Parking(Loop())
    name_of = {TOPIC_ID: OFFSETS_TOPIC}.get
    return InternalTopics(known, name_of, internal, parking), internal


def test_what_is_served_is_told(log: PartitionLog) -> None:
    topics, internal = topics_with({})
    partition = topics.serve(log)
    assert topics.get(*NAME) is partition
    info = internal[OFFSETS_TOPIC]
    assert (info.topic_id, info.settings["retention.ms"]) == (TOPIC_ID, "-1")
    assert info.partitions == [PartitionInfo(0, 0, log.leader_epoch)]
    assert topics.name_of(TOPIC_ID) == OFFSETS_TOPIC


def test_what_is_not_served_says_why() -> None:
    known = {
        "a": TopicInfo("a", partitions=[PartitionInfo(0, 1, 1)]),
        OFFSETS_TOPIC: TopicInfo(OFFSETS_TOPIC, partitions=[PartitionInfo(0, 0, 1)]),
    }
    topics, _ = topics_with(known)
    for topic, index, error in (
        ("a", 0, NotLeaderOrFollower),
        ("a", 1, UnknownTopicOrPartition),
        ("a", -1, UnknownTopicOrPartition),
        ("x", 0, UnknownTopicOrPartition),
        (OFFSETS_TOPIC, 0, LeaderNotAvailable),
    ):
        with pytest.raises(error):
            topics.get(topic, index)


def test_who_waits_is_woken_and_sent_on_when_the_log_is_opened_anew(log: PartitionLog, tmp_path: Path) -> None:
    topics, internal = topics_with({})
    partition, waiter = topics.serve(log), Waiter()
    partition.parked.add(waiter)
    partition.published()
    log.abandon()
    anew = open_log(tmp_path / str(NAME))
    assert topics.serve(anew) is not partition
    assert waiter.told == ["look", "NotLeaderOrFollower"]
    assert internal[OFFSETS_TOPIC].partitions[0].leader_epoch == anew.leader_epoch > log.leader_epoch
    anew.abandon()
