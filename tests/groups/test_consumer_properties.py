"""Consumer groups under random joins, leaves, losses, restarts and topic changes: what must hold holds."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)

from kbroker.groups.assignment import Assignment, intersection, is_subset, partitions_of, union
from kbroker.groups.consumer import ConsumerGroup
from kbroker.groups.consumer_member import ConsumerMember
from kbroker.groups.groups import Groups
from kbroker.groups.settings import GroupSettings
from tests.groups.coordinator import GROUP
from tests.groups.kip848 import ClassicConsumer, Consumer, ConsumerCoordinator, Topics, settle

pytestmark = pytest.mark.slow

TOPICS = ("a", "b", "c")
HEARTBEAT_MS = 5_000
subscriptions = st.sampled_from([("a",), ("a", "b"), ("b", "c"), ("a", "b", "c"), ()])


class ConsumerGroups(RuleBasedStateMachine):
    """Honest consumers: answers get lost, requests arrive twice, revocations take their time, members crash."""

    alive = Bundle("alive")
    settings = GroupSettings(initial_rebalance_delay_ms=0)

    def __init__(self) -> None:
        super().__init__()
        self.topics = Topics(a=5, b=2)
        self.coordinator = ConsumerCoordinator(self.settings, self.topics)
        self.consumers: list[Consumer] = []
        self.classic_ones: list[ClassicConsumer] = []
        self.made = 0

    def _add(self, consumer: Consumer) -> Consumer:
        self.consumers.append(consumer)
        return consumer

    @rule(target=alive, topics=subscriptions, pattern=st.sampled_from([None, None, "[ac]", ".*"]), static=st.booleans())
    def start(self, topics: tuple[str, ...], pattern: str | None, static: bool) -> Consumer:
        self.made += 1
        name = f"m{self.made}"
        consumer = Consumer(self.coordinator, name, topics, pattern, f"i{self.made}" if static else None)
        consumer.beat()
        return self._add(consumer)

    @rule(
        consumer=alive,
        answer_is_lost=st.booleans(),
        full=st.booleans(),
        times=st.integers(1, 2),
    )
    def beat(self, consumer: Consumer, answer_is_lost: bool, full: bool, times: int) -> None:
        for _ in range(times - 1):  # the first answer of a request that was sent twice is lost
            consumer.beat(answer_is_lost=True, full=full)
        consumer.beat(answer_is_lost=answer_is_lost, full=full)

    @rule(consumer=alive)
    def give_up(self, consumer: Consumer) -> None:
        consumer.give_up()

    @rule(consumer=alive, topics=subscriptions)
    def subscribe(self, consumer: Consumer, topics: tuple[str, ...]) -> None:
        consumer.subscribe(*topics)

    @rule(consumer=consumes(alive))
    def leave(self, consumer: Consumer) -> None:
        consumer.leave()
        self.consumers.remove(consumer)

    @rule(target=alive, consumer=consumes(alive))
    def leave_and_come_back(self, consumer: Consumer) -> Consumer:
        """A static member's restart under another member id."""
        if consumer.instance_id is None:
            return consumer
        if consumer.epoch > 0:
            consumer.leave_for_a_moment()
        self.made += 1
        self.consumers.remove(consumer)
        return self._add(
            Consumer(self.coordinator, f"m{self.made}", consumer.topics, consumer.pattern, consumer.instance_id)
        )

    @rule(target=alive, consumer=consumes(alive))
    def crash(self, consumer: Consumer) -> object:
        """Nothing of it is heard any more."""
        self.consumers.remove(consumer)
        return multiple()

    @rule(consumer=alive)
    def fail_to_store(self, consumer: Consumer) -> None:
        """The disk refuses what a heartbeat changed; the client sees no more than that it failed."""
        self.coordinator.fail_to_store(consumer.request())
        consumer.reported = None

    @rule()
    def restart(self) -> None:
        self.coordinator.restart()

    @rule(name=st.sampled_from(TOPICS), count=st.integers(1, 6))
    def create_topic(self, name: str, count: int) -> None:
        if name not in self.topics.ids:
            self.topics.create(name, count)
            self.coordinator.topics_change(changed=[name])

    @rule(name=st.sampled_from(TOPICS), more=st.integers(1, 3))
    def grow_topic(self, name: str, more: int) -> None:
        if name in self.topics.ids:
            self.topics.counts[name] += more
            self.coordinator.topics_change(changed=[name])

    @rule(name=st.sampled_from(TOPICS))
    def delete_topic(self, name: str) -> None:
        if name in self.topics.ids:
            self.topics.delete(name)
            self.coordinator.topics_change(deleted=[name])

    @rule(steps=st.integers(1, 12))
    def time_passes(self, steps: int) -> None:
        """Who lives gives up what it should and is heard of in time; who crashed is put out."""
        for _ in range(steps):
            self.coordinator.advance(HEARTBEAT_MS)
            for consumer in self.everyone:
                consumer.give_up()
                consumer.beat()

    @property
    def everyone(self) -> list[Consumer | ClassicConsumer]:
        return [*self.consumers, *self.classic_ones]

    @precondition(lambda self: self.everyone)
    @rule()
    def settle(self) -> None:
        self.time_passes(40)  # the sessions of those who crashed end, and rebalances that wait for them
        settle(self.coordinator, self.everyone)
        wanted = Counter(p for c in self.everyone for p in partitions_of(self._read_by(c)))
        owned = {p for c in self.everyone for p in partitions_of(c.owned)}
        assert owned == set(wanted)
        assert all(is_subset(c.owned, self._read_by(c)) for c in self.everyone)
        alike = len({frozenset(self._read_by(c)) for c in self.everyone}) == 1
        if alike and self._members():  # classic leaders assign as they like
            loads = [sum(map(len, c.owned.values())) for c in self.everyone]
            assert max(loads) - min(loads) <= 1

    def _read_by(self, consumer: Consumer | ClassicConsumer) -> Assignment:
        by_pattern = {None: (), "[ac]": ("a", "c"), ".*": TOPICS}[consumer.pattern]
        return self.topics.all_of(*consumer.topics, *by_pattern)

    @invariant()
    def one_owner_each(self) -> None:
        """What clients believe."""
        owners = Counter(p for consumer in self.everyone for p in partitions_of(consumer.owned))
        assert all(count == 1 for count in owners.values()), owners

    @invariant()
    def nothing_is_free_that_is_read(self) -> None:
        members = {m.member_id: m for m in self._members()}
        held: Counter[tuple[bytes, int]] = Counter()
        for each in members.values():
            held.update(partitions_of(each.current.assigned))
            held.update(partitions_of(each.current.revoking))
        assert all(count == 1 for count in held.values()), held
        if not members:
            return
        for consumer in self.everyone:
            member = members.get(consumer.member_id)
            has = union(member.current.assigned, member.current.revoking) if member else {}
            existing = intersection(consumer.owned, self.topics.all_of(*TOPICS))
            assert is_subset(existing, has)

    @invariant()
    def the_log_says_it_all(self) -> None:
        now = sorted(self.coordinator.groups.records(GROUP))
        assert sorted(self.coordinator.replayed().records(GROUP)) == now
        compacted = Groups(self.coordinator.settings, self.topics)
        latest = {record.key: place for place, record in enumerate(self.coordinator.log)}
        for place in sorted(latest.values()):
            compacted.replay(self.coordinator.log[place], 0)
        assert sorted(compacted.records(GROUP)) == now

    def _members(self) -> list[ConsumerMember]:
        group = self.coordinator.groups._groups.get(GROUP)
        return list(group.stored.members.values()) if isinstance(group, ConsumerGroup) else []


