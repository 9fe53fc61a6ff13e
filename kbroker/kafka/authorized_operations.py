"""What clients may do with a topic, a group or the cluster, when they ask: all of it, as there are no access rules.

Each is a bit field, of which bit N stands for the operation that Kafka's access rules number N.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final

NOT_ASKED: Final = -(1 << 31)
"""Stands for an answer that was not asked for."""


class Operation(IntEnum):
    """What access rules can allow."""

    READ = 3
    WRITE = 4
    CREATE = 5
    DELETE = 6
    ALTER = 7
    DESCRIBE = 8
    CLUSTER_ACTION = 9
    DESCRIBE_CONFIGS = 10
    ALTER_CONFIGS = 11
    IDEMPOTENT_WRITE = 12


def _bits(*operations: Operation) -> int:
    return sum(1 << operation for operation in operations)


_OF_EVERYTHING: Final = _bits(Operation.DESCRIBE, Operation.DESCRIBE_CONFIGS, Operation.ALTER_CONFIGS)
ON_TOPIC: Final = _OF_EVERYTHING | _bits(
    Operation.READ, Operation.WRITE, Operation.CREATE, Operation.DELETE, Operation.ALTER
)
ON_GROUP: Final = _OF_EVERYTHING | _bits(Operation.READ, Operation.DELETE)
ON_CLUSTER: Final = _OF_EVERYTHING | _bits(
    Operation.CREATE, Operation.ALTER, Operation.CLUSTER_ACTION, Operation.IDEMPOTENT_WRITE
)
