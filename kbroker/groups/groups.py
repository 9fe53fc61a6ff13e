"""All groups of all kinds, and their committed offsets: the one door to them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, Final

from kbroker.errors import (
    CoordinatorNotAvailable,
    GroupIdNotFound,
    GroupMaxSizeReached,
    IllegalGeneration,
    InvalidCommitOffsetSize,
    InvalidGroupId,
    InvalidRequest,
    InvalidSessionTimeout,
    NonEmptyGroup,
    RequestError,
    UnknownMemberId,
)
from kbroker.groups import committed, consumer_records, group_records, migration
from kbroker.groups.classic import ClassicGroup
from kbroker.groups.committed import Committed
from kbroker.groups.consumer import ConsumerGroup
from kbroker.groups.consumer_events import JOIN_EPOCH, ConsumerGroupDescribe, ConsumerGroupHeartbeat
from kbroker.groups.effects import Effects, Record, Reply, shown
from kbroker.groups.events import (
    CommitOffsets,
    CommitOffsetsResult,
    DeleteGroup,
    DeleteGroupResult,
    DeleteOffsets,
    DeleteOffsetsResult,
    DescribeGroup,
    DescribeGroupResult,
    FetchOffsets,
    FetchOffsetsResult,
    Heartbeat,
    JoinGroup,
    LeaveGroup,
    LeaveGroupResult,
    LeftMember,
    ListedGroup,
    SyncGroup,
    TopicsChanged,
)
from kbroker.groups.kind import Group, Topics
from kbroker.groups.limits import (
    COMMIT_OFFSETS_MAX,
    FORGOTTEN_AT_ONCE_MAX,
    MEMBER_METADATA_BYTES_MAX,
    NAME_BYTES_MAX,
    PROTOCOLS_MAX,
    metadata_bytes,
)
from kbroker.groups.offsets import Offsets
from kbroker.groups.patterns import Steps
from kbroker.groups.protocol import PROTOCOL_TYPE
from kbroker.groups.room import GROUP_BYTES, Room, no_room
from kbroker.groups.settings import GroupSettings
from kbroker.groups.wakes import Wakes

REFUSAL_NOTICE_INTERVAL_MS: Final = 60_000
"""That clients ask for too much, or for nonsense, is said once in this time for each code."""
STEPS_OF_ALL: Final = 1_000_000
"""Patterns of all groups are matched at once for about so many steps when topics change, and at the start."""
_NOTICED: Final = (GroupMaxSizeReached, InvalidCommitOffsetSize, InvalidGroupId, InvalidRequest)
"""Most answers have no place for the reason, so the log says it."""
Kind = type[ClassicGroup] | type[ConsumerGroup]
_NAMED: Final = (JoinGroup, SyncGroup, Heartbeat, LeaveGroup, DeleteOffsets, ConsumerGroupDescribe)
"""These are refused for a group whose name is "": only offsets can be committed under that, as in Kafka."""


class Groups:
    """Every group and its committed offsets."""

    def __init__(self, settings: GroupSettings, topics: Topics) -> None:
        self.settings = settings
        self._topics = topics
        self._offsets = Offsets(settings, topics)
        self._groups: dict[str, Group] = {}
        self._wakes: dict[str, Wakes] = {}
        self.room = Room(settings.memory_max_bytes)
        """What all groups hold in memory."""
        self.left_out: set[str] = set()
        """Groups of a log that holds more than there is room for. They stay as they are in the log, and are refused."""
        self._noticed_ms: dict[int, int] = {}
        """When a refusal was said last, by its code."""

    # --- what comes in ---

    def handle(self, event: Any, now_ms: int) -> Effects:
        """Decide on an event of any kind. `now_ms`: ms since 1970."""
        take = self._EVENTS.get(type(event))
        if take is None:
            raise TypeError(f"groups take no {type(event).__name__}")
        if event.group_id in self.left_out:
            return self._left_out(event, now_ms)
        try:
            _check(event)
            effects = take(self, event, now_ms)
        except RequestError as error:
            effects = _answer(event, _refusal(event, error))
            if isinstance(error, _NOTICED):
                effects.notices += self._refusal_notice(event.group_id, error, now_ms)
        return self._finished(event.group_id, effects, now_ms)

    def tick(self, group_id: str, now_ms: int) -> Effects:
        """The time has come that the group asked for; too early, or for a group that is gone, does no harm."""
        group = self._groups.get(group_id)
        if group is None:
            return Effects()
        wakes = self._wakes[group_id]
        wakes.ticked(now_ms)
        effects = group.tick(now_ms)
        if wakes.offsets_ms is not None and wakes.offsets_ms <= now_ms:
            wakes.offsets_ms = None
            effects.records += self._offsets.expire(group, now_ms)
            if group.is_empty and not self._offsets.of_group(group_id):
                effects.records += group.tombstones()
                self._drop(group_id)
        return self._finished(group_id, effects, now_ms)

    def topics_changed(self, event: TopicsChanged, now_ms: int) -> list[tuple[str, Effects]]:
        """What follows for which group: offsets in deleted topics are forgotten, many of them by `forget_gone`."""
        found = []
        steps = Steps(STEPS_OF_ALL)
        for group_id, group in list(self._groups.items()):
            if isinstance(group, ConsumerGroup):  # a classic group's leader watches its members' topics by itself
                effects = group.topics_changed(event.deleted, event.changed, steps, now_ms)
                if effects != Effects():
                    found.append((group_id, self._finished(group_id, effects, now_ms)))
        self._offsets.topics_gone(event.deleted, now_ms)
        return found + self.forget_gone(now_ms)

    @property
    def is_forgetting(self) -> bool:
        """Whether `forget_gone` is to be called again, in the next turn of the loop."""
        return self._offsets.is_forgetting

    def forget_gone(self, now_ms: int) -> list[tuple[str, Effects]]:
        """Forget some of the offsets in topics that are no more."""
        forgotten = self._offsets.forget_gone(FORGOTTEN_AT_ONCE_MAX)
        return [
            (group_id, self._finished(group_id, Effects(records=records), now_ms))
            for group_id, records in forgotten.items()
        ]

    def matched(self, group_id: str, pattern: str, topics: frozenset[str], now_ms: int) -> Effects:
        """`Effects.patterns` of that group asked for this: the topics whose names the pattern matches."""
        group = self._groups.get(group_id)
        if not isinstance(group, ConsumerGroup):
            return Effects()
        return self._finished(group_id, group.matched(pattern, topics, now_ms), now_ms)

    def uses(self, group_id: str, pattern: str) -> bool:
        """Whether a member of that group subscribes by the pattern."""
        group = self._groups.get(group_id)
        return isinstance(group, ConsumerGroup) and group.uses(pattern)

    # --- start ---

    def replay(self, record: Record, now_ms: int) -> None:
        """At start, every record in the order of the log; one of an unknown kind is passed over.

        Where the log holds more than there is room for, the largest groups are left out.
        """
        commit = committed.decode(record.key, record.value)
        if commit is not None:
            group_id = commit[0].group
            if group_id in self.left_out:
                return
            self._offsets.put(*commit)
        else:
            stored = group_records.decode(record)
            key = consumer_records.decode_key(record.key) if stored is None else None
            if stored is not None:
                group_id, is_all = stored[0], True
            elif key is not None:
                group_id, is_all = key.group_id, key.kind is consumer_records.Kind.GROUP
            else:
                return
            if group_id in self.left_out:
                return
            self._replay_into(ClassicGroup if stored else ConsumerGroup, group_id, record, now_ms, is_all=is_all)
        self._measure(group_id)
        if self.room.is_over:
            for large in self.room.largest():
                self.left_out.add(large)
                self._offsets.drop(large)
                self._drop(large)

    def loaded(self, now_ms: int) -> list[tuple[str, Effects]]:
        """After the last record: sessions begin, what cannot go on as it was is settled."""
        for group_id in self._offsets.groups():
            if group_id not in self._groups:  # whatever groups.max is now
                self._keep(self._made(ClassicGroup, group_id))
        found = []
        steps = Steps(STEPS_OF_ALL)
        interval_ms, count = self.settings.offsets_retention_check_interval_ms, len(self._groups)
        for number, (group_id, group) in enumerate(list(self._groups.items())):
            # Spread over the interval, or all groups would be looked at in the same moment ever after.
            self._wakes[group_id].offsets_ms = now_ms + interval_ms * (number + 1) // count
            found.append((group_id, self._finished(group_id, group.loaded(steps, now_ms), now_ms)))
        return found

    def _replay_into(self, kind: Kind, group_id: str, record: Record, now_ms: int, *, is_all: bool) -> None:
        """`is_all`: without this record there is no group of that kind."""
        group = self._groups.get(group_id)
        if record.value is not None:
            if not isinstance(group, kind):
                group = self._keep(self._made(kind, group_id))
            group.replay(record, now_ms)
        elif isinstance(group, kind):  # else the group is of another kind by now
            if is_all:
                self._drop(group_id)
            else:
                group.replay(record, now_ms)

    # --- plain queries ---

    def listed(self, states: Iterable[str] = (), types: Iterable[str] = ()) -> list[ListedGroup]:
        """The groups in these states and of these types, by name; neither given: all. Case does not matter."""
        in_states, of_types = {state.lower() for state in states}, {kind.lower() for kind in types}
        return [
            ListedGroup(group_id, group.protocol_type, group.state, group.type_name)
            for group_id, group in sorted(self._groups.items())
            if (not in_states or group.state.lower() in in_states) and (not of_types or group.type_name in of_types)
        ]

    def offsets_of(self, group_id: str) -> Mapping[tuple[str, int], Committed]:
        """What a group has committed, by topic and partition."""
        return self._offsets.of_group(group_id)

    def records(self, group_id: str) -> list[Record]:
        """The stored records of a group that are in force, its offsets too: a log of just these is as good."""
        group = self._groups.get(group_id)
        return ([] if group is None else group.records()) + self._offsets.records(group_id)

    # --- membership ---

    def _join(self, event: JoinGroup, now_ms: int) -> Effects:
        settings = self.settings
        if not settings.min_session_timeout_ms <= event.session_timeout_ms <= settings.max_session_timeout_ms:
            raise InvalidSessionTimeout(
                f"a session timeout of {event.session_timeout_ms} ms is not within group.min.session.timeout.ms="
                f"{settings.min_session_timeout_ms} and group.max.session.timeout.ms={settings.max_session_timeout_ms}"
            )
        if event.rebalance_timeout_ms < 0:
            event = dataclasses.replace(event, rebalance_timeout_ms=event.session_timeout_ms)
        group = self._groups.get(event.group_id)
        forgotten: list[Record] = []
        if isinstance(group, ConsumerGroup) and group.is_empty:
            forgotten, group = group.tombstones(), self._made(ClassicGroup, event.group_id)
        if group is None:
            if event.member_id:
                raise UnknownMemberId(f"there is no group {event.group_id!r}, so it has no members")
            group = self._new(ClassicGroup, event.group_id)
        if isinstance(group, ClassicGroup):
            self._check_room(group.room_wanted(event))
        effects = group.handle(event, now_ms)
        effects.records[:0] = forgotten
        self._keep(group)
        return effects

    def _consumer_heartbeat(self, event: ConsumerGroupHeartbeat, now_ms: int) -> Effects:
        group = self._groups.get(event.group_id)
        joins = event.member_epoch == JOIN_EPOCH
        forgotten: list[Record] = []
        if joins and isinstance(group, ClassicGroup) and not group.members:
            forgotten, group = group.tombstones(), self._made(ConsumerGroup, event.group_id)
        if group is None:
            if not joins:
                # Kafka says GROUP_ID_NOT_FOUND, which ends a consumer; with this one it joins again.
                raise UnknownMemberId(f"Group {event.group_id} is not found, so {event.member_id} is no member of it.")
            group = self._new(ConsumerGroup, event.group_id)
        if isinstance(group, ClassicGroup) and joins:
            group, effects = migration.upgrade(group, event, self.settings, self._topics, self.room, now_ms)
        elif isinstance(group, ConsumerGroup):
            effects = group.handle(event, now_ms)
            effects.records[:0] = forgotten
        else:
            raise GroupIdNotFound(f"Group {event.group_id} is not a consumer group.")
        self._keep(group)
        return effects

    def _consumer_describe(self, event: ConsumerGroupDescribe, now_ms: int) -> Effects:
        group = self._existing(event.group_id)
        if not isinstance(group, ConsumerGroup):
            raise GroupIdNotFound(f"Group {event.group_id} is not a consumer group.")
        return group.handle(event, now_ms)

    def _of_member(self, event: SyncGroup | Heartbeat, now_ms: int) -> Effects:
        group = self._groups.get(event.group_id)
        if group is None:
            raise UnknownMemberId(f"there is no group {event.group_id!r}, so it has no members")
        if isinstance(event, SyncGroup) and isinstance(group, ClassicGroup):
            self._check_room(group.room_wanted(event))
        return group.handle(event, now_ms)

    def _leave(self, event: LeaveGroup, now_ms: int) -> Effects:
        group = self._groups.get(event.group_id)
        if group is not None:
            return group.handle(event, now_ms)
        unknown = [LeftMember(who.member_id, who.instance_id, UnknownMemberId.code) for who in event.members]
        return _answer(event, LeaveGroupResult(0, tuple(unknown)))

    def _describe(self, event: DescribeGroup, now_ms: int) -> Effects:
        try:
            return self._existing(event.group_id).handle(event, now_ms)
        except GroupIdNotFound as error:
            return _answer(event, DescribeGroupResult(error.code, str(error)))

    def _delete(self, event: DeleteGroup, now_ms: int) -> Effects:  # noqa: ARG002  (as every event)
        group = self._existing(event.group_id)
        if not group.is_empty:
            raise NonEmptyGroup(f"group {event.group_id!r} has members")
        effects = _answer(event, DeleteGroupResult(0))
        effects.records += self._offsets.delete_all(event.group_id) + group.tombstones()
        self._drop(event.group_id)
        return effects

    # --- offsets ---

    def _commit(self, event: CommitOffsets, now_ms: int) -> Effects:
        if len(event.offsets) > COMMIT_OFFSETS_MAX:
            raise InvalidCommitOffsetSize(
                f"one commit has at most {COMMIT_OFFSETS_MAX} offsets, not {len(event.offsets)}: make several"
            )
        codes = [self._offsets.refusal(item) for item in event.offsets]
        records: list[Record] = []
        if not all(codes):
            try:
                group = self._committing(event)
                group.check_commit(event, now_ms)
            except (GroupMaxSizeReached, InvalidCommitOffsetSize):
                raise
            except RequestError as error:
                codes = [code or error.code for code in codes]
            else:
                more_bytes = 0 if event.group_id in self._groups else group.room_bytes
                records = self._offsets.commit(event, codes, self.room, more_bytes, now_ms)
                self._keep(group)
        effects = _answer(event, CommitOffsetsResult(tuple(codes)))
        effects.records = records
        return effects

    def _committing(self, event: CommitOffsets) -> Group:
        """The group that commits: a new one for a client that is in no group, and uses it for its offsets only."""
        group = self._groups.get(event.group_id)
        if group is not None:
            return group
        if event.generation_id < 0:
            return self._new(ClassicGroup, event.group_id)
        if event.knows_member_epochs:
            raise GroupIdNotFound(f"there is no group {event.group_id!r}")
        raise IllegalGeneration(f"there is no group {event.group_id!r}, so it has no generations")

    def _fetch(self, event: FetchOffsets, now_ms: int) -> Effects:  # noqa: ARG002  (as every event)
        group = self._groups.get(event.group_id)
        if group is not None:
            group.check_fetch(event)
        return _answer(event, FetchOffsetsResult(0, self._offsets.fetch(event)))

    def _delete_offsets(self, event: DeleteOffsets, now_ms: int) -> Effects:  # noqa: ARG002  (as every event)
        group = self._existing(event.group_id)
        if not group.is_empty and group.protocol_type != PROTOCOL_TYPE:
            raise NonEmptyGroup(f"what the members of group {event.group_id!r} read is not known")
        records, codes = self._offsets.delete(event, group)
        effects = _answer(event, DeleteOffsetsResult(0, codes))
        effects.records = records
        return effects

    # --- small steps ---

    def _existing(self, group_id: str) -> Group:
        group = self._groups.get(group_id)
        if group is None:
            raise GroupIdNotFound(f"there is no group {group_id!r}")
        return group

    def _new(self, kind: Kind, group_id: str) -> Group:
        """A group that is not kept yet."""
        if len(self._groups) >= self.settings.groups_max:
            raise GroupMaxSizeReached(
                f"there are {len(self._groups)} groups, as many as groups.max allows; delete groups that nobody needs, "
                "or raise it"
            )
        return self._made(kind, group_id)

    def _made(self, kind: Kind, group_id: str) -> Group:
        if kind is ConsumerGroup:
            return ConsumerGroup(group_id, self.settings, self._topics, self.room)
        return ClassicGroup(group_id, self.settings)

    def _keep(self, group: Group) -> Group:
        self._groups[group.group_id] = group
        self._wakes.setdefault(group.group_id, Wakes())
        return group

    def _drop(self, group_id: str) -> None:
        self._groups.pop(group_id, None)
        self._wakes.pop(group_id, None)
        self.room.hold(group_id, 0)

    def _check_room(self, more_bytes: int) -> None:
        if not self.room.has(more_bytes):
            raise GroupMaxSizeReached(no_room(self.room))

    def _measure(self, group_id: str) -> None:
        group, offsets_bytes = self._groups.get(group_id), self._offsets.room_bytes(group_id)
        if group is not None:
            self.room.hold(group_id, group.room_bytes + len(group_id) + offsets_bytes)
        else:  # the offsets of one whose group is made when all is replayed
            self.room.hold(group_id, GROUP_BYTES + len(group_id) + offsets_bytes if offsets_bytes else 0)

    def _finished(self, group_id: str, effects: Effects, now_ms: int) -> Effects:
        """What is the same after every call: a group moves back to the classic protocol when its members have; one of
        which nothing is left goes; when to wake it."""
        effects = self._settled(group_id, effects, now_ms)
        self._measure(group_id)
        return effects

    def _settled(self, group_id: str, effects: Effects, now_ms: int) -> Effects:
        group = self._groups.get(group_id)
        if isinstance(group, ConsumerGroup) and migration.downgrades(group, self.settings):
            group, moving = migration.downgrade(group, self.settings, self._topics, now_ms)
            self._keep(group)
            effects.extend(moving)
        if group is None:
            effects.wake_ms = None
            return effects
        has_offsets = bool(self._offsets.of_group(group_id))
        wakes = self._wakes[group_id]
        # One whose last offset was deleted stays until its offsets are looked at: who cleans up deletes it next.
        if group.is_empty and not has_offsets and wakes.offsets_ms is None and not group.records():
            self._drop(group_id)
            effects.wake_ms = None
            return effects
        if wakes.offsets_ms is None and (has_offsets or group.is_empty):
            wakes.offsets_ms = now_ms + self.settings.offsets_retention_check_interval_ms
        wakes.tell(effects)
        return effects

    def _left_out(self, event: Any, now_ms: int) -> Effects:
        error = CoordinatorNotAvailable(
            "it was left out at the start: all groups need more than groups.memory.max.bytes, "
            f"{self.settings.memory_max_bytes >> 10} KiB; raise it and restart"
        )
        effects = _answer(event, _refusal(event, error))
        effects.notices += self._refusal_notice(event.group_id, error, now_ms)
        return effects

    def _refusal_notice(self, group_id: str, error: RequestError, now_ms: int) -> list[str]:
        last_ms = self._noticed_ms.get(error.code)
        if last_ms is not None and now_ms - last_ms < REFUSAL_NOTICE_INTERVAL_MS:
            return []
        self._noticed_ms[error.code] = now_ms
        return [f"group {shown(group_id)} was refused: {error.message:.500} (said at most once a minute)"]

    _EVENTS: ClassVar[dict[type, Callable[[Groups, Any, int], Effects]]] = {
        JoinGroup: _join,
        SyncGroup: _of_member,
        Heartbeat: _of_member,
        LeaveGroup: _leave,
        ConsumerGroupHeartbeat: _consumer_heartbeat,
        DescribeGroup: _describe,
        ConsumerGroupDescribe: _consumer_describe,
        DeleteGroup: _delete,
        CommitOffsets: _commit,
        FetchOffsets: _fetch,
        DeleteOffsets: _delete_offsets,
    }


def _answer(event: Any, result: object) -> Effects:
    return Effects(replies=[Reply(event.token, result)])


def _refusal(event: Any, error: RequestError) -> object:
    if isinstance(event, (ConsumerGroupHeartbeat, ConsumerGroupDescribe)):
        return event.refused(error.code, error.message)
    return event.refused(error.code)


def _check(event: Any) -> None:
    """Raise for names that are missing, and for what is longer than anybody may send."""
    if isinstance(event, ConsumerGroupHeartbeat) and not event.group_id.strip():
        raise InvalidRequest("GroupId can't be empty.")
    if not event.group_id and isinstance(event, _NAMED):
        raise InvalidGroupId("a group needs a name")
    if len(event.group_id.encode()) > NAME_BYTES_MAX:
        raise InvalidGroupId(f"a group's name has at most {NAME_BYTES_MAX} bytes")
    if isinstance(event, JoinGroup):
        names = [event.client_id, event.client_host, event.instance_id or "", event.protocol_type]
        names += [name for name, _ in event.protocols]
        if any(len(name.encode()) > NAME_BYTES_MAX for name in names):
            raise InvalidRequest(f"names of clients, instances and protocols have at most {NAME_BYTES_MAX} bytes")
        if len(event.protocols) > PROTOCOLS_MAX:
            raise InvalidRequest(f"a member speaks at most {PROTOCOLS_MAX} protocols")
        if metadata_bytes(event.protocols) > MEMBER_METADATA_BYTES_MAX:
            raise InvalidRequest(f"a member's metadata has at most {MEMBER_METADATA_BYTES_MAX} bytes")
