"""ConsumerGroupHeartbeat and ConsumerGroupDescribe (KIP-848): requests as events, and the answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from kbroker.groups import consumer_events as events
from kbroker.groups.assignment import Assignment, of_topics
from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.kafka.authorized_operations import NOT_ASKED, ON_GROUP

_OWN_IDS: Final = 1
"""From this version of ConsumerGroupHeartbeat on a client makes its member id itself."""
_CLASSIC_MEMBER: Final = 0
_CONSUMER_MEMBER: Final = 1

NameOf = Callable[[bytes], str | None]


def heartbeat(
    request: Any, version: int, client_id: str, client_host: str, fresh_id: str, token: Any
) -> events.ConsumerGroupHeartbeat:
    """`fresh_id`: a new UUID as text; `client_host`: the client's address."""
    names, owned = request.subscribed_topic_names, request.topic_partitions
    return events.ConsumerGroupHeartbeat(
        group_id=request.group_id,
        token=token,
        member_id=request.member_id,
        member_epoch=request.member_epoch,
        client_id=client_id,
        client_host=f"/{client_host}",  # as Kafka shows it
        fresh_id=None if version >= _OWN_IDS else fresh_id,
        instance_id=request.instance_id,
        rack_id=request.rack_id,
        rebalance_timeout_ms=request.rebalance_timeout_ms,
        topics=None if names is None else tuple(names),
        pattern=request.subscribed_topic_regex,
        assignor=request.server_assignor,
        owned=None if owned is None else of_topics((item.topic_id, item.partitions) for item in owned),
    )


def heard(result: events.ConsumerGroupHeartbeatResult) -> Any:
    """The answer to ConsumerGroupHeartbeat."""
    types = codec.response_types(ApiKey.CONSUMER_GROUP_HEARTBEAT)
    assignment = result.assignment
    return types.ConsumerGroupHeartbeatResponse(
        error_code=result.error_code,
        error_message=result.error_message,
        member_id=result.member_id,
        member_epoch=result.member_epoch,
        heartbeat_interval_ms=result.heartbeat_interval_ms,
        assignment=None
        if assignment is None
        else types.Assignment(
            topic_partitions=[
                types.TopicPartitions(topic_id=topic_id, partitions=sorted(partitions))
                for topic_id, partitions in assignment.items()
            ]
        ),
    )


def describe(request: Any, token_of: Callable[[int], Any]) -> list[events.ConsumerGroupDescribe]:
    """The events of a ConsumerGroupDescribe request, one for each group."""
    return [
        events.ConsumerGroupDescribe(group_id, token_of(number)) for number, group_id in enumerate(request.group_ids)
    ]


def described(request: Any, name_of: NameOf, results: Sequence[events.ConsumerGroupDescribeResult]) -> Any:
    """The answer to ConsumerGroupDescribe."""
    types = codec.response_types(ApiKey.CONSUMER_GROUP_DESCRIBE)
    tells_operations = request.include_authorized_operations

    def assignment(found: Assignment) -> Any:
        return types.Assignment(
            topic_partitions=[
                types.TopicPartitions(
                    topic_id=topic_id, topic_name=name_of(topic_id) or "", partitions=sorted(partitions)
                )
                for topic_id, partitions in found.items()
            ]
        )

    return types.ConsumerGroupDescribeResponse(
        groups=[
            types.DescribedGroup(
                error_code=result.error_code,
                error_message=result.error_message,
                group_id=group_id,
                group_state=result.state,
                group_epoch=result.group_epoch,
                assignment_epoch=result.assignment_epoch,
                assignor_name=result.assignor,
                authorized_operations=ON_GROUP if tells_operations and not result.error_code else NOT_ASKED,
                members=[
                    types.Member(
                        member_id=member.member_id,
                        instance_id=member.instance_id,
                        rack_id=member.rack_id,
                        member_epoch=member.member_epoch,
                        client_id=member.client_id,
                        client_host=member.client_host,
                        subscribed_topic_names=list(member.topics),
                        subscribed_topic_regex=member.pattern,
                        assignment=assignment(member.assigned),
                        target_assignment=assignment(member.target),
                        member_type=_CLASSIC_MEMBER if member.is_classic else _CONSUMER_MEMBER,
                    )
                    for member in result.members
                ],
            )
            for group_id, result in zip(request.group_ids, results, strict=True)
        ]
    )
