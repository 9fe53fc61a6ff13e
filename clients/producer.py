"""Producer: records in, acknowledgements out. One thread of its own; the caller's thread sends full batches itself."""

from __future__ import annotations

import atexit
import contextlib
import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from kbroker.catalog.topics import check_name
from kbroker.clients.accumulator import Accumulator, Batch
from kbroker.clients.cluster import Cluster, ClusterSettings, now_ms
from kbroker.clients.futures import RecordFuture
from kbroker.clients.link import Reply
from kbroker.clients.producer_core import (
    BatchDone,
    Effect,
    NeedMetadata,
    NeedProducerId,
    ProducerCore,
    ProducerSettings,
    SendBatch,
)
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
from kbroker.clients.topic_partitions import TopicPartitions
from kbroker.errors import (
    BrokerUnavailable,
    BufferFull,
    ClientClosed,
    ConfigError,
    LeaderNotAvailable,
    MessageTooLarge,
    RequestTimedOut,
)
from kbroker.wire.messages import InitProducerId, Produce, ProduceAnswer, ProducerIdAnswer

log = logging.getLogger(__name__)

Headers = Sequence[tuple[str, bytes | None]]
_EXIT_TIMEOUT_S = 5.0
BUSY_PAUSE_S = 0.001
RECORD_BYTES_EXTRA = 70 + 61
"""What a record and its batch take besides key, value and headers, at most."""


