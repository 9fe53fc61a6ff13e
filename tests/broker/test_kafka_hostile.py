"""Kafka clients that want to do harm, or are broken: what they can hold is bounded, and all others go on."""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from random import Random

import psutil
import pytest

from kbroker.kafka import codec
from kbroker.kafka.apis import ApiKey
from kbroker.testing import Broker

from ..kafka.golden_frames import load_frames
from .kafka_client import KafkaClient
from .kafka_raw import asks, dial, frame, receive, receive_exactly
from .raw_client import RawClient, batch

pytestmark = pytest.mark.slow

MIB = 1 << 20
MEMORY_BYTES_MAX = 64 * MIB
"""What one hostile client may make a process grow by."""


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    settings = {
        "max.connections": 30,
        "partitions.max": 60,
        "topics.max": 40,
        "kafka.stall.max.ms": 20_000,
    }
    with Broker(settings, workers=1) as running:
        yield running


@pytest.fixture(autouse=True)
def _no_process_dies(broker: Broker) -> Iterator[None]:
    before = {name: process["incarnation"] for name, process in broker.processes().items() if name != "supervisor"}
    logged = len(broker.log)
    yield
    assert asks(broker, 0)
    assert asks(broker, 1)
    after = {name: process["incarnation"] for name, process in broker.processes().items() if name != "supervisor"}
    assert after == before
    assert "Traceback" not in broker.log[logged:]


def memory_bytes(broker: Broker, name: str) -> int:
    """The process's own memory; what it shares with files does not count."""
    facts = psutil.Process(broker.pid(name)).memory_info()
    return int(facts.rss - facts.shared)


def configs_request(number: int) -> bytes:
    """A small request with a large answer: every setting of a broker, with its synonyms."""
    types = codec.request_types(ApiKey.DESCRIBE_CONFIGS)
    resource = types.DescribeConfigsResource(resource_type=4, resource_name="0", configuration_keys=None)
    message = types.DescribeConfigsRequest(resources=[resource], include_synonyms=True)
    return b"".join(codec.write_request(ApiKey.DESCRIBE_CONFIGS, 1, number, None, message))


def test_connections_in_all_are_bounded(broker: Broker) -> None:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(dial(broker)) for _ in range(40)]
        served = 0
        for connection in held:
            with contextlib.suppress(OSError):
                connection.sendall(frame(ApiKey.API_VERSIONS, 0, 1))
                served += receive(connection) != b""
    assert served == 30
    broker.wait_until(lambda: asks(broker))
    assert broker.log.count("max.connections is reached") == 1


@pytest.mark.parametrize(
    ("head", "said"),
    [
        (struct.pack(">ihh", 5 * MIB, ApiKey.METADATA, 1), "a frame of Metadata of 5242880 bytes is too large"),
        (struct.pack(">ihh", 101 * MIB, ApiKey.PRODUCE, 7), "a frame of Produce of 105906176 bytes is too large"),
        (struct.pack(">ihh", 2**31 - 1, ApiKey.PRODUCE, 7), "a frame of Produce of 2147483647 bytes is too large"),
        (struct.pack(">ihh", -1, ApiKey.PRODUCE, 7), "a frame of -1 bytes cannot be"),
    ],
)
def test_a_frame_that_is_too_large_is_refused_by_its_head(broker: Broker, head: bytes, said: str) -> None:
    with dial(broker) as connection:
        connection.sendall(frame(ApiKey.API_VERSIONS, 0, 1))
        assert receive(connection)
        connection.sendall(head)
        assert receive(connection) == b""
    broker.wait_until(lambda: said in broker.log)


@pytest.mark.parametrize("node", [0, 1])
def test_a_client_that_asks_and_asks_and_takes_no_answers(broker: Broker, node: int) -> None:
    count = 20_000
    name = ("coordinator", "worker-0")[node]
    before = memory_bytes(broker, name)
    requests = b"".join(configs_request(number) for number in range(count))
    with dial(broker, node) as connection:
        connection.setblocking(False)
        sent = 0
        blocked_since = None
        # Until nothing more is taken for a while: all buffers are full, ours and the kernel's.
        while sent < len(requests) and (blocked_since is None or time.monotonic() - blocked_since < 1):
            try:
                sent += connection.send(requests[sent : sent + 65_536])
                blocked_since = None
            except BlockingIOError:
                blocked_since = blocked_since or time.monotonic()
                assert asks(broker, node)
        assert memory_bytes(broker, name) - before < MEMORY_BYTES_MAX
        # Whoever takes the answers after all gets them in order.
        connection.settimeout(10)
        whole = sent // len(configs_request(0))
        for number in range(min(whole, 500)):
            assert struct.unpack_from(">i", receive(connection))[0] == number


