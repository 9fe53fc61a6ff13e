"""Admin: topics, their settings, and consumer groups."""

from __future__ import annotations

from types import TracebackType
from typing import Never

from kbroker.clients.admin_steps import AdminSteps
from kbroker.clients.arguments import check_unknown
from kbroker.clients.steps import Steps, T, waiting


class Admin:
    """Creates, describes, changes and deletes topics; shows, moves and deletes consumer groups.

    A context manager, for one thread at a time (ConcurrentAccess). `server` as for Producer. Each call waits at most
    `api_timeout_ms` (10000), through restarts of the broker's processes, and raises BrokerUnavailable after that; what
    the broker refuses raises that error's own class.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        client_id: str = "kbroker-admin",
        api_timeout_ms: int = 10_000,
        **unknown: Never,
    ) -> None:
        check_unknown(type(self), unknown)
        self.steps = AdminSteps(server, client_id=client_id, api_timeout_ms=api_timeout_ms)
        self.run(self.steps.connect())

    def run(self, steps: Steps[T]) -> T:
        """Go through steps, sleeping in the caller's thread."""
        return self.steps.cluster.run(steps)

    create_topics = waiting(AdminSteps.create_topics)
    create_topic = waiting(AdminSteps.create_topic)
    delete_topics = waiting(AdminSteps.delete_topics)
    list_topics = waiting(AdminSteps.list_topics)
    describe_topics = waiting(AdminSteps.describe_topics)
    describe_configs = waiting(AdminSteps.describe_configs)
    alter_configs = waiting(AdminSteps.alter_configs)
    create_partitions = waiting(AdminSteps.create_partitions)
    delete_records = waiting(AdminSteps.delete_records)
    broker_status = waiting(AdminSteps.broker_status)
    repair_log = waiting(AdminSteps.repair_log)
    list_consumer_groups = waiting(AdminSteps.list_consumer_groups)
    describe_consumer_groups = waiting(AdminSteps.describe_consumer_groups)
    list_consumer_group_offsets = waiting(AdminSteps.list_consumer_group_offsets)
    alter_consumer_group_offsets = waiting(AdminSteps.alter_consumer_group_offsets)
    delete_consumer_group_offsets = waiting(AdminSteps.delete_consumer_group_offsets)
    delete_consumer_groups = waiting(AdminSteps.delete_consumer_groups)

    def close(self) -> None:
        """Free everything. A second call does nothing."""
        self.steps.close()

    def __enter__(self) -> Admin:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
