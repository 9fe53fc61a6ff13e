"""The loop around a producer's core: one thread, one lock, and the sockets, which whoever holds the lock may serve."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any

from kbroker.catalog.topics import check_name
from kbroker.clients.accumulator import Accumulator, Batch
from kbroker.clients.cluster import Cluster, now_ms
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
from kbroker.clients.producer_options import ProducerOptions
from kbroker.clients.topic_partitions import TopicPartitions
from kbroker.errors import BrokerUnavailable, BufferFull, ClientClosed, ConfigError, LeaderNotAvailable
from kbroker.wire.messages import InitProducerId, Produce, ProduceAnswer, ProducerIdAnswer

log = logging.getLogger(__name__)

SLEEP_MAX_MS = 5_000
"""Less than a request may take by default: so a new request need not wake the thread to have its time-out watched."""
BUSY_PAUSE_S = 0.001
ATTEMPTS_UNTOLD = 6
"""A batch that is refused so many times in a row, for about a second, is worth a warning."""


class ProducerLoop:
    """What Producer stands on. The caller's thread fills batches and sends them itself when they are full; the loop's
    thread sends what has waited long enough, takes answers, tries again and calls back.

    `_lock` guards everything. Callbacks of records run on the loop's thread, without the lock.
    """

    def __init__(self, cluster: Cluster, options: ProducerOptions) -> None:
        self.options = options
        self._cluster = cluster
        self._guard = cluster.guard
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
        self._told = ""  # the last error that was logged
        self._counts = {"records_sent": 0, "records_failed": 0, "batches_sent": 0, "bytes_sent": 0, "retries": 0}
        self._cluster.on_metadata = self._learn_partitions
        self._wake_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._cluster.watch(self._wake_fd, self._on_wake)
        self._thread = threading.Thread(target=self._run, name="kbroker-producer", daemon=True)
        self._thread.start()

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

    def _filled(self, batch: Batch) -> None:
        """A record did not fit: the batch goes as it is."""
        self._filled_ms = now_ms()
        self._accumulator.seal(batch)
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
            known.batch_bytes_max = info.batch_bytes_max
        self._changed.notify_all()

    def _pump(self, now: int) -> None:
        """Send what is ready, take answers, send what they have set free."""
        self._perform(self._core.drain(now, self._cluster.can_reach))
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
            if attempt == ATTEMPTS_UNTOLD and str(reply.error) != self._told:
                self._told = str(reply.error)
                log.warning("%s; trying again for up to delivery_timeout_ms", reply.error)
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
                wait_ms = min(max(0, self._due_ms() - now), SLEEP_MAX_MS)
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
