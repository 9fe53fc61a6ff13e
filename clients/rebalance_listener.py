"""What a consumer in a group tells its caller about partitions that come and go."""

from __future__ import annotations

from collections.abc import Collection

from kbroker.types import TopicPartition


class ConsumerRebalanceListener:
    """Override what is of interest; all are called from within `poll` (or iteration, or `close`), in its thread.

    What one of them raises comes out of that `poll`; the change of partitions is made all the same.
    """

    def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        """These go to another member as soon as this returns: finish, and commit (automatic commits were made)."""

    def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        """These came in addition; they stand at their committed offsets, `seek` to others now."""

    def on_partitions_lost(self, lost: Collection[TopicPartition]) -> None:
        """These were taken away without being asked for, and may be read by another member already: commits fail."""
