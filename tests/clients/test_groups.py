"""Consumer(group=…) against a broker: partitions shared, handed over, taken over; offsets committed."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from kbroker import (
    Admin,
    Consumer,
    ConsumerRebalanceListener,
    OffsetAndMetadata,
    Producer,
    TopicPartition,
)
from kbroker.clients.records import NewTopic
from kbroker.errors import (
    ConfigError,
    GroupIdNotFound,
    InvalidRegularExpression,
    NonEmptyGroup,
    UnknownMemberId,
    UnknownTopicOrPartition,
    UnsupportedAssignor,
)
from kbroker.testing import Broker

pytestmark = pytest.mark.slow

PATIENCE_S = 20
SETTINGS = {
    "log.retention.ms": -1,
    "group.consumer.heartbeat.interval.ms": 100,
    "group.consumer.session.timeout.ms": 1_500,
}
EXAMPLE = Path(__file__).parents[2] / "clients" / "examples" / "worker_pool.py"


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    """With heartbeats and sessions that are short enough for tests."""
    with Broker(SETTINGS, workers=2) as running:
        yield running


@pytest.fixture
def name(broker: Broker, request: pytest.FixtureRequest) -> str:
    """A topic of six partitions; groups take the same name."""
    name: str = request.node.name.replace("[", "-").replace("]", "")
    with Admin(broker.server) as admin:
        admin.create_topics([NewTopic(name, 6)])
    return name


def partitions(name: str, *numbers: int) -> set[TopicPartition]:
    return {TopicPartition(name, number) for number in numbers or range(6)}


def fill(broker: Broker, name: str, count: int, start: int = 0) -> None:
    with Producer(broker.server) as producer:
        for number in range(start, start + count):
            producer.send(name, b"%d" % number, partition=number % 6)
        producer.flush(30)


class Member:
    """A consumer that is polled all the time by a thread of its own; `seen` has what it got, in order."""

    def __init__(self, broker: Broker, group: str, **options: Any) -> None:
        self.seen: list[int] = []
        self.error: BaseException | None = None
        self.events: list[tuple[str, frozenset[TopicPartition]]] = []
        self.consumer = Consumer(server=broker.server, group=group, auto_offset_reset="earliest", **options)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self, topics: Collection[str] = (), pattern: str = "") -> Member:
        self.consumer.subscribe(topics, pattern=pattern, listener=Noting(self))
        self._thread.start()
        return self

    def _run(self) -> None:
        try:
            while not self._over.is_set():
                for records in self.consumer.poll(50).values():
                    self.seen += [int(record.value) for record in records]
        except BaseException as error:
            self.error = error

    @property
    def owned(self) -> set[TopicPartition]:
        return self.consumer.assignment()

    def stop(self, close: bool = True) -> None:
        self._over.set()
        self._thread.join(PATIENCE_S)
        if close:
            self.consumer.close()
        if self.error is not None:
            raise self.error

    def __enter__(self) -> Member:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join(PATIENCE_S)
        self.consumer.close()


class Noting(ConsumerRebalanceListener):
    def __init__(self, member: Member) -> None:
        self.events = member.events

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self.events.append(("revoked", frozenset(revoked)))

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self.events.append(("assigned", frozenset(assigned)))

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        self.events.append(("lost", frozenset(lost)))


def wait_until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "what the test waits for did not come"
        time.sleep(0.01)  # between two looks


def shared(name: str, *members: Member) -> bool:
    """Whether the members have all partitions between them, evenly, each but once."""
    owned = [tp for member in members for tp in member.owned]
    sizes = [len(member.owned) for member in members]
    return len(owned) == 6 and set(owned) == partitions(name) and max(sizes) - min(sizes) <= 1


class TestSharing:
    def test_one_member_reads_everything(self, broker: Broker, name: str) -> None:
        fill(broker, name, 60)
        with Consumer(name, server=broker.server, group=name, auto_offset_reset="earliest") as consumer:
            seen: list[int] = []
            while len(seen) < 60:
                found = consumer.poll(PATIENCE_S * 1000)
                assert found
                seen += [int(record.value) for records in found.values() for record in records]
            assert sorted(seen) == list(range(60))
            assert consumer.assignment() == partitions(name)
            assert consumer.subscription() == {name}
            assert consumer.transport == "shm"

    def test_only_what_moves_is_interrupted(self, broker: Broker, name: str) -> None:
        with Member(broker, name).start([name]) as first:
            wait_until(lambda: first.owned == partitions(name))
            with Member(broker, name).start([name]) as second:
                wait_until(lambda: shared(name, first, second))
                (assigned, (what, moved)) = first.events
                assert assigned == ("assigned", frozenset(partitions(name)))
                assert what == "revoked"
                assert moved == second.owned
                fill(broker, name, 60)
                wait_until(lambda: len(first.seen) + len(second.seen) == 60)
                assert sorted(first.seen + second.seen) == list(range(60))
                second.stop()
                # Who leaves in good order is not waited for.
                wait_until(lambda: first.owned == partitions(name))
                fill(broker, name, 60, start=60)
                wait_until(lambda: len(first.seen) + len(second.seen) == 120)
                assert sorted(first.seen + second.seen) == list(range(120))
            assert ("lost", frozenset()) not in first.events

    def test_topics_by_pattern_come_in_as_they_are_made(self, broker: Broker, name: str) -> None:
        with Member(broker, name).start(pattern=f"{name}(-more)?") as member:
            wait_until(lambda: member.owned == partitions(name))
            with Admin(broker.server) as admin:
                admin.create_topics([NewTopic(f"{name}-more", 1), NewTopic(f"{name}-other", 1)])
            wait_until(lambda: member.owned == partitions(name) | {TopicPartition(f"{name}-more", 0)})

    def test_more_partitions_and_a_deleted_topic(self, broker: Broker, name: str) -> None:
        with Member(broker, name).start([name]) as member, Admin(broker.server) as admin:
            wait_until(lambda: member.owned == partitions(name))
            admin.create_partitions({name: 8})
            wait_until(lambda: member.owned == partitions(name, *range(8)))
            admin.delete_topics([name])
            wait_until(lambda: not member.owned)

    def test_a_deleted_topic_costs_the_others_neither_time_nor_their_commits(
        self, broker: Broker, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        gone = f"{name}-gone"
        with (
            Admin(broker.server) as admin,
            Consumer(name, gone, server=broker.server, group=name, auto_offset_reset="earliest") as consumer,
        ):
            admin.create_topics([NewTopic(gone, 6)])
            fill(broker, name, 6)
            fill(broker, gone, 6)
            seen = 0
            while seen < 12:
                seen += sum(map(len, consumer.poll(PATIENCE_S * 1000).values()))
            admin.delete_topics([gone])
            with pytest.raises(UnknownTopicOrPartition):
                consumer.commit()
            assert sum(at.offset for at in map(consumer.committed, partitions(name)) if at is not None) == 6
            while any(tp.topic == gone for tp in consumer.assignment()):
                consumer.poll(100)
        assert "given up uncommitted" not in caplog.text

    def test_another_subscription(self, broker: Broker, name: str) -> None:
        with Admin(broker.server) as admin:
            admin.create_topics([NewTopic(f"{name}-2", 1)])
        with Consumer(name, server=broker.server, group=name) as consumer:
            wait_until(lambda: consumer.poll(10) is not None and consumer.assignment() == partitions(name))
            consumer.subscribe([f"{name}-2"])
            other = {TopicPartition(f"{name}-2", 0)}
            wait_until(lambda: consumer.poll(10) is not None and consumer.assignment() == other)
            consumer.unsubscribe()
            assert consumer.assignment() == set()
            consumer.subscribe([name])
            wait_until(lambda: consumer.poll(10) is not None and consumer.assignment() == partitions(name))


class TestDeath:
    def test_a_silent_members_partitions_are_taken_over(self, broker: Broker, name: str) -> None:
        code = (
            "import sys; from kbroker import Consumer\n"
            "consumer = Consumer(sys.argv[1], server=sys.argv[2], group=sys.argv[1], auto_offset_reset='earliest')\n"
            "while True:\n"
            "    consumer.poll(50)\n"
            "    if len(consumer.assignment()) == 3: print('half', flush=True)\n"
        )
        with Member(broker, name).start([name]) as member:
            wait_until(lambda: member.owned == partitions(name))
            command = [sys.executable, "-c", code, name, broker.server]
            with subprocess.Popen(command, stdout=subprocess.PIPE) as other:
                assert other.stdout is not None
                assert other.stdout.readline() == b"half\n"
                assert len(member.owned) == 3
                kept = member.owned
                other.kill()
            wait_until(lambda: member.owned == partitions(name))
            # A member's death moves only its own.
            assert ("assigned", frozenset(partitions(name) - kept)) == member.events[-1]
            assert [what for what, _ in member.events] == ["assigned", "revoked", "assigned"]

    def test_who_polls_too_seldom_loses_everything_and_comes_back(
        self, broker: Broker, name: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        with (
            caplog.at_level(logging.WARNING, "kbroker"),
            Consumer(server=broker.server, group=name, max_poll_interval_ms=400) as consumer,
            Admin(broker.server) as admin,
        ):
            member = Events()
            consumer.subscribe([name], listener=member)
            wait_until(lambda: consumer.poll(10) is not None and consumer.assignment() == partitions(name))
            consumer.commit({TopicPartition(name, 0): 0})
            wait_until(lambda: not admin.describe_consumer_groups([name])[0].members)
            assert "max_poll_interval_ms" in caplog.text
            with pytest.raises(UnknownMemberId, match="no member"):
                consumer.commit({TopicPartition(name, 0): 0})
            wait_until(lambda: consumer.poll(10) is not None and len(member.events) == 3)
            assert member.events == [
                ("assigned", partitions(name)), ("lost", partitions(name)), ("assigned", partitions(name)),
            ]  # fmt: skip

    def test_slow_work_within_an_iteration_is_no_silence(self, broker: Broker, name: str) -> None:
        fill(broker, name, 6)
        with Consumer(
            name, server=broker.server, group=name, auto_offset_reset="earliest", max_poll_interval_ms=600,
        ) as consumer:  # fmt: skip
            begin = time.monotonic()
            for number, _ in enumerate(consumer, 1):
                time.sleep(0.2)  # the work: long in all, but each piece is short
                if number == 6:
                    break
            assert time.monotonic() - begin > 0.6
            consumer.commit()

    def test_a_static_member_comes_back_to_its_place(self, broker: Broker, name: str) -> None:
        with Member(broker, name, group_instance_id="one").start([name]) as one:
            wait_until(lambda: one.owned == partitions(name))
            with Member(broker, name, group_instance_id="two").start([name]) as two:
                wait_until(lambda: shared(name, one, two))
                before, events = two.owned, list(one.events)
                two.stop()
                with Member(broker, name, group_instance_id="two").start([name]) as again:
                    wait_until(lambda: again.owned == before)
                    assert one.events == events, "nobody else was disturbed"

    @pytest.mark.parametrize("process", ["coordinator", "front", "worker-0"])
    def test_a_killed_process_costs_no_record(self, broker: Broker, name: str, process: str) -> None:
        with Member(broker, name).start([name]) as first, Member(broker, name).start([name]) as second:
            wait_until(lambda: shared(name, first, second))
            fill(broker, name, 300)
            broker.kill(process)
            fill(broker, name, 300, start=300)
            wait_until(lambda: len({*first.seen, *second.seen}) == 600)
            wait_until(lambda: shared(name, first, second))
            assert not any(what == "lost" for what, _ in first.events + second.events)

    def test_workers_that_are_restarted_in_turn_cost_no_record(self, broker: Broker, name: str) -> None:
        jobs = Jobs(broker, name)
        try:
            with Member(broker, name).start([name]) as first, Member(broker, name).start([name]) as second:
                wait_until(lambda: shared(name, first, second))
                for process in ("worker-0", "worker-1", "worker-0", "worker-1"):
                    seen = len(first.seen) + len(second.seen)
                    broker.kill_and_wait(process)
                    wait_until(lambda seen=seen: len(first.seen) + len(second.seen) > seen + 12)  # type: ignore[misc]
                jobs.enough()
                wait_until(lambda: {*first.seen, *second.seen} == set(range(jobs.total or 0)))
                assert not any(what == "lost" for what, _ in first.events + second.events)
        finally:
            jobs.enough()


class Events(ConsumerRebalanceListener):
    def __init__(self) -> None:
        self.events: list[tuple[str, set[TopicPartition]]] = []

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        self.events.append(("revoked", set(revoked)))

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        self.events.append(("assigned", set(assigned)))

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        self.events.append(("lost", set(lost)))


class TestOffsets:
    def test_commits_are_gone_on_from(self, broker: Broker, name: str) -> None:
        fill(broker, name, 12)
        place = TopicPartition(name, 3)
        with Consumer(server=broker.server, group=name, enable_auto_commit=False) as consumer:
            consumer.assign([place])
            assert consumer.committed(place) is None
            consumer.commit({place: OffsetAndMetadata(1, "half")})
            assert consumer.committed(place) == OffsetAndMetadata(1, "half", -1)
        with Consumer(server=broker.server, group=name, auto_offset_reset="none", enable_auto_commit=False) as consumer:
            consumer.assign([place])
            assert consumer.position(place) == 1
            (records,) = consumer.poll(PATIENCE_S * 1000).values()
            assert [int(record.value) for record in records] == [9]
            consumer.commit()
            committed = consumer.committed(place)
            assert committed is not None
            assert (committed.offset, committed.leader_epoch) == (2, records[-1].leader_epoch)

    def test_automatic_commits(self, broker: Broker, name: str) -> None:
        fill(broker, name, 60)
        with (
            Member(broker, name, auto_commit_interval_ms=50).start([name]) as member,
            Admin(broker.server) as admin,
        ):
            wait_until(lambda: len(member.seen) == 60)
            expected = dict.fromkeys(partitions(name), 10)
            wait_until(
                lambda: {tp: at.offset for tp, at in admin.list_consumer_group_offsets(name).items()} == expected
            )

    def test_close_commits_what_was_given(self, broker: Broker, name: str) -> None:
        fill(broker, name, 60)
        with Member(broker, name) as member:
            member.start([name])
            wait_until(lambda: len(member.seen) == 60)
        with Admin(broker.server) as admin:
            offsets = admin.list_consumer_group_offsets(name)
            assert {tp: at.offset for tp, at in offsets.items()} == dict.fromkeys(partitions(name), 10)

    def test_an_asynchronous_commit_tells_how_it_went(self, broker: Broker, name: str) -> None:
        with Consumer(name, server=broker.server, group=name, enable_auto_commit=False) as consumer:
            wait_until(lambda: consumer.poll(10) is not None and consumer.assignment() == partitions(name))
            told: list[object] = []
            consumer.commit_async({TopicPartition(name, 1): 7}, lambda offsets, error: told.append((offsets, error)))
            consumer.commit_async({TopicPartition("nothing", 1): 7}, lambda _, error: told.append(type(error)))
            wait_until(lambda: consumer.poll(10) is not None and len(told) == 2)
            assert told == [({TopicPartition(name, 1): OffsetAndMetadata(7)}, None), UnknownTopicOrPartition]

    def test_a_lower_offset_is_accepted(self, broker: Broker, name: str) -> None:
        place = TopicPartition(name, 0)
        with Consumer(server=broker.server, group=name) as consumer:
            for offset in (9, 2):
                consumer.commit({place: offset})
                found = consumer.committed(place)
                assert found is not None
                assert found.offset == offset


class TestAdmin:
    def test_groups_from_first_member_to_deletion(self, broker: Broker, name: str) -> None:
        with Admin(broker.server) as admin:
            with pytest.raises(GroupIdNotFound, match=name):
                admin.describe_consumer_groups([name])
            with Member(broker, name, client_id="a-client").start([name]) as member:
                wait_until(lambda: member.owned == partitions(name))
                wait_until(lambda: admin.describe_consumer_groups([name])[0].state == "Stable")
                (group,) = admin.describe_consumer_groups([name])
                (described,) = group.members
                assert (group.type, described.client_id, described.topics) == ("consumer", "a-client", [name])
                assert described.member_id == member.consumer.member_id
                assert set(described.assignment) == set(described.target) == partitions(name)
                assert name in [one.group for one in admin.list_consumer_groups(["stable"], ["consumer"])]
                assert name not in [one.group for one in admin.list_consumer_groups(["empty"])]
                with pytest.raises(NonEmptyGroup, match="members"):
                    admin.delete_consumer_groups([name])
                with pytest.raises(UnknownMemberId, match="members"):
                    admin.alter_consumer_group_offsets(name, {TopicPartition(name, 0): 1})
            admin.alter_consumer_group_offsets(name, {TopicPartition(name, 0): 1, TopicPartition(name, 1): 2})
            admin.delete_consumer_group_offsets(name, [TopicPartition(name, 0)])
            assert TopicPartition(name, 0) not in admin.list_consumer_group_offsets(name)
            admin.delete_consumer_groups([name])
            assert name not in [one.group for one in admin.list_consumer_groups()]
            assert admin.list_consumer_group_offsets(name) == {}

    def test_what_is_refused_says_why(self, broker: Broker, name: str) -> None:
        with Consumer(server=broker.server, group=name, partition_assignor="best") as consumer:
            consumer.subscribe([name])
            with pytest.raises(UnsupportedAssignor, match="best"):
                wait_until(lambda: consumer.poll(50) is None)
        with Consumer(server=broker.server, group=name) as consumer:
            consumer.subscribe(pattern="(")
            with pytest.raises(InvalidRegularExpression, match=r"\("):
                wait_until(lambda: consumer.poll(50) is None)
        with Consumer(server=broker.server) as consumer:
            with pytest.raises(ConfigError, match="group"):
                consumer.subscribe([name])
            with pytest.raises(ConfigError, match="group"):
                consumer.commit()


class Jobs:
    """Numbered jobs, a few at a time, until `enough` is called; then a last few hundred."""

    def __init__(self, broker: Broker, name: str) -> None:
        self.total: int | None = None
        self._enough = threading.Event()
        self._thread = threading.Thread(target=self._feed, args=(broker, name))
        self._thread.start()

    def _feed(self, broker: Broker, name: str) -> None:
        count = 0
        while not self._enough.wait(0.02):  # the pace of the jobs
            fill(broker, name, 12, start=count)
            count += 12
        self.total = count + 300
        fill(broker, name, 300, start=count)

    def enough(self) -> None:
        self._enough.set()
        self._thread.join(PATIENCE_S)


class TestWorkerPool:
    @pytest.mark.parametrize("commit", ["after-work", "automatic"])
    def test_a_killed_workers_jobs_are_done_by_the_others(self, broker: Broker, name: str, commit: str) -> None:
        command = [sys.executable, str(EXAMPLE), name, "--group", name, "--workers", "3", "--commit", commit]
        environment = {**os.environ, "KBROKER_SERVER": broker.server, "PYTHONPATH": str(EXAMPLE.parents[2])}
        done: dict[int, set[int]] = {}
        orders: dict[tuple[int, int], list[int]] = {}
        killed = 0
        jobs = Jobs(broker, name)
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, start_new_session=True) as pool:
            assert pool.stdout is not None
            try:
                for line in pool.stdout:
                    pid, partition, offset, job = map(int, line.split())
                    done.setdefault(pid, set()).add(job)
                    orders.setdefault((pid, partition), []).append(offset)
                    if not killed and len(done) == 3 and len(done[pid]) >= 5:
                        killed = pid
                        os.kill(pid, signal.SIGKILL)
                        jobs.enough()
                    if len(set().union(*done.values())) == jobs.total:
                        break
                pool.terminate()
                assert pool.wait(PATIENCE_S) == 0
            finally:
                jobs.enough()
                os.killpg(pool.pid, signal.SIGKILL)
        assert killed
        assert all(offsets == sorted(set(offsets)) for offsets in orders.values()), "each worker goes forward"
