"""kill -9 of each process, of all at once, and of none: what was acknowledged stays, what can go on goes on."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import zmq

from kbroker.log.checkpoint import RecoveryPoint
from kbroker.testing import Broker
from kbroker.wire import codec
from kbroker.wire import messages as m

from .raw_client import RawClient, batch, direct, owner_of
from .writer import ANSWER_MS, Writer

pytestmark = pytest.mark.slow


def alive(pid: int) -> bool:
    try:
        return ") Z" not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


@pytest.mark.parametrize("acks", [-1, 1])
@pytest.mark.parametrize("by_front", [True, False])
def test_a_worker_killed_under_load_loses_and_doubles_nothing(
    broker: Broker, client: RawClient, topic: str, acks: int, by_front: bool
) -> None:
    client.create(topic)
    owner = owner_of(client, topic, 0)
    writer = Writer(client, topic, acks=acks)
    with RawClient(broker.server if by_front else direct(broker, owner)) as dialled:
        dialled.set_timeout_ms(ANSWER_MS)
        writer.client = dialled
        for _ in range(3):
            writer.write(40)
            writer.send()
            broker.kill(f"worker-{owner}")
            writer.take()
        writer.write(40)
        writer.check()


def test_a_burst_does_not_wait_for_the_clock_to_reach_the_disk() -> None:
    """What recovery must read and sync before it serves is bounded by bytes, not by how fast producers are."""
    settings = {"log.flush.interval.ms": 3_600_000, "log.recovery.point.bytes": 1 << 20}
    with Broker(settings) as broker, RawClient(broker.server) as client:
        client.create("burst")
        data = batch(1, size_bytes=400_000)
        for _ in range(8):
            client.ask(m.ProduceAnswer, m.Produce("burst", 0, acks=1), data)
        path = broker.data_dir / "burst-0" / "recovery-point"

        def point() -> RecoveryPoint:
            found = RecoveryPoint.parse(path.read_bytes())
            assert found is not None
            return found

        broker.wait_until(lambda: path.exists() and point().offset >= 6)


def test_the_other_workers_partitions_never_stop(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic, 2)
    dying, living = owner_of(client, topic, 0), owner_of(client, topic, 1)
    assert dying != living
    with RawClient(direct(broker, living)) as door:
        for number in range(400):
            if number % 100 == 50:
                broker.kill(f"worker-{dying}")
            offset = client.ask(m.ProduceAnswer, m.Produce(topic, 1, acks=1), batch(1)).base_offset
            assert offset == 2 * number
            assert door.ask(m.ProduceAnswer, m.Produce(topic, 1), batch(1)).base_offset == offset + 1
    broker.wait_until(lambda: broker.is_ready(f"worker-{dying}"))


def test_a_dead_coordinator_stops_no_records(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic, 2)
    for number in range(300):
        if number % 100 == 50:
            broker.kill("coordinator")
        for partition in (0, 1):
            answer = client.ask(m.ProduceAnswer, m.Produce(topic, partition, acks=1), batch(1))
            assert answer.base_offset == number
    broker.wait_until(lambda: broker.is_ready("coordinator"))


def test_a_front_killed_under_load_loses_and_doubles_nothing(broker: Broker, client: RawClient, topic: str) -> None:
    client.create(topic)
    writer = Writer(client, topic)
    parked = RawClient(broker.server)
    with parked:
        for _ in range(50):
            parked.send(m.Fetch([m.FetchPartition(topic, 0, 10_000_000)], max_wait_ms=60_000))
        for _ in range(2):
            writer.write(40)
            writer.send()
            broker.kill_and_wait("front")
            writer.take()
    writer.write(40)
    writer.check()


def test_all_killed_at_once_lose_nothing_that_was_acknowledged(topic: str) -> None:
    with Broker(workers=2) as broker:
        with RawClient(broker.server) as client:
            client.create(topic, 4)
        written = dict.fromkeys(range(4), 0)
        for _ in range(3):
            with RawClient(broker.server) as client:
                for number in range(200):
                    partition = number % 4
                    client.produce(topic, batch(1), partition=partition, acks=1 if number % 3 else -1)
                    written[partition] += 1
            broker.kill_all()
            broker.start()
        with RawClient(broker.server) as client:
            assert {partition: len(client.records(topic, partition)) for partition in range(4)} == written


def test_a_killed_supervisor_takes_all_along_and_a_successor_serves_at_once(topic: str) -> None:
    with Broker(workers=2) as broker:
        with RawClient(broker.server) as client:
            client.create(topic, 2)
            client.produce(topic, batch(3))
        pids = [process["pid"] for process in broker.processes().values()]
        dead = broker.process
        assert dead is not None
        assert dead.stdout is not None
        os.kill(broker.pid("supervisor"), signal.SIGKILL)
        broker.start()
        dead.wait()
        dead.stdout.close()
        broker.wait_until(lambda: not any(alive(pid) for pid in pids))
        with RawClient(broker.server) as client:
            assert client.produce(topic, batch(1)).base_offset == 3


@pytest.mark.parametrize("name", ["worker-0", "coordinator"])
def test_a_process_that_hangs_is_replaced(topic: str, name: str) -> None:
    with Broker({"process.heartbeat.timeout.ms": "500"}) as broker, RawClient(broker.server) as client:
        client.create(topic)
        client.produce(topic, batch(2))
        broker.kill(name, signal.SIGSTOP)
        broker.wait_until(lambda: broker.processes()[name]["restarts"] >= 1 and broker.is_ready(name))
        assert client.produce(topic, batch(1)).base_offset == 2
        client.create(topic + "-2")
        assert "is hung: no answer" in broker.log


@pytest.mark.slow
def test_coordinator_and_worker_killed_together_with_many_partitions(topic: str) -> None:
    with Broker(workers=2) as broker, RawClient(broker.server) as client:
        client.create(topic, 200)
        for partition in range(0, 200, 20):
            client.produce(topic, batch(2), partition=partition)
        for killed in (("worker-0", "coordinator"), ("coordinator", "worker-0", "worker-1"), ("worker-1", "front")):
            for name in killed:
                broker.kill(name)
            # Answered only when every worker that lives has opened it, whichever snapshot it began with.
            name = f"{topic}-{len(killed)}-{killed[0]}"
            request = m.CreateTopics([m.NewTopic(name, 2)])
            client.socket.setsockopt(zmq.RCVTIMEO, ANSWER_MS)
            ask_again(client, request)
            for partition in (0, 1):
                assert client.produce(name, batch(1), partition=partition).base_offset == 0
        broker.wait_until(lambda: all(process["ready"] for process in broker.processes().values()))
        for partition in range(0, 200, 20):
            assert len(client.records(topic, partition)) == 2
        assert "out of service" not in broker.log


def test_who_dialled_the_dead_reaches_their_successors(topic: str) -> None:
    with Broker(workers=2) as broker, RawClient(broker.server) as client:
        client.socket.setsockopt(zmq.RCVTIMEO, ANSWER_MS)
        for number, names in enumerate([("front", "worker-1"), ("coordinator", "worker-0"), ("worker-0", "front")] * 3):
            for name in names:
                broker.kill(name)
            name = f"{topic}-{number}"
            ask_again(client, m.CreateTopics([m.NewTopic(name, 2)]))
            for partition in (0, 1):
                while True:
                    try:
                        client.produce(name, batch(1), partition=partition)
                    except zmq.Again:
                        continue
                    break


def ask_again(client: RawClient, request: m.CreateTopics) -> None:
    """Ask until it is answered: what a front took with it when it died has no answer."""
    while True:
        try:
            client.ask_until_served(m.TopicResults, request)
        except zmq.Again:
            continue
        return


def test_a_drain_answers_what_waits_and_closes_cleanly(topic: str) -> None:
    with Broker(workers=2) as broker:
        with RawClient(broker.server) as client:
            client.create(topic, 2)
            for partition in (0, 1):
                client.produce(topic, batch(5), partition=partition, acks=1)
            parked = client.send(m.Fetch([m.FetchPartition(topic, 0, 5)], max_wait_ms=60_000))
            sent = [client.send(m.Produce(topic, number % 2), batch(1)) for number in range(20)]
            client.take(sent[-1])
            assert broker.stop() == 0
            answer = codec.decode_answer(m.FetchAnswer, client.take(parked)[0])
            assert answer.partitions[0].error == 0
        marks = list(broker.data_dir.glob(f"{topic}-*/clean-shutdown"))
        assert len(marks) == 2
        broker.start()
        with RawClient(broker.server) as client:
            assert [len(client.records(topic, partition)) for partition in (0, 1)] == [15, 15]
        assert "recovered" not in broker.log
