"""Producer for asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import functools
from collections.abc import Callable, Generator
from types import TracebackType
from typing import Any, Concatenate, ParamSpec

from kbroker.clients.futures import RecordFuture
from kbroker.clients.producer import Headers
from kbroker.clients.producer import Producer as ThreadedProducer
from kbroker.clients.records import RecordMetadata
from kbroker.errors import ClientClosed

P = ParamSpec("P")


class Delivery:
    """The outcome of one record: `await` it for the RecordMetadata, or for the error that the record failed with.

    Awaiting also hurries the record: its batch is sent without waiting for `linger_ms`.
    """

    __slots__ = ("future",)

    def __init__(self, future: RecordFuture) -> None:
        self.future = future

    def __await__(self) -> Generator[Any, None, RecordMetadata]:
        if not self.future.is_done:
            loop = asyncio.get_running_loop()
            ended = loop.create_future()

            def end() -> None:
                if not ended.done():  # it may have been cancelled
                    ended.set_result(None)

            def wake() -> None:
                with contextlib.suppress(RuntimeError):  # the event loop was closed meanwhile: nobody waits any more
                    loop.call_soon_threadsafe(end)

            if self.future.watch(wake):
                yield from ended
        return self.future.metadata()


def _with_arguments_of(
    make: Callable[P, ThreadedProducer],
) -> Callable[[Callable[..., None]], Callable[Concatenate[Producer, P], None]]:
    """A constructor that takes what `make` takes: for type checkers and help()."""

    def same(own: Callable[..., None]) -> Callable[Concatenate[Producer, P], None]:
        functools.update_wrapper(own, make, assigned=(), updated=())
        return own

    return same


class Producer:
    """As `kbroker.Producer`, with the same arguments, and coroutines for whatever waits:

        async with Producer() as producer:
            delivery = await producer.send("topic", b"value")
            print(await delivery)

    It stands on the threaded producer: batches are filled by the event loop's thread and sent from there when they are
    full; the producer's own thread does the rest. Without `async with`: `await producer.start()`, `await close()`.
    """

    @_with_arguments_of(ThreadedProducer)
    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._make = functools.partial(ThreadedProducer, *arguments, **options)
        self._threaded: ThreadedProducer | None = None

    async def start(self) -> None:
        """Connect. Raises BrokerUnavailable, ConfigError naming a wrong argument."""
        self._threaded = await asyncio.to_thread(self._make)

    async def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> Delivery:
        """Queue a record; waits only while the buffer is full or the topic is not known yet. Raises likewise."""
        producer = self._producer
        if producer.would_block(topic):
            future = await asyncio.to_thread(producer.send, topic, value, key, headers, partition, timestamp_ms)
        else:
            future = producer.send(topic, value, key, headers, partition, timestamp_ms)
        return Delivery(future)

    async def send_and_wait(self, topic: str, value: Any = None, key: Any = None, **more: Any) -> RecordMetadata:
        """Send a record and wait until it is acknowledged. Arguments and errors as `send`."""
        return await (await self.send(topic, value, key, **more))

    async def flush(self, timeout: float | None = None) -> None:
        """Wait until everything that was queued is acknowledged or given up. Raises RequestTimedOut."""
        await asyncio.to_thread(self._producer.flush, timeout)

    async def partitions_for(self, topic: str) -> set[int]:
        """The numbers of the topic's partitions; the topic is made if the broker does that."""
        return await asyncio.to_thread(self._producer.partitions_for, topic)

    def metrics(self) -> dict[str, int]:
        """Counts since the start, and what is in the buffer now."""
        return self._producer.metrics()

    async def close(self, timeout: float | None = None) -> None:
        """Flush, at most `timeout` seconds, then free everything. A second call does nothing."""
        if self._threaded is not None:
            await asyncio.to_thread(self._threaded.close, timeout)

    @property
    def _producer(self) -> ThreadedProducer:
        if self._threaded is None:
            raise ClientClosed("this producer was not started: use `async with`, or await start()")
        return self._threaded

    async def __aenter__(self) -> Producer:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()
