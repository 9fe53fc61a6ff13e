"""Kafka clients are told addresses that they can dial: by IPv6, and from behind a port mapping."""

from __future__ import annotations

import socket
import time
from typing import Any

import confluent_kafka.admin
import pytest

from kbroker.testing import Broker
from tests.kafka.recording import recorded_broker

from .clients import DEADLINE_S, KAFKA_CLIENTS, Client, Record, create_topic

pytestmark = pytest.mark.slow


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def named(client: Client) -> str:
    return client.name


def nodes(bootstrap_servers: str) -> set[tuple[str, int]]:
    admin: Any = confluent_kafka.admin.AdminClient({"bootstrap.servers": bootstrap_servers})
    return {(node.host, node.port) for node in admin.list_topics(timeout=DEADLINE_S).brokers.values()}


def carries(broker: Broker, client: Client) -> None:
    """Records go in and out."""
    create_topic(broker, client.name)
    sent = [Record(b"k", b"v", timestamp_ms=time.time_ns() // 1_000_000)]
    client.write(broker, client.name, sent)
    assert client.read(broker, client.name, 1) == sent


class BrokerByIpv6(Broker):
    """A broker whose clients are sent to its IPv6 address."""

    @property
    def bootstrap_servers(self) -> str:
        return f"[::1]:{super().bootstrap_servers.rpartition(':')[2]}"


@pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6")
@pytest.mark.parametrize("listen", ["localhost:0", "[::1]:0", "*:0"])
def test_clients_that_come_by_ipv6_stay_there(listen: str) -> None:
    with BrokerByIpv6(workers=2, listeners=listen) as broker:
        told = nodes(broker.bootstrap_servers)
        assert {host for host, _ in told} == {"::1"}
        assert len(told) == 3
        for client in KAFKA_CLIENTS:
            carries(broker, client)


@pytest.mark.parametrize("client", KAFKA_CLIENTS, ids=named)
def test_clients_behind_a_port_mapping(client: Client) -> None:
    with recorded_broker() as (broker, proxy):
        assert nodes(broker.bootstrap_servers) == {("127.0.0.1", port) for port in proxy.ports}
        seen = len(proxy.frames)
        carries(broker, client)
        assert len(proxy.frames) > seen + 4