ConsumerGroups.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestConsumerGroups = ConsumerGroups.TestCase


class MixedGroups(ConsumerGroups):
    """The same with classic members: the group moves between the protocols as they come and go."""

    classic = Bundle("classic")

    @initialize(target=classic, cooperative=st.lists(st.booleans(), min_size=1, max_size=3))
    def begin(self, cooperative: list[bool]) -> object:
        """Most of it happens to a group that is there already."""
        found = [self.start_classic(("a", "b"), is_cooperative) for is_cooperative in cooperative]
        settle(self.coordinator, self.everyone)
        return multiple(*found)

    @rule(target=classic, topics=subscriptions, is_cooperative=st.booleans())
    def start_classic(self, topics: tuple[str, ...], is_cooperative: bool) -> ClassicConsumer:
        consumer = ClassicConsumer(self.coordinator, topics, is_cooperative)
        self.classic_ones.append(consumer)
        consumer.beat()
        return consumer

    @rule(consumer=classic)
    def beat_classic(self, consumer: ClassicConsumer) -> None:
        consumer.beat()

    @rule(consumer=classic, topics=subscriptions)
    def subscribe_classic(self, consumer: ClassicConsumer, topics: tuple[str, ...]) -> None:
        consumer.subscribe(*topics)

    @rule(consumer=consumes(classic))
    def leave_classic(self, consumer: ClassicConsumer) -> None:
        self.classic_ones.remove(consumer)
        consumer.leave()

    @rule(consumer=consumes(classic))
    def crash_classic(self, consumer: ClassicConsumer) -> None:
        self.classic_ones.remove(consumer)


MixedGroups.TestCase.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)
TestMixedGroups = MixedGroups.TestCase
