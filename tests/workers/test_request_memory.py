"""Memory for half-received requests: bounded in all, and whoever waits for some gets its turn."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kbroker.workers.loop import Loop
from kbroker.workers.request_memory import RequestMemory

MIB = 1 << 20
STALL_MS = 30_000


class FakeLoop(Loop):
    """Its clock stands still until a test moves it."""

    time_ms = 1_000

    def now_ms(self) -> int:  # type: ignore[override]
        return self.time_ms


class Client:
    """A connection that has begun a request of `size_bytes`, or none yet."""

    def __init__(self, memory: RequestMemory, held_bytes: int = 0, size_bytes: int = 0) -> None:
        self.memory = memory
        self.held_bytes = 0
        self.held_ms = 0
        self.size_bytes = size_bytes
        self.reads = 0
        self.why = ""
        self.hold(held_bytes)

    @property
    def missing_bytes(self) -> int:
        return self.size_bytes - self.held_bytes

    def hold(self, held_bytes: int) -> None:
        more, self.held_bytes = held_bytes - self.held_bytes, held_bytes
        self.held_ms = self.memory._loop.now_ms()
        self.memory.count(more)

    def end(self) -> None:
        """Its request is whole, and served."""
        self.hold(0)
        self.memory.ended(self)

    def read_on(self) -> None:
        self.reads += 1

    def close(self, why: str = "") -> None:
        self.why = why
        self.hold(0)
        self.memory.forget(self)


@pytest.fixture
def loop() -> Iterator[FakeLoop]:
    loop = FakeLoop()
    yield loop
    loop.close()


@pytest.fixture
def memory(loop: FakeLoop) -> RequestMemory:
    return RequestMemory(loop, 8 * MIB, STALL_MS)


def turn(loop: FakeLoop) -> None:
    loop.turn(timeout_ms=0)


def test_large_requests_leave_an_eighth_to_those_that_begin(memory: RequestMemory) -> None:
    one = Client(memory, 6 * MIB, 10 * MIB)
    assert memory.may_receive(one, 1 * MIB)
    one.hold(7 * MIB)
    assert memory.is_short
    assert not memory.may_receive(one, 1)
    assert memory.may_receive(Client(memory), 0)


def test_above_the_bound_nobody_begins(loop: FakeLoop, memory: RequestMemory) -> None:
    held = [Client(memory, MIB, 2 * MIB) for _ in range(8)]
    newcomer = Client(memory)
    assert not memory.may_receive(newcomer, 0)
    assert memory.is_waiting(newcomer)
    turn(loop)
    assert newcomer.reads == 0
    held[0].end()
    turn(loop)
    assert (newcomer.reads, memory.is_waiting(newcomer)) == (1, False)


def test_when_all_wait_one_after_the_other_may_end(loop: FakeLoop, memory: RequestMemory) -> None:
    clients = [Client(memory, 2 * MIB, 5 * MIB) for _ in range(4)]
    for client in clients:
        assert not memory.may_receive(client, 3 * MIB)
    for number, client in enumerate(clients):
        turn(loop)
        assert client.reads == 1
        assert number or [c.reads for c in clients] == [1, 0, 0, 0]
        assert memory.may_receive(client, 3 * MIB)  # beyond the bound, it alone
        client.hold(5 * MIB)
        client.end()
    assert memory.held_bytes == 0


def test_what_the_favoured_one_takes_is_not_for_newcomers_to_pay(loop: FakeLoop, memory: RequestMemory) -> None:
    clients = [Client(memory, 2 * MIB, 100 * MIB) for _ in range(3)]
    for client in clients:
        assert not memory.may_receive(client, 98 * MIB)
    turn(loop)
    clients[0].hold(100 * MIB)
    assert memory.may_receive(Client(memory), 0)


def test_a_favoured_one_that_does_not_go_on_is_hung_up_on_soon(loop: FakeLoop, memory: RequestMemory) -> None:
    clients = [Client(memory, 4 * MIB, 6 * MIB) for _ in range(2)]
    for client in clients:
        assert not memory.may_receive(client, 2 * MIB)
    turn(loop)
    loop.time_ms += STALL_MS // 8 + 2 * MIB // 1024
    memory.check(loop.time_ms, clients)
    assert not clients[0].why
    loop.time_ms += 1
    memory.check(loop.time_ms, clients)
    assert "does not end its request" in clients[0].why
    turn(loop)
    assert clients[1].reads == 1


def test_who_holds_memory_and_lets_others_wait_is_hung_up_on(loop: FakeLoop, memory: RequestMemory) -> None:
    holders = [Client(memory, MIB, MIB + 1) for _ in range(8)]
    loop.time_ms += 100_000  # nobody minds while nobody waits
    memory.check(loop.time_ms, holders)
    assert not any(holder.why for holder in holders)
    newcomer = Client(memory)
    assert not memory.may_receive(newcomer, 0)
    loop.time_ms += STALL_MS + 1
    holders[0].hold(MIB)  # has begun another one since
    memory.check(loop.time_ms, [*holders, newcomer])
    assert [bool(holder.why) for holder in holders] == [False] + [True] * 7
    assert "queued.max.request.bytes" in holders[1].why
    turn(loop)
    assert newcomer.reads == 1


def test_who_is_closed_while_it_waits_is_forgotten(loop: FakeLoop, memory: RequestMemory) -> None:
    clients = [Client(memory, 4 * MIB, 6 * MIB) for _ in range(2)]
    for client in clients:
        assert not memory.may_receive(client, 2 * MIB)
    turn(loop)
    clients[1].close()
    clients[0].close()
    assert not memory.anybody_waits
    assert memory.favoured is None
    assert memory.held_bytes == 0
