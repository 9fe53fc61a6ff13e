"""Producer: records in, acknowledgements out. One thread of its own; the caller's thread sends full batches itself."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Never

from kbroker.clients import unclosed
from kbroker.clients.accumulator import Batch
from kbroker.clients.arguments import check_unknown
from kbroker.clients.cluster import Cluster, ClusterSettings, now_ms
from kbroker.clients.futures import RecordFuture
from kbroker.clients.gate import Gate
from kbroker.clients.producer_loop import ProducerLoop
from kbroker.clients.producer_options import (
    Partitioner,
    ProducerOptions,
    Serializer,
    check_acks,
    check_callable,
    check_compression,
    check_idempotence,
    whole_number,
)
from kbroker.errors import ConfigError, MessageTooLarge, RequestTimedOut
from kbroker.types import TopicPartition

Headers = Sequence[tuple[str, bytes | None]]
RECORD_BYTES_EXTRA = 70 + 61
"""What a record and its batch take besides key, value and headers, at most."""


class Producer(ProducerLoop):
    """Sends records to a broker. Thread-safe; use one for many threads. A context manager: leaving it flushes.
    One that is dropped unclosed gives up what is not acknowledged, with a warning that says how many records.

    `server`: `ipc://PATH`, a folder, `HOST:PORT` or `tcp://HOST:PORT`; None: KBROKER_SERVER, else the usual places.
    Raises BrokerUnavailable when nobody answers within `api_timeout_ms`, ConfigError naming a wrong argument.

    - `acks`: 'all' (survives power loss), 1 (survives the death of any broker process), 0 (no promise).
    - `enable_idempotence`: retries are written once and in order. On unless `acks`, `retries` or the requests in flight
      rule it out.
    - `compression_type`: None, 'gzip', 'snappy', 'lz4' or 'zstd'.
    - `batch_size` (bytes, 1 MiB): a batch is sent when it is that large (or as large as its topic allows), or
      `linger_ms` (5) old, or when somebody waits for one of its records. Each batch costs this process and the broker
      about as much as copying 200 KiB: many records make large batches, few ones go by linger_ms; set that to 0 for
      the lowest latency.
    - `buffer_memory` (bytes, 32 MiB): when records that are not acknowledged take more, `send` blocks, up to
      `max_block_ms` (60000), then raises BufferFull.
    - `retries`, `retry_backoff_ms` (20, doubles up to 1000), `request_timeout_ms` (30000), `delivery_timeout_ms`
      (120000): a record that is not acknowledged by then fails with RequestTimedOut.
    - `max_in_flight_requests_per_connection` (5): unanswered batches of one partition.
    - `max_request_size` (bytes, 1 MiB): a larger record is refused by `send` with MessageTooLarge, and no batch of
      several records grows past it.
    - `direct` (True): on the broker's host, talk to the process that owns a partition; False: through the front only.
    - `key_serializer`, `value_serializer`: functions to bytes. `partitioner`: a function
      `(key bytes or None, all partitions, partitions with an owner) -> partition`.
    """

    def __init__(
        self,
        server: str | None = None,
        *,
        client_id: str = "kbroker-producer",
        acks: int | str = "all",
        enable_idempotence: bool | None = None,
        compression_type: str | None = None,
        batch_size: int = 1_048_576,
        linger_ms: int = 5,
        buffer_memory: int = 33_554_432,
        max_block_ms: int = 60_000,
        retries: int = 2**31 - 1,
        retry_backoff_ms: int = 20,
        request_timeout_ms: int = 30_000,
        delivery_timeout_ms: int = 120_000,
        max_in_flight_requests_per_connection: int = 5,
        max_request_size: int = 1_048_576,
        metadata_max_age_ms: int = 300_000,
        api_timeout_ms: int = 10_000,
        direct: bool = True,
        key_serializer: Serializer | None = None,
        value_serializer: Serializer | None = None,
        partitioner: Partitioner | None = None,
        **unknown: Never,
    ) -> None:
        check_unknown(type(self), unknown)
        in_flight = whole_number("max_in_flight_requests_per_connection", max_in_flight_requests_per_connection, 1, 256)
        whole_number("retries", retries, 0)
        whole_number("max_request_size", max_request_size, 128)
        acks_number = check_acks(acks)
        options = ProducerOptions(
            acks=acks_number,
            codec=check_compression(compression_type),
            idempotent=check_idempotence(enable_idempotence, acks_number, retries, in_flight),
            batch_size=min(whole_number("batch_size", batch_size, 0), max_request_size),
            linger_ms=whole_number("linger_ms", linger_ms, 0),
            buffer_memory=whole_number("buffer_memory", buffer_memory, 1, 2**48),
            max_block_ms=whole_number("max_block_ms", max_block_ms, 0),
            retries=retries,
            retry_backoff_ms=whole_number("retry_backoff_ms", retry_backoff_ms, 1, 1000),
            request_timeout_ms=whole_number("request_timeout_ms", request_timeout_ms, 1),
            delivery_timeout_ms=whole_number("delivery_timeout_ms", delivery_timeout_ms, 1),
            max_in_flight=in_flight,
            max_request_size=max_request_size,
            metadata_max_age_ms=whole_number("metadata_max_age_ms", metadata_max_age_ms, 1),
        )
        for name, function in (
            ("key_serializer", key_serializer),
            ("value_serializer", value_serializer),
            ("partitioner", partitioner),
        ):
            check_callable(name, function)
        self._key_serializer = key_serializer
        self._value_serializer = value_serializer
        self._partitioner = partitioner
        self._unchecked_bytes = max_request_size - RECORD_BYTES_EXTRA

        cluster = Cluster(
            server,
            ClusterSettings(
                client_id=client_id,
                request_timeout_ms=options.request_timeout_ms,
                retry_backoff_ms=options.retry_backoff_ms,
                metadata_max_age_ms=options.metadata_max_age_ms,
                auto_create_topics=True,
                direct=direct,
            ),
            "producer",
        )
        try:
            cluster.run(cluster.connect(whole_number("api_timeout_ms", api_timeout_ms, 1)))
        except BaseException:
            cluster.close()
            raise
        super().__init__(cluster, options)
        unclosed.opened(self)

    # --- for the caller ---

    def send(
        self,
        topic: str,
        value: Any = None,
        key: Any = None,
        headers: Headers | None = None,
        partition: int | None = None,
        timestamp_ms: int | None = None,
    ) -> RecordFuture:
        """Queue a record; returns at once unless the buffer is full or the topic is not known yet.

        `value` and `key` are bytes (or what the serializers take), or None. Records with the same key go to the same
        partition, in order. `headers`: pairs of text and bytes. `timestamp_ms`: ms since 1970, default now.

        Raises UnknownTopicOrPartition (and the broker does not create topics by itself), InvalidTopic, BufferFull,
        MessageTooLarge, ConfigError naming a wrong argument, ClientClosed, ForkedClient. What happens to the record
        after that is told by the future.
        """
        if self._guard.forked:
            self._guard.check("producer")
        if self._key_serializer is not None:
            key = self._key_serializer(key)
        if self._value_serializer is not None:
            value = self._value_serializer(value)
        if type(value) is not bytes and value is not None:
            value = _as_bytes("value", value)
        if type(key) is not bytes and key is not None:
            key = _as_bytes("key", key)
        if timestamp_ms is None:
            timestamp_ms = time.time_ns() // 1_000_000
        else:
            whole_number("timestamp_ms", timestamp_ms, 0, 2**63 - 1)
        checked = _checked_headers(headers) if headers else ()
        key_bytes = 0 if key is None else len(key)
        value_bytes = 0 if value is None else len(value)
        if checked or key_bytes + value_bytes > self._unchecked_bytes:
            self._check_size(key, value, checked)
        accumulator = self._accumulator
        try:
            while True:
                with self._lock:
                    partitions = self._topics.get(topic)
                    if (
                        partitions is not None
                        and accumulator.free_bytes > 0
                        and not (self._closed or self._is_changing)
                    ):
                        if partition is not None:
                            target = partitions.number(partition)
                        elif self._partitioner is not None:
                            target = partitions.chosen(self._partitioner, key)
                        elif key is None:
                            target = partitions.sticky
                        else:
                            target = partitions.for_key(key)
                        self._is_changing = True
                        batch = accumulator.open.get(target)
                        if (
                            batch is not None
                            and (builder := batch.builder) is not None
                            and (size := builder.append(timestamp_ms, key, value, checked))
                        ):  # as Accumulator.append, without a call: this is all that most records need
                            accumulator.free_bytes -= size
                            index = builder.record_count - 1
                        else:
                            filled = batch is not None
                            if batch is not None:
                                self._filled(batch)
                            moves = key is None and partition is None and self._partitioner is None
                            batch = self._add_elsewhere(
                                partitions.next_sticky() if moves else target, timestamp_ms, key, value, checked, filled
                            )
                            index = batch.record_count - 1
                        future = RecordFuture(self, batch, index, timestamp_ms)
                        self._is_changing = False
                        return future
                self._await_ready(topic)
        except BaseException:
            self._interrupted()
            raise

    def would_block(self, topic: str) -> bool:
        """Whether `send` would wait now: for the topic's partitions, or for space in the buffer."""
        return topic not in self._topics or self._accumulator.free_bytes <= 0

    def flush(self, timeout: float | None = None) -> None:
        """Send everything now and wait until each record that was queued before is acknowledged or given up.

        `timeout` in seconds; raises RequestTimedOut naming how many records are still on their way. Whether a record
        was given up is told by its future.
        """
        self._guard.check("producer")

        def begin() -> list[tuple[Batch, Gate]]:
            pending = [(batch, Gate()) for batch in self._core.batches() if not batch.done]
            for batch, ended in pending:
                self._watch(batch, ended.open)
            self._pump(now_ms())
            self._wake_if_needed()
            return pending

        if self._is_over:
            return
        pending = self._change(begin)
        deadline = None if timeout is None else time.monotonic() + timeout
        for _, ended in pending:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not ended.wait(left):
                count = sum(batch.record_count for batch, _ in pending if not batch.done)
                raise RequestTimedOut(f"{count} records are not acknowledged after {timeout} s")

    def close(self, timeout: float | None = None) -> None:
        """Flush, at most `timeout` seconds (None: as long as delivery_timeout_ms), then free everything.

        Records that are not acknowledged by then fail with ClientClosed. Harmless when called twice, and in a child
        process after fork.
        """
        if self._guard.forked:
            return
        self._closed = True
        try:
            with contextlib.suppress(RequestTimedOut):
                self.flush(timeout)
        finally:
            self._end()
        if threading.current_thread() is not self._thread:
            self._thread.join()
        unclosed.closed(self)

    def _end_at_exit(self, deadline_s: float) -> None:
        """Part of unclosed.Closable."""

    def _ended_at_exit(self, deadline_s: float) -> None:
        """Send what is left, as far as there is time, and say what was lost. Part of unclosed.Closable."""
        if self._guard.forked or self._is_over:
            return
        with contextlib.suppress(RequestTimedOut):
            self.flush(max(0.0, deadline_s - time.monotonic()))
        count = self._records_left()
        self.close(0)
        self._warn_unclosed(count)

    def partitions_for(self, topic: str) -> set[int]:
        """The numbers of the topic's partitions; the topic is made if the broker does that. Raises as `send`."""
        self._guard.check("producer")
        if self._topics.get(topic) is None:
            self._await_topic(topic)
        return {tp.partition for tp in self._topics[topic].all}

    def metrics(self) -> dict[str, int]:
        """Counts since the start, and what is in the buffer now (bytes, batches)."""
        self._guard.check("producer")
        return self._change(
            lambda: {
                **self._counts,
                "buffer_bytes_total": self._accumulator.buffer_memory,
                "buffer_bytes_free": self._accumulator.free_bytes,
                "batches_unfinished": sum(1 for _ in self._core.batches()),
            }
        )

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_size(self, key: bytes | None, value: bytes | None, headers: Headers) -> None:
        size = len(key or b"") + len(value or b"") + RECORD_BYTES_EXTRA
        size += sum(len(name) * 4 + len(content or b"") + 10 for name, content in headers)
        if size > self.options.max_request_size:
            raise MessageTooLarge(
                f"the record takes up to {size} bytes; max_request_size={self.options.max_request_size} (and the "
                "broker's message.max.bytes) would have to allow it"
            )

    def _add_elsewhere(
        self,
        target: TopicPartition,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        filled: bool,
    ) -> Batch:
        """The record does not fit where it was to go: into this partition's open batch, else into a new one.

        `filled`: the batch that it did not fit into is full, and goes.
        """
        accumulator = self._accumulator
        batch = accumulator.open.get(target)
        if batch is None or not accumulator.append(batch, timestamp_ms, key, value, headers):
            if batch is not None:
                self._filled(batch)
                filled = True
            now = now_ms()
            batch = accumulator.new_batch(target, now, self._topics[target.topic].batch_bytes_max)
            accumulator.append(batch, timestamp_ms, key, value, headers)
            self._core.opened(batch)
            self._batch_opened(now, filled)
        elif filled:
            self._batch_opened(now_ms(), filled)
        return batch


def _as_bytes(name: str, value: object) -> bytes:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise ConfigError(
        f"{name} must be bytes or None, not {type(value).__name__}; encode it, or give the producer a {name}_serializer"
    )


def _checked_headers(headers: object) -> list[tuple[str, bytes | None]]:
    try:
        pairs = [(name, content) for name, content in headers]  # type: ignore[attr-defined]  # that is the question
    except (TypeError, ValueError):
        raise ConfigError("headers must be a list of (text, bytes) pairs") from None
    for name, content in pairs:
        if not isinstance(name, str) or not isinstance(content, (bytes, type(None))):
            raise ConfigError(
                f"headers must be pairs of text and bytes, not {type(name).__name__} and {type(content).__name__}"
            )
    return pairs
