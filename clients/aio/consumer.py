"""Consumer for asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType

from kbroker.clients.aio.sleeper import Sleeper
from kbroker.clients.consumer_reading import FOREVER_MS, Iteration
from kbroker.clients.consumer_steps import ConsumerSteps
from kbroker.clients.record_batch import RecordBatch
from kbroker.clients.records import ConsumerRecord, OffsetAndMetadata, OffsetAndTimestamp
from kbroker.clients.steps import Steps, T
from kbroker.errors import ConcurrentAccess
from kbroker.types import EARLIEST_TIMESTAMP, LATEST_TIMESTAMP, TopicPartition


class Consumer(ConsumerSteps):
    """As `kbroker.Consumer`, with coroutines for whatever waits:

        async with Consumer("topic", group="name") as consumer:
            async for record in consumer:
                …

    Without `async with`: `await consumer.start()` first and `await consumer.close()` at the end. A listener's methods
    are plain functions. Heartbeats go on while the event loop is busy: they have a thread of their own.

    One task at a time polls or iterates, a second gets ConcurrentAccess; others may ask for offsets, commit and seek.
    """

    def _made(self) -> None:
        self._sleeper = Sleeper(self._cluster)
        self._is_reading = False

    def _user(self) -> object:
        return asyncio.current_task()

    async def _read(self, steps: Steps[T]) -> T:
        """Go through the steps of a poll or an iteration."""
        if self._is_reading:
            raise ConcurrentAccess(
                "Consumer is for one task at a time: this one came while another one was waiting for records; give "
                "each one a consumer of its own"
            )
        self._is_reading = True
        try:
            return await self._sleeper.run(steps)
        finally:
            self._is_reading = False

    async def start(self) -> None:
        """Connect, and join the group where there is one. Raises BrokerUnavailable."""
        await self._sleeper.run(self._connect())

    # --- reading ---

    async def poll(
        self, timeout_ms: int = 0, max_records: int | None = None
    ) -> dict[TopicPartition, list[ConsumerRecord]]:
        """Records by partition, as soon as there are some; {} when none came within `timeout_ms` (≥ 0)."""
        return await self._read(self._poll(timeout_ms, max_records))

    async def poll_batches(self, timeout_ms: int = 0) -> list[RecordBatch]:
        """Whole batches, as soon as there are some; [] when none came within `timeout_ms` (≥ 0)."""
        return await self._read(self._poll_batches(timeout_ms))

    async def __aiter__(self) -> AsyncIterator[ConsumerRecord]:
        """Records of all partitions, for ever, or until nothing came for `consumer_timeout_ms`."""
        wait_ms = self.options.consumer_timeout_ms
        iteration = Iteration()
        while True:
            cursor = await self._read(self._iterate(iteration, FOREVER_MS if wait_ms is None else wait_ms))
            if cursor is None:
                return
            records = cursor.records
            while records:
                for record in records:
                    cursor.given = record
                    yield record
                records = self._more(iteration, cursor, records)

    # --- what to read ---

    async def assign(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions from now on."""
        await self._sleeper.run(self._assign(partitions))

    async def unsubscribe(self) -> None:
        """Read nothing any more: leave the group, after a last commit where commits are automatic."""
        await self._sleeper.run(self._unsubscribe())

    # --- what the group has committed ---

    async def commit(self, offsets: Mapping[TopicPartition, int | OffsetAndMetadata] | None = None) -> None:
        """Commit these offsets, or where the caller stands in all partitions; durable when it returns."""
        await self._sleeper.run(self._commit(offsets))

    async def committed(self, partition: TopicPartition) -> OffsetAndMetadata | None:
        """What the group has committed there; None: nothing."""
        return await self._sleeper.run(self._committed(partition))

    # --- where to read ---

    async def seek_to_beginning(self, *partitions: TopicPartition) -> None:
        """To the first record there is; without arguments in all assigned partitions."""
        await self._sleeper.run(self._seek_to(partitions, EARLIEST_TIMESTAMP))

    async def seek_to_end(self, *partitions: TopicPartition) -> None:
        """Behind the last record that is there now; without arguments in all."""
        await self._sleeper.run(self._seek_to(partitions, LATEST_TIMESTAMP))

    async def seek_to_timestamp(self, timestamp_ms: int, *partitions: TopicPartition) -> None:
        """To the first record that is not older than `timestamp_ms` (ms since 1970 UTC, ≥ 0), or to the end."""
        await self._sleeper.run(self._seek_to_timestamp(partitions, timestamp_ms))

    async def position(self, partition: TopicPartition) -> int:
        """Offset of the next record for the caller."""
        return await self._sleeper.run(self._position(partition))

    async def beginning_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The offset of the first record there is in each."""
        return await self._sleeper.run(self._offsets(partitions, EARLIEST_TIMESTAMP))

    async def end_offsets(self, partitions: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """The high watermark of each: the offset after the last record that may be read."""
        return await self._sleeper.run(self._offsets(partitions, LATEST_TIMESTAMP))

    async def offsets_for_times(
        self, timestamps: Mapping[TopicPartition, int]
    ) -> dict[TopicPartition, OffsetAndTimestamp | None]:
        """The first record that is not older than each timestamp (ms since 1970, ≥ 0); None: all are older."""
        return await self._sleeper.run(self._offsets_for_times(timestamps))

    # --- about the broker ---

    async def partitions_for_topic(self, topic: str) -> set[int] | None:
        """The numbers of the topic's partitions; None: there is no such topic."""
        return await self._sleeper.run(self._partitions_for_topic(topic))

    async def topics(self) -> set[str]:
        """The names of all topics."""
        return await self._sleeper.run(self._all_topics())

    async def close(self) -> None:
        """Leave the group and free everything. A second call does nothing."""
        if not self._cluster.guard.forked:
            await self._sleeper.run(self._close())

    async def __aenter__(self) -> Consumer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
