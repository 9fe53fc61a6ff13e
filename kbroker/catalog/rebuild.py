"""What the partition folders say of topics: each folder carries its topic's id."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Collection
from pathlib import Path

from kbroker.catalog.reconcile import led_by
from kbroker.catalog.topics import TopicRecord
from kbroker.types import INTERNAL_TOPICS

_FOLDER = re.compile(r"(?P<topic>.+)-(?P<partition>\d+)\Z")
_TOPIC_ID = re.compile(r"^topic_id:\s*(\S+)\s*$", re.MULTILINE)


def folders_in(data_dir: Path) -> frozenset[str]:
    """The names of all folders there."""
    return frozenset(entry.name for entry in data_dir.iterdir())


def topics_on_disk(
    data_dir: Path, folders: Collection[str], node: int, is_known: Callable[[str, int], bool]
) -> tuple[list[TopicRecord], list[str]]:
    """The topics whose folders lie in `data_dir` and of which `is_known` does not know a partition, each partition led
    by `node`; and what could not be understood.

    A topic with a missing partition gets it back empty. Settings of its own are not in the folders.
    """
    found: dict[str, dict[int, bytes]] = {}
    problems = []
    for folder in sorted(folders):
        match = _FOLDER.match(folder)
        # Also an internal topic's that somebody has put aside under another name.
        if match is None or match["topic"].endswith(tuple(INTERNAL_TOPICS)):
            continue
        if is_known(match["topic"], int(match["partition"])):
            continue
        metadata = data_dir / folder / "partition.metadata"
        if not metadata.is_file():
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
        else:
            topics.append(TopicRecord(name, ids.pop(), led_by(node, max(partitions) + 1)))
    return topics, problems


def read_topic_id(path: Path) -> bytes | None:
    """The 16 bytes of the topic id in a `partition.metadata` file; None when it is missing or cannot be understood."""
    try:
        match = _TOPIC_ID.search(path.read_text(encoding="ascii"))
        topic_id = base64.urlsafe_b64decode(match[1] + "==") if match else b""
    except (OSError, UnicodeDecodeError, binascii.Error):
        return None
    return topic_id if len(topic_id) == 16 else None
