"""Groups whose broker dies under them: no record is skipped, no acknowledged commit is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from kbroker.testing import Broker

pytestmark = pytest.mark.slow

confluent_kafka = pytest.importorskip("confluent_kafka", reason="confluent-kafka is not installed")

from .group_members import GROUP_SETTINGS, PROTOCOLS, Member, shares  # noqa: E402
from .test_confluent_kafka import create  # noqa: E402
from .test_groups_confluent import DEADLINE_S, committed, members  # noqa: E402

PARTITIONS = 6


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(GROUP_SETTINGS, workers=2, listeners="PLAINTEXT://127.0.0.1:0") as running:
        yield running


@pytest.fixture(params=PROTOCOLS)
def protocol(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Load:
    """A producer that sends to every partition until it is told to stop; `sent` counts what was acknowledged."""

    def __init__(self, broker: Broker, topic: str) -> None:
        self.sent = dict.fromkeys(range(PARTITIONS), 0)
        self._topic = topic
        self._over = threading.Event()
        self._producer = confluent_kafka.Producer(
            {"bootstrap.servers": broker.bootstrap_servers, "enable.idempotence": True, "linger.ms": 5}
        )
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._over.wait(0.01):  # a pace, so that the readers keep up
            for partition in range(PARTITIONS):
                self._producer.produce(self._topic, b"x" * 50, partition=partition, on_delivery=self._delivered)
            self._producer.poll(0)
        assert self._producer.flush(DEADLINE_S) == 0

    def _delivered(self, error: object, message: object) -> None:
        assert error is None
        self.sent[message.partition()] += 1  # type: ignore[attr-defined]

    def stop(self) -> None:
        self._over.set()
        self._thread.join()

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def check(broker: Broker, group: str, topic: str, joined: list[Member], load: Load) -> None:
    """Everything that was sent is read; every commit that was acknowledged is there."""
    load.stop()
    wanted = {(partition, offset) for partition, count in load.sent.items() for offset in range(count)}

    def all_read() -> bool:
        return wanted <= {place for member in joined for place in member.seen}

    broker.wait_until(all_read, DEADLINE_S)
    broker.wait_until(lambda: committed(broker, group, topic, PARTITIONS) == load.sent, DEADLINE_S)


def test_the_coordinator_dies_while_a_member_joins(broker: Broker, topic: str, protocol: str) -> None:
    create(broker, topic, PARTITIONS)
    with Load(broker, topic) as load, members(broker) as join:
        joined = [join(topic, topic, protocol, commits=True) for _ in range(2)]
        broker.wait_until(lambda: shares(joined, PARTITIONS), DEADLINE_S)
        for delay_s in (0.0, 0.05, 0.15):  # at different points of the rebalance
            joined.append(join(topic, topic, protocol, commits=True))
            time.sleep(delay_s)
            broker.kill_and_wait("coordinator")
            broker.wait_until(lambda: shares(joined, PARTITIONS), DEADLINE_S)
        check(broker, topic, topic, joined, load)


def test_members_go_on_as_they_were_when_the_coordinator_is_back(broker: Broker, topic: str, protocol: str) -> None:
    create(broker, topic, PARTITIONS)
    with Load(broker, topic) as load, members(broker) as join:
        joined = [join(topic, topic, protocol, commits=True) for _ in range(3)]
        broker.wait_until(lambda: shares(joined, PARTITIONS), DEADLINE_S)
        had = [set(member.owned) for member in joined]
        for member in joined:
            member.revoked.clear()
        broker.kill_and_wait("coordinator")
        before = dict(load.sent)
        broker.wait_until(lambda: all(m.committed.get(p, 0) >= before[p] for m in joined for p in m.owned), DEADLINE_S)
        assert [member.owned for member in joined] == had
        assert [member.revoked for member in joined] == [[], [], []], "a generation outlives its coordinator"
        check(broker, topic, topic, joined, load)


def test_every_process_dies_in_turn(broker: Broker, topic: str, protocol: str) -> None:
    create(broker, topic, PARTITIONS)
    with Load(broker, topic) as load, members(broker) as join:
        joined = [join(topic, topic, protocol, commits=True) for _ in range(3)]
        broker.wait_until(lambda: shares(joined, PARTITIONS), DEADLINE_S)
        for name in ("worker-0", "coordinator", "worker-1", "front", "coordinator"):
            broker.kill_and_wait(name)
        check(broker, topic, topic, joined, load)


def test_members_come_and_go_under_load(broker: Broker, topic: str, protocol: str) -> None:
    create(broker, topic, PARTITIONS)
    with Load(broker, topic) as load, members(broker) as join:
        joined = [join(topic, topic, protocol, commits=True) for _ in range(3)]
        active = list(joined)
        for _ in range(4):  # a rolling restart
            broker.wait_until(lambda: shares(active, PARTITIONS), DEADLINE_S)
            active.pop(0).close()
            active.append(join(topic, topic, protocol, commits=True))
            joined.append(active[-1])
        check(broker, topic, topic, joined, load)
