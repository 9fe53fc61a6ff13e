"""Honest KIP-848 consumers on paper: each does what a client does, and knows what it believes to own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kbroker.errors import (
    CoordinatorNotAvailable,
    FencedMemberEpoch,
    IllegalGeneration,
    MemberIdRequired,
    RebalanceInProgress,
    UnknownMemberId,
    UnreleasedInstanceId,
)
from kbroker.groups import protocol
from kbroker.groups.assignment import NOTHING, Assignment, difference, intersection, union
from kbroker.groups.consumer import ConsumerGroup
from kbroker.groups.consumer_events import (
    JOIN_EPOCH,
    LEAVE_EPOCH,
    LEAVE_STATIC_EPOCH,
    ConsumerGroupDescribe,
    ConsumerGroupDescribeResult,
    ConsumerGroupHeartbeat,
    ConsumerGroupHeartbeatResult,
)
from kbroker.groups.events import JoinedMember, JoinGroupResult, LeavingMember, SyncGroupResult, TopicsChanged
from kbroker.groups.groups import Groups
from tests.groups.coordinator import GROUP, Coordinator

REBALANCE_TIMEOUT_MS = 60_000


class Topics:
    """Topics that come, grow and go; one made anew has another id."""

    def __init__(self, **counts: int) -> None:
        self._made = 0
        self.counts: dict[str, int] = {}
        self.ids: dict[str, bytes] = {}
        for name, count in counts.items():
            self.create(name, count)

    def create(self, name: str, count: int) -> None:
        self._made += 1
        self.counts[name], self.ids[name] = count, self._made.to_bytes(16)

    def delete(self, name: str) -> None:
        del self.counts[name], self.ids[name]

    def partition_count(self, name: str) -> int | None:
        return self.counts.get(name)

    def id_of(self, name: str) -> bytes | None:
        return self.ids.get(name)

    def name_of(self, topic_id: bytes) -> str | None:
        return next((name for name, known in self.ids.items() if known == topic_id), None)

    def names(self) -> Iterable[str]:
        return list(self.ids)

    def view(self) -> object:
        """Something that differs when topics do."""
        return sorted((name, topic_id, self.counts[name]) for name, topic_id in self.ids.items())

    def all_of(self, *names: str) -> Assignment:
        """Every partition of these."""
        return {self.ids[name]: frozenset(range(self.counts[name])) for name in names if name in self.ids}


@dataclass
class ConsumerCoordinator(Coordinator):
    """A coordinator on paper, asked by consumers."""

    topics: Topics = field(default_factory=lambda: Topics(a=4, b=2))  # type: ignore[assignment]
    restarts: int = 0

    def beat(self, member_id: str, member_epoch: int, **changes: Any) -> ConsumerGroupHeartbeatResult:
        """A heartbeat; one that joins says all that it has to."""
        facts: dict[str, Any] = {"group_id": GROUP, "client_id": "c", "client_host": "127.0.0.1"}
        if member_epoch == JOIN_EPOCH:
            facts |= {"rebalance_timeout_ms": REBALANCE_TIMEOUT_MS, "topics": ("a",), "owned": NOTHING}
        event = ConsumerGroupHeartbeat(
            token=self.token(), member_id=member_id, member_epoch=member_epoch, **(facts | changes)
        )
        answer = self.give(event)
        assert isinstance(answer, ConsumerGroupHeartbeatResult)
        return answer

    def consumers(self, group: str = GROUP) -> ConsumerGroupDescribeResult:
        answer = self.give(ConsumerGroupDescribe(group, self.token()))
        assert isinstance(answer, ConsumerGroupDescribeResult)
        return answer

    def topics_change(self, deleted: Iterable[str] = (), changed: Iterable[str] = ()) -> None:
        event = TopicsChanged(frozenset(deleted), frozenset(changed))
        for group_id, effects in self.groups.topics_changed(event, self.now_ms):
            self.perform(group_id, effects)

    def state_of(self) -> str:
        return next((group.state for group in self.groups.listed()), "Empty")

    def restart(self) -> None:
        self.restarts += 1
        super().restart()

    def group(self) -> ConsumerGroup:
        """The group itself; tests look into it, clients do not."""
        group = self.groups._groups[GROUP]
        assert isinstance(group, ConsumerGroup)
        return group

    def replayed(self) -> Groups:
        """What a new process makes of the log."""
        groups = Groups(self.settings, self.topics)
        for record in self.log:
            groups.replay(record, self.now_ms)
        return groups

    def fail_to_store(self, event: Any) -> None:
        """The disk refuses: nothing is answered, and groups are what is stored."""
        self.groups.handle(event, self.now_ms)
        super().restart()


@dataclass(eq=False)
class Consumer:
    """A client: it reads new partitions at once, and gives partitions up when it gets to it."""

    coordinator: ConsumerCoordinator = field(repr=False)
    member_id: str
    topics: tuple[str, ...] = ("a",)
    pattern: str | None = None
    instance_id: str | None = None
    epoch: int = JOIN_EPOCH
    owned: Assignment = field(default_factory=dict)
    """What it reads now."""
    assigned: Assignment = field(default_factory=dict)
    """What it was told to read."""
    reported: Assignment | None = None
    """What the coordinator has heard last that it reads; None: perhaps nothing."""
    gained: int = 0
    """How many partitions it was given, ever."""
    lost: Assignment = field(default_factory=dict)
    """All that it ever had to give up."""

    def beat(self, *, answer_is_lost: bool = False, full: bool = False) -> ConsumerGroupHeartbeatResult | None:
        """Say what is to be said; learn from the answer unless it is lost."""
        event = self.request(full)
        answer = self.coordinator.give(event)
        if answer_is_lost:
            self.reported = None
            return None
        assert isinstance(answer, ConsumerGroupHeartbeatResult)
        self.learn(event, answer)
        return answer

    def request(self, full: bool = False) -> ConsumerGroupHeartbeat:
        """The next heartbeat."""
        full = full or self.reported is None
        joins = self.epoch == JOIN_EPOCH
        return ConsumerGroupHeartbeat(
            group_id=GROUP,
            token=self.coordinator.token(),
            member_id=self.member_id,
            member_epoch=self.epoch,
            client_id="c",
            client_host="127.0.0.1",
            instance_id=self.instance_id,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS if full or joins else -1,
            topics=self.topics if full or joins else None,
            pattern=self.pattern if full or joins else None,
            owned=self.owned if full or joins or self.owned != self.reported else None,
        )

    def learn(self, event: ConsumerGroupHeartbeat, answer: ConsumerGroupHeartbeatResult) -> None:
        if answer.error_code in (UnknownMemberId.code, FencedMemberEpoch.code):
            self.forget()
            return
        if answer.error_code == UnreleasedInstanceId.code:
            return  # until the session of the one before it ends
        assert answer.error_code == 0, answer
        self.epoch = answer.member_epoch
        if event.owned is not None:
            self.reported = event.owned
        if answer.assignment is not None:
            self.gained += sum(map(len, difference(answer.assignment, self.owned).values()))
            self.assigned = answer.assignment
            self.owned = union(self.owned, answer.assignment)

    @property
    def is_settled(self) -> bool:
        """It has what it was told to have, and the coordinator knows."""
        return self.epoch > JOIN_EPOCH and self.reported == self.owned == self.assigned

    def give_up(self) -> None:
        """Stop reading what is not assigned any more."""
        self.lost = union(self.lost, difference(self.owned, self.assigned))
        self.owned = intersection(self.owned, self.assigned)

    def forget(self) -> None:
        """It is not a member any more, and joins again next time."""
        self.epoch, self.owned, self.assigned, self.reported = JOIN_EPOCH, NOTHING, NOTHING, None

    def subscribe(self, *topics: str) -> None:
        self.topics, self.reported = topics, None

    def leave(self, epoch: int = LEAVE_EPOCH) -> None:
        """Stop reading, then say so."""
        self.owned = NOTHING
        self.coordinator.beat(self.member_id, epoch, instance_id=self.instance_id)
        self.forget()

    def leave_for_a_moment(self) -> None:
        self.leave(LEAVE_STATIC_EPOCH)


@dataclass(eq=False)
class ClassicConsumer:
    """A client of the classic protocol, whatever the group is. One that leads assigns as all such clients do."""

    coordinator: ConsumerCoordinator = field(repr=False)
    topics: tuple[str, ...] = ("a",)
    is_cooperative: bool = True
    member_id: str = ""
    generation: int = -1
    owned: Assignment = field(default_factory=dict)
    waiting: Any = None
    """The token of a JoinGroup or SyncGroup that is not answered yet."""
    is_joined: bool = False
    told: tuple[str, ...] = ()
    """The topics with which it joined."""
    assigned_over: object = None
    """The topics as they were when it assigned them as leader."""
    restarts: int = 0

    pattern: None = None
    instance_id: None = None

    @property
    def is_settled(self) -> bool:
        return self.is_joined and self.waiting is None

    def beat(self) -> None:
        """Whatever comes next, as far as it goes without waiting for others."""
        if self.restarts != self.coordinator.restarts:  # the connection is gone, and what was asked on it
            self.restarts, self.waiting = self.coordinator.restarts, None
        for _ in range(4):
            if self.waiting is not None:
                answer = self.coordinator.answers.get(self.waiting)
                if answer is None:
                    return
                self.waiting = None
                self._learn(answer)
            elif self.is_joined and self._sees_changes():
                self.is_joined = False
            elif self.is_joined:
                code = self.coordinator.heartbeat(self.member_id, self.generation)
                if code == 0:
                    return
                self._fail(code)
            else:
                self._ask_to_join()

    def give_up(self) -> None:
        """It does so when it is told to."""

    def subscribe(self, *topics: str) -> None:
        self.topics = topics

    def leave(self) -> None:
        self.owned = {}
        self.coordinator.leave(LeavingMember(self.member_id))

    def _sees_changes(self) -> bool:
        """It has subscribed anew; or it leads, and topics are not what they were."""
        return self.topics != self.told or self.assigned_over not in (None, self.coordinator.topics.view())

    def _ask_to_join(self) -> None:
        self.told = self.topics
        if not self.is_cooperative:
            self.owned = {}
        named = {self._name(topic): tuple(sorted(numbers)) for topic, numbers in self.owned.items()}
        metadata = protocol.encode_subscription(protocol.Subscription(self.topics, b"", named, self.generation))
        joining = self.coordinator.join(
            self.member_id,
            protocols=(("assignor", metadata),),
            session_timeout_ms=45_000,
            rebalance_timeout_ms=REBALANCE_TIMEOUT_MS,
            requires_known_member_id=True,
        )
        self.waiting = joining.event.token

    def _learn(self, answer: JoinGroupResult | SyncGroupResult) -> None:
        if answer.error_code == MemberIdRequired.code:
            assert isinstance(answer, JoinGroupResult)
            self.member_id = answer.member_id
        elif answer.error_code:
            self._fail(answer.error_code)
        elif isinstance(answer, JoinGroupResult):
            self.member_id, self.generation = answer.member_id, answer.generation_id
            leads = answer.leader == self.member_id
            self.assigned_over = self.coordinator.topics.view() if leads else None
            given = self._assign(answer.members) if leads else {}
            self.waiting = self.coordinator.sync(self.member_id, self.generation, given).event.token
        else:
            self._take(protocol.decode_assignment(answer.assignment))

    def _take(self, assignment: protocol.Assignment) -> None:
        ids = self.coordinator.topics.ids
        assigned = {ids[name]: frozenset(numbers) for name, numbers in assignment.partitions.items() if name in ids}
        revoked = difference(self.owned, assigned)
        self.owned = assigned
        # Who gave something up joins again, so that others get it.
        self.is_joined = not (self.is_cooperative and revoked)

    def _assign(self, members: tuple[JoinedMember, ...]) -> dict[str, bytes]:
        told = {each.member_id: protocol.decode_subscription(each.metadata) for each in members}
        owners = {
            (topic, number): member_id
            for member_id, subscription in told.items()
            for topic, numbers in subscription.owned.items()
            for number in numbers
        }
        given: dict[str, dict[str, list[int]]] = {member_id: {} for member_id in told}
        for topic, count in self.coordinator.topics.counts.items():
            readers = sorted(member_id for member_id in told if topic in told[member_id].topics)
            for number in range(count if readers else 0):
                reader = readers[number % len(readers)]
                if owners.get((topic, number), reader) == reader:
                    given[reader].setdefault(topic, []).append(number)
        return {
            member_id: protocol.encode_assignment(
                protocol.Assignment({topic: tuple(numbers) for topic, numbers in topics.items()})
            )
            for member_id, topics in given.items()
        }

    def _fail(self, code: int) -> None:
        self.is_joined = False
        if code in (UnknownMemberId.code, IllegalGeneration.code):
            self.owned = {}
            self.generation = -1
            if code == UnknownMemberId.code:
                self.member_id = ""
        else:
            assert code in (RebalanceInProgress.code, CoordinatorNotAvailable.code), code

    def _name(self, topic_id: bytes) -> str:
        return self.coordinator.topics.name_of(topic_id) or "deleted"


def settle(coordinator: ConsumerCoordinator, consumers: Iterable[Consumer | ClassicConsumer], rounds: int = 30) -> None:
    """Heartbeats until nobody learns anything new."""
    everyone = list(consumers)
    quiet_rounds = 0
    for _ in range(rounds):
        coordinator.advance(coordinator.settings.consumer_assignment_interval_ms)
        for consumer in everyone:
            consumer.beat()
            consumer.give_up()
        quiet = all(consumer.is_settled for consumer in everyone) and coordinator.state_of() in ("Stable", "Empty")
        quiet_rounds = quiet_rounds + 1 if quiet else 0
        if quiet_rounds == 2:
            return
    raise AssertionError(f"not settled after {rounds} rounds: {coordinator.groups.listed()}, {everyone}")
