"""What is stored of a consumer group. Every change is made here, together with the record that makes it again."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from hashlib import blake2b

from kbroker.groups.assignment import NOTHING, Assignment, TopicIdPartition, partitions_of, size
from kbroker.groups.consumer_member import NEW, ConsumerMember
from kbroker.groups.consumer_records import (
    NOBODY,
    CurrentFacts,
    GroupFacts,
    Kind,
    MemberFacts,
    PatternFacts,
    RecordKey,
    current_record,
    decode_current,
    decode_group,
    decode_key,
    decode_member,
    decode_pattern,
    decode_target,
    decode_target_epoch,
    group_record,
    member_record,
    pattern_record,
    target_epoch_record,
    target_record,
    tombstone,
)
from kbroker.groups.effects import Record
from kbroker.groups.fields import MalformedFields
from kbroker.groups.kind import Topics
from kbroker.groups.room import GROUP_BYTES, MATCH_BYTES, MEMBER_BYTES, NAME_BYTES, PARTITION_BYTES, TARGET_BYTES


class ConsumerGroupState:
    """Members, targets, epochs and patterns. Methods that change something return the records that say so."""

    def __init__(self, group_id: str) -> None:
        self.group_id = group_id
        self.epoch = 0
        """Rises with every change of members, subscriptions or topics."""
        self.assignment_epoch = 0
        """The group epoch for which the targets were computed."""
        self.metadata_hash = 0
        """Of the subscribed topics as they were at this epoch."""
        self.members: dict[str, ConsumerMember] = {}
        self.targets: dict[str, Assignment] = {}
        self.patterns: dict[str, PatternFacts] = {}
        self.classic_count = 0
        """How many members speak the classic protocol."""
        self.facts_bytes = 0
        """What all members have told about themselves."""
        self.names = 0
        """Topics that members have named, each as often as it was."""
        self.assigned = 0
        """Partitions that members have, or have to give up."""
        self.targeted = 0
        """Partitions that members are to have."""
        self.matched = 0
        """Topics that patterns match, each as often as it is matched."""
        self._static: dict[str, str] = {}
        self._owners: dict[TopicIdPartition, str] = {}
        self._topic_users: Counter[str] = Counter()
        self._pattern_users: Counter[str] = Counter()
        self._matches: dict[str, frozenset[str]] = {}
        """The topics of each pattern, to look one up."""
        self._holds_partition_metadata = False

    @property
    def room_bytes(self) -> int:
        """About the memory that it takes."""
        told_bytes = GROUP_BYTES + len(self.members) * MEMBER_BYTES + self.facts_bytes + self.names * NAME_BYTES
        return told_bytes + self.matched * MATCH_BYTES + self.partitions_bytes

    @property
    def partitions_bytes(self) -> int:
        """What of that is about partitions."""
        return self.assigned * PARTITION_BYTES + self.targeted * TARGET_BYTES

    def static_member(self, instance_id: str) -> ConsumerMember | None:
        """Who holds that instance id."""
        member_id = self._static.get(instance_id)
        return None if member_id is None else self.members.get(member_id)

    def target(self, member_id: str) -> Assignment:
        """What a member is to have."""
        return self.targets.get(member_id, NOTHING)

    def is_free(self, partition: TopicIdPartition, member_id: str) -> bool:
        """Nobody but this member has it, or still has to give it up."""
        return self._owners.get(partition, member_id) == member_id

    def topics_of(self, member: ConsumerMember) -> frozenset[str]:
        """The names that a member reads, by its pattern too."""
        return frozenset(member.facts.topics) | self.matches(member.facts.pattern or "")

    def subscribes(self, topic: str) -> bool:
        """Whether any member reads it."""
        return topic in self._topic_users or any(topic in self._matches[p] for p in self.used_patterns())

    def subscribed(self) -> set[str]:
        """All names that members read."""
        return set(self._topic_users).union(*(self._matches[p] for p in self.used_patterns()))

    def matches(self, pattern: str) -> frozenset[str]:
        """The topics that a pattern is known to match."""
        return self._matches.get(pattern, frozenset())

    def used_patterns(self) -> list[str]:
        """The patterns by which somebody subscribes, and whose topics are known."""
        return [pattern for pattern in self._pattern_users if pattern in self.patterns]

    def set_epoch(self, epoch: int, metadata_hash: int) -> Record:
        self.epoch, self.metadata_hash = epoch, metadata_hash
        return group_record(self.group_id, GroupFacts(epoch, metadata_hash))

    def set_facts(self, member_id: str, facts: MemberFacts) -> Record:
        """What a member tells about itself; it is there from now on."""
        member = self.members.get(member_id)
        if member is None:
            member = self.members[member_id] = ConsumerMember(member_id, facts)
        else:
            self._forget_facts(member)
            member.facts = facts
        self.classic_count += facts.classic is not None
        self.facts_bytes += facts.size_bytes
        self.names += len(facts.topics)
        self._topic_users.update(facts.topics)
        if facts.pattern is not None:
            self._pattern_users[facts.pattern] += 1
        if facts.instance_id is not None:
            self._static[facts.instance_id] = member_id
        return member_record(self.group_id, member_id, facts)

    def set_current(self, member: ConsumerMember, current: CurrentFacts) -> Record:
        """What a member has now."""
        self._forget_current(member)
        member.current = current
        self.assigned += size(current.assigned) + size(current.revoking)
        for assignment in (current.assigned, current.revoking):
            for partition in partitions_of(assignment):
                self._owners[partition] = member.member_id
        return current_record(self.group_id, member.member_id, current)

    def set_targets(self, targets: dict[str, Assignment]) -> list[Record]:
        """What everybody is to have at this group epoch; only differences are stored."""
        changed = [m for m, target in targets.items() if self.targets.get(m) != target]
        self.targets = targets
        self.targeted = sum(map(size, targets.values()))
        self.assignment_epoch = self.epoch
        records = [target_record(self.group_id, member_id, targets[member_id]) for member_id in changed]
        return [*records, target_epoch_record(self.group_id, self.epoch)]

    def set_pattern(self, pattern: str, topics: Iterable[str], now_ms: int) -> Record:
        """What a pattern matches at that time (ms since 1970)."""
        before = self.patterns.get(pattern)
        facts = PatternFacts(tuple(sorted(topics)), before.version + 1 if before else 1, now_ms)
        self._put_pattern(pattern, facts)
        return pattern_record(self.group_id, pattern, facts)

    def remove(self, member: ConsumerMember) -> list[Record]:
        """Forget a member and all that it had."""
        self._forget_current(member)
        self._forget_facts(member)
        del self.members[member.member_id]
        self._put_target(member.member_id, None)
        return self._member_tombstones(member.member_id) + self.drop_unused_patterns()

    def rename(self, member: ConsumerMember, member_id: str, current: CurrentFacts) -> list[Record]:
        """A static member comes back under another id, and has this from now on."""
        target = self.target(member.member_id)
        # The newcomer first: a pattern that only this member has stays in use.
        records = [self.set_facts(member_id, member.facts), *self.remove(member)]
        self._put_target(member_id, target)
        records.append(target_record(self.group_id, member_id, target))
        records.append(self.set_current(self.members[member_id], current))
        return records

    def drop_unused_patterns(self) -> list[Record]:
        """Forget what matches patterns that nobody has any more."""
        unused = [pattern for pattern in self.patterns if pattern not in self._pattern_users]
        for pattern in unused:
            self._put_pattern(pattern, None)
        return [tombstone(Kind.PATTERN, self.group_id, pattern) for pattern in unused]

    def metadata(self, topics: Topics) -> dict[str, tuple[bytes, int]]:
        """Id and partition count of every subscribed topic that exists."""
        found = {name: (topics.id_of(name), topics.partition_count(name)) for name in self.subscribed()}
        return {
            name: (topic_id, count)
            for name, (topic_id, count) in found.items()
            if topic_id is not None and count is not None
        }

    def records(self) -> list[Record]:
        """All that makes this state again."""
        group_id = self.group_id
        return [
            group_record(group_id, GroupFacts(self.epoch, self.metadata_hash)),
            *(pattern_record(group_id, pattern, facts) for pattern, facts in self.patterns.items()),
            *(member_record(group_id, m.member_id, m.facts) for m in self.members.values()),
            *(target_record(group_id, member_id, target) for member_id, target in self.targets.items()),
            target_epoch_record(group_id, self.assignment_epoch),
            *(current_record(group_id, m.member_id, m.current) for m in self.members.values() if m.current != NEW),
        ]

    def tombstones(self) -> list[Record]:
        """All that makes the log forget the group."""
        whole = [Kind.TARGET_EPOCH, Kind.GROUP]
        if self._holds_partition_metadata:
            whole.insert(0, Kind.PARTITION_METADATA)
        return [
            *(record for member_id in self.members for record in self._member_tombstones(member_id)),
            *(tombstone(Kind.PATTERN, self.group_id, pattern) for pattern in self.patterns),
            *(tombstone(kind, self.group_id) for kind in whole),
        ]

    def replay(self, record: Record) -> None:
        """Take over what an earlier process stored, in the order of the log. A damaged record is passed over."""
        key = decode_key(record.key)
        if key is None:
            return
        if record.value is None:
            self._replay_tombstone(key)
        else:
            with suppress(MalformedFields):
                self._replay_value(key, record.value)

    def _replay_value(self, key: RecordKey, value: bytes) -> None:
        match key.kind:
            case Kind.GROUP:
                facts = decode_group(value)
                self.set_epoch(facts.epoch, facts.metadata_hash)
            case Kind.PARTITION_METADATA:
                self._holds_partition_metadata = True
            case Kind.MEMBER:
                self.set_facts(key.subject, decode_member(value))
            case Kind.TARGET_EPOCH:
                self.assignment_epoch = decode_target_epoch(value)
            case Kind.TARGET:
                self._put_target(key.subject, decode_target(value))
            case Kind.CURRENT:
                if key.subject not in self.members:  # its facts were compacted behind this record
                    self.set_facts(key.subject, NOBODY)
                self.set_current(self.members[key.subject], decode_current(value))
            case Kind.PATTERN:
                self._put_pattern(key.subject, decode_pattern(value))

    def _replay_tombstone(self, key: RecordKey) -> None:
        member = self.members.get(key.subject)
        match key.kind:
            case Kind.PARTITION_METADATA:
                self._holds_partition_metadata = False
            case Kind.MEMBER if member is not None:
                self._forget_current(member)
                self._forget_facts(member)
                del self.members[key.subject]
            case Kind.TARGET:
                self._put_target(key.subject, None)
            case Kind.CURRENT if member is not None:
                self._forget_current(member)
                member.current = NEW
            case Kind.PATTERN:
                self._put_pattern(key.subject, None)
            case _:
                pass  # of a group that goes: its last member went before

    def _put_target(self, member_id: str, target: Assignment | None) -> None:
        self.targeted -= size(self.targets.pop(member_id, NOTHING))
        if target is not None:
            self.targets[member_id] = target
            self.targeted += size(target)

    def _put_pattern(self, pattern: str, facts: PatternFacts | None) -> None:
        self.patterns.pop(pattern, None)
        self.matched -= len(self._matches.pop(pattern, ()))
        if facts is not None:
            self.patterns[pattern] = facts
            self._matches[pattern] = frozenset(facts.topics)
            self.matched += len(self._matches[pattern])

    def _forget_current(self, member: ConsumerMember) -> None:
        """The caller puts something else into its place."""
        self.assigned -= size(member.current.assigned) + size(member.current.revoking)
        for assignment in (member.current.assigned, member.current.revoking):
            for partition in partitions_of(assignment):
                if self._owners.get(partition) == member.member_id:
                    del self._owners[partition]

    def _forget_facts(self, member: ConsumerMember) -> None:
        facts = member.facts
        if facts.instance_id is not None and self._static.get(facts.instance_id) == member.member_id:
            del self._static[facts.instance_id]
        self.classic_count -= facts.classic is not None
        self.facts_bytes -= facts.size_bytes
        self.names -= len(facts.topics)
        for topic in facts.topics:
            _drop_user(self._topic_users, topic)
        if facts.pattern is not None:
            _drop_user(self._pattern_users, facts.pattern)

    def _member_tombstones(self, member_id: str) -> list[Record]:
        return [tombstone(kind, self.group_id, member_id) for kind in (Kind.CURRENT, Kind.TARGET, Kind.MEMBER)]


def metadata_hash(metadata: dict[str, tuple[bytes, int]]) -> int:
    """A number (int64) that differs when topics do; 0 for none."""
    if not metadata:
        return 0
    digest = blake2b(digest_size=8)
    for name, (topic_id, count) in sorted(metadata.items()):
        digest.update(f"{name} {topic_id.hex()} {count};".encode())
    return int.from_bytes(digest.digest(), signed=True)


def _drop_user(users: Counter[str], name: str) -> None:
    users[name] -= 1
    if not users[name]:
        del users[name]
