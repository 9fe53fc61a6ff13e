"""DescribeLogDirs: how much each partition of this node takes on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey


def answer(request: Any, folder: str, sizes: Mapping[tuple[str, int], int], total: int, usable: int) -> Any:
    """The answer. `sizes` has the bytes of each partition led here, `total` and `usable` are the file system's."""
    types = codec.response_types(ApiKey.DESCRIBE_LOG_DIRS)
    wanted = None
    if request.topics is not None:
        wanted = {(topic.topic, index) for topic in request.topics for index in topic.partitions}
    topics: dict[str, Any] = {}
    for (name, index), size in sorted(sizes.items()):
        if wanted is not None and (name, index) not in wanted:
            continue
        topic = topics.setdefault(name, types.DescribeLogDirsTopic(name=name, partitions=[]))
        topic.partitions.append(types.DescribeLogDirsPartition(partition_index=index, partition_size=size))
    result = types.DescribeLogDirsResult(
        log_dir=folder, topics=list(topics.values()), total_bytes=total, usable_bytes=usable
    )
    return types.DescribeLogDirsResponse(results=[result])
