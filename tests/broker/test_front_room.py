"""The front keeps no more clients than it may have, and does not spin where descriptors have run out."""

from __future__ import annotations

import contextlib
import resource
import time
from collections.abc import Iterator

import psutil
import pytest
import zmq

from kbroker.errors import ThrottlingQuotaExceeded
from kbroker.testing import Broker
from kbroker.wire import messages as m
from kbroker.workers.client_door import EXTRA_CLIENTS

from .raw_client import RawClient

MOST = 5


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(workers=1, tcp=True, native_clients_max=MOST) as running:
        yield running


def is_served(client: RawClient, timeout_ms: int = 10_000) -> bool:
    client.set_timeout_ms(timeout_ms)
    try:
        return client.ask(m.HelloAnswer, m.Hello()).version == 1
    except zmq.Again:
        return False


@pytest.mark.parametrize("way", ["ipc", "tcp"])
def test_clients_too_many_are_told_and_more_are_hung_up_on(broker: Broker, way: str) -> None:
    endpoint = broker.server if way == "ipc" else broker.tcp_server
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(RawClient(endpoint)) for _ in range(MOST)]
        assert all(is_served(client) for client in clients)
        extra = [stack.enter_context(RawClient(endpoint)) for _ in range(EXTRA_CLIENTS)]
        for client in extra:
            with pytest.raises(ThrottlingQuotaExceeded, match=r"native\.clients\.max=5 are connected already"):
                client.ask(m.HelloAnswer, m.Hello())
        last = stack.enter_context(RawClient(endpoint))
        assert not is_served(last, 200)
        assert "are connected (native.clients.max)" in broker.log
        for client in (*clients[1:], *extra):
            client.close()
        broker.wait_until(lambda: is_served(last, 300))
        assert is_served(clients[0])


def test_where_descriptors_run_out_the_front_waits_and_says_so(broker: Broker) -> None:
    """By tcp: libzmq aborts where it cannot accept at a unix socket, which `native.clients.max` keeps it from."""
    front = psutil.Process(broker.pid("front"))
    with RawClient(broker.tcp_server) as client:
        assert is_served(client)
        before = resource.prlimit(front.pid, resource.RLIMIT_NOFILE)
        resource.prlimit(front.pid, resource.RLIMIT_NOFILE, (front.num_fds(), before[1]))
        try:
            with RawClient(broker.tcp_server) as another:
                assert not is_served(another, 100)
                broker.wait_until(lambda: "no more native clients can be taken: Too many open files" in broker.log)
                assert "LimitNOFILE" in broker.log
                cpu_s = sum(front.cpu_times()[:2])
                began = time.monotonic()
                assert not is_served(another, 1_000)
                assert is_served(client)  # those who are here go on
                spent = sum(front.cpu_times()[:2]) - cpu_s
                assert spent < 0.3 * (time.monotonic() - began)
                resource.prlimit(front.pid, resource.RLIMIT_NOFILE, before)
                broker.wait_until(lambda: is_served(another, 300))
        finally:
            resource.prlimit(front.pid, resource.RLIMIT_NOFILE, before)
    assert broker.pid("front") == front.pid
