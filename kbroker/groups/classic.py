"""A classic group: its members agree on a protocol and a leader, who assigns; the coordinator keeps the phases.

    Empty ──join──▶ PreparingRebalance ──all joined, or time is up──▶ CompletingRebalance ──leader's sync──▶ Stable
      ▲                │      ▲                                              │                                  │
      └──nobody left───┘      └────────── a member comes, goes or changes ───┴──────────────────────────────────┘

JoinGroup waits until the joining phase is over, SyncGroup until the leader's assignment has come. Whoever waits is
answered in the end: by the next phase, by an error, or when its time is up.

As Kafka's coordinator does it, with these differences: a request that the same member has sent again makes the older
one end (REBALANCE_IN_PROGRESS) instead of being forgotten; a static member that comes back with other topics makes the
group rebalance, because nobody would read its new topics otherwise; who was about to join when the coordinator died
joins with the id that it was given then (librdkafka would wait for two seconds after UNKNOWN_MEMBER_ID).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final

from kbroker.errors import (
    FencedInstanceId,
    GroupMaxSizeReached,
    InconsistentGroupProtocol,
    InvalidRequest,
    MemberIdRequired,
    RebalanceInProgress,
    RequestError,
    UnknownMemberId,
)
from kbroker.groups import group_records
from kbroker.groups.classic_member import ClassicMember, from_join
from kbroker.groups.classic_members import ClassicMembers
from kbroker.groups.classic_state import ClassicGroupState, State
from kbroker.groups.effects import Effects, Record, Reply, shown, shown_member
from kbroker.groups.events import (
    CommitOffsets,
    DescribeGroup,
    FetchOffsets,
    Heartbeat,
    HeartbeatResult,
    JoinGroup,
    JoinGroupResult,
    LeaveGroup,
    LeaveGroupResult,
    LeavingMember,
    LeftMember,
    SyncGroup,
)
from kbroker.groups.limits import FOLLOWER_ASSIGNMENT_BYTES_MAX
from kbroker.groups.patterns import Steps
from kbroker.groups.room import GROUP_BYTES, MEMBER_BYTES, NAME_BYTES
from kbroker.groups.settings import GroupSettings

NEW_MEMBER_JOIN_TIMEOUT_MS: Final = 300_000
"""A new member cannot send heartbeats before it is told its id, and its client may have gone: it waits so long at most,
then it is told to join again."""
PENDING_MEMBERS_MAX: Final = 10_000
"""So many may have been given a member id and not have joined with it; more are refused (GROUP_MAX_SIZE_REACHED)."""
GIVEN_BEFORE_MS: Final = 10_000
"""So long after a start a member may come with an id that it was given before, and of which nothing was stored yet."""
AWAY_CHECK_MS_LEAST: Final = 1_000
"""A rebalance that nobody has joined is looked at again after its timeout, but not sooner than this."""


@dataclass(slots=True)
class _Turn:
    """One call from outside: what time it is, and what follows from it."""

    now_ms: int
    effects: Effects = field(default_factory=Effects)

    def answer(self, event: JoinGroup | SyncGroup | Heartbeat | LeaveGroup | DescribeGroup, result: object) -> None:
        self.effects.replies.append(Reply(event.token, result))


_Step = Callable[["ClassicGroup", ClassicMember, Any, _Turn], None]
"""What one member's request does in one state."""


@dataclass(slots=True)
class _InitialWait:
    """How a group that was empty waits for more members: each delay in which one came is followed by another."""

    delay_ms: int
    remaining_ms: int
    member_came: bool = False


