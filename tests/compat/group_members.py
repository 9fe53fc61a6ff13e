"""Members of groups, made of confluent-kafka's consumers: in a thread here, or in a process to be killed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import confluent_kafka

from kbroker.testing import Broker

GROUP_SETTINGS = {
    "group.initial.rebalance.delay.ms": 0,
    "group.min.session.timeout.ms": 100,
    "group.consumer.session.timeout.ms": 2_000,
    "group.consumer.heartbeat.interval.ms": 200,
}
"""For a broker whose groups are to settle quickly."""

PROTOCOLS = ("range", "cooperative-sticky", "consumer")
"""Eager and cooperative classic groups, and KIP-848."""

_ROOT = Path(__file__).resolve().parent.parent.parent


def consumer_settings(servers: str, group: str, protocol: str, **settings: Any) -> dict[str, Any]:
    """What a consumer that is used here wants to be told."""
    common = {
        "bootstrap.servers": servers,
        "group.id": group,
        "auto.offset.reset": "earliest",
        "enable.auto.commit": False,
        "fetch.queue.backoff.ms": 1,
        "reconnect.backoff.max.ms": 500,
        "topic.metadata.refresh.interval.ms": 500,
    }
    if protocol == "consumer":
        common["group.protocol"] = "consumer"
    else:
        common |= {
            "partition.assignment.strategy": protocol,
            "session.timeout.ms": 2_000,
            "heartbeat.interval.ms": 200,
        }
    return common | {name.replace("_", "."): value for name, value in settings.items()}


class Member:
    """A consumer that polls in a thread of its own. What it has is written there and read here."""

    def __init__(self, broker: Broker, group: str, topic: str, protocol: str, **settings: Any) -> None:
        self.owned: set[int] = set()
        self.revoked: list[int] = []
        """Every partition that was ever taken from it."""
        self.seen: list[tuple[int, int]] = []
        """Partition and offset of every record, in order."""
        self.committed: dict[int, int] = {}
        """By partition, the last offset whose commit was answered without an error."""
        self.errors: list[str] = []
        self._commits = bool(settings.pop("commits", False))
        self._uncommitted: dict[tuple[str, int], int] = {}
        """By partition that it has, the offset after the last record, until a commit of that was answered."""
        self._stop = threading.Event()
        self._consumer = confluent_kafka.Consumer(
            consumer_settings(broker.bootstrap_servers, group, protocol, **settings), logger=None
        )
        self._consumer.subscribe([topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked)
        self._is_incremental = protocol != "range"
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _assigned(self, consumer: Any, partitions: list[Any]) -> None:
        if self._is_incremental:
            consumer.incremental_assign(partitions)
        else:
            consumer.assign(partitions)
        self.owned = self.owned | {item.partition for item in partitions}

    def _revoked(self, consumer: Any, partitions: list[Any]) -> None:
        self.owned = self.owned - {item.partition for item in partitions}
        self.revoked += [item.partition for item in partitions]
        for item in partitions:
            self._uncommitted.pop((item.topic, item.partition), None)  # who has it next reads again
        if self._is_incremental:
            consumer.incremental_unassign(partitions)
        else:
            consumer.unassign()

    def _run(self) -> None:
        while not self._stop.is_set():
            messages: list[Any] = self._consumer.consume(200, 0.1)
            good = [message for message in messages if message.error() is None]
            self.errors += [str(message.error()) for message in messages if message.error() is not None]
            self.seen += [(message.partition(), message.offset()) for message in good]
            if self._commits:
                self._uncommitted |= {(one.topic(), one.partition()): one.offset() + 1 for one in good}
                self._commit()
        self._consumer.close()

    def _commit(self) -> None:
        places = [confluent_kafka.TopicPartition(*place, offset) for place, offset in self._uncommitted.items()]
        if not places:
            return
        try:
            answered = self._consumer.commit(offsets=places, asynchronous=False)
        except confluent_kafka.KafkaException:
            return  # its epoch is not the newest, or the coordinator is away: again after the next poll
        for place in answered or ():
            if place.error is None:
                self.committed[place.partition] = max(place.offset, self.committed.get(place.partition, 0))
                self._uncommitted.pop((place.topic, place.partition), None)

    def commit(self) -> None:
        """Commit where it is."""
        self._consumer.commit(asynchronous=False)

    def close(self) -> None:
        """Leave the group."""
        self._stop.set()
        self._thread.join(30)
        assert not self._thread.is_alive()


class MemberProcess:
    """A member in a process of its own, to be killed."""

    def __init__(self, broker: Broker, group: str, topic: str, protocol: str, **settings: Any) -> None:
        made = consumer_settings(broker.bootstrap_servers, group, protocol, **settings)
        command = [sys.executable, "-m", "tests.compat.group_members", topic, json.dumps(made)]
        self._process = subprocess.Popen(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True)
        self.owned: set[int] = set()
        threading.Thread(target=self._read, args=(self._process.stdout,), daemon=True).start()

    def _read(self, lines: IO[str]) -> None:
        for line in lines:
            self.owned = set(json.loads(line))

    def kill(self) -> None:
        """kill -9."""
        self._process.kill()
        self._process.wait()


def shares(members: list[Any], partitions: int) -> bool:
    """Whether each partition is owned by exactly one of the members, and all have some."""
    owned = [partition for member in members for partition in member.owned]
    return sorted(owned) == list(range(partitions)) and all(member.owned for member in members)


def main(topic: str, settings: str) -> None:
    """The process of a MemberProcess: says what it owns, a line for each change."""
    consumer = confluent_kafka.Consumer(json.loads(settings))
    consumer.subscribe([topic])
    told: Iterator[Any] | list[int] = []
    while True:
        consumer.poll(0.1)
        owned = sorted(item.partition for item in consumer.assignment())
        if owned != told:
            told = owned
            print(json.dumps(owned), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
