"""Looks offsets up by timestamp, at the workers that own the partitions."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from kbroker.clients.backoff import backoff_ms
from kbroker.clients.cluster import Cluster, now_ms
from kbroker.clients.link import Reply
from kbroker.clients.steps import Steps
from kbroker.errors import (
    BrokerUnavailable,
    NetworkError,
    RequestError,
    RetriableError,
    UnknownTopicOrPartition,
    error_for,
)
from kbroker.types import TopicPartition
from kbroker.wire.messages import ListOffsets, OffsetFound, OffsetQuery, OffsetsAnswer
from kbroker.wording import counted

OnFound = Callable[[TopicPartition, OffsetFound | None, RequestError | None], None]


def ask_offsets(cluster: Cluster, wanted: Mapping[TopicPartition, int], on_found: OnFound) -> None:
    """Ask for offsets by timestamp (or EARLIEST, LATEST); `on_found` is called once for each partition."""
    by_node: dict[int, list[TopicPartition]] = {}
    for topic_partition in wanted:
        by_node.setdefault(cluster.view.leader(topic_partition), []).append(topic_partition)
    for several in by_node.values():
        _ask_owner(cluster, {tp: wanted[tp] for tp in several}, on_found)


def _ask_owner(cluster: Cluster, wanted: Mapping[TopicPartition, int], on_found: OnFound) -> None:
    def answered(reply: Reply) -> None:
        found: dict[tuple[str, int], OffsetFound] = {}
        if reply.error is None:
            found = {(f.topic, f.partition): f for f in reply.answer.partitions}
        for tp in wanted:
            one = found.get(tp)
            if one is None:
                on_found(tp, None, reply.error or UnknownTopicOrPartition(f"{tp} was left out of an answer"))
            elif one.error:
                on_found(tp, None, error_for(one.error, one.message))
            else:
                on_found(tp, one, None)

    request = ListOffsets([OffsetQuery(tp.topic, tp.partition, timestamp_ms) for tp, timestamp_ms in wanted.items()])
    cluster.ask_owner(next(iter(wanted)), request, OffsetsAnswer, answered)


def find_offsets(
    cluster: Cluster, wanted: Mapping[TopicPartition, int], timeout_ms: int
) -> Steps[dict[TopicPartition, OffsetFound]]:
    """As ask_offsets, waiting, and trying again what may succeed later.

    Raises UnknownTopicOrPartition, BrokerUnavailable, or what an owner refused with.
    """
    deadline = now_ms() + timeout_ms
    found: dict[TopicPartition, OffsetFound] = {}
    last: RequestError | None = None
    attempt = 0
    while missing := {tp: ts for tp, ts in wanted.items() if tp not in found}:
        errors: dict[TopicPartition, RequestError] = {}

        def note(tp: TopicPartition, one: OffsetFound | None, error: RequestError | None) -> None:
            if one is not None:
                found[tp] = one
            else:
                errors[tp] = error or NetworkError(f"no answer for {tp}")  # noqa: B023  # called within this turn

        ask_offsets(cluster, missing, note)
        while len(errors) + sum(tp in found for tp in missing) < len(missing) and now_ms() < deadline:
            yield from cluster.turn(deadline - now_ms())
        for tp, error in errors.items():
            last = error
            if not isinstance(error, RetriableError):
                raise error
            if isinstance(error, UnknownTopicOrPartition) or cluster.view.leader(tp) < 0:
                yield from cluster.fresh_metadata(max(1, deadline - now_ms()))
                _check_known(cluster, tp)
        if now_ms() >= deadline:
            raise BrokerUnavailable(f"offsets could not be looked up within {timeout_ms} ms: {last}")
        if errors:
            cluster.want_metadata()
            attempt += 1
            yield from cluster.pause(min(backoff_ms(attempt, 20, 500), max(0, deadline - now_ms())))
    return found


def _check_known(cluster: Cluster, topic_partition: TopicPartition) -> None:
    cluster.view.check(topic_partition.topic)
    count = cluster.view.partition_count(topic_partition.topic)
    if count is not None and topic_partition.partition >= count:
        has = counted(count, "partition")
        raise UnknownTopicOrPartition(f"topic {topic_partition.topic!r} has {has}, no {topic_partition}")
