"""Rebuilds a lost catalog: topics from the partition folders, each of which carries its topic's id; the rest from the
catalog's copy."""

from __future__ import annotations

import base64
import binascii
import dataclasses
import re
from collections.abc import Collection
from pathlib import Path

from kbroker.catalog.catalog import Catalog
from kbroker.catalog.store import Change
from kbroker.catalog.topics import PartitionRecord, TopicRecord
from kbroker.types import INTERNAL_TOPICS
from kbroker.wording import counted

NAMED_MAX = 20
"""Topics that a line for the log names."""

_FOLDER = re.compile(r"(?P<topic>.+)-(?P<partition>\d+)\Z")
_TOPIC_ID = re.compile(r"^topic_id:\s*(\S+)\s*$", re.MULTILINE)


def topics_on_disk(data_dir: Path, node: int) -> tuple[list[TopicRecord], list[str]]:
    """The topics whose folders lie in `data_dir`, each partition led by `node`; and what could not be understood.

    A topic with a missing partition gets it back empty. Settings of its own are not in the folders.
    """
    found: dict[str, dict[int, bytes]] = {}
    problems = []
    for folder in sorted(data_dir.iterdir()):
        match = _FOLDER.match(folder.name)
        metadata = folder / "partition.metadata"
        if match is None or match["topic"] in INTERNAL_TOPICS or not metadata.is_file():
            continue
        topic_id = read_topic_id(metadata)
        if topic_id is None:
            problems.append(f"{metadata} names no topic id; the folder is left alone")
            continue
        found.setdefault(match["topic"], {})[int(match["partition"])] = topic_id
    topics = []
    for name, partitions in found.items():
        ids = set(partitions.values())
        if len(ids) > 1:
            problems.append(f"the folders of topic {name} carry {len(ids)} different topic ids; they are left alone")
            continue
        records = [PartitionRecord(node, 0, [node], [node]) for _ in range(max(partitions) + 1)]
        topics.append(TopicRecord(name, ids.pop(), records))
    return topics, problems


def completed(topics: list[TopicRecord], copied: Catalog) -> tuple[list[Change], list[str]]:
    """What an empty store must commit: the topics found on the disk, with what the copy knows of them, and what else
    it knows. Second: what is missing of that.

    What counts is the disk: the copy of a topic with another id is an older topic's.
    """
    rebuilt = Catalog([], 0, 0)
    changes = []
    unknown = []
    left = dict(copied.topics)
    for topic in topics:
        known = left.pop(topic.name, None)
        if topic.topic_id in copied.removed:
            continue  # it was deleted; its folders go next
        if known is not None and known.topic_id == topic.topic_id:
            more = topic.partitions[len(known.partitions) :]
            topic = dataclasses.replace(known, partitions=known.partitions + more)
        else:
            unknown.append(topic.name)
        changes += rebuilt.adopt(topic)
    problems = []
    if unknown:
        problems.append(f"settings of their own, if they had any, are gone of {_some(unknown)}: no copy knows them")
    if left:
        problems.append(f"no folder was found of {_some(left)}: what the catalog's copy knows of them is left out")
    return changes + copied.apart_from_topics(), problems


def _some(names: Collection[str]) -> str:
    named = ", ".join(sorted(names)[:NAMED_MAX])
    return f"{counted(len(names), 'topic')} ({named}{', …' if len(names) > NAMED_MAX else ''})"


def read_topic_id(path: Path) -> bytes | None:
    """The 16 bytes of the topic id in a `partition.metadata` file; None when it is missing or cannot be understood."""
    try:
        match = _TOPIC_ID.search(path.read_text(encoding="ascii"))
        topic_id = base64.urlsafe_b64decode(match[1] + "==") if match else b""
    except (OSError, UnicodeDecodeError, binascii.Error):
        return None
    return topic_id if len(topic_id) == 16 else None
