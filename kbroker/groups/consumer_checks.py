"""What a ConsumerGroupHeartbeat may say at all, whoever sends it: each fault is named."""

from __future__ import annotations

from collections.abc import Collection

from kbroker.errors import InvalidRequest, UnsupportedAssignor
from kbroker.groups.consumer_events import JOIN_EPOCH, LEAVE_STATIC_EPOCH, ConsumerGroupHeartbeat
from kbroker.groups.limits import (
    NAME_BYTES_MAX,
    PATTERNS_MAX,
    SUBSCRIBED_TOPICS_MAX,
    SUBSCRIPTION_BYTES_MAX,
    names_bytes,
)
from kbroker.groups.patterns import compiled
from kbroker.groups.settings import GroupSettings


def check_heartbeat(event: ConsumerGroupHeartbeat, settings: GroupSettings, known_patterns: Collection[str]) -> None:
    """Raise for what no member may send. A pattern that the group knows was checked before."""
    _check_names(event)
    if event.member_epoch < LEAVE_STATIC_EPOCH:
        raise InvalidRequest(f"MemberEpoch is invalid: {event.member_epoch}.")
    if event.member_epoch == LEAVE_STATIC_EPOCH and event.instance_id is None:
        raise InvalidRequest("InstanceId can't be null when MemberEpoch is -2.")
    if event.member_epoch == JOIN_EPOCH:
        _check_join(event)
    if event.rebalance_timeout_ms < 0 and event.rebalance_timeout_ms != -1:
        raise InvalidRequest(f"RebalanceTimeoutMs is invalid: {event.rebalance_timeout_ms}.")
    if event.assignor is not None and event.assignor not in settings.consumer_assignors:
        raise UnsupportedAssignor(
            f"ServerAssignor {event.assignor} is not supported. "
            f"Supported assignors: {', '.join(settings.consumer_assignors)}."
        )
    if event.topics is not None and names_bytes(event.topics) > SUBSCRIPTION_BYTES_MAX:
        raise InvalidRequest(f"SubscribedTopicNames is too long: at most {SUBSCRIPTION_BYTES_MAX} bytes are allowed.")
    if event.topics is not None and len(event.topics) > SUBSCRIBED_TOPICS_MAX:
        raise InvalidRequest(f"SubscribedTopicNames has more than {SUBSCRIBED_TOPICS_MAX} names.")
    if event.pattern and event.pattern not in known_patterns:
        compiled(event.pattern)
        if len(known_patterns) >= PATTERNS_MAX:
            raise InvalidRequest(f"The group's members use {PATTERNS_MAX} patterns already, as many as are allowed.")


def _check_names(event: ConsumerGroupHeartbeat) -> None:
    # A member without an id joins only in v0, where it is given one.
    if not event.member_id.strip() and (event.fresh_id is None or event.member_epoch != JOIN_EPOCH):
        raise InvalidRequest("MemberId can't be empty.")
    for field, name in (("InstanceId", event.instance_id), ("RackId", event.rack_id)):
        if name is not None and not name.strip():
            raise InvalidRequest(f"{field} can't be empty.")
    names = (
        ("MemberId", event.member_id),
        ("InstanceId", event.instance_id),
        ("RackId", event.rack_id),
        ("ClientId", event.client_id),
        ("ClientHost", event.client_host),
    )
    for field, name in names:
        if name is not None and len(name) > NAME_BYTES_MAX // 4 and len(name.encode()) > NAME_BYTES_MAX:
            raise InvalidRequest(f"{field} is too long: at most {NAME_BYTES_MAX} bytes are allowed.")


def _check_join(event: ConsumerGroupHeartbeat) -> None:
    if event.rebalance_timeout_ms == -1:
        raise InvalidRequest("RebalanceTimeoutMs must be provided in first request.")
    if event.owned is None or event.owned:
        raise InvalidRequest("TopicPartitions must be empty when (re-)joining.")
    if event.topics is None and event.pattern is None:
        raise InvalidRequest("Either SubscribedTopicNames or SubscribedTopicRegex must be non-null when (re-)joining.")
