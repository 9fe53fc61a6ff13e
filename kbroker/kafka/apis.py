"""The APIs that this broker speaks, with their versions: the one table.

What ApiVersions lists, what a request may ask for, how its headers look and where its schemas are found all come from
here. An API that is not in the table is unknown.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from kbroker.errors import UnsupportedVersion


class ApiKey(IntEnum):
    """Kafka's number of an API."""

    PRODUCE = 0
    FETCH = 1
    LIST_OFFSETS = 2
    METADATA = 3
    OFFSET_COMMIT = 8
    OFFSET_FETCH = 9
    FIND_COORDINATOR = 10
    JOIN_GROUP = 11
    HEARTBEAT = 12
    LEAVE_GROUP = 13
    SYNC_GROUP = 14
    DESCRIBE_GROUPS = 15
    LIST_GROUPS = 16
    API_VERSIONS = 18
    CREATE_TOPICS = 19
    DELETE_TOPICS = 20
    DELETE_RECORDS = 21
    INIT_PRODUCER_ID = 22
    OFFSET_FOR_LEADER_EPOCH = 23
    DESCRIBE_ACLS = 29
    CREATE_ACLS = 30
    DELETE_ACLS = 31
    DESCRIBE_CONFIGS = 32
    ALTER_CONFIGS = 33
    DESCRIBE_LOG_DIRS = 35
    CREATE_PARTITIONS = 37
    DELETE_GROUPS = 42
    ELECT_LEADERS = 43
    INCREMENTAL_ALTER_CONFIGS = 44
    ALTER_PARTITION_REASSIGNMENTS = 45
    LIST_PARTITION_REASSIGNMENTS = 46
    OFFSET_DELETE = 47
    DESCRIBE_CLIENT_QUOTAS = 48
    DESCRIBE_USER_SCRAM_CREDENTIALS = 50
    DESCRIBE_CLUSTER = 60
    DESCRIBE_PRODUCERS = 61
    LIST_TRANSACTIONS = 66
    CONSUMER_GROUP_HEARTBEAT = 68
    CONSUMER_GROUP_DESCRIBE = 69
    LIST_CONFIG_RESOURCES = 74
    DESCRIBE_TOPIC_PARTITIONS = 75


class Api(NamedTuple):
    """One API. Versions are inclusive at both ends, as Kafka counts them."""

    key: ApiKey
    min_version: int
    max_version: int
    flexible_version: int
    """The first version with compact lengths, tagged fields and the newer headers; NEVER: none has them."""
    more_fields: tuple[int, ...] = ()
    """Versions with a field that neither the first nor the last version has."""
    advertised_min: int | None = None
    """What ApiVersions says in place of `min_version`."""

    @property
    def name(self) -> str:
        """As Kafka's documents write it: `ListOffsets`."""
        return "".join(word.capitalize() for word in self.key.name.split("_"))

    @property
    def advertised_min_version(self) -> int:
        """The lowest version that ApiVersions lists."""
        return self.min_version if self.advertised_min is None else self.advertised_min

    def supports(self, version: int) -> bool:
        """Whether a request of that version is served."""
        return self.min_version <= version <= self.max_version

    def flexible(self, version: int) -> bool:
        """Whether that version has compact lengths and tagged fields."""
        return version >= self.flexible_version

    def request_header_version(self, version: int) -> int:
        """1, or 2 with tagged fields at its end."""
        return 2 if version >= self.flexible_version else 1

    def response_header_version(self, version: int) -> int:
        """0, or 1 with tagged fields. ApiVersions has always 0: its reader does not know yet what we speak."""
        return 1 if version >= self.flexible_version and self.key != ApiKey.API_VERSIONS else 0


NEVER: Final = 32767
"""A version that no API will reach."""

