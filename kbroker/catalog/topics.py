"""What the catalog knows of a topic, and what a topic may be called."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from kbroker.errors import InvalidTopic

NAME_MAX = 249
AUTO_CREATED_MAX = 100
"""Topics that one Metadata request makes; who asks again for the others gets the next so many."""
CHANGES_MAX = 1000
"""Topics and settings that one request makes, deletes or alters. Kafka clients are refused the others as above a quota
(KIP-599), and Java's admin asks for them again by itself."""
_LEGAL = re.compile(r"[a-zA-Z0-9._-]+\Z")


@dataclass(slots=True)
class PartitionRecord:
    """Who holds a partition. One host: `replicas` and `isr` hold the leader alone."""

    leader: int
    leader_epoch: int = 0
    replicas: list[int] = field(default_factory=list)
    isr: list[int] = field(default_factory=list)


@dataclass(slots=True)
class TopicRecord:
    """A topic as the store keeps it. `topic_id` is a random uuid's 16 bytes; `settings` are the topic's own."""

    name: str
    topic_id: bytes
    partitions: list[PartitionRecord]
    settings: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class RemovedTopic:
    """A deleted topic whose folders may still lie on the disk; kept until every owner said they are gone."""

    name: str
    topic_id: bytes
    leaders: list[int]


def check_name(name: str) -> None:
    """Raises InvalidTopic unless Kafka would take the name: 1 to 249 of `a-z A-Z 0-9 . _ -`, not `.` or `..`."""
    if not name:
        raise InvalidTopic("a topic's name must not be empty")
    if len(name) > NAME_MAX:
        raise InvalidTopic(f"topic {name[:32]}… has a name of {len(name)} characters; at most {NAME_MAX} are possible")
    if name in (".", ".."):
        raise InvalidTopic(f"a topic cannot be called {name!r}")
    if not _LEGAL.match(name):
        raise InvalidTopic(f"topic name {name!r:.80} has characters other than a-z, A-Z, 0-9, '.', '_' and '-'")


def collision_key(name: str) -> str:
    """Names that differ in '.' and '_' only would collide in Kafka's metric names, so only one of them may exist."""
    return name.replace(".", "_")