class ClassicGroup:
    """The state machine of one classic group."""

    type_name: ClassVar = "classic"

    def __init__(self, group_id: str, settings: GroupSettings) -> None:
        self.group_id = group_id
        self.group = ClassicGroupState(group_id)
        self._settings = settings
        self._unsynced: set[str] = set()
        """Members that have not asked for their assignment in this generation."""
        self._initial_wait: _InitialWait | None = None
        self._join_end_ms: int | None = None
        self._sync_end_ms: int | None = None
        self._wake_ms: int | None = None
        self._loaded_ms: int | None = None
        self._record: Record | None = None

    @property
    def _members(self) -> ClassicMembers:
        return self.group.members

    # --- what is seen from outside ---

    @property
    def state(self) -> str:
        """As ListGroups names it."""
        return self.group.state.value

    @property
    def protocol_type(self) -> str:
        """Empty while nobody has said."""
        return self.group.protocol_type or ""

    @property
    def is_empty(self) -> bool:
        """Nobody is a member or about to become one."""
        return self.group.state is State.EMPTY and not self._members.pending

    @property
    def room_bytes(self) -> int:
        """About the memory that it takes."""
        members, topics = self._members, self.group.topics
        # What was told stands in the record once more, and so do the assignments.
        record_bytes = 0 if self._record is None else 2 * len(self._record.value or b"")
        told_bytes = members.size_bytes + len(members) * MEMBER_BYTES + members.pending_bytes
        return GROUP_BYTES + told_bytes + record_bytes + NAME_BYTES * len(topics or ())

    def room_wanted(self, event: JoinGroup | SyncGroup) -> int:
        """About how much more memory it takes when this is done."""
        if isinstance(event, SyncGroup):
            given_bytes = sum(len(given) for _, given in event.assignments)
            record_bytes = 0 if self._record is None else len(self._record.value or b"")
            return 2 * (given_bytes + self._members.size_bytes - record_bytes) if given_bytes else 0
        member = self._members.get(event.member_id)
        told_bytes = from_join(event, event.member_id).size_bytes
        if member is not None:
            return told_bytes - member.size_bytes
        return 3 * told_bytes + MEMBER_BYTES  # it will stand in the group's record too

    def subscribes(self, topic: str) -> bool:
        """Whether a member reads that topic, or may."""
        return self.group.subscribes(topic)

    def kept_since_ms(self, commit_ms: int) -> int | None:
        """From when on the retention of an offset counts that was committed then."""
        return self.group.kept_since_ms(commit_ms)

    def check_commit(self, event: CommitOffsets, now_ms: int) -> None:
        """Raise when this commit may not be made; else it is as good as a heartbeat."""
        member = self.group.check_commit(event)
        if member is not None:
            member.session_end_ms = now_ms + member.session_timeout_ms

    def check_fetch(self, event: FetchOffsets) -> None:
        """Everybody may."""

    # --- what comes in ---

    def handle(self, event: object, now_ms: int) -> Effects:
        """Take one of `events.MembershipEvent`; RequestError when it may not be, with nothing changed."""
        take = self._EVENTS.get(type(event))
        if take is None:
            raise TypeError(f"a classic group takes no {type(event).__name__}")
        turn = _Turn(now_ms)
        take(self, event, turn)
        return turn.effects

    def tick(self, now_ms: int) -> Effects:
        """Put out whose time is up, end phases whose time is up."""
        turn = _Turn(now_ms)
        self._wake_ms = None
        self._expire_pending(turn)
        self._expire_sessions(turn)
        if self._join_end_ms is not None and self._join_end_ms <= now_ms:
            self._end_join_wait(turn)
        if self._sync_end_ms is not None and self._sync_end_ms <= now_ms:
            self._expire_syncs(turn)
        self._wake_ms = self._next_deadline_ms()
        turn.effects.wake_ms = self._wake_ms
        return turn.effects

    # --- moving between the kinds of group (migration.py) ---

    @property
    def members(self) -> list[ClassicMember]:
        """All of them."""
        return list(self._members)

    def end_waiting(self, error_code: int) -> Effects:
        """Answer every request that waits, as this state is given up."""
        turn = _Turn(0)
        for member in self._members:
            self._end_join(member, error_code, turn)
            self._end_sync(member, error_code, turn)
        return turn.effects

    def rebalance(self, why: str, now_ms: int) -> Effects:
        """Everybody has to join."""
        turn = _Turn(now_ms)
        self._prepare(why, turn)
        return turn.effects

    # --- joining ---

    def _join(self, event: JoinGroup, turn: _Turn) -> None:
        member = self._members.get(event.member_id)
        if not self._has_room(member):
            if member is not None:
                self._put_out(member, "the group has reached its largest size", turn)
                self._rebalance("a member too many was put out", turn)
            turn.answer(event, event.refused(GroupMaxSizeReached.code))
        elif not self.group.understands(event.protocol_type, dict(event.protocols)):
            raise InconsistentGroupProtocol("the group's members have no protocol in common with this one")
        elif not self._has_space(member, event):
            raise GroupMaxSizeReached(
                f"the group's members tell more than {self._settings.group_bytes_max} bytes about themselves"
            )
        elif not event.member_id:
            self._join_anew(event, turn)
        elif event.instance_id is None and (
            event.member_id in self._members.pending or (member is None and self._was_given_before(event, turn.now_ms))
        ):
            self._add(event, event.member_id, turn)
        else:
            member = self._members.check(event.member_id, event.instance_id)
            self._for_state(self._REJOIN, event)(self, member, event, turn)

    def _has_room(self, member: ClassicMember | None) -> bool:
        """In the joining phase those count who have joined: whoever comes last goes when the limit was lowered."""
        if self.group.state is State.EMPTY:
            return True
        if self.group.state is State.PREPARING:
            joined = member is not None and member.joining is not None
            return joined or self._members.joining < self._settings.max_size
        return member is not None or len(self._members) < self._settings.max_size

    def _has_space(self, member: ClassicMember | None, event: JoinGroup) -> bool:
        """Whether what this member tells can be kept beside what the others have told."""
        before_bytes = member.size_bytes if member is not None else 0
        told_bytes = from_join(event, event.member_id).size_bytes
        return self._members.size_bytes - before_bytes + told_bytes <= self._settings.group_bytes_max

    def _was_given_before(self, event: JoinGroup, now_ms: int) -> bool:
        """Whether a coordinator that has died may have given this id to one that was about to join."""
        is_recent = self._loaded_ms is not None and now_ms < self._loaded_ms + GIVEN_BEFORE_MS
        form = f"{event.client_id}-{event.fresh_id}"
        return is_recent and event.member_id.startswith(f"{event.client_id}-") and len(event.member_id) == len(form)

    def _join_anew(self, event: JoinGroup, turn: _Turn) -> None:
        """A member without an id."""
        member_id = f"{event.client_id if event.instance_id is None else event.instance_id}-{event.fresh_id}"
        if event.instance_id is not None:
            member = self._members.static(event.instance_id)
            if member is not None:
                self._replace_static(member, member_id, event, turn)
            else:
                self._add(event, member_id, turn)
        elif not event.requires_known_member_id:
            self._add(event, member_id, turn)
        elif len(self._members.pending) >= PENDING_MEMBERS_MAX:
            raise GroupMaxSizeReached("too many were given a member id and have not joined")
        else:
            self._members.expect(member_id, turn.now_ms + event.session_timeout_ms)
            self._wake_at(self._members.pending[member_id], turn)
            turn.answer(event, JoinGroupResult(MemberIdRequired.code, member_id))

    def _add(self, event: JoinGroup, member_id: str, turn: _Turn) -> None:
        member = from_join(event, member_id)
        if not len(self._members):
            self.group.protocol_type = event.protocol_type
        if self._initial_wait is not None:
            self._initial_wait.member_came = True
        self._members.add(member)
        self._members.park(member, event)
        self._extend_session(member, NEW_MEMBER_JOIN_TIMEOUT_MS, turn)
        self._rebalance(f"member {shown(member_id)} joins", turn)

    def _rejoin(self, member: ClassicMember, event: JoinGroup, turn: _Turn) -> None:
        """A member takes part in the rebalance, or brings one about."""
        self._end_join(member, RebalanceInProgress.code, turn)
        self._members.update(member, event)
        self._members.park(member, event)
        self._rebalance(f"member {shown(member.member_id)} joins again", turn)

    def _rejoin_completing(self, member: ClassicMember, event: JoinGroup, turn: _Turn) -> None:
        """It may not have got the answer to its last JoinGroup."""
        if member.says_the_same(event):
            turn.answer(event, self.group.joined(member))
        else:
            self._rejoin(member, event, turn)

    def _rejoin_stable(self, member: ClassicMember, event: JoinGroup, turn: _Turn) -> None:
        """A leader joins again when something has changed that only it sees, such as a topic's partitions."""
        if member.member_id != self._members.leader and member.says_the_same(event):
            turn.answer(event, self.group.joined(member))
        else:
            self._rejoin(member, event, turn)

    def _replace_static(self, member: ClassicMember, member_id: str, event: JoinGroup, turn: _Turn) -> None:
        """A static member has come back: whoever had its place before is fenced off."""
        turn.effects.notices.append(
            f"{self._shown(member)} was put out: it is fenced, for {shown(member_id)} has come with its instance id "
            f"{shown(event.instance_id or '')} (client {shown(event.client_id)} at {shown(event.client_host)})"
        )
        self._end_join(member, FencedInstanceId.code, turn)
        self._end_sync(member, FencedInstanceId.code, turn)
        old_leader, before = self._members.leader, self.group.topics_of(member)
        if member.member_id in self._unsynced:
            self._unsynced.remove(member.member_id)
            self._unsynced.add(member_id)
        self._members.rename(member, member_id)
        self._members.update(member, event)
        member.is_new = False
        self._extend_session(member, member.session_timeout_ms, turn)
        if not self._goes_on_without_rebalance(member, before):
            self._members.park(member, event)
            self._rebalance(f"static member {shown(member_id)} is back", turn)
            return
        self._store(turn)
        if event.supports_skip_assignment:
            turn.answer(event, self.group.joined(member, skip_assignment=member_id == self._members.leader))
        else:
            # It must not take itself for the leader: then it would assign anew, which nobody asked for.
            turn.answer(event, self.group.joined(member, leader=old_leader))

    def _goes_on_without_rebalance(self, member: ClassicMember, topics_before: frozenset[str] | None) -> bool:
        """Whether the assignment still fits to what a static member says that came back."""
        return (
            self.group.state is State.STABLE
            and self._members.select_protocol() == self.group.protocol_name
            and self.group.topics_of(member) == topics_before
        )

    # --- the phases of a rebalance ---

    def _rebalance(self, why: str, turn: _Turn) -> None:
        """Begin one, or go on with the one that is under way."""
        if self.group.state is State.PREPARING:
            self._complete_if_all_joined(turn)
        else:
            self._prepare(why, turn)

    def _prepare(self, why: str, turn: _Turn) -> None:
        """Everybody has to join."""
        if self.group.state is State.COMPLETING:
            for member in self._members:
                if self._end_sync(member, RebalanceInProgress.code, turn):
                    self._extend_session(member, member.session_timeout_ms, turn)
        self._unsynced.clear()
        self._sync_end_ms = None
        was_empty = self.group.state is State.EMPTY
        self.group.become(State.PREPARING, turn.now_ms)
        turn.effects.notices.append(
            f"group {shown(self.group_id)} rebalances after generation {self.group.generation_id}: {why}"
        )
        if was_empty:
            delay_ms = self._settings.initial_rebalance_delay_ms
            self._initial_wait = _InitialWait(delay_ms, max(self._members.rebalance_timeout_ms - delay_ms, 0))
            self._wait_for_joins(delay_ms, turn)
        elif self._members.all_joined:
            self._complete(turn)
        else:
            self._wait_for_joins(self._members.rebalance_timeout_ms, turn)

    def _wait_for_joins(self, delay_ms: int, turn: _Turn) -> None:
        self._join_end_ms = turn.now_ms + delay_ms
        self._wake_at(self._join_end_ms, turn)

    def _end_join_wait(self, turn: _Turn) -> None:
        wait = self._initial_wait
        if wait is None or not wait.member_came or wait.remaining_ms == 0:
            self._complete(turn)
            return
        delay_ms = min(self._settings.initial_rebalance_delay_ms, wait.remaining_ms)
        self._initial_wait = _InitialWait(delay_ms, max(wait.remaining_ms - wait.delay_ms, 0))
        self._wait_for_joins(delay_ms, turn)

    def _complete_if_all_joined(self, turn: _Turn) -> None:
        """The initial wait is waited out: who will come is not known then."""
        if self._initial_wait is None and self._members.all_joined:
            self._complete(turn)

    def _complete(self, turn: _Turn) -> None:
        """The joining phase is over: a new generation. Static members may be late, others who are late are put out."""
        self._initial_wait = None
        self._join_end_ms = None
        for member in self._members:
            if member.joining is None and member.instance_id is None:
                self._put_out(member, "it did not join in the time of the rebalance", turn)
        if len(self._members) and not self._members.lead_by_one_who_joined():
            # All are static and away: their sessions end in the end.
            self._wait_for_joins(max(self._members.rebalance_timeout_ms, AWAY_CHECK_MS_LEAST), turn)
            return
        self.group.next_generation(turn.now_ms)
        if not len(self._members):
            self._store(turn)
            return
        for member in self._members:
            event = self._members.unpark(member)
            if event is not None:
                turn.answer(event, self.group.joined(member))
            self._extend_session(member, member.session_timeout_ms, turn)
            member.is_new = False
            self._unsynced.add(member.member_id)
        self._sync_end_ms = turn.now_ms + self._members.rebalance_timeout_ms
        self._wake_at(self._sync_end_ms, turn)

    def _sync(self, event: SyncGroup, turn: _Turn) -> None:
        member = self._members.check(event.member_id, event.instance_id)
        self.group.check_generation(event.generation_id)
        for said, known in (
            (event.protocol_type, self.group.protocol_type),
            (event.protocol_name, self.group.protocol_name),
        ):
            if said is not None and known is not None and said != known:
                raise InconsistentGroupProtocol(f"the group's protocol is {known!r}, not {said!r}")
        if self.group.state is State.PREPARING:
            raise RebalanceInProgress("the group's members are joining")
        self._for_state(self._SYNC, event)(self, member, event, turn)

    def _sync_completing(self, member: ClassicMember, event: SyncGroup, turn: _Turn) -> None:
        """Wait for the leader; the leader's own brings what all wait for."""
        leads = member.member_id == self._members.leader
        assignments = {who: given for who, given in event.assignments if self._members.get(who)} if leads else {}
        most = self._settings.group_bytes_max
        if sum(map(len, assignments.values())) > most:
            raise InvalidRequest(f"the leader assigns more than {most} bytes to the group's members")
        if not leads and sum(len(given) for _, given in event.assignments) > FOLLOWER_ASSIGNMENT_BYTES_MAX:
            raise InvalidRequest("only the leader assigns; this member brings assignments and does not lead")
        self._end_sync(member, RebalanceInProgress.code, turn)
        member.syncing = event
        self._has_synced(member)
        if not leads:
            return
        for each in self._members:
            each.assignment = assignments.get(each.member_id, b"")
        self.group.become(State.STABLE, turn.now_ms)
        self._store(turn)
        for each in self._members:
            if each.syncing is not None:
                waiting, each.syncing = each.syncing, None
                turn.answer(waiting, self.group.synced(each))
                self._extend_session(each, each.session_timeout_ms, turn)

    def _sync_stable(self, member: ClassicMember, event: SyncGroup, turn: _Turn) -> None:
        self._has_synced(member)
        turn.answer(event, self.group.synced(member))

    def _has_synced(self, member: ClassicMember) -> None:
        self._unsynced.discard(member.member_id)
        if not self._unsynced:
            self._sync_end_ms = None

    # --- living and leaving ---

    def _heartbeat(self, event: Heartbeat, turn: _Turn) -> None:
        member = self._members.check(event.member_id, event.instance_id)
        self.group.check_generation(event.generation_id)
        self._extend_session(member, member.session_timeout_ms, turn)
        rebalancing = self.group.state is State.PREPARING
        turn.answer(event, HeartbeatResult(RebalanceInProgress.code if rebalancing else 0))

    def _leave(self, event: LeaveGroup, turn: _Turn) -> None:
        size = len(self._members)
        left = tuple(LeftMember(who.member_id, who.instance_id, self._leave_one(who, turn)) for who in event.members)
        if len(self._members) < size:
            gone = ", ".join(shown(who.member_id or who.instance_id or "") for who in left[:3] if who.error_code == 0)
            self._rebalance(f"{gone} left", turn)
        elif self.group.state is State.PREPARING:
            self._complete_if_all_joined(turn)
        turn.answer(event, LeaveGroupResult(0, left))

    def _leave_one(self, who: LeavingMember, turn: _Turn) -> int:
        """Its error code."""
        if self._members.forget_pending(who.member_id):
            return 0
        try:
            member = self._leaving(who)
        except RequestError as error:
            return error.code
        # An administrator names a static member by its instance alone; clients say why they leave, as after
        # max.poll.interval.ms.
        how = "left" if who.member_id else "was put out by an administrator"
        turn.effects.notices.append(f"{self._shown(member)} {how}{f': {shown(who.reason)}' if who.reason else ''}")
        self._remove(member, turn)
        return 0

    def _leaving(self, who: LeavingMember) -> ClassicMember:
        """Administrators put out static members by the instance id alone."""
        member_id = who.member_id
        if not member_id and who.instance_id is not None:
            member = self._members.static(who.instance_id)
            member_id = member.member_id if member is not None else ""
        return self._members.check(member_id, who.instance_id)

    def _expire_pending(self, turn: _Turn) -> None:
        pending = self._members.pending
        late = [member_id for member_id, end_ms in pending.items() if end_ms <= turn.now_ms]
        for member_id in late:
            self._members.forget_pending(member_id)
        if late and self.group.state is State.PREPARING:
            self._complete_if_all_joined(turn)

    def _expire_sessions(self, turn: _Turn) -> None:
        late = [each for each in self._members if each.session_end_ms <= turn.now_ms and each.session_counts]
        for member in late:
            self._put_out(member, "its session ended without a heartbeat", turn)
        if late:
            self._rebalance("sessions ended", turn)

    def _expire_syncs(self, turn: _Turn) -> None:
        """Whoever joined and never asked for its assignment is not there."""
        self._sync_end_ms = None
        for member in self._members:
            if member.member_id in self._unsynced:
                self._put_out(member, "it joined and never asked for its assignment", turn)
        self._rebalance("members never asked for their assignment", turn)

    def _put_out(self, member: ClassicMember, why: str, turn: _Turn) -> None:
        turn.effects.notices.append(f"{self._shown(member)} was put out: {why}")
        self._remove(member, turn)

    def _shown(self, member: ClassicMember) -> str:
        return shown_member(self.group_id, member.member_id, member.client_id, member.client_host)

    def _remove(self, member: ClassicMember, turn: _Turn) -> None:
        """If it still waits for an answer, it is to join again as a new member."""
        self._end_join(member, UnknownMemberId.code, turn)
        self._end_sync(member, UnknownMemberId.code, turn)
        self._members.remove(member)
        self._unsynced.discard(member.member_id)

    # --- administration ---

    def _describe(self, event: DescribeGroup, turn: _Turn) -> None:
        turn.answer(event, self.group.described())

    # --- records ---

    def replay(self, record: Record, now_ms: int) -> None:  # noqa: ARG002  (as every kind of group)
        """Take over a stored state, which is one between rebalances."""
        found = group_records.decode(record)
        if found is None or found[1] is None:
            return
        self.group.load(found[1])
        self._record = record

    def loaded(self, steps: Steps, now_ms: int) -> Effects:  # noqa: ARG002  (as every kind of group)
        """Members are given the time of a whole session to show that they are there."""
        turn = _Turn(now_ms)
        self._loaded_ms = now_ms
        for member in self._members:
            self._extend_session(member, member.session_timeout_ms, turn)
        if len(self._members) > self._settings.max_size:
            self._prepare(f"it has more members than group.max.size={self._settings.max_size}", turn)
        return turn.effects

    def records(self) -> list[Record]:
        """The record that is in force; none before the first generation is complete."""
        return [] if self._record is None else [self._record]

    def tombstones(self) -> list[Record]:
        """Forget the group."""
        return [] if self._record is None else [group_records.tombstone(self.group_id)]

    def _store(self, turn: _Turn) -> None:
        self._record = self.group.record()
        turn.effects.records.append(self._record)

    # --- small steps ---

    def _for_state(self, table: dict[State, _Step], event: JoinGroup | SyncGroup) -> _Step:
        """What a member's request means now. An empty group has no members whose requests could come here."""
        step = table.get(self.group.state)
        if step is None:
            raise AssertionError(f"a member's {type(event).__name__} has come to a group that is {self.group.state}")
        return step

    def _end_join(self, member: ClassicMember, error_code: int, turn: _Turn) -> None:
        event = self._members.unpark(member)
        if event is not None:
            turn.answer(event, event.refused(error_code))

    def _end_sync(self, member: ClassicMember, error_code: int, turn: _Turn) -> bool:
        """Whether there was something to end."""
        event, member.syncing = member.syncing, None
        if event is not None:
            turn.answer(event, event.refused(error_code))
        return event is not None

    def _extend_session(self, member: ClassicMember, timeout_ms: int, turn: _Turn) -> None:
        member.session_end_ms = turn.now_ms + timeout_ms
        self._wake_at(member.session_end_ms, turn)

    def _wake_at(self, deadline_ms: int, turn: _Turn) -> None:
        """Deadlines that move later are found out when the earlier one comes: a heartbeat costs nothing here."""
        if self._wake_ms is None or deadline_ms < self._wake_ms:
            self._wake_ms = turn.effects.wake_ms = deadline_ms

    def _next_deadline_ms(self) -> int | None:
        deadlines = [member.session_end_ms for member in self._members if member.session_counts]
        deadlines += self._members.pending.values()
        deadlines += [end_ms for end_ms in (self._join_end_ms, self._sync_end_ms) if end_ms is not None]
        return min(deadlines, default=None)

    _EVENTS: ClassVar[dict[type, Callable[[ClassicGroup, Any, _Turn], None]]] = {
        JoinGroup: _join,
        SyncGroup: _sync,
        Heartbeat: _heartbeat,
        LeaveGroup: _leave,
        DescribeGroup: _describe,
    }
    _REJOIN: ClassVar[dict[State, _Step]] = {
        State.PREPARING: _rejoin,
        State.COMPLETING: _rejoin_completing,
        State.STABLE: _rejoin_stable,
    }
    _SYNC: ClassVar[dict[State, _Step]] = {
        State.COMPLETING: _sync_completing,
        State.STABLE: _sync_stable,
    }
