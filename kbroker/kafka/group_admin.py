"""DescribeGroups, ListGroups, DeleteGroups: what administrators ask about groups, as events, and the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

from kbroker.errors import GroupIdNotFound
from kbroker.groups import events
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.authorized_operations import NOT_ASKED, ON_GROUP

_NOT_FOUND_IS_AN_ERROR: Final = 6
"""Before this version of DescribeGroups a group that is not there is a dead one, and no error."""


def describe(request: Any, token_of: Callable[[int], Any]) -> list[events.DescribeGroup]:
    """The events of a DescribeGroups request, one for each group. `token_of`: the token of the group of that number."""
    return [events.DescribeGroup(group_id, token_of(number)) for number, group_id in enumerate(request.groups)]


def described(request: Any, version: int, results: Sequence[events.DescribeGroupResult]) -> Any:
    """The answer to DescribeGroups."""
    types = codec.response_types(ApiKey.DESCRIBE_GROUPS)
    tells_operations = request.include_authorized_operations
    groups = []
    for group_id, result in zip(request.groups, results, strict=True):
        code = result.error_code
        if code == GroupIdNotFound.code and version < _NOT_FOUND_IS_AN_ERROR:
            code = 0
        groups.append(
            types.DescribedGroup(
                error_code=code,
                error_message=result.error_message,
                group_id=group_id,
                group_state=result.state,
                protocol_type=result.protocol_type,
                protocol_data=result.protocol_name,
                authorized_operations=ON_GROUP if tells_operations and not code else NOT_ASKED,
                members=[
                    types.DescribedGroupMember(
                        member_id=member.member_id,
                        group_instance_id=member.instance_id,
                        client_id=member.client_id,
                        client_host=member.client_host,
                        member_metadata=member.metadata,
                        member_assignment=member.assignment,
                    )
                    for member in result.members
                ],
            )
        )
    return types.DescribeGroupsResponse(groups=groups)


def listed(groups: Iterable[events.ListedGroup], error_code: int = 0) -> Any:
    """The answer to ListGroups."""
    types = codec.response_types(ApiKey.LIST_GROUPS)
    return types.ListGroupsResponse(
        error_code=error_code,
        groups=[
            types.ListedGroup(
                group_id=group.group_id,
                protocol_type=group.protocol_type,
                group_state=group.state,
                group_type=group.type,
            )
            for group in groups
        ],
    )


def delete(request: Any, token_of: Callable[[int], Any]) -> list[events.DeleteGroup]:
    """The events of a DeleteGroups request, one for each group."""
    return [events.DeleteGroup(group_id, token_of(number)) for number, group_id in enumerate(request.groups_names)]


def deleted(request: Any, results: Sequence[events.DeleteGroupResult]) -> Any:
    """The answer to DeleteGroups."""
    types = codec.response_types(ApiKey.DELETE_GROUPS)
    return types.DeleteGroupsResponse(
        results=[
            types.DeletableGroupResult(group_id=group_id, error_code=result.error_code)
            for group_id, result in zip(request.groups_names, results, strict=True)
        ]
    )
