"""Admin for asyncio."""

from __future__ import annotations

from types import TracebackType
from typing import Never

from kbroker.clients.admin_steps import AdminSteps
from kbroker.clients.aio.sleeper import Sleeper, awaiting
from kbroker.clients.arguments import check_unknown
from kbroker.clients.steps import Steps, T


class Admin:
    """As `kbroker.Admin`, with coroutines: `async with Admin() as admin: await admin.list_topics()`."""

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
        self._sleeper = Sleeper(self.steps.cluster)

    async def run(self, steps: Steps[T]) -> T:
        """Go through steps without blocking."""
        return await self._sleeper.run(steps)

    start = awaiting(AdminSteps.connect)
    create_topics = awaiting(AdminSteps.create_topics)
    create_topic = awaiting(AdminSteps.create_topic)
    delete_topics = awaiting(AdminSteps.delete_topics)
    list_topics = awaiting(AdminSteps.list_topics)
    describe_topics = awaiting(AdminSteps.describe_topics)
    describe_configs = awaiting(AdminSteps.describe_configs)
    alter_configs = awaiting(AdminSteps.alter_configs)
    create_partitions = awaiting(AdminSteps.create_partitions)
    delete_records = awaiting(AdminSteps.delete_records)
    broker_status = awaiting(AdminSteps.broker_status)
    repair_log = awaiting(AdminSteps.repair_log)
    list_consumer_groups = awaiting(AdminSteps.list_consumer_groups)
    describe_consumer_groups = awaiting(AdminSteps.describe_consumer_groups)
    list_consumer_group_offsets = awaiting(AdminSteps.list_consumer_group_offsets)
    alter_consumer_group_offsets = awaiting(AdminSteps.alter_consumer_group_offsets)
    delete_consumer_group_offsets = awaiting(AdminSteps.delete_consumer_group_offsets)
    delete_consumer_groups = awaiting(AdminSteps.delete_consumer_groups)

    async def close(self) -> None:
        """Free everything. A second call does nothing."""
        self.steps.close()

    async def __aenter__(self) -> Admin:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