class Producer:
    """Sends records to a broker. Thread-safe; use one for many threads. A context manager: leaving it flushes.

    `server`: `ipc://PATH`, a folder, `HOST:PORT` or `tcp://HOST:PORT`; None: KBROKER_SERVER, else the usual places.
    Raises BrokerUnavailable when nobody answers within `api_timeout_ms`, ConfigError naming a wrong argument.

    - `acks`: 'all' (survives power loss), 1 (survives the death of any broker process), 0 (no promise).
    - `enable_idempotence`: retries are written once and in order. On unless `acks`, `retries` or the requests in flight
      rule it out.
    - `compression_type`: None, 'gzip', 'snappy', 'lz4' or 'zstd'.
    - `batch_size` (bytes, 65536): a batch is sent when it is that large, or `linger_ms` (5) old, or when somebody
      waits for one of its records. 64 KiB costs the broker a quarter of what 16 KiB do per byte, and 5 ms let batches
      fill without being felt; set linger_ms=0 for the lowest latency.
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
        batch_size: int = 65_536,
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
    ) -> None:
        in_flight = whole_number("max_in_flight_requests_per_connection", max_in_flight_requests_per_connection, 1, 256)
        whole_number("retries", retries, 0)
        whole_number("max_request_size", max_request_size, 128)
        acks_number = check_acks(acks)
        self.options = ProducerOptions(
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

        options = self.options
        self._cluster = Cluster(
            server,
            ClusterSettings(
                client_id=client_id,
                request_timeout_ms=options.request_timeout_ms,
                retry_backoff_ms=options.retry_backoff_ms,
                metadata_max_age_ms=options.metadata_max_age_ms,
                auto_create_topics=True,
                direct=direct,
            ),
        )
        self._guard = self._cluster.guard
        self._accumulator = Accumulator(max(options.batch_size, 62), options.buffer_memory, options.codec)
        self._core = ProducerCore(
            ProducerSettings(
                linger_ms=options.linger_ms,
                max_in_flight=options.max_in_flight,
                retries=options.retries,
                retry_backoff_ms=options.retry_backoff_ms,
                delivery_timeout_ms=options.delivery_timeout_ms,
                idempotent=options.idempotent,
                acks=options.acks,
            ),
            self._accumulator,
        )
        self._topics: dict[str, TopicPartitions] = {}
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)  # space in the buffer, metadata
        self._waiting = 0
        self._watched = 0  # batches that somebody waits for
        self._filled_ms = 0  # when the caller's thread last filled a batch, and so served the sockets
        self._closed = False
        self._stop = False
        self._sleeps_until_ms = 0
        self._identity_not_before_ms = 0
        self._callbacks: list[Callable[[], object]] = []
        self._counts = {"records_sent": 0, "records_failed": 0, "batches_sent": 0, "bytes_sent": 0, "retries": 0}
        try:
            self._cluster.connect(whole_number("api_timeout_ms", api_timeout_ms, 1))
        except BaseException:
            self._cluster.close()
            raise
        self._cluster.on_metadata = self._learn_partitions
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._cluster.watch(self._wake_fd, self._on_wake)
        self._thread = threading.Thread(target=self._run, name="kbroker-producer", daemon=True)
        self._thread.start()
        self._at_exit = functools.partial(_close_at_exit, weakref.ref(self))
        atexit.register(self._at_exit)

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
        size = (0 if value is None else len(value)) + (0 if key is None else len(key)) + RECORD_BYTES_EXTRA
        if headers:
            headers = _checked_headers(headers)
            size += sum(len(name) * 4 + len(content or b"") + 10 for name, content in headers)
        if size > self.options.max_request_size:
            self._refuse_size(size)
        with self._lock:
            if self._closed:
                raise ClientClosed("this producer was closed")
            partitions = self._topics.get(topic)
            if partitions is None:
                partitions = self._find_topic(topic)
            if self._accumulator.free_bytes <= 0:
                self._wait_for_space()
            if partition is not None:
                target = partitions.number(partition)
            elif self._partitioner is not None:
                target = partitions.chosen(self._partitioner, key)
            elif key is None:
                target = partitions.sticky
            else:
                target = partitions.for_key(key)
            accumulator = self._accumulator
            batch = accumulator.open_batch(target)
            if batch is None or not accumulator.append(batch, timestamp_ms, key, value, headers or ()):
                filled = batch is not None
                if batch is not None:
                    self._filled_ms = now_ms()
                    accumulator.seal(batch)
                    self._core.hasten(batch)
                if key is None and partition is None and self._partitioner is None:
                    target = partitions.next_sticky()
                    batch = accumulator.open_batch(target)
                    if batch is None or not accumulator.append(batch, timestamp_ms, key, value, headers or ()):
                        batch = None
                else:
                    batch = None
                if batch is None:
                    batch = accumulator.new_batch(target, now_ms())
                    accumulator.append(batch, timestamp_ms, key, value, headers or ())
                    self._core.opened(batch)
                    self._batch_opened(filled)
            return RecordFuture(self, batch, batch.record_count - 1, timestamp_ms)

    def flush(self, timeout: float | None = None) -> None:
        """Send everything now and wait until each record that was queued before is acknowledged or given up.

        `timeout` in seconds; raises RequestTimedOut naming how many records are still on their way. Whether a record
        was given up is told by its future.
        """
        self._guard.check("producer")
        pending = threading.Semaphore(0)
        with self._lock:
            batches = [batch for batch in self._core.batches() if not batch.done]
            for batch in batches:
                self._watch(batch, pending.release)
            self._pump(now_ms())
            self._wake_if_needed()
        deadline = None if timeout is None else time.monotonic() + timeout
        for _ in batches:
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not pending.acquire(timeout=left):
                count = sum(batch.record_count for batch in batches if not batch.done)
                raise RequestTimedOut(f"{count} records are not acknowledged after {timeout} s")

    def close(self, timeout: float | None = None) -> None:
        """Flush, at most `timeout` seconds (None: as long as delivery_timeout_ms), then free everything.

        Records that are not acknowledged by then fail with ClientClosed. Harmless when called twice, and in a child
        process after fork.
        """
        if self._guard.forked:
            return
        with self._lock:
            if self._closed:
                return
            self._closed = True
        with contextlib.suppress(RequestTimedOut):
            self.flush(timeout)
        with self._lock:
            self._perform(self._core.abort(ClientClosed("the producer was closed before the record was acknowledged")))
            self._changed.notify_all()
            self._wake()
            self._stop = True
        if threading.current_thread() is not self._thread:
            self._thread.join()
        atexit.unregister(self._at_exit)

    def partitions_for(self, topic: str) -> set[int]:
        """The numbers of the topic's partitions; the topic is made if the broker does that. Raises as `send`."""
        self._guard.check("producer")
        with self._lock:
            partitions = self._topics.get(topic) or self._find_topic(topic)
            return {tp.partition for tp in partitions.all}

    def metrics(self) -> dict[str, int]:
        """Counts since the start, and what is in the buffer now (bytes, batches)."""
        self._guard.check("producer")
        with self._lock:
            return {
                **self._counts,
                "buffer_bytes_total": self._accumulator.buffer_memory,
                "buffer_bytes_free": self._accumulator.free_bytes,
                "batches_unfinished": sum(1 for _ in self._core.batches()),
            }

    def __enter__(self) -> Producer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- for futures ---

    def watch_batch(self, batch: Batch, waiter: Callable[[], object]) -> bool:
        """Part of the futures' side; see Completer."""
        self._guard.check("producer")
        with self._lock:
            if batch.done:
                return False
            hurried = batch.urgent
            self._watch(batch, waiter)
            if not hurried:
                self._pump(now_ms())
                self._wake_if_needed()
            return True

    def add_callback(self, batch: Batch, future: RecordFuture, callback: Callable[[Any], object], error: bool) -> None:
        """Part of the futures' side; see Completer."""
        self._guard.check("producer")

        def call() -> None:
            if future.failed() is error:
                callback(future.exception if error else future.metadata())

        with self._lock:
            if batch.done:
                self._callbacks.append(call)
                self._wake()
            else:
                batch.callbacks = [*(batch.callbacks or ()), call]

    # --- inside; the lock is held from here on ---

    def _watch(self, batch: Batch, waiter: Callable[[], object]) -> None:
        if batch.waiters is None:
            self._watched += 1
        batch.waiters = [*(batch.waiters or ()), waiter]
        self._core.hasten(batch)

    def _batch_opened(self, filled: bool) -> None:
        """A new batch: the one before it is full, or this one may be due before the thread wakes."""
        now = now_ms()
        linger_ms = self.options.linger_ms
        if filled or not linger_ms:
            self._pump(now)
            self._wake_if_needed()
        elif now + linger_ms < self._sleeps_until_ms:
            self._wake()

    def _wait_for_space(self) -> None:
        deadline = now_ms() + self.options.max_block_ms
        self._core.hasten_all()
        self._pump(now_ms())
        while self._accumulator.free_bytes <= 0:
            left = deadline - now_ms()
            if left <= 0:
                raise BufferFull(
                    f"the buffer of buffer_memory={self.options.buffer_memory} bytes stayed full for "
                    f"max_block_ms={self.options.max_block_ms}: the broker is slower than this producer, or away"
                )
            self._wake()
            self._wait_changed(left)

    def _wait_changed(self, timeout_ms: int) -> None:
        self._waiting += 1
        try:
            self._changed.wait(timeout_ms / 1000)
        finally:
            self._waiting -= 1
        if self._stop:
            raise ClientClosed("this producer was closed")

    def _find_topic(self, topic: str) -> TopicPartitions:
        if not isinstance(topic, str) or not topic:
            raise ConfigError(f"topic={topic!r} is not valid: it must be a topic's name")
        check_name(topic)
        if self._closed:
            raise ClientClosed("this producer was closed")
        deadline = now_ms() + self.options.max_block_ms
        version = self._cluster.view.version
        self._cluster.add_topics({topic})
        while topic not in self._topics:
            if self._cluster.view.version > version and topic in self._cluster.view.errors:
                code, _ = self._cluster.view.errors[topic]
                if code != LeaderNotAvailable.code:
                    self._cluster.topics.discard(topic)
                    self._cluster.view.check(topic)
            left = deadline - now_ms()
            if left <= 0:
                failure = self._cluster.failure
                raise BrokerUnavailable(
                    f"nothing is known of topic {topic!r} after max_block_ms={self.options.max_block_ms}"
                    + (f": {failure}" if failure is not None else "")
                )
            self._wake()
            self._wait_changed(left)
        return self._topics[topic]

    def _learn_partitions(self) -> None:
        for name, info in self._cluster.view.topics.items():
            if not info.partitions:
                continue
            known = self._topics.get(name)
            if known is None:
                known = self._topics[name] = TopicPartitions(name, len(info.partitions))
            known.update([partition.leader for partition in info.partitions])
        self._changed.notify_all()

    def _refuse_size(self, size: int) -> None:
        raise MessageTooLarge(
            f"the record takes up to {size} bytes; max_request_size={self.options.max_request_size} (and the broker's "
            "message.max.bytes) would have to allow it"
        )

    def _pump(self, now: int) -> None:
        """Take answers, then send what is ready."""
        self._cluster.serve(now)
        due = self._core.next_due_ms()
        if due is not None and due <= now:
            self._perform(self._core.tick(now))
        self._perform(self._core.drain(now, self._cluster.can_reach))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendBatch):
                self._send(effect.batch, effect.attempt)
            elif isinstance(effect, BatchDone):
                self._batch_done(effect.batch)
            elif isinstance(effect, NeedMetadata):
                self._cluster.want_metadata()
            elif isinstance(effect, NeedProducerId):
                self._cluster.ask_front(InitProducerId(), ProducerIdAnswer, self._identified)

    def _send(self, batch: Batch, attempt: int) -> None:
        assert batch.payload is not None
        topic, partition = batch.topic_partition
        self._counts["batches_sent"] += 1
        self._counts["bytes_sent"] += len(batch.payload)
        self._counts["retries"] += attempt > 1
        self._cluster.ask_owner(
            batch.topic_partition,
            Produce(topic, partition, self.options.acks, self.options.request_timeout_ms),
            ProduceAnswer,
            functools.partial(self._produced, batch, attempt),
            payload=(batch.payload,),
            timeout_ms=self.options.request_timeout_ms + 5_000,
        )

    def _produced(self, batch: Batch, attempt: int, reply: Reply) -> None:
        if reply.error is not None:
            self._perform(self._core.failed(batch, attempt, reply.error, now_ms()))
            return
        answer: ProduceAnswer = reply.answer
        base_offset = answer.base_offset if self.options.acks else -1
        self._perform(self._core.acknowledged(batch, attempt, base_offset, answer.append_time_ms, now_ms()))

    def _identified(self, reply: Reply) -> None:
        if reply.error is not None:
            self._identity_not_before_ms = now_ms() + self.options.retry_backoff_ms
        else:
            self._core.identified(reply.answer.producer_id, reply.answer.producer_epoch)

    def _batch_done(self, batch: Batch) -> None:
        outcome = batch.outcome
        failed = outcome is not None and outcome.error is not None
        self._counts["records_failed" if failed else "records_sent"] += batch.record_count
        if batch.waiters is not None:
            self._watched -= 1
            for waiter in batch.waiters:
                waiter()
        if batch.callbacks:
            self._callbacks += batch.callbacks
        batch.waiters = batch.callbacks = None
        if self._waiting:
            self._changed.notify_all()

    def _due_ms(self) -> int:
        due = self._cluster.next_due_ms()
        core_due = self._core.next_due_ms()
        if core_due is not None and core_due < due:
            due = core_due
        if self._identity_not_before_ms and self._identity_not_before_ms < due:
            due = self._identity_not_before_ms
        return due

    def _wake_if_needed(self) -> None:
        """After the caller's thread has used the sockets: leave nothing that the sleeping thread would not see."""
        if self._sleeps_until_ms and (
            self._callbacks or self._due_ms() < self._sleeps_until_ms or self._cluster.has_input()
        ):
            self._wake()

    def _wake(self) -> None:
        if self._sleeps_until_ms and not self._stop:
            self._sleeps_until_ms = 0
            os.eventfd_write(self._wake_fd, 1)

    def _on_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    # --- the thread ---

    def _run(self) -> None:
        stop = False
        while not stop:
            try:
                stop = self._turn()
            except Exception as error:
                log.exception("the producer's thread failed; nothing more can be sent")
                with self._lock:
                    self._closed = stop = True
                    self._perform(self._core.abort(error))
                    self._changed.notify_all()
        with self._lock:
            self._stop = True
            self._sleeps_until_ms = 0
            self._cluster.unwatch(self._wake_fd)
            self._cluster.close()
            os.close(self._wake_fd)

    def _turn(self) -> bool:
        with self._lock:
            self._sleeps_until_ms = 0
            now = now_ms()
            if self._identity_not_before_ms and now >= self._identity_not_before_ms:
                self._identity_not_before_ms = 0
                self._core.identity_failed()
            self._pump(now)
            callbacks, self._callbacks = self._callbacks, []
            stop = self._stop
            wait_ms = 0
            if not stop and not callbacks and not self._cluster.has_input():
                wait_ms = min(max(0, self._due_ms() - now), 60_000)
                self._sleeps_until_ms = now + wait_ms if wait_ms else 0
        for callback in callbacks:
            try:
                callback()
            except Exception:
                log.exception("a callback of a record failed")
        if wait_ms:
            self._cluster.wait(wait_ms)
            if now_ms() - self._filled_ms <= 1 and not (self._watched or self._waiting or self._stop):
                # The caller's thread is filling batches, and takes the answers with each: do not fight it for the
                # interpreter over every single one.
                time.sleep(BUSY_PAUSE_S)
        return stop


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


def _close_at_exit(reference: weakref.ref[Producer]) -> None:
    producer = reference()
    if producer is not None:
        producer.close(_EXIT_TIMEOUT_S)