APIS: Final[tuple[Api, ...]] = (
    # Advertised from 0: with a minimum of 3, librdkafka up to 2.0.2 sends compressed batches uncompressed
    # (KAFKA-18659). Requests of 0 to 2 are refused.
    Api(ApiKey.PRODUCE, 3, 13, 9, advertised_min=0),
    Api(ApiKey.FETCH, 4, 17, 12, more_fields=(12,)),
    Api(ApiKey.LIST_OFFSETS, 1, 11, 6),
    Api(ApiKey.METADATA, 0, 13, 9, more_fields=(10,)),
    Api(ApiKey.OFFSET_COMMIT, 2, 10, 8),
    Api(ApiKey.OFFSET_FETCH, 1, 10, 6, more_fields=(9, 7)),
    Api(ApiKey.FIND_COORDINATOR, 0, 6, 3, more_fields=(3,)),
    Api(ApiKey.JOIN_GROUP, 0, 9, 6),
    Api(ApiKey.HEARTBEAT, 0, 4, 4),
    Api(ApiKey.LEAVE_GROUP, 0, 5, 4),
    Api(ApiKey.SYNC_GROUP, 0, 5, 4),
    Api(ApiKey.DESCRIBE_GROUPS, 0, 6, 5),
    Api(ApiKey.LIST_GROUPS, 0, 5, 3),
    Api(ApiKey.API_VERSIONS, 0, 4, 3),
    Api(ApiKey.CREATE_TOPICS, 2, 7, 5),
    Api(ApiKey.DELETE_TOPICS, 1, 6, 4),
    Api(ApiKey.DELETE_RECORDS, 0, 2, 2),
    Api(ApiKey.INIT_PRODUCER_ID, 0, 5, 2),
    Api(ApiKey.OFFSET_FOR_LEADER_EPOCH, 2, 4, 4),
    Api(ApiKey.DESCRIBE_ACLS, 1, 3, 2),
    Api(ApiKey.CREATE_ACLS, 1, 3, 2),
    Api(ApiKey.DELETE_ACLS, 1, 3, 2),
    Api(ApiKey.DESCRIBE_CONFIGS, 1, 4, 4),
    Api(ApiKey.ALTER_CONFIGS, 0, 2, 2),
    Api(ApiKey.DESCRIBE_LOG_DIRS, 1, 5, 2),
    Api(ApiKey.CREATE_PARTITIONS, 0, 3, 2),
    Api(ApiKey.DELETE_GROUPS, 0, 2, 2),
    Api(ApiKey.ELECT_LEADERS, 0, 2, 2),
    Api(ApiKey.INCREMENTAL_ALTER_CONFIGS, 0, 1, 1),
    Api(ApiKey.ALTER_PARTITION_REASSIGNMENTS, 0, 1, 0),
    Api(ApiKey.LIST_PARTITION_REASSIGNMENTS, 0, 0, 0),
    Api(ApiKey.OFFSET_DELETE, 0, 0, NEVER),
    Api(ApiKey.DESCRIBE_CLIENT_QUOTAS, 0, 1, 1),
    Api(ApiKey.DESCRIBE_USER_SCRAM_CREDENTIALS, 0, 0, 0),
    Api(ApiKey.DESCRIBE_CLUSTER, 0, 2, 0),
    Api(ApiKey.DESCRIBE_PRODUCERS, 0, 0, 0),
    Api(ApiKey.LIST_TRANSACTIONS, 0, 2, 0),
    Api(ApiKey.CONSUMER_GROUP_HEARTBEAT, 0, 1, 0),
    Api(ApiKey.CONSUMER_GROUP_DESCRIBE, 0, 1, 0),
    Api(ApiKey.LIST_CONFIG_RESOURCES, 0, 1, 0),
    Api(ApiKey.DESCRIBE_TOPIC_PARTITIONS, 0, 0, 0),
)

BY_KEY: Final[dict[int, Api]] = {int(api.key): api for api in APIS}

USUAL: Final[tuple[tuple[ApiKey, tuple[int, ...]], ...]] = (
    (ApiKey.LIST_OFFSETS, (2, 3, 6, 7, 9, 10)),
    (ApiKey.METADATA, (4, 5, 6, 11, 12, 13)),
    (ApiKey.API_VERSIONS, (0, 2, 3, 4)),
    (ApiKey.INIT_PRODUCER_ID, (1, 4, 5)),
    (ApiKey.FIND_COORDINATOR, (1, 2, 3, 6)),
    (ApiKey.JOIN_GROUP, (5, 7, 9)),
    (ApiKey.SYNC_GROUP, (3, 5)),
    (ApiKey.HEARTBEAT, (3, 4)),
    (ApiKey.OFFSET_COMMIT, (3, 8, 9)),
    (ApiKey.OFFSET_FETCH, (3, 8, 9)),
    (ApiKey.CONSUMER_GROUP_HEARTBEAT, (1,)),
)
"""The versions that clients of today ask for on their way to their first records: worth preparing where processes are
forked from. Not Produce and Fetch: what is usual of them is read and written by hand."""


def api_for(key: int) -> Api:
    """The API of that number. Raises UnsupportedVersion naming a number that is not in the table."""
    api = BY_KEY.get(key)
    if api is None:
        raise UnsupportedVersion(f"API {key} is not supported")
    return api


def served(key: int, version: int) -> Api:
    """The API when it is served in that version. Raises UnsupportedVersion naming what is."""
    api = api_for(key)
    if not api.min_version <= version <= api.max_version:
        raise UnsupportedVersion(
            f"{api.name} version {version} is not supported: {api.min_version} to {api.max_version} are"
        )
    return api
