"""What Kafka clients ask of groups: requests become events, and results the answers.

Both kinds of node have it. The coordinator puts the events to its groups; a worker refuses them all, and the client
looks for the coordinator.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from kbroker.errors import (
    CoordinatorLoadInProgress,
    CoordinatorNotAvailable,
    FencedMemberEpoch,
    GroupIdNotFound,
    IllegalGeneration,
    MemberIdRequired,
    NotCoordinator,
    RebalanceInProgress,
    StaleMemberEpoch,
    UnknownMemberId,
    UnknownTopicId,
    UnknownTopicOrPartition,
    UnreleasedInstanceId,
    error_for,
)
from kbroker.groups.consumer_events import ConsumerEvent
from kbroker.groups.events import Event, ListedGroup
from kbroker.kafka import consumer_groups, group_admin, group_members, offsets
from kbroker.kafka.apis import ApiKey
from kbroker.workers.change_log import ChangeLog
from kbroker.workers.gathering import Gathering
from kbroker.workers.kafka_service import Call, Serve
from kbroker.workers.refusal_log import RefusalLog

AnyEvent = Event | ConsumerEvent

_ROUTINE = frozenset(
    {
        0,
        UnknownTopicOrPartition.code,
        CoordinatorLoadInProgress.code,
        CoordinatorNotAvailable.code,
        NotCoordinator.code,
        IllegalGeneration.code,
        UnknownMemberId.code,
        RebalanceInProgress.code,
        GroupIdNotFound.code,
        MemberIdRequired.code,
        FencedMemberEpoch.code,
        UnreleasedInstanceId.code,
        StaleMemberEpoch.code,
        UnknownTopicId.code,
    }
)
"""Error codes that are part of a group's life."""


class TopicNames(Protocol):
    """Which topic has which id."""

    def name_of(self, topic_id: bytes) -> str | None: ...

    def id_of(self, name: str) -> bytes | None: ...


class GroupsElsewhere:
    """In a worker: groups are the coordinator's."""

    def ask(self, event: AnyEvent) -> None:
        """Refuse, as Kafka's brokers do."""
        event.token(event.refused(NotCoordinator.code))

    def listed(self, _states: Iterable[str], _types: Iterable[str]) -> list[ListedGroup] | int:
        """None: clients ask every node and merge the answers."""
        return []


class AskedGroups(Protocol):
    """Who knows the groups."""

    def ask(self, event: AnyEvent) -> None: ...

    def listed(self, states: Iterable[str], types: Iterable[str]) -> list[ListedGroup] | int: ...


