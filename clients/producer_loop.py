"""The loop around a producer's core: one thread, one lock, and the sockets, which whoever holds the lock may serve."""

from __future__ import annotations

import functools
import logging
import select
import threading
import time
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from kbroker.catalog.topics import check_name
from kbroker.clients import unclosed
from kbroker.clients.accumulator import Accumulator, Batch
from kbroker.clients.backoff import backoff_ms
from kbroker.clients.cluster import Cluster, now_ms
from kbroker.clients.futures import RecordFuture
from kbroker.clients.gate import Gate
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
from kbroker.clients.wakeup import Wakeup
from kbroker.clients.weakly import weakly
from kbroker.errors import (
    BrokerUnavailable,
    BufferFull,
    ClientClosed,
    ConfigError,
    LeaderNotAvailable,
    OutOfOrderSequence,
)
from kbroker.types import TopicPartition
from kbroker.wire.codec import encode_request
from kbroker.wire.messages import InitProducerId, Produce, ProduceAnswer, ProducerIdAnswer
from kbroker.wording import counted

T = TypeVar("T")
log = logging.getLogger(__name__)

SLEEP_MAX_MS = 5_000
"""Less than a request may take by default: so a new request need not wake the thread to have its time-out watched."""
BUSY_PAUSE_S = 0.001
ATTEMPTS_UNTOLD = 6
"""A batch that is refused so many times in a row, for about a second, is worth a warning."""


