"""Clients of the front whose ZeroMQ ids are not what they should be: nobody stumbles over them, nobody is told what
another one asked."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
import time

import pytest
import zmq

from kbroker.errors import InvalidRequest
from kbroker.testing import Broker
from kbroker.wire import codec
from kbroker.wire import messages as m

from .raw_client import RawClient, batch

UNSEEDED = 0x6B8B4567
"""Where libzmq begins to number peers when nobody has seeded libc's generator."""

FIRST_ID = """
import zmq
from kbroker.workers.entry import seed_routing_ids
seed_routing_ids()
context = zmq.Context()
router, peer = context.socket(zmq.ROUTER), context.socket(zmq.DEALER)
router.bind("inproc://here"), peer.connect("inproc://here"), peer.send(b"")
print(router.recv().hex())
"""


class Named(RawClient):
    """A client that claims an id."""

    def __init__(self, endpoint: str, routing_id: bytes) -> None:
        super().__init__(endpoint)
        self.socket.disconnect(endpoint)
        self.socket.setsockopt(zmq.IDENTITY, routing_id)
        self.socket.connect(endpoint)


def test_ids_differ_from_process_to_process() -> None:
    ids = {subprocess.check_output([sys.executable, "-c", FIRST_ID], text=True).strip() for _ in range(3)}
    assert len(ids) == 3
    assert f"00{UNSEEDED:08x}" not in ids


def test_who_claims_the_next_ids_does_not_end_the_front(broker: Broker, topic: str) -> None:
    broker.kill_and_wait("front")
    pid = broker.pid("front")
    with contextlib.ExitStack() as stack:
        for number in range(40):
            squatter = stack.enter_context(Named(broker.server, b"\0" + struct.pack(">I", UNSEEDED + number)))
            assert squatter.ask(m.HelloAnswer, m.Hello()).version == 1
        for _ in range(60):
            honest = stack.enter_context(RawClient(broker.server))
            assert honest.ask(m.HelloAnswer, m.Hello()).version == 1
        honest.create(topic)
        assert honest.produce(topic, batch(1)).base_offset == 0
    assert broker.pid("front") == pid


def take_over(endpoint: str, routing_id: bytes) -> Named:
    """A client that has that id. While it is another's, who claims it is ignored, and has to dial anew."""
    deadline = time.monotonic() + 20
    while True:
        client = Named(endpoint, routing_id)
        client.set_timeout_ms(200)
        try:
            client.ask(m.HelloAnswer, m.Hello())
        except (zmq.Again, InvalidRequest):
            client.close()
            assert time.monotonic() < deadline, "it is not heard"
        else:
            client.set_timeout_ms(20_000)
            return client


@pytest.mark.parametrize("routing_id", [b"victim", b"\0\x9c\x01\x02\x03"])
@pytest.mark.parametrize("is_heard", [True, False])
def test_who_takes_the_id_of_one_that_has_gone_does_not_get_its_answer(
    broker: Broker, client: RawClient, topic: str, routing_id: bytes, is_heard: bool
) -> None:
    topic = f"takeover-{is_heard}-{len(routing_id)}"
    client.create(topic)
    with Named(broker.server, routing_id) as victim:
        parked = victim.send(m.Fetch([m.FetchPartition(topic, 0, 0)], max_wait_ms=60_000))
        if is_heard:
            victim.ask(m.HelloAnswer, m.Hello())  # the front has passed the fetch on before
        else:
            victim.socket.close(linger=1000)
    with take_over(broker.server, routing_id) as thief:
        client.produce(topic, batch(1))  # now the fetch is answered
        client.records(topic)  # through the same processes, after it
        assert thief.ask(m.HelloAnswer, m.Hello()).version == 1
        assert parked not in thief.early or len(thief.early[parked]) == 1
        assert all(len(answer) == 1 for answer in thief.early.values()), "it was sent records"
        # Its own requests are answered, also under the victim's request id.
        header = codec.encode_request(m.Fetch([m.FetchPartition(topic, 0, 0)], max_wait_ms=0))
        thief.early.clear()
        thief.socket.send_multipart([parked, header])
        assert len(thief.take(parked)) == 2


def test_what_clients_that_have_gone_had_asked_does_not_count_against_their_successors(topic: str) -> None:
    with Broker({"native.clients.max": 20}) as broker, RawClient(broker.server) as client:
        client.create(topic)
        for _ in range(60):
            with RawClient(broker.server) as fleeting:
                fleeting.send(m.Fetch([m.FetchPartition(topic, 0, 0)], max_wait_ms=60_000))
                client.ask_until_served(m.HelloAnswer, m.Hello())
        assert client.produce(topic, batch(1)).base_offset == 0


def test_clients_that_come_and_go_are_forgotten(broker: Broker) -> None:
    """Their last words, which are heard after their end, leave nothing behind either; nobody's answer is lost."""
    pid = broker.pid("front")
    with RawClient(broker.server) as steady:
        for _ in range(200):
            with RawClient(broker.server) as fleeting:
                for _ in range(10):
                    fleeting.send(m.Hello())
            with RawClient(broker.server) as next_one:
                assert next_one.ask(m.HelloAnswer, m.Hello()).version == 1
        assert steady.ask(m.HelloAnswer, m.Hello()).version == 1
    assert broker.pid("front") == pid