class KafkaGroups:
    """Serves every API that is about groups or their offsets; `serves` has them by number."""

    def __init__(self, groups: AskedGroups, topics: TopicNames, change_log: ChangeLog, refusals: RefusalLog) -> None:
        self._groups = groups
        self._change_log = change_log
        self._refusals = refusals
        self._topics = topics
        self.serves: dict[int, Serve] = {
            ApiKey.JOIN_GROUP: self._join,
            ApiKey.SYNC_GROUP: self._sync,
            ApiKey.HEARTBEAT: self._heartbeat,
            ApiKey.LEAVE_GROUP: self._leave,
            ApiKey.OFFSET_COMMIT: self._commit,
            ApiKey.OFFSET_FETCH: self._fetch,
            ApiKey.OFFSET_DELETE: self._delete_offsets,
            ApiKey.DESCRIBE_GROUPS: self._describe,
            ApiKey.LIST_GROUPS: self._list,
            ApiKey.DELETE_GROUPS: self._delete,
            ApiKey.CONSUMER_GROUP_HEARTBEAT: self._consumer_heartbeat,
            ApiKey.CONSUMER_GROUP_DESCRIBE: self._consumer_describe,
        }

    # --- members ---

    def _join(self, call: Call) -> None:
        version = call.version

        def joined(result: Any) -> None:
            self._tell_refused(call, "JoinGroup", event.group_id, [result.error_code])
            call.answer(group_members.joined(version, result))

        fresh_id = str(uuid.uuid4())
        request = call.request
        event = group_members.join(request, version, call.client_id, call.client_host, fresh_id, joined)
        self._groups.ask(event)

    def _sync(self, call: Call) -> None:
        self._groups.ask(group_members.sync(call.request, lambda result: call.answer(group_members.synced(result))))

    def _heartbeat(self, call: Call) -> None:
        self._groups.ask(group_members.heartbeat(call.request, lambda result: call.answer(group_members.heard(result))))

    def _leave(self, call: Call) -> None:
        def left(result: Any) -> None:
            gone = zip(event.members, result.members, strict=False)  # none where the whole request was refused
            named = [(who.instance_id or who.member_id, who.reason) for who, of in gone if not of.error_code]
            self._change_log.members_left(call.caller, event.group_id, named)
            call.answer(group_members.left(call.version, result))

        event = group_members.leave(call.request, call.version, left)
        self._groups.ask(event)

    def _consumer_heartbeat(self, call: Call) -> None:
        def heard(result: Any) -> None:
            self._tell_refused(call, "ConsumerGroupHeartbeat", request.group_id, [result.error_code])
            call.answer(consumer_groups.heard(result))

        request, fresh_id = call.request, str(uuid.uuid4())
        self._groups.ask(
            consumer_groups.heartbeat(request, call.version, call.client_id, call.client_host, fresh_id, heard)
        )

    def _tell_refused(self, call: Call, what: str, group: str, codes: Iterable[int]) -> None:
        """Of what every member may meet at any time nothing is said, of the rest once a minute."""
        for code in {*codes} - _ROUTINE:
            name = type(error_for(code, "")).__name__
            why = f"{name} (code {code}); the reason is in the line about the group, where it has one"
            self._refusals.say(call.caller, f"{what} of group {group!r:.200}", why)

    # --- offsets ---

    def _commit(self, call: Call) -> None:
        def committed(result: Any) -> None:
            self._tell_refused(call, "OffsetCommit", event.group_id, result.error_codes)
            if not event.member_id and event.generation_id < 0:
                places = [(item.topic, item.partition, item.offset) for item in event.offsets]
                caller = call.caller
                self._change_log.offsets_committed(caller, caller.address, event.group_id, places, result.error_codes)
            call.answer(offsets.committed(call.request, result))

        event = offsets.commit(call.request, call.version, self._topics.name_of, committed)
        self._groups.ask(event)

    def _fetch(self, call: Call) -> None:
        def fetched(results: Sequence[Any]) -> None:
            call.answer(offsets.fetched(call.request, call.version, self._topics.id_of, results))

        gathering: Gathering[Any] = Gathering(fetched)
        self._ask_all(gathering, offsets.fetch(call.request, call.version, self._topics.name_of, gathering.token_of))

    def _delete_offsets(self, call: Call) -> None:
        def deleted(result: Any) -> None:
            if not result.error_code:
                self._change_log.offsets_deleted(call.caller, event.group_id, event.partitions, result.error_codes)
            call.answer(offsets.deleted(call.request, result))

        event = offsets.delete(call.request, deleted)
        self._groups.ask(event)

    def _ask_all(self, gathering: Gathering[Any], events: Sequence[AnyEvent]) -> None:
        gathering.expect(len(events))
        for event in events:
            self._groups.ask(event)

    # --- administration ---

    def _describe(self, call: Call) -> None:
        def described(results: Sequence[Any]) -> None:
            call.answer(group_admin.described(call.request, call.version, results))

        gathering: Gathering[Any] = Gathering(described)
        self._ask_all(gathering, group_admin.describe(call.request, gathering.token_of))

    def _consumer_describe(self, call: Call) -> None:
        def described(results: Sequence[Any]) -> None:
            call.answer(consumer_groups.described(call.request, self._topics.name_of, results))

        gathering: Gathering[Any] = Gathering(described)
        self._ask_all(gathering, consumer_groups.describe(call.request, gathering.token_of))

    def _list(self, call: Call) -> None:
        found = self._groups.listed(call.request.states_filter, call.request.types_filter)
        call.answer(group_admin.listed((), found) if isinstance(found, int) else group_admin.listed(found))

    def _delete(self, call: Call) -> None:
        def deleted(results: Sequence[Any]) -> None:
            for event, result in zip(events, results, strict=True):
                if not result.error_code:
                    self._change_log.group_deleted(call.caller, event.group_id)
            call.answer(group_admin.deleted(call.request, results))

        gathering: Gathering[Any] = Gathering(deleted)
        events = group_admin.delete(call.request, gathering.token_of)
        self._ask_all(gathering, events)
