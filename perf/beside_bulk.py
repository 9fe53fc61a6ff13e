"""What a synced produce waits for while another topic takes bulk writes on the same disk, and while segments go."""

from __future__ import annotations

import time
from multiprocessing.connection import Connection

import confluent_kafka

from kbroker import Admin
from kbroker.clients.records import NewTopic
from kbroker.testing import Broker
from kbroker.wire import codec
from kbroker.wire import messages as m
from perf.batches import batch_of
from perf.cost import Measured, wait_until_idle
from perf.driven import Driven
from perf.figure import Figure
from perf.raw_link import IN_FLIGHT, RawLink

RATE = 1000
VALUE = bytes(200)
BULK_MB_S = 175
BATCH_BYTES = 65_536
GOAL = 5.0
SETTINGS = {"log.segment.delete.delay.ms": 0, "log.retention.check.interval.ms": 500}
SMALL_SEGMENTS = {"segment.bytes": str(64 << 20), "retention.bytes": str(256 << 20)}


def beside_bulk(seconds: float) -> list[Figure]:
    """p99 of acks=all at 1000/s: quiet, beside bulk, beside bulk whose segments roll and go, beside a deletion.

    All in one run, `seconds` each, and quiet again last: the disk may have become another one meanwhile.
    """
    with Broker(SETTINGS, workers=1, listeners="PLAINTEXT://127.0.0.1:0") as broker, Admin(broker.server) as admin:
        for name, settings in (("synced", {}), ("bulk", {}), ("rolling", SMALL_SEGMENTS)):
            admin.create_topics([NewTopic(name, 1, topic_configs=settings)])
        wait_until_idle(broker)
        with Driven(send_synced, broker.bootstrap_servers, "synced") as client:
            client.hear()
            _ask(client, seconds / 2)  # warm up
            quiet = _ask(client, seconds)
            found = []
            for name, what in (
                ("bulk", f"{BULK_MB_S} MB/s of acks=1"),
                ("rolling", "the same in segments of 64 MiB that roll and go"),
            ):
                with Driven(send_bulk, broker.runtime_dir, name, seconds) as bulk:
                    bulk.hear()
                    with Measured(broker) as measured:
                        bulk.go()
                        latencies = _ask(client, seconds)
                        sent_bytes, took_s = bulk.hear()
                beside = {
                    "bulk MB/s": sent_bytes / 1e6 / took_s,
                    "broker CPU ms/MB": measured.broker_cpu_s * 1e3 / (sent_bytes / 1e6),
                }
                found.append((what, latencies, beside))
            # What is deleted is on the disk by then, else there would be nothing to free.
            client.go(seconds)
            admin.delete_topics(["bulk"])
            found.append(("the deletion of what was written", client.hear(), {}))
            quiet += _ask(client, seconds)
    base_us = _at(quiet, 0.99)
    facts = {"quiet p50 µs": _at(quiet, 0.5), "quiet p99 µs": base_us}
    return [
        Figure(
            f"acks=all at {RATE}/s beside {what}: p99 / quiet p99",
            _at(latencies, 0.99) / base_us,
            "",
            GOAL,
            beside=facts
            | {"p50 µs": _at(latencies, 0.5), "p99 µs": _at(latencies, 0.99), "max µs": max(latencies)}
            | beside,
        )
        for what, latencies, beside in found
    ]


def _ask(client: Driven, seconds: float) -> list[float]:
    client.go(seconds)
    found: list[float] = client.hear()
    return found


def _at(samples: list[float], share: float) -> float:
    return sorted(samples)[int(len(samples) * share)]


def send_synced(steps: Connection, servers: str, topic: str) -> None:
    """In a process of its own: records at a steady rate for as many seconds as it is told; says their latencies, µs."""
    producer = confluent_kafka.Producer({"bootstrap.servers": servers, "acks": "all", "linger.ms": 0})
    found: list[float] = []

    def delivered(error: confluent_kafka.KafkaError | None, message: confluent_kafka.Message) -> None:
        assert error is None, str(error)
        found.append((message.latency() or 0.0) * 1e6)

    steps.send("ready")
    while True:
        seconds = steps.recv()
        found.clear()
        due = time.monotonic()
        for _ in range(int(seconds * RATE)):
            due += 1 / RATE
            producer.produce(topic, VALUE, partition=0, on_delivery=delivered)
            while (pause := due - time.monotonic()) > 0:
                producer.poll(pause)
        assert producer.flush(60) == 0
        steps.send(list(found))


def send_bulk(steps: Connection, runtime_dir: str, topic: str, seconds: float) -> None:
    """In a process of its own: batches at BULK_MB_S; says how many bytes it has sent, and in how many seconds."""
    batch, _ = batch_of(1024, BATCH_BYTES)
    header = codec.encode_request(m.Produce(topic, 0, 1))
    with RawLink.to_worker(runtime_dir) as link:
        steps.send("ready")
        steps.recv()
        begin = time.monotonic()
        count = int(seconds * BULK_MB_S * 1e6 / len(batch))
        for number in range(count + IN_FLIGHT):
            if number >= IN_FLIGHT:
                link.receive(m.ProduceAnswer)
            if number < count:
                pause = begin + number * len(batch) / (BULK_MB_S * 1e6) - time.monotonic()
                if pause > 0.001:
                    time.sleep(pause)  # the rate
                link.send(header, batch)
        steps.send((count * len(batch), time.monotonic() - begin))
