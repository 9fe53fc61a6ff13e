"""Rebuilds a lost catalog from the partition folders: each carries its topic's id."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

from kbroker.catalog.topics import PartitionRecord, TopicRecord
from kbroker.types import INTERNAL_TOPICS

_FOLDER = re.compile(r"(?P<topic>.+)-(?P<partition>\d+)\Z")
_TOPIC_ID = re.compile(r"^topic_id:\s*(\S+)\s*$", re.MULTILINE)


def topics_on_disk(data_dir: Path, node: int) -> tuple[list[TopicRecord], list[str]]:
    """The topics whose folders lie in `data_dir`, each partition led by `node`; and what could not be understood.

    A topic with a missing partition gets it back empty. Settings of its own were only in the store and are lost.
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


def read_topic_id(path: Path) -> bytes | None:
    """The 16 bytes of the topic id in a `partition.metadata` file; None when it is missing or cannot be understood."""
    try:
        match = _TOPIC_ID.search(path.read_text(encoding="ascii"))
        topic_id = base64.urlsafe_b64decode(match[1] + "==") if match else b""
    except (OSError, UnicodeDecodeError, binascii.Error):
        return None
    return topic_id if len(topic_id) == 16 else None
