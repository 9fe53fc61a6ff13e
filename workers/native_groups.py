"""What native clients ask of groups: their messages become the same events as Kafka's requests."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

from kbroker.errors import (
    CoordinatorNotAvailable,
    GroupIdNotFound,
    GroupMaxSizeReached,
    GroupSubscribedToTopic,
    InvalidCommitOffsetSize,
    InvalidGroupId,
    InvalidRequest,
    NonEmptyGroup,
    OffsetMetadataTooLarge,
    StaleMemberEpoch,
    UnknownMemberId,
    UnknownTopicOrPartition,
    error_for,
)
from kbroker.groups import protocol
from kbroker.groups.assignment import Assignment, of_topics
from kbroker.groups.consumer_events import (
    ConsumerGroupDescribe,
    ConsumerGroupDescribeResult,
    ConsumerGroupHeartbeat,
    ConsumerGroupHeartbeatResult,
)
from kbroker.groups.events import (
    CommitOffsets,
    CommitOffsetsResult,
    DeleteGroup,
    DeleteGroupResult,
    DeleteOffsets,
    DeleteOffsetsResult,
    DescribedMember,
    DescribeGroup,
    DescribeGroupResult,
    FetchOffsets,
    FetchOffsetsResult,
    OffsetToCommit,
)
from kbroker.groups.limits import COMMIT_BYTES_MAX, COMMIT_OFFSETS_MAX, NAME_BYTES_MAX
from kbroker.wire import codec
from kbroker.wire import group_messages as m
from kbroker.workers.change_log import ChangeLog
from kbroker.workers.doors import Asked
from kbroker.workers.gathering import Gathering
from kbroker.workers.group_coordinator import GroupCoordinator

R = TypeVar("R")

_MEANING = {
    CoordinatorNotAvailable.code: "what was asked could not be stored; try again",
    GroupIdNotFound.code: "there is no such group",
    GroupMaxSizeReached.code: "there are as many groups as groups.max allows; delete some that nobody needs",
    GroupSubscribedToTopic.code: "its members read that topic; stop them first",
    InvalidCommitOffsetSize.code: (
        f"one commit has at most {COMMIT_OFFSETS_MAX} offsets and {COMMIT_BYTES_MAX} bytes of records; make several"
    ),
    InvalidGroupId.code: f"a group needs a name, of at most {NAME_BYTES_MAX} bytes",
    NonEmptyGroup.code: "it has members; stop them first",
    OffsetMetadataTooLarge.code: "its metadata is longer than offset.metadata.max.bytes",
    StaleMemberEpoch.code: "that member is at another epoch by now",
    UnknownMemberId.code: "it has members, and the request is from none of them",
    UnknownTopicOrPartition.code: "there is no such partition",
}
"""What an error code means that comes without a message."""


class NativeGroups:
    """Serves the messages of `wire/group_messages.py`."""

    def __init__(self, groups: GroupCoordinator, change_log: ChangeLog) -> None:
        self._groups = groups
        self._change_log = change_log
        self.requests: Mapping[type, Callable[[Asked, Any], None]] = {
            m.GroupHeartbeat: self._heartbeat,
            m.CommitOffsets: self._commit,
            m.FetchOffsets: self._fetch,
            m.DeleteOffsets: self._delete_offsets,
            m.ListGroups: self._list,
            m.DescribeGroups: self._describe,
            m.DeleteGroups: self._delete,
        }

    # --- members ---

    def _heartbeat(self, asked: Asked, request: m.GroupHeartbeat) -> None:
        if not request.member_id:
            raise InvalidRequest("group_heartbeat.member_id must be an id that the client has chosen, a UUID as text")

        def answered(result: ConsumerGroupHeartbeatResult) -> None:
            if result.error_code:
                asked.refuse(
                    error_for(result.error_code, result.error_message or _message(result.error_code, request.group))
                )
                return
            assignment = None if result.assignment is None else self._named(result.assignment)
            answer = m.GroupHeartbeatAnswer(result.member_epoch, result.heartbeat_interval_ms, assignment)
            asked.answer(codec.encode_answer(answer))

        self._groups.ask(
            ConsumerGroupHeartbeat(
                request.group,
                answered,
                request.member_id,
                request.member_epoch,
                request.client_id,
                request.host,
                instance_id=request.instance_id,
                rebalance_timeout_ms=request.rebalance_timeout_ms,
                topics=None if request.topics is None else tuple(request.topics),
                pattern=request.pattern,
                assignor=request.assignor,
                owned=None if request.owned is None else self._by_id(request.owned),
            )
        )

    def _named(self, assignment: Assignment) -> list[m.TopicPartitions]:
        names = ((self._groups.topics.name_of(topic_id), numbers) for topic_id, numbers in assignment.items())
        return [m.TopicPartitions(name, sorted(numbers)) for name, numbers in names if name is not None]

    def _by_id(self, topics: Iterable[m.TopicPartitions]) -> Assignment:
        """By topic id; what the client says it reads of a topic that was deleted is left out."""
        ids = ((self._groups.topics.id_of(entry.topic), entry.partitions) for entry in topics)
        return of_topics((topic_id, numbers) for topic_id, numbers in ids if topic_id is not None)

    # --- offsets ---

    def _commit(self, asked: Asked, request: m.CommitOffsets) -> None:
        offsets = tuple(
            OffsetToCommit(o.topic, o.partition, o.offset, o.leader_epoch, o.metadata) for o in request.offsets
        )

        is_member = request.member_id or request.member_epoch >= 0
        caller = None if is_member else asked.caller

        def answered(result: CommitOffsetsResult) -> None:
            if caller is not None:
                wanted = [(entry.topic, entry.partition, entry.offset) for entry in offsets]
                self._change_log.offsets_committed(caller, asked.client, request.group, wanted, result.error_codes)
            places = [(entry.topic, entry.partition) for entry in offsets]
            _answer_offsets(asked, request.group, places, result.error_codes)

        self._groups.ask(
            CommitOffsets(
                request.group, answered, request.member_id, request.instance_id, request.member_epoch, offsets
            )
        )

    def _fetch(self, asked: Asked, request: m.FetchOffsets) -> None:
        def answered(result: FetchOffsetsResult) -> None:
            if result.error_code:
                asked.refuse(error_for(result.error_code, _message(result.error_code, request.group)))
                return
            found = [
                m.CommittedOffset(o.topic, o.partition, o.offset, o.leader_epoch, o.metadata, o.error_code, o.commit_ms)
                for o in result.offsets
            ]
            asked.answer(codec.encode_answer(m.CommittedOffsets(found)))

        places = None if request.partitions is None else _places(request.partitions)
        member_id = request.member_id or None
        self._groups.ask(FetchOffsets(request.group, answered, places, member_id, request.member_epoch))

    def _delete_offsets(self, asked: Asked, request: m.DeleteOffsets) -> None:
        places = _places(request.partitions)
        caller = asked.caller

        def answered(result: DeleteOffsetsResult) -> None:
            if not result.error_code:
                self._change_log.offsets_deleted(caller, request.group, places, result.error_codes)
            if result.error_code:
                asked.refuse(error_for(result.error_code, _message(result.error_code, request.group)))
            else:
                _answer_offsets(asked, request.group, places, result.error_codes)

        self._groups.ask(DeleteOffsets(request.group, answered, places))

    # --- all groups ---

    def _list(self, asked: Asked, request: m.ListGroups) -> None:
        listed = self._groups.listed(frozenset(request.states), frozenset(request.types))
        if isinstance(listed, int):
            raise error_for(listed, "groups are not served at the moment")
        found = [m.GroupListing(one.group_id, one.type, one.state, one.protocol_type) for one in listed]
        asked.answer(codec.encode_answer(m.GroupListings(found)))

    def _describe(self, asked: Asked, request: m.DescribeGroups) -> None:
        def done(infos: Sequence[m.GroupInfo]) -> None:
            asked.answer(codec.encode_answer(m.GroupInfos([*infos])))

        _ask_each(request.groups, self._describe_one, Gathering(done))

    def _describe_one(self, group: str, done: Callable[[m.GroupInfo], None]) -> None:
        def described(result: ConsumerGroupDescribeResult) -> None:
            if result.error_code == GroupIdNotFound.code:
                self._groups.ask(DescribeGroup(group, lambda classic: done(_classic_info(group, classic))))
            else:
                done(self._info(group, result))

        self._groups.ask(ConsumerGroupDescribe(group, described))

    def _info(self, group: str, result: ConsumerGroupDescribeResult) -> m.GroupInfo:
        if result.error_code:
            return m.GroupInfo(group, result.error_code, result.error_message or _message(result.error_code, group))
        members = [
            m.MemberInfo(
                one.member_id,
                one.instance_id,
                one.client_id,
                one.client_host,
                one.member_epoch,
                one.is_classic,
                sorted(one.topics),
                one.pattern or "",
                self._named(one.assigned),
                self._named(one.target),
            )
            for one in result.members
        ]
        return m.GroupInfo(group, 0, "", "consumer", result.state, result.group_epoch, result.assignor, members)

    def _delete(self, asked: Asked, request: m.DeleteGroups) -> None:
        caller = asked.caller

        def delete(group: str, done: Callable[[m.GroupResult], None]) -> None:
            def deleted(result: DeleteGroupResult) -> None:
                if not result.error_code:
                    self._change_log.group_deleted(caller, group)
                done(m.GroupResult(group, result.error_code, _message(result.error_code, group)))

            self._groups.ask(DeleteGroup(group, deleted))

        def all_deleted(results: Sequence[m.GroupResult]) -> None:
            asked.answer(codec.encode_answer(m.GroupResults([*results])))

        _ask_each(request.groups, delete, Gathering(all_deleted))


def _message(code: int, group: str) -> str:
    """ "" for no error."""
    return f"group {group:.249}: {_MEANING.get(code, f'refused with error {code}')}" if code else ""


def _places(topics: Iterable[m.TopicPartitions]) -> tuple[tuple[str, int], ...]:
    return tuple((entry.topic, number) for entry in topics for number in entry.partitions)


def _answer_offsets(asked: Asked, group: str, places: Iterable[tuple[str, int]], codes: Iterable[int]) -> None:
    results = [
        m.OffsetResult(topic, partition, code, f"{_message(code, group)} ({topic:.249}-{partition})" if code else "")
        for (topic, partition), code in zip(places, codes, strict=True)
    ]
    asked.answer(codec.encode_answer(m.OffsetResults(results)))


def _ask_each(names: list[str], ask: Callable[[str, Callable[[R], None]], None], gathering: Gathering[R]) -> None:
    gathering.expect(len(names))
    for number, name in enumerate(names):
        ask(name, gathering.token_of(number))


def _classic_info(group: str, result: DescribeGroupResult) -> m.GroupInfo:
    if result.error_code:
        return m.GroupInfo(group, result.error_code, result.error_message or _message(result.error_code, group))
    is_consumer = result.protocol_type == protocol.PROTOCOL_TYPE
    members = [_classic_member(one, is_consumer) for one in result.members]
    return m.GroupInfo(group, 0, "", "classic", result.state, -1, result.protocol_name, members)


def _classic_member(member: DescribedMember, is_consumer: bool) -> m.MemberInfo:
    info = m.MemberInfo(member.member_id, member.instance_id, member.client_id, member.client_host, -1, True)
    if is_consumer:
        # What clients have put there is theirs alone: it may be anything.
        with contextlib.suppress(ValueError):
            info.topics = sorted(protocol.decode_subscription(member.metadata).topics)
        with contextlib.suppress(ValueError):
            assigned = protocol.decode_assignment(member.assignment).partitions
            info.assignment = [m.TopicPartitions(topic, sorted(numbers)) for topic, numbers in assigned.items()]
    return info
