"""Anything may happen to groups, in any order: members come, go, die and sleep, commits, crashes at any point, stores
that fail. What must always hold is asserted after each step; in the end everything settles."""

from __future__ import annotations

import itertools
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from kbroker.groups import group_records
from kbroker.groups.effects import Effects, Record, Reply
from kbroker.groups.events import (
    CommitOffsets,
    CommitOffsetsResult,
    DescribeGroup,
    LeaveGroup,
    LeavingMember,
    OffsetToCommit,
    SyncGroup,
    SyncGroupResult,
)
from kbroker.groups.groups import Groups
from kbroker.groups.settings import GroupSettings
from tests.groups.consumers import Consumer, TopicPartition
from tests.groups.coordinator import START_MS, FakeTopics

pytestmark = pytest.mark.slow

GROUPS = ("g", "h")
PLACES = [("a", 0), ("a", 1), ("b", 0)]
COORDINATOR_NOT_AVAILABLE = 15


class GroupsMachine(RuleBasedStateMachine):
    """The driver's rules are kept: replies go out after the records before them are durable, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.topics = FakeTopics(a=3, b=1)
        self.now_ms = START_MS
        self.log: list[Record] = []
        self.unstored: list[tuple[str, Effects]] = []
        self.wakes: dict[str, int] = {}
        self.tokens = itertools.count()
        self.numbers = itertools.count()
        self.open: dict[int, Any] = {}
        """Requests without an answer: their events, by token."""
        self.consumers: dict[int, Consumer] = {}
        self.asked_by: dict[int, int] = {}
        self.lives: dict[str, int] = defaultdict(int)
        """How often a group was forgotten: it begins at generation 1 again then."""
        self.owners: dict[tuple[str, int, int, TopicPartition], str] = {}
        self.commits: dict[tuple[str, TopicPartition], list[int]] = defaultdict(lambda: [-1])
        """What may be stored: the commit that was acknowledged last, and those asked for since then."""
        self.commit_of: dict[int, tuple[str, TopicPartition, int]] = {}

    @initialize(
        delay_ms=st.sampled_from([0, 3_000]),
        instances=st.lists(
            st.sampled_from([None, None, "i", "j"]), max_size=4, unique_by=lambda name: name or object()
        ),
        settled=st.booleans(),
    )
    def begin(self, delay_ms: int, instances: list[str | None], settled: bool) -> None:
        self.group_settings = GroupSettings(initial_rebalance_delay_ms=delay_ms)
        self.groups = Groups(self.group_settings, self.topics)
        for instance in instances:
            self.a_consumer_comes("g", ("a", "b"), instance, True, True)
        if settled:
            self.a_while_passes(20)

    # --- the driver ---

    def give(self, event: Any) -> None:
        self.open[event.token] = event
        self.perform(event.group_id, self.groups.handle(event, self.now_ms))

    def perform(self, group_id: str, effects: Effects) -> None:
        if effects.wake_ms is not None:
            self.wakes[group_id] = effects.wake_ms
        self.unstored.append((group_id, effects))

    def store(self, count: int) -> None:
        """The first so many become durable."""
        done, self.unstored = self.unstored[:count], self.unstored[count:]
        for _, effects in done:
            self.log += effects.records
            for record in effects.records:
                found = group_records.decode(record)
                if found is not None and found[1] is None:
                    self.lives[found[0]] += 1
            self.send(effects.replies)

    def send(self, replies: list[Reply]) -> None:
        for reply in replies:
            event = self.open.pop(reply.token)  # KeyError: answered twice
            if reply.token in self.commit_of:
                self._committed(reply)
            consumer = self.consumers.get(self.asked_by.pop(reply.token, -1))
            if consumer is None or consumer.asked is not event:
                continue
            if isinstance(reply.message, SyncGroupResult) and reply.message.error_code == 0:
                self._now_owns(consumer, reply.message)
            consumer.take(reply.message)

    def _now_owns(self, consumer: Consumer, answer: SyncGroupResult) -> None:
        """Each partition has one owner in a generation, wherever a crash or a failed store came between."""
        generation = consumer.generation_id
        again = Consumer(-1, consumer.group_id, ())
        again.take(answer)
        who = consumer.instance_id or consumer.member_id
        for partition in again.owned:
            key = (consumer.group_id, self.lives[consumer.group_id], generation, partition)
            assert self.owners.setdefault(key, who) == who, f"{key} is owned by {self.owners[key]} and {who}"

    def _committed(self, reply: Reply) -> None:
        group_id, place, offset = self.commit_of.pop(reply.token)
        assert isinstance(reply.message, CommitOffsetsResult)
        (code,) = reply.message.error_codes
        may_be = self.commits[group_id, place]
        if code == 0:
            del may_be[: may_be.index(offset)]
        elif code != COORDINATOR_NOT_AVAILABLE:
            may_be.remove(offset)  # refused: it must not be there

    def tick_until(self, end_ms: int) -> None:
        for _ in range(1_000):
            due = [(at_ms, group_id) for group_id, at_ms in self.wakes.items() if at_ms <= end_ms]
            if not due:
                self.now_ms = end_ms
                return
            at_ms, group_id = min(due)
            self.now_ms = max(self.now_ms, at_ms)
            del self.wakes[group_id]
            self.perform(group_id, self.groups.tick(group_id, self.now_ms))
        raise AssertionError("a group asks to be woken without end")

    # --- what may happen ---

    @rule(
        group=st.sampled_from(GROUPS),
        topics=st.sampled_from([("a",), ("b",), ("a", "b")]),
        instance=st.sampled_from([None, None, "i", "j"]),
        knows=st.booleans(),
        skips=st.booleans(),
    )
    def a_consumer_comes(
        self, group: str, topics: tuple[str, ...], instance: str | None, knows: bool, skips: bool
    ) -> None:
        number = next(self.numbers)
        consumer = Consumer(number, group, topics, instance, knows, skips, counts=self.topics.counts)
        self.consumers[number] = consumer
        self._act(consumer)

    @precondition(lambda self: self.consumers)
    @rule(data=st.data())
    def one_acts(self, data: st.DataObject) -> None:
        self._act(self._one(data))

    @rule(but=st.integers(0, 3))
    def all_act(self, but: int | None = None) -> None:
        """All but one, for whom the others may have to wait."""
        for number, consumer in enumerate(list(self.consumers.values())):
            if number != but:
                self._act(consumer)

    @rule(rounds=st.integers(1, 16), slow_leaders=st.booleans())
    def a_while_passes(self, rounds: int, slow_leaders: bool = False) -> None:
        """Nothing special happens; or leaders take their time to assign, and the others wait."""
        for _ in range(rounds):
            self._store_all()
            self.tick_until(self.now_ms + 500)
            for consumer in list(self.consumers.values()):
                if not (slow_leaders and consumer.is_about_to_assign):
                    self._act(consumer)

    @precondition(lambda self: self.consumers)
    @rule(data=st.data(), politely=st.booleans(), waiting=st.booleans())
    def one_goes(self, data: st.DataObject, politely: bool, waiting: bool) -> None:
        consumer = self._one(data, waiting)
        del self.consumers[consumer.number]
        if politely and consumer.member_id:
            leaving = LeavingMember(consumer.member_id, consumer.instance_id)
            self.give(LeaveGroup(consumer.group_id, next(self.tokens), (leaving,)))

    @precondition(lambda self: self.consumers)
    @rule(data=st.data(), topics=st.sampled_from([("a",), ("b",), ("a", "b")]))
    def one_subscribes_anew(self, data: st.DataObject, topics: tuple[str, ...]) -> None:
        consumer = self._one(data)
        consumer.topics = topics
        consumer.stable = False

    @rule(ms=st.sampled_from([0, 1, 2_999, 3_000, 10_000, 20_000, 45_000]))
    def time_passes(self, ms: int) -> None:
        self.tick_until(self.now_ms + ms)

    @precondition(lambda self: self.consumers)
    @rule(data=st.data(), place=st.sampled_from(PLACES), offset=st.integers(0, 5))
    def one_commits(self, data: st.DataObject, place: TopicPartition, offset: int) -> None:
        consumer = self._one(data)
        if consumer.member_id:
            self._commit(
                consumer.group_id, consumer.member_id, consumer.instance_id, consumer.generation_id, place, offset
            )

    @rule(group=st.sampled_from(GROUPS), place=st.sampled_from(PLACES), offset=st.integers(0, 5))
    def somebody_else_commits(self, group: str, place: TopicPartition, offset: int) -> None:
        self._commit(group, "", None, -1, place, offset)

    @precondition(lambda self: self.unstored)
    @rule(data=st.data())
    def some_are_stored(self, data: st.DataObject) -> None:
        self.store(data.draw(st.integers(1, len(self.unstored))))

    @rule()
    def all_are_stored(self) -> None:
        self._store_all()

    @rule()
    def storing_fails(self) -> None:
        """All that has no answer yet is refused, and groups are what is durable."""
        refused, self.open = self.open, {}
        self.unstored.clear()
        self.wakes.clear()
        self.groups = self._replayed(self.log)
        for event in refused.values():
            self.open[event.token] = event
            self.send([Reply(event.token, event.refused(COORDINATOR_NOT_AVAILABLE))])

    @rule()
    def the_coordinator_crashes(self) -> None:
        """What was not stored is lost, and every connection with it."""
        self.unstored.clear()
        self.open.clear()
        self.wakes.clear()
        self.asked_by.clear()
        self.commit_of.clear()
        self.groups = self._replayed(self.log)
        for consumer in self.consumers.values():
            consumer.disconnected()

    # --- what must hold ---

    @invariant()
    def only_acknowledged_or_later_commits_are_stored(self) -> None:
        for (group_id, place), may_be in self.commits.items():
            known = self.groups.offsets_of(group_id).get(place)
            assert (known.offset if known is not None else -1) in may_be

    @invariant()
    def the_log_gives_the_same_state(self) -> None:
        everything = self.log + [record for _, effects in self.unstored for record in effects.records]
        again = Groups(self.group_settings, self.topics)
        for record in everything:
            again.replay(record, self.now_ms)
        again.loaded(self.now_ms)
        for group_id in GROUPS:
            assert again.records(group_id) == self.groups.records(group_id)
            assert dict(again.offsets_of(group_id)) == dict(self.groups.offsets_of(group_id))
            listed = [each for each in self.groups.listed(["Stable", "Empty"]) if each.group_id == group_id]
            if listed and self.groups.records(group_id):
                asked = DescribeGroup(group_id, 0)
                described = self.groups.handle(asked, self.now_ms).replies
                assert again.handle(asked, self.now_ms).replies == described

    def teardown(self) -> None:
        if hasattr(self, "groups"):
            self._settle()
            self._nobody_is_left_waiting()

    def _settle(self) -> None:
        """With nothing in the way, every group is stable soon, and its partitions are all read."""
        self.a_while_passes(250)
        self._store_all()
        for group_id in GROUPS:
            consumers = [each for each in self.consumers.values() if each.group_id == group_id and not each.fenced]
            assert all(each.stable for each in consumers)
            assert len({each.generation_id for each in consumers}) <= 1
            owned = [partition for each in consumers for partition in each.owned]
            assert len(owned) == len(set(owned))
            assert all(topic in each.topics for each in consumers for topic, _ in each.owned)
            subscribed = {topic for each in consumers for topic in each.topics}
            wanted = {(topic, number) for topic in subscribed for number in range(self.topics.counts[topic])}
            assert set(owned) == wanted

    def _nobody_is_left_waiting(self) -> None:
        """Also those get an answer whose clients have gone; and what is left costs nothing."""
        self.consumers.clear()
        self.tick_until(self.now_ms + 700_000)
        self._store_all()
        assert self.open == {}
        assert {each.state for each in self.groups.listed()} <= {"Empty"}

    # --- small steps ---

    def _one(self, data: st.DataObject, waiting: bool = False) -> Consumer:
        """One of all, or of those who wait for an assignment where there are some."""
        some = sorted(number for number, each in self.consumers.items() if isinstance(each.asked, SyncGroup))
        return self.consumers[data.draw(st.sampled_from(some if waiting and some else sorted(self.consumers)))]

    def _act(self, consumer: Consumer) -> None:
        event = consumer.next_event(next(self.tokens))
        if event is not None:
            self.asked_by[event.token] = consumer.number
            self.give(event)

    def _commit(
        self,
        group_id: str,
        member_id: str,
        instance_id: str | None,
        generation_id: int,
        place: TopicPartition,
        offset: int,
    ) -> None:
        token = next(self.tokens)
        offset = offset * 1_000_000 + token  # all are different, and some are lower than before
        self.commits[group_id, place].append(offset)
        self.commit_of[token] = (group_id, place, offset)
        item = OffsetToCommit(*place, offset)
        self.give(CommitOffsets(group_id, token, member_id, instance_id, generation_id, (item,)))

    def _store_all(self) -> None:
        while self.unstored:
            self.store(len(self.unstored))

    def _replayed(self, log: list[Record]) -> Groups:
        groups = Groups(self.group_settings, self.topics)
        for record in log:
            groups.replay(record, self.now_ms)
        for group_id, effects in groups.loaded(self.now_ms):
            self.perform(group_id, effects)
        return groups


TestGroups = GroupsMachine.TestCase
TestGroups.settings = settings(
    max_examples=200, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