def test_a_client_that_closes_in_the_middle_of_an_answer(broker: Broker) -> None:
    with RawClient(broker.server) as client:
        client.create("large", 1)
        for _ in range(20):
            client.produce("large", batch([bytes(500_000)]))
    types = codec.request_types(ApiKey.FETCH)
    partition = types.FetchPartition(partition=0, fetch_offset=0, partition_max_bytes=50 * MIB)
    request = types.FetchRequest(
        replica_id=-1, max_wait_ms=1_000, min_bytes=1, max_bytes=50 * MIB,
        topics=[types.FetchTopic(topic="large", partitions=[partition])],
    )  # fmt: skip
    asked = b"".join(codec.write_request(ApiKey.FETCH, 11, 1, None, request))
    open_before = psutil.Process(broker.pid("worker-0")).num_fds()
    for taken in (0, 1, 5, 100, 100_000):
        with dial(broker) as connection:
            connection.sendall(asked)
            assert len(receive_exactly(connection, taken)) == taken
            # With answers unread, closing resets the connection.
    with dial(broker) as connection:
        connection.sendall(asked)
        assert len(receive(connection)) > 10_000_000
    worker = psutil.Process(broker.pid("worker-0"))
    broker.wait_until(lambda: worker.num_fds() <= open_before + 2)


def test_who_always_has_half_a_request_on_its_way_does_not_stall() -> None:
    """A busy client's bytes may end in the middle of a request each time they are looked at."""
    with Broker({"kafka.stall.max.ms": 300}, workers=1) as broker, dial(broker) as connection:
        requests = b"".join(frame(ApiKey.API_VERSIONS, 0, number) for number in range(400))
        step = len(frame(ApiKey.API_VERSIONS, 0, 0))
        connection.sendall(requests[: step // 2])
        for number in range(399):
            at = number * step + step // 2
            connection.sendall(requests[at : at + step])
            assert struct.unpack_from(">i", receive(connection))[0] == number
            time.sleep(0.01)  # so that all together takes several times as long as a stall may


@pytest.fixture(scope="module")
def wide() -> Iterator[Broker]:
    """A broker whose Metadata has 5 KB."""
    settings = {
        "kafka.queued.answer.max.bytes": 8 * MIB,
        "kafka.stall.max.ms": 2_000,
        "connections.max.idle.ms": 6_000,
    }
    with Broker(settings, workers=1, listeners="PLAINTEXT://127.0.0.1:0") as running:
        with KafkaClient(running, 1) as client:
            client.create("wide", 200)
        yield running


def all_metadata(count: int) -> bytes:
    return b"".join(frame(ApiKey.METADATA, 1, number, struct.pack(">i", -1)) for number in range(count))


def test_who_takes_large_answers_gets_them_all(wide: Broker) -> None:
    """More than may wait in memory, for each connection and in all."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(dial(wide)) for _ in range(4)]
        for connection in held:
            connection.sendall(all_metadata(2_000))
        for number in range(2_000):
            for connection in held:
                assert struct.unpack_from(">i", receive(connection))[0] == number


def test_many_clients_that_ask_for_much_and_take_nothing(wide: Broker) -> None:
    """200 of them, each with 20 MB of answers: 256 of these were 1.3 MB."""
    before = memory_bytes(wide, "worker-0")
    most = 0
    requests = all_metadata(4_000)
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(dial(wide, receive_bytes=4_096)) for _ in range(200)]
        for connection in held:
            with contextlib.suppress(OSError):  # hung up on
                connection.sendall(requests)
            most = max(most, memory_bytes(wide, "worker-0") - before)
        assert asks(wide), wide.log[-3000:]
        wide.wait_until(lambda: "kafka.queued.answer.max.bytes in all are reached" in wide.log)
        most = max(most, memory_bytes(wide, "worker-0") - before)
        assert most < MEMORY_BYTES_MAX
        # Who still takes nothing is waited for only while it costs little.
        wide.wait_until(lambda: "took nothing of its answers for 2000 ms" in wide.log)
        wide.wait_until(lambda: "took nothing of its answers for 6000 ms" in wide.log)
        asking = psutil.Process(wide.pid("worker-0"))
        wide.wait_until(lambda: all(c.status != psutil.CONN_ESTABLISHED for c in asking.net_connections("tcp")))


@pytest.mark.parametrize("node", [0, 1])
def test_mutated_frames_of_real_clients(broker: Broker, node: int) -> None:
    """Each is a frame of the right size, so that decoding is reached, with bytes changed, cut out or put in.

    The last test here: what the log says of so many is cut short.
    """
    random = Random(1)
    process = ("coordinator", "worker-0")[node]
    before = memory_bytes(broker, process)
    corpus = [bytearray(golden.frame[4:]) for golden in load_frames()]
    for body in corpus * 12:
        for _ in range(random.choice((1, 1, 2, 5))):
            at = random.randrange(4, len(body))
            match random.randrange(4):
                case 0:
                    body[at] = random.choice((0, 1, 0x7F, 0x80, 0xFF, random.randrange(256)))
                case 1:
                    body[at : at + 4] = random.choice((b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\x80\0\0\0"))
                case 2:
                    del body[at : at + random.randrange(1, 9)]
                case 3:
                    body[at:at] = random.randbytes(random.randrange(1, 9))
            if len(body) < 12:
                break
        with dial(broker, node) as connection, contextlib.suppress(OSError):
            connection.settimeout(0.2)  # a fetch may rightly wait
            connection.sendall(struct.pack(">i", len(body)) + body)
            connection.shutdown(socket.SHUT_WR)
            receive(connection)
    assert memory_bytes(broker, process) - before < MEMORY_BYTES_MAX
