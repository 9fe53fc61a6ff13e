"""What Admin and its asyncio twin do, but for how they wait (see steps.py)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kbroker.clients import unclosed
from kbroker.clients.cluster import Cluster, ClusterSettings
from kbroker.clients.group_membership import by_topic
from kbroker.clients.groups import GroupDescription, GroupListing, MemberDescription
from kbroker.clients.producer_options import whole_number
from kbroker.clients.records import ConfigEntry, NewTopic, OffsetAndMetadata, PartitionDescription, TopicDescription
from kbroker.clients.steps import Steps
from kbroker.config import value_text
from kbroker.errors import ClientClosed, ConfigError, KbrokerError, UnknownTopicOrPartition, error_for
from kbroker.types import TopicPartition
from kbroker.wire import group_messages, messages


class AdminSteps:
    """What Admin and its asyncio twin do; see there."""

    def __init__(
        self, server: str | None = None, *, client_id: str = "kbroker-admin", api_timeout_ms: int = 10_000
    ) -> None:
        self._timeout_ms = whole_number("api_timeout_ms", api_timeout_ms, 1)
        settings = ClusterSettings(client_id=client_id, request_timeout_ms=api_timeout_ms)
        self.cluster = Cluster(server, settings, "admin")
        self._broker_timeout_ms = max(1, api_timeout_ms - 500)  # so that the broker says itself that it took too long
        self._closed = False
        unclosed.opened(self)

    def close(self) -> None:
        """Free everything. A second call does nothing."""
        self._closed = True
        unclosed.closed(self)
        self.cluster.close()

    def __del__(self) -> None:
        unclosed.closed(self)
        if hasattr(self, "_closed"):
            self._end_at_exit()

    def _end_at_exit(self, deadline_s: float = 0.0) -> None:  # noqa: ARG002  # nothing is waited for
        """Free everything, if nobody has, and say so. Part of unclosed.Closable."""
        cluster = self.cluster
        if cluster.closed or cluster.guard.forked:
            return
        cluster.drop()
        if cluster.is_used:
            unclosed.warn("an Admin", "its connections end here")

    def _ended_at_exit(self, deadline_s: float) -> None:
        """Part of unclosed.Closable."""

    def connect(self) -> Steps[None]:
        """Wait for the broker's greeting. Raises BrokerUnavailable; then all is closed."""
        try:
            yield from self.cluster.connect(self._timeout_ms)
        except BaseException:
            self.cluster.close()
            raise

    def create_topics(self, new_topics: Sequence[NewTopic], *, validate_only: bool = False) -> Steps[None]:
        """Create topics, or with `validate_only` see whether that would work. They can be used when this returns.

        Raises the first topic's error: TopicAlreadyExists, InvalidTopic, InvalidPartitions,
        InvalidReplicationFactor, InvalidConfig, … Topics
        after and before it may have been created.
        """
        wanted = []
        for topic in new_topics:
            settings = {str(name): value_text(value) for name, value in topic.topic_configs.items()}
            wanted.append(messages.NewTopic(topic.name, topic.num_partitions, topic.replication_factor, settings))
        request = messages.CreateTopics(wanted, self._broker_timeout_ms, validate_only)
        self._raise_first((yield from self._call(request, messages.TopicResults, repeatable=validate_only)))

    def create_topic(self, /, name: str, num_partitions: int = -1, **topic_configs: Any) -> Steps[None]:
        """Create one topic; settings by Kafka's names, `_` for `.`: `retention_ms=1000`. Raises as create_topics."""
        settings = {setting.replace("_", "."): value for setting, value in topic_configs.items()}
        yield from self.create_topics([NewTopic(name, num_partitions, topic_configs=settings)])

    def delete_topics(self, names: Sequence[str]) -> Steps[None]:
        """Delete topics with their records. Raises the first one's error: UnknownTopicOrPartition, …"""
        request = messages.DeleteTopics(list(names), self._broker_timeout_ms)
        self._raise_first((yield from self._call(request, messages.TopicResults, repeatable=False)))

    def list_topics(self) -> Steps[list[str]]:
        """The names of all topics, sorted."""
        answer = yield from self._metadata(None)
        return sorted(topic.name for topic in answer.topics)

    def describe_topics(
        self, names: Sequence[str] | None = None, *, auto_create: bool = False
    ) -> Steps[list[TopicDescription]]:
        """Partitions and own settings of these topics (None: all), in that order. Raises UnknownTopicOrPartition, …

        `auto_create` makes those that are not there, where the broker's auto.create.topics.enable allows it.
        """
        answer = yield from self._metadata(None if names is None else list(names), auto_create)
        for topic in answer.topics:
            if topic.error:
                raise error_for(topic.error, topic.message)
        found = {
            topic.name: TopicDescription(
                topic.name,
                topic.topic_id,
                [PartitionDescription(p.partition, p.leader, p.leader_epoch) for p in topic.partitions],
                dict(topic.settings),
            )
            for topic in answer.topics
        }
        return [found[name] for name in (sorted(found) if names is None else names)]

    def describe_configs(self, topic: str = "") -> Steps[list[ConfigEntry]]:
        """The settings in force for a topic, or (no name) for the broker. Raises UnknownTopicOrPartition."""
        answer: messages.SettingsAnswer = yield from self._call(
            messages.DescribeSettings(topic), messages.SettingsAnswer
        )
        return [ConfigEntry(s.name, s.value, s.source, s.doc, s.allowed) for s in answer.settings]

    def alter_configs(self, topic: str, set: Mapping[str, Any], remove: Sequence[str] = ()) -> Steps[None]:
        """Give a topic's settings new values; those in `remove` follow the broker's again. All or nothing.

        Raises InvalidConfig naming the setting, UnknownTopicOrPartition.
        """
        if not topic:
            raise ConfigError("topic must be named: the broker's own settings are in its configuration file")
        values = {name: value_text(value) for name, value in set.items()}
        request = messages.AlterSettings(topic, values, list(remove), self._broker_timeout_ms)
        self._raise_first((yield from self._call(request, messages.TopicResults)))

    def create_partitions(self, totals: Mapping[str, int]) -> Steps[None]:
        """Give topics more partitions: `{name: how many in all}`. Keys move to other partitions from then on.

        Raises InvalidPartitions, UnknownTopicOrPartition.
        """
        for name, total in totals.items():
            whole_number(f"totals[{name!r}]", total, 1)
            request = messages.CreatePartitions(name, total, self._broker_timeout_ms)
            self._raise_first((yield from self._call(request, messages.TopicResults, repeatable=False)))

    def delete_records(self, before_offsets: Mapping[TopicPartition, int]) -> Steps[dict[TopicPartition, int]]:
        """Delete the records before these offsets, for every reader and for good; -1: all that are there.

        Returns where each partition begins now. Raises the first one's error: OffsetOutOfRange (past the end),
        PolicyViolation (a topic that is only compacted), UnknownTopicOrPartition.
        """
        names = list(dict.fromkeys(place.topic for place in before_offsets))
        described = yield from self.describe_topics(names)
        known = {(topic.name, p.partition) for topic in described for p in topic.partitions}
        self.cluster.add_topics(set(names))
        found = {}
        for place, before_offset in before_offsets.items():
            whole_number(f"before_offsets[{place}]", before_offset, -1)
            if tuple(place) not in known:
                raise UnknownTopicOrPartition(f"there is no partition {place}")
            request = messages.DeleteRecords(place.topic, place.partition, before_offset, self._broker_timeout_ms)
            answer: messages.RecordsDeleted = yield from self._call(request, messages.RecordsDeleted, owner_of=place)
            found[place] = answer.log_start_offset
        return found

    def broker_status(self) -> Steps[dict[str, Any]]:
        """What every process of the broker is doing, and what is out of service: the document of `kbroker status`."""
        answer: messages.BrokerStatusAnswer = yield from self._call(
            messages.BrokerStatus(), messages.BrokerStatusAnswer
        )
        document: dict[str, Any] = json.loads(answer.document)
        return document

    def repair_log(self, place: TopicPartition, *, accept_loss: bool = False) -> Steps[messages.LogRepaired]:
        """Go past what is corrupt in a partition's log, with `accept_loss` also past what is lost of it. It is out of
        service meanwhile. What is passed over is kept beside the log, and its offsets stay empty.

        Raises UnknownTopicOrPartition, KafkaStorageError.
        """
        described = yield from self.describe_topics([place.topic])
        if place.partition not in {partition.partition for partition in described[0].partitions}:
            raise UnknownTopicOrPartition(f"there is no partition {place}")
        self.cluster.add_topics({place.topic})
        request = messages.RepairLog(place.topic, place.partition, accept_loss)
        answer: messages.LogRepaired = yield from self._call(request, messages.LogRepaired, owner_of=place)
        return answer

    # --- consumer groups ---

    def list_consumer_groups(self, states: Iterable[str] = (), types: Iterable[str] = ()) -> Steps[list[GroupListing]]:
        """All groups by name, or those in these states ("Stable") and of these types ("consumer", "classic")."""
        request = group_messages.ListGroups(list(states), list(types))
        answer: group_messages.GroupListings = yield from self._call(request, group_messages.GroupListings)
        return [GroupListing(one.group, one.type, one.state, one.protocol_type) for one in answer.groups]

    def describe_consumer_groups(self, groups: Sequence[str]) -> Steps[list[GroupDescription]]:
        """These groups with their members, in that order. Raises GroupIdNotFound."""
        request = group_messages.DescribeGroups(list(groups))
        answer: group_messages.GroupInfos = yield from self._call(request, group_messages.GroupInfos)
        for one in answer.groups:
            if one.error:
                raise error_for(one.error, one.message)
        return [
            GroupDescription(one.group, one.type, one.state, one.epoch, one.assignor, [*map(_member, one.members)])
            for one in answer.groups
        ]

    def list_consumer_group_offsets(
        self, group: str, partitions: Iterable[TopicPartition] | None = None
    ) -> Steps[dict[TopicPartition, OffsetAndMetadata]]:
        """What the group has committed for these partitions (None: for all), and when; those without a commit are left
        out."""
        wanted = None if partitions is None else by_topic(partitions)
        request = group_messages.FetchOffsets(group, wanted)
        answer: group_messages.CommittedOffsets = yield from self._call(request, group_messages.CommittedOffsets)
        return {
            TopicPartition(one.topic, one.partition): OffsetAndMetadata(
                one.offset, one.metadata, one.leader_epoch, one.commit_ms
            )
            for one in answer.offsets
            if one.offset >= 0 and not one.error
        }

    def alter_consumer_group_offsets(
        self, group: str, offsets: Mapping[TopicPartition, int | OffsetAndMetadata]
    ) -> Steps[None]:
        """Commit these offsets for a group that has no members; one that is not there is made.

        Raises UnknownMemberId when it has members, UnknownTopicOrPartition.
        """
        places = {tp: at if isinstance(at, OffsetAndMetadata) else OffsetAndMetadata(at) for tp, at in offsets.items()}
        for partition, place in places.items():
            whole_number(f"offsets[{partition}]", place.offset, 0, 2**63 - 1)
        request = group_messages.CommitOffsets(
            group,
            [
                group_messages.OffsetCommit(tp.topic, tp.partition, at.offset, at.leader_epoch, at.metadata)
                for tp, at in places.items()
            ],
        )
        self._raise_first_offset((yield from self._call(request, group_messages.OffsetResults)))

    def delete_consumer_group_offsets(self, group: str, partitions: Iterable[TopicPartition]) -> Steps[None]:
        """Forget what the group has committed there. Raises GroupSubscribedToTopic, GroupIdNotFound."""
        request = group_messages.DeleteOffsets(group, by_topic(partitions))
        self._raise_first_offset((yield from self._call(request, group_messages.OffsetResults)))

    def delete_consumer_groups(self, groups: Sequence[str]) -> Steps[None]:
        """Forget groups that have no members, with their offsets. Raises NonEmptyGroup, GroupIdNotFound."""
        request = group_messages.DeleteGroups(list(groups))
        answer: group_messages.GroupResults = yield from self._call(
            request, group_messages.GroupResults, repeatable=False
        )
        for result in answer.groups:
            if result.error:
                raise error_for(result.error, result.message)

    @staticmethod
    def _raise_first_offset(results: group_messages.OffsetResults) -> None:
        for result in results.offsets:
            if result.error:
                raise error_for(result.error, result.message)

    # --- inside ---

    def _call(
        self, request: Any, answer_class: type, *, repeatable: bool = True, owner_of: TopicPartition | None = None
    ) -> Steps[Any]:
        if self._closed:
            raise ClientClosed("this admin was closed")
        self.cluster.guard.check("admin")
        steps = self.cluster.call(
            request, answer_class, timeout_ms=self._timeout_ms, repeatable=repeatable, owner_of=owner_of
        )
        answer = yield from steps
        return answer

    def _metadata(self, names: list[str] | None, auto_create: bool = False) -> Steps[messages.MetadataAnswer]:
        request = messages.Metadata(names, auto_create)
        answer: messages.MetadataAnswer = yield from self._call(request, messages.MetadataAnswer)
        return answer

    @staticmethod
    def _raise_first(results: messages.TopicResults) -> None:
        for result in results.topics:
            if result.error:
                error: KbrokerError = error_for(result.error, result.message)
                raise error


def _member(info: group_messages.MemberInfo) -> MemberDescription:
    return MemberDescription(
        info.member_id,
        info.instance_id,
        info.client_id,
        info.host,
        info.epoch,
        info.is_classic,
        info.topics,
        info.pattern,
        _partitions(info.assignment),
        _partitions(info.target),
    )


def _partitions(topics: list[group_messages.TopicPartitions]) -> list[TopicPartition]:
    return [TopicPartition(entry.topic, number) for entry in topics for number in entry.partitions]
