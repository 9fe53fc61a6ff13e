"""How soon a group is stable again whose coordinator was killed in a rebalance: confluent-kafka's members."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import confluent_kafka

from kbroker import Admin
from kbroker.testing import Broker
from perf.figure import Figure
from perf.topics import topic

PARTITIONS = 12
MEMBERS = 3
"""And one more, whose joining is what the kill interrupts."""
RUNS = 3
STABLE_MAX_S = 60.0
PROTOCOLS = ("range", "cooperative-sticky", "consumer")
"""Eager and cooperative classic groups, and KIP-848."""


class Member:
    """A consumer that polls in a thread of its own; `owned` is what it reads."""

    def __init__(self, broker: Broker, group: str, topic_name: str, protocol: str) -> None:
        self.owned: frozenset[int] = frozenset()
        settings: dict[str, Any] = {
            "bootstrap.servers": broker.bootstrap_servers,
            "group.id": group,
            "enable.auto.commit": False,
            "reconnect.backoff.max.ms": 500,
            "log_level": 3,  # that connections break is what is measured
        }
        if protocol == "consumer":
            settings["group.protocol"] = protocol
        else:
            settings |= {"partition.assignment.strategy": protocol, "heartbeat.interval.ms": 500}
        self._is_eager = protocol == "range"
        self._over = threading.Event()
        self._consumer = confluent_kafka.Consumer(settings, logger=None)
        self._consumer.subscribe([topic_name], on_assign=self._assigned, on_revoke=self._revoked)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _assigned(self, consumer: Any, given: list[Any]) -> None:
        (consumer.assign if self._is_eager else consumer.incremental_assign)(given)
        self.owned |= {place.partition for place in given}

    def _revoked(self, consumer: Any, taken: list[Any]) -> None:
        self.owned -= {place.partition for place in taken}
        if self._is_eager:
            consumer.unassign()
        else:
            consumer.incremental_unassign(taken)

    def _run(self) -> None:
        while not self._over.is_set():
            self._consumer.poll(0.05)
        self._consumer.close()

    def close(self) -> None:
        self._over.set()
        self._thread.join()


def recovery(broker: Broker) -> list[Figure]:
    """The slowest of a few kills for each protocol, from the coordinator's being ready."""
    figures = []
    for protocol in PROTOCOLS:
        times = [_recovery_s(broker, protocol) for _ in range(RUNS)]
        name = f"{protocol} members stable after kill -9 of the coordinator in a rebalance, slowest of {RUNS}"
        figures.append(Figure(name, max(times), "s", 2.0, beside={"quickest": min(times)}))
    return figures


def _recovery_s(broker: Broker, protocol: str) -> float:
    with topic(broker, PARTITIONS) as name, Admin(broker.server) as admin, contextlib.ExitStack() as stack:
        members: list[Member] = []

        def join() -> None:
            members.append(Member(broker, name, name, protocol))
            stack.callback(members[-1].close)

        def shared() -> bool:
            owned = [number for member in members for number in member.owned]
            return sorted(owned) == list(range(PARTITIONS)) and all(member.owned for member in members)

        def state() -> str:
            return admin.describe_consumer_groups([name])[0].state

        for _ in range(MEMBERS):
            join()
        _wait(lambda: shared() and state() == "Stable")
        join()
        _wait(lambda: state() != "Stable")
        broker.kill_and_wait("coordinator")
        began = time.perf_counter()
        _wait(shared)
        return time.perf_counter() - began


def _wait(condition: Callable[[], bool]) -> None:
    deadline_s = time.perf_counter() + STABLE_MAX_S
    while not condition():
        assert time.perf_counter() < deadline_s, "the group does not become stable"
        time.sleep(0.005)  # between two looks
