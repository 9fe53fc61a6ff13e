"""JoinGroup, SyncGroup, Heartbeat, LeaveGroup: what members of classic groups ask, as events, and the answers."""

from __future__ import annotations

from typing import Any, Final

from kbroker.groups import events
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey

_REBALANCE_TIMEOUT: Final = 1
"""From this version of JoinGroup on it has a rebalance timeout of its own."""
_MEMBER_ID_REQUIRED: Final = 4
"""From this version of JoinGroup on a new member is given an id first."""
_NAMES_PROTOCOL_TYPE: Final = 7
"""From this version of JoinGroup on its answer names the protocol type, and no protocol is null and not empty."""
_SKIP_ASSIGNMENT: Final = 9
_SEVERAL_LEAVE: Final = 3
"""From this version of LeaveGroup on several members leave at once."""


def join(request: Any, version: int, client_id: str, client_host: str, fresh_id: str, token: Any) -> events.JoinGroup:
    """`fresh_id`: a new UUID as text; `client_host`: the client's address."""
    session_ms = request.session_timeout_ms
    return events.JoinGroup(
        group_id=request.group_id,
        token=token,
        member_id=request.member_id,
        instance_id=request.group_instance_id,
        client_id=client_id,
        client_host=f"/{client_host}",  # as Kafka shows it
        protocol_type=request.protocol_type,
        protocols=tuple((item.name, bytes(item.metadata)) for item in request.protocols),
        session_timeout_ms=session_ms,
        rebalance_timeout_ms=request.rebalance_timeout_ms if version >= _REBALANCE_TIMEOUT else session_ms,
        fresh_id=fresh_id,
        requires_known_member_id=version >= _MEMBER_ID_REQUIRED,
        supports_skip_assignment=version >= _SKIP_ASSIGNMENT,
        reason=request.reason or "",
    )


def joined(version: int, result: events.JoinGroupResult) -> Any:
    """The answer to JoinGroup."""
    types = codec.response_types(ApiKey.JOIN_GROUP)
    return types.JoinGroupResponse(
        error_code=result.error_code,
        generation_id=result.generation_id,
        protocol_type=result.protocol_type,
        protocol_name=result.protocol_name if version >= _NAMES_PROTOCOL_TYPE else result.protocol_name or "",
        leader=result.leader,
        skip_assignment=result.skip_assignment,
        member_id=result.member_id,
        members=[
            types.JoinGroupResponseMember(
                member_id=member.member_id, group_instance_id=member.instance_id, metadata=member.metadata
            )
            for member in result.members
        ],
    )


def sync(request: Any, token: Any) -> events.SyncGroup:
    """The event of a SyncGroup request."""
    return events.SyncGroup(
        group_id=request.group_id,
        token=token,
        member_id=request.member_id,
        instance_id=request.group_instance_id,
        generation_id=request.generation_id,
        protocol_type=request.protocol_type,
        protocol_name=request.protocol_name,
        assignments=tuple((item.member_id, bytes(item.assignment)) for item in request.assignments),
    )


def synced(result: events.SyncGroupResult) -> Any:
    """The answer to SyncGroup."""
    return codec.response_types(ApiKey.SYNC_GROUP).SyncGroupResponse(
        error_code=result.error_code,
        protocol_type=result.protocol_type,
        protocol_name=result.protocol_name,
        assignment=result.assignment,
    )


def heartbeat(request: Any, token: Any) -> events.Heartbeat:
    """The event of a Heartbeat request."""
    return events.Heartbeat(
        request.group_id, token, request.member_id, request.group_instance_id, request.generation_id
    )


def heard(result: events.HeartbeatResult) -> Any:
    """The answer to Heartbeat."""
    return codec.response_types(ApiKey.HEARTBEAT).HeartbeatResponse(error_code=result.error_code)


def leave(request: Any, version: int, token: Any) -> events.LeaveGroup:
    """The event of a LeaveGroup request."""
    if version < _SEVERAL_LEAVE:
        return events.LeaveGroup(request.group_id, token, (events.LeavingMember(request.member_id),))
    members = tuple(
        events.LeavingMember(member.member_id, member.group_instance_id, member.reason or "")
        for member in request.members
    )
    return events.LeaveGroup(request.group_id, token, members)


def left(version: int, result: events.LeaveGroupResult) -> Any:
    """The answer to LeaveGroup."""
    types = codec.response_types(ApiKey.LEAVE_GROUP)
    if version < _SEVERAL_LEAVE:
        code = result.error_code or next((member.error_code for member in result.members), 0)
        return types.LeaveGroupResponse(error_code=code)
    members = [
        types.MemberResponse(
            member_id=member.member_id, group_instance_id=member.instance_id, error_code=member.error_code
        )
        for member in result.members
    ]
    return types.LeaveGroupResponse(error_code=result.error_code, members=members)
