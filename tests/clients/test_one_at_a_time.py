"""Two threads, or two tasks, in one consumer: the same clear error, always."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from kbroker import Admin, ClientClosed, ConcurrentAccess, Consumer, Producer, TopicPartition, aio
from kbroker.testing import Broker
from tests.clients.conftest import make_topic

PATIENCE_S = 20


def fill(broker: Broker, topic: str, count: int) -> None:
    with Producer(broker.server) as producer:
        for number in range(count):
            producer.send(topic, b"%d" % number)


class TestThreads:
    def test_who_comes_while_another_waits_inside(self, broker: Broker, topic: str) -> None:
        with Consumer(topic, server=broker.server) as consumer:
            place = TopicPartition(topic, 0)
            polling = threading.Thread(target=consumer.poll, args=(PATIENCE_S * 1000,))
            polling.start()
            calls: list[Callable[[], object]] = [
                consumer.poll,
                consumer.poll_batches,
                lambda: next(iter(consumer)),
                lambda: consumer.seek(place, 0),
                lambda: consumer.pause(place),
                lambda: consumer.end_offsets([place]),
                lambda: consumer.position(place),
                consumer.close,
            ]
            deadline = time.monotonic() + PATIENCE_S
            while True:  # until the thread is in
                try:
                    consumer.position(place)
                except ConcurrentAccess:
                    break
                assert time.monotonic() < deadline
            for call in calls:
                with pytest.raises(ConcurrentAccess, match="Consumer is not safe for multi-threaded access: thread 'M"):
                    call()
            assert consumer.assignment() == {place}
            assert consumer.paused() == set()
            fill(broker, topic, 1)
            polling.join(PATIENCE_S)
            assert not polling.is_alive()
            consumer.poll(0)

    @pytest.mark.parametrize("how", ["iterate", "poll", "both"])
    def test_two_that_read_get_nothing_but_that_error(self, broker: Broker, topic: str, how: str) -> None:
        fill(broker, topic, 3000)
        errors: Counter[str] = Counter()
        over = threading.Event()

        with Consumer(topic, server=broker.server, auto_offset_reset="earliest", consumer_timeout_ms=50) as consumer:

            def read(iterates: bool) -> None:
                while not over.is_set():
                    try:
                        if iterates:
                            for _ in consumer:
                                if over.is_set():
                                    break
                        else:
                            consumer.poll(1, max_records=10)
                            consumer.seek_to_beginning()
                    except Exception as error:
                        errors[type(error).__name__] += 1

            threads = [threading.Thread(target=read, args=(one,)) for one in (how != "poll", how == "iterate")]
            for thread in threads:
                thread.start()
            deadline = time.monotonic() + 1
            while time.monotonic() < deadline and errors.total() < 300:
                time.sleep(0.01)
            over.set()
            for thread in threads:
                thread.join(PATIENCE_S)
            assert set(errors) == {"ConcurrentAccess"}
            consumer.seek_to_beginning()
            ((first, *_),) = consumer.poll(PATIENCE_S * 1000).values()
            assert first.offset == 0

    def test_an_iteration_that_another_thread_has_read_into(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 10)
        with Consumer(topic, server=broker.server, auto_offset_reset="earliest") as consumer:
            records = iter(consumer)
            next(records)
            other = threading.Thread(target=consumer.poll)
            other.start()
            other.join(PATIENCE_S)
            with pytest.raises(ConcurrentAccess, match="has read from it in the middle of this iteration"):
                list(records)

    def test_one_after_the_other_is_free_to(self, broker: Broker, topic: str) -> None:
        fill(broker, topic, 10)
        seen = []
        with Consumer(topic, server=broker.server, auto_offset_reset="earliest") as consumer:
            for _ in range(5):

                def read() -> None:
                    for record in consumer:
                        seen.append(record.offset)
                        if len(seen) % 2 == 0:
                            break

                thread = threading.Thread(target=read)
                thread.start()
                thread.join(PATIENCE_S)
        assert seen == list(range(10))

    def test_an_admin(self, broker: Broker) -> None:
        with Admin(broker.server) as admin:
            errors: Counter[str] = Counter()

            def ask() -> None:
                for _ in range(200):
                    try:
                        admin.list_topics()
                    except Exception as error:
                        errors[type(error).__name__] += 1

            threads = [threading.Thread(target=ask) for _ in range(2)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(PATIENCE_S)
            assert set(errors) == {"ConcurrentAccess"}


class TestTasks:
    def run(self, main: Callable[[], Any]) -> None:
        asyncio.run(asyncio.wait_for(main(), PATIENCE_S))

    def test_two_that_poll(self, broker: Broker) -> None:
        topic = make_topic(broker, 1)

        async def main() -> None:
            async with aio.Consumer(topic, server=broker.server) as consumer:
                first = asyncio.create_task(consumer.poll(PATIENCE_S * 1000))
                await asyncio.sleep(0)
                for call in (consumer.poll, consumer.poll_batches, lambda: anext(aiter(consumer))):
                    with pytest.raises(ConcurrentAccess, match="Consumer is for one task at a time"):
                        await call()
                # Others may ask and steer meanwhile.
                assert await consumer.end_offsets([TopicPartition(topic, 0)]) == {TopicPartition(topic, 0): 0}
                first.cancel()
                await asyncio.wait([first])
                assert await consumer.poll(0) == {}

        self.run(main)

    def test_two_that_iterate_in_turn(self, broker: Broker) -> None:
        topic = make_topic(broker, 1)
        fill(broker, topic, 1000)

        async def main() -> None:
            async with aio.Consumer(topic, server=broker.server, auto_offset_reset="earliest") as consumer:

                async def read() -> None:
                    async for _ in consumer:
                        await asyncio.sleep(0)

                tasks = [asyncio.create_task(read()) for _ in range(2)]
                done, rest = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
                for task in done:
                    with pytest.raises(ConcurrentAccess):
                        task.result()
                for task in rest:
                    task.cancel()

        self.run(main)

    def test_one_iteration_step_by_step_in_tasks_of_their_own(self, broker: Broker) -> None:
        topic = make_topic(broker, 1)
        fill(broker, topic, 300)

        async def main() -> None:
            async with aio.Consumer(topic, server=broker.server, auto_offset_reset="earliest") as consumer:
                records = aiter(consumer)
                for offset in range(300):
                    assert (await asyncio.wait_for(anext(records), PATIENCE_S)).offset == offset

        self.run(main)

    def test_closed_while_another_waits(self, broker: Broker) -> None:
        topic = make_topic(broker, 1)

        async def main() -> None:
            consumer = aio.Consumer(topic, server=broker.server, group=topic)
            await consumer.start()
            polling = asyncio.create_task(consumer.poll(PATIENCE_S * 1000))
            await asyncio.sleep(0.1)
            await consumer.close()
            with pytest.raises(ClientClosed):
                await polling
            async with aio.Consumer(topic, server=broker.server) as another:  # asyncio has forgotten the descriptor
                await another.poll(10)

        self.run(main)


def test_a_signals_handler_may_close(broker: Broker, topic: str) -> None:
    consumer = Consumer(topic, server=broker.server)
    before = signal.signal(signal.SIGUSR1, lambda *_: consumer.close())
    timer = threading.Timer(0.2, signal.pthread_kill, [threading.get_ident(), signal.SIGUSR1])
    try:
        timer.start()
        with pytest.raises(ClientClosed):
            consumer.poll(PATIENCE_S * 1000)
    finally:
        timer.join()
        signal.signal(signal.SIGUSR1, before)