class ProducerLoop:
    """What Producer stands on. The caller's thread fills batches and sends them itself when they are full; the loop's
    thread sends what has waited long enough, takes answers, tries again and calls back.

    `_lock` guards everything. Callbacks of records run on the loop's thread, without the lock. That thread holds the
    producer only while it does something for it: one that nobody uses any more is collected, and the thread ends.

    An exception may be raised in a caller's thread at any moment (Ctrl-C, a signal's handler), in the loop's thread
    never. So whoever changes something in a caller's thread says so in `_is_changing` first, and takes it back when all
    is done. Who has the lock and finds it set knows that a change was interrupted: the loop's thread then makes
    everything anew from what cannot be half done, the batches (`_recover`); all others wait until it has.
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
        self._is_changing = False  # a caller's thread is at it, or was interrupted in it
        self._headers: dict[TopicPartition, bytes] = {}  # of requests, the same for all batches of a partition
        self._gates: list[Gate] = []  # of callers who wait for space in the buffer, metadata, recovery
        self._watched = 0  # batches that somebody waits for
        self._filled_ms = 0  # when the caller's thread last filled a batch, and so served the sockets
        self._closed = False  # nothing is taken any more
        self._stop = False  # the thread is to end
        self._is_over = False  # it has
        self._sleeps_until_ms = 0
        self._identity_not_before_ms = 0
        self._identity_attempts = 0
        self._callbacks: list[Callable[[], object]] = []  # of batches that had ended before
        self._ended: list[Batch] = []  # batches with callbacks
        self._told = ""  # the last error that was logged
        self._counts = {"records_sent": 0, "records_failed": 0, "batches_sent": 0, "bytes_sent": 0, "retries": 0}
        self._cluster.on_metadata = weakly(self._learn_partitions)
        self._wakeup = Wakeup()
        self._cluster.watch(self._wakeup.fd, self._wakeup.drain)
        self._left: list[Callable[[], object]] = []  # to be called back by the thread when it outlives the producer
        self._thread = threading.Thread(
            target=_run, args=(weakref.ref(self), self._wakeup, self._left), name="kbroker-producer", daemon=True
        )
        self._thread.start()

    # --- for futures ---

    def watch_batch(self, batch: Batch, waiter: Callable[[], object]) -> bool:
        """Part of the futures' side; see Completer."""
        self._guard.check("producer")

        def watch() -> bool:
            if batch.done:
                return False
            hurried = batch.urgent
            self._watch(batch, waiter)
            if not hurried:
                self._pump(now_ms())
                self._wake_if_needed()
            return True

        return self._change(watch)

    def add_callback(self, batch: Batch, future: RecordFuture, callback: Callable[[Any], object], error: bool) -> None:
        """Part of the futures' side; see Completer."""
        self._guard.check("producer")

        def call() -> None:
            if future.failed() is error:
                callback(future.exception if error else future.metadata())

        def add() -> None:
            if batch.done:
                self._callbacks.append(call)
                self._wake()
            else:
                batch.callbacks = [*(batch.callbacks or ()), call]

        self._change(add)

    # --- callers' threads ---

    def _change(self, change: Callable[[], T]) -> T:
        """Call `change` with the lock, in a caller's thread."""
        try:
            while True:
                with self._lock:
                    if not self._is_changing:
                        self._is_changing = True
                        result = change()
                        self._is_changing = False
                        return result
                self._await_recovery()
        except BaseException:
            self._interrupted()
            raise

    def _interrupted(self) -> None:
        """An exception is on its way out of this caller's thread: have the other thread look what it has left behind.

        Should this be interrupted as well, that thread looks when it wakes the next time: after SLEEP_MAX_MS at most.
        """
        with self._lock:
            if self._is_changing and not self._is_over:
                self._wakeup.wake()

    def _await_recovery(self) -> None:
        """Wait until the loop's thread has set right what was interrupted."""
        gate = Gate()
        with self._lock:
            if not self._is_changing:
                return
            if threading.current_thread() is self._thread:  # a callback that uses the producer
                self._recover()
                return
            self._gates.append(gate)
            self._wakeup.wake()
        gate.wait()

    def _await_ready(self, topic: str) -> None:
        """Wait until a record for this topic can be taken."""
        if self._closed:
            raise ClientClosed("this producer was closed")
        if self._is_changing:
            self._await_recovery()
        elif topic not in self._topics:
            self._await_topic(topic)
        else:
            self._await_space()

    def _end(self) -> None:
        """Have the thread give up what is left, and end."""
        with self._lock:
            self._stop = True
            if not self._is_over:
                self._wakeup.wake()

    def _await_space(self) -> None:
        """Wait until the buffer has room for a record. Raises BufferFull, ClientClosed."""
        options = self.options

        def look() -> Gate | None:
            if self._accumulator.free_bytes > 0:
                return None
            self._core.hasten_all()
            self._pump(now_ms())
            return self._new_gate() if self._accumulator.free_bytes <= 0 else None

        if not self._await(look, options.max_block_ms):
            raise BufferFull(
                f"the buffer of buffer_memory={options.buffer_memory} bytes stayed full for "
                f"max_block_ms={options.max_block_ms}: the broker is slower than this producer, or away"
            )

    def _await_topic(self, topic: str) -> None:
        """Wait until a topic's partitions are known. Raises what the broker says, BrokerUnavailable, ClientClosed."""
        if not isinstance(topic, str) or not topic:
            raise ConfigError(f"topic={topic!r} is not valid: it must be a topic's name")
        check_name(topic)
        view = self._cluster.view
        version = view.version

        def look() -> Gate | None:
            self._cluster.add_topics({topic})
            is_refused = view.version > version and view.errors.get(topic, (LeaderNotAvailable.code,))[0]
            if topic in self._topics or (is_refused and is_refused != LeaderNotAvailable.code):
                return None
            return self._new_gate()

        is_known = self._await(look, self.options.max_block_ms)
        if topic in self._topics:
            return
        if is_known:
            self._change(lambda: self._cluster.topics.discard(topic))
            view.check(topic)
        failure = self._cluster.failure
        raise BrokerUnavailable(
            f"nothing is known of topic {topic!r} after max_block_ms={self.options.max_block_ms}"
            + (f": {failure}" if failure is not None else "")
        )

    def _await(self, look: Callable[[], Gate | None], timeout_ms: int) -> bool:
        """Wait until `look`, which is called with the lock, gives no gate to wait at. False: that took too long."""
        deadline = now_ms() + timeout_ms
        while True:
            if self._closed:
                raise ClientClosed("this producer was closed")
            gate = self._change(look)
            if gate is None:
                return True
            left = deadline - now_ms()
            if left <= 0:
                return False
            gate.wait(left / 1000)

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

    def _batch_opened(self, now: int, filled: bool) -> None:
        """A new batch: the one before it is full, or this one may be due before the thread wakes."""
        if filled:
            self._pump(now)
            self._wake_if_needed()
        elif not self.options.linger_ms:
            # Only what brings the record on its way: the thread takes the answer.
            self._perform(self._core.drain(now, self._cluster.can_reach))
            self._wake_if_needed()
        elif now + self.options.linger_ms < self._sleeps_until_ms:
            self._wake()

    def _new_gate(self) -> Gate:
        """Opened when something has changed; the thread is woken to see to it."""
        gate = Gate()
        self._gates.append(gate)
        self._wake()
        return gate

    def _open_gates(self) -> None:
        # Forgotten last: an interruption leaves gates that are opened once more.
        for gate in self._gates:
            gate.open()
        self._gates.clear()

    def _learn_partitions(self) -> None:
        for name, info in self._cluster.view.topics.items():
            if not info.partitions:
                continue
            known = self._topics.get(name)
            if known is None:
                known = self._topics[name] = TopicPartitions(name, len(info.partitions))
            known.update([partition.leader for partition in info.partitions])
            known.batch_bytes_max = info.batch_bytes_max
        self._open_gates()

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
        size_bytes = len(batch.payload)
        header = self._headers.get(batch.topic_partition)
        if header is None:
            topic, partition = batch.topic_partition
            request = Produce(topic, partition, self.options.acks, self.options.request_timeout_ms)
            header = self._headers[batch.topic_partition] = encode_request(request)
        self._cluster.ask_owner(
            batch.topic_partition,
            header,
            ProduceAnswer,
            functools.partial(self._produced, batch, attempt),
            payload=(batch.payload,),
            timeout_ms=self.options.request_timeout_ms + 5_000,
        )
        self._counts["batches_sent"] += 1
        self._counts["bytes_sent"] += size_bytes
        self._counts["retries"] += attempt > 1

    def _produced(self, batch: Batch, attempt: int, reply: Reply) -> None:
        if reply.error is not None:
            # A gap is the consequence of what has been told of a batch before it.
            is_news = not isinstance(reply.error, OutOfOrderSequence) and str(reply.error) != self._told
            if attempt == ATTEMPTS_UNTOLD and is_news:
                self._told = str(reply.error)
                log.warning("%s; trying again for up to delivery_timeout_ms", reply.error)
            self._perform(self._core.failed(batch, attempt, reply.error, now_ms()))
            return
        answer: ProduceAnswer = reply.answer
        base_offset = answer.base_offset if self.options.acks else -1
        self._perform(self._core.acknowledged(batch, attempt, base_offset, answer.append_time_ms, now_ms()))

    def _identified(self, reply: Reply) -> None:
        if reply.error is not None:
            self._identity_attempts += 1
            pause_ms = backoff_ms(self._identity_attempts, self.options.retry_backoff_ms, 1_000)
            self._identity_not_before_ms = now_ms() + pause_ms
            if self._identity_attempts == ATTEMPTS_UNTOLD and str(reply.error) != self._told:
                self._told = str(reply.error)
                log.warning("no producer id: %s; trying again for up to delivery_timeout_ms", reply.error)
        else:
            self._identity_attempts = 0
            self._core.identified(reply.answer.producer_id, reply.answer.producer_epoch)

    def _batch_done(self, batch: Batch) -> None:
        outcome = batch.outcome
        failed = outcome is not None and outcome.error is not None
        if batch.halves is None:
            self._counts["records_failed" if failed else "records_sent"] += batch.record_count
        if batch.waiters is not None:
            self._watched -= 1
            for waiter in batch.waiters:
                waiter()
        if batch.callbacks:
            self._ended.append(batch)
        if self._gates:
            self._open_gates()
        self._accumulator.forget(batch)

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
            self._callbacks or self._ended or self._due_ms() < self._sleeps_until_ms or self._cluster.has_input()
        ):
            self._wake()

    def _wake(self) -> None:
        if self._sleeps_until_ms and not self._is_over:
            self._wakeup.wake()
            self._sleeps_until_ms = 0

    def _records_left(self) -> int:
        """How many records are not acknowledged."""
        unfinished = list(self._accumulator.unfinished)
        return sum(batch.record_count for batch in unfinished if not batch.done and batch.halves is None)

    # --- nobody has closed it ---

    def __del__(self) -> None:
        unclosed.closed(self)
        if not hasattr(self, "_thread") or self._is_over or self._guard.forked:
            return
        # Who has the lock refers to this producer, so nobody has; but the loop's thread may just be looking at it.
        with self._lock:
            self._closed = self._is_over = True
            count = self._records_left()
            self._cluster.drop(has_sleeper=True)
            self._perform(self._core.abort(ClientClosed("the producer was garbage-collected: nobody had closed it")))
            self._left += self._take_callbacks()
            self._wakeup.wake()
        self._warn_unclosed(count)

    def _warn_unclosed(self, count: int) -> None:
        fate = "no record was lost"
        if count:
            fate = f"{counted(count, 'record')} not acknowledged and lost, unless just arrived"
            log.warning("a producer was not closed: %s", fate)
        unclosed.warn("a Producer", fate)

    # --- the thread ---

    def _work(self, events: list[tuple[int, int]] | None) -> tuple[select.epoll, int] | None:
        """What the thread does when it has slept until these events (None: it has not slept). What to sleep on next,
        and for how many ms; None: it is over."""
        with self._lock:
            if self._is_over:
                return None
        reason: Exception = ClientClosed("the producer was closed before the record was acknowledged")
        try:
            if events is not None:
                self._cluster.awoke(events)
                if now_ms() - self._filled_ms <= 1 and not (self._watched or self._gates or self._stop):
                    # The caller's thread is filling batches, and takes the answers with each: do not fight it for the
                    # interpreter over every single one.
                    time.sleep(BUSY_PAUSE_S)
            wait_ms = self._turn()
            if wait_ms is not None:
                return self._cluster.sleeper, wait_ms
        except Exception as error:
            log.exception("the producer's thread failed; nothing more can be sent")
            reason = error
        self._finish(reason)
        return None

    def _finish(self, reason: Exception) -> None:
        with self._lock:
            self._closed = self._stop = self._is_over = True
            self._sleeps_until_ms = 0
            self._recover()
            self._perform(self._core.abort(reason))
            callbacks = self._take_callbacks()
            self._cluster.unwatch(self._wakeup.fd)
            self._cluster.close()
            self._wakeup.close()
        _call(callbacks)

    def _recover(self) -> None:
        """A caller's thread may have been interrupted anywhere: what it was at is made anew."""
        self._cluster.recover()
        self._identity_not_before_ms = 0
        self._perform(self._core.recover(now_ms()))
        self._watched = sum(batch.waiters is not None for batch in self._accumulator.unfinished)
        self._is_changing = False
        self._open_gates()

    def _take_callbacks(self) -> list[Callable[[], object]]:
        """What is to be called back now."""
        callbacks, self._callbacks = self._callbacks, []
        ended, self._ended = self._ended, []
        for batch in ended:
            # Taken from the batch: it may stand there twice, told once more after an interruption.
            callbacks += batch.callbacks or ()
            batch.callbacks = None
        return callbacks

    def _turn(self) -> int | None:
        """Do what there is to do; for how many ms to sleep then. None: it is over."""
        with self._lock:
            self._sleeps_until_ms = 0
            if self._is_changing:
                self._recover()
            now = now_ms()
            if self._identity_not_before_ms and now >= self._identity_not_before_ms:
                self._identity_not_before_ms = 0
                self._core.identity_failed()
            self._pump(now)
            callbacks = self._take_callbacks()
            stop = self._stop
            wait_ms = 0
            if not stop and not callbacks and not self._cluster.has_input():
                wait_ms = min(max(0, self._due_ms() - now), SLEEP_MAX_MS)
                self._sleeps_until_ms = now + wait_ms if wait_ms else 0
        _call(callbacks)
        return None if stop else wait_ms


def _run(reference: weakref.ref[ProducerLoop], _wakeup: Wakeup, left: list[Callable[[], object]]) -> None:
    """The thread of a producer that it does not keep alive: while it sleeps it holds only what it sleeps on."""
    events: list[tuple[int, int]] | None = None
    while True:
        loop = reference()
        rest = loop._work(events) if loop is not None else None
        del loop
        if rest is None:
            break
        sleeper, wait_ms = rest
        events = sleeper.poll(wait_ms / 1000) if wait_ms else None
    _call(left)


def _call(callbacks: list[Callable[[], object]]) -> None:
    for callback in callbacks:
        try:
            callback()
        except Exception:
            log.exception("a callback of a record failed")
