"""Where Kafka clients come in, and what they are told."""

from __future__ import annotations

import logging
import socket
from pathlib import Path

import pytest

from kbroker.config import Config, make_config
from kbroker.errors import ConfigError, StartError
from kbroker.workers.kafka_listeners import (
    bootstrap_servers,
    kafka_listeners,
    kafka_sockets,
    node_ports,
    parse_kafka_address,
    warn_in_container,
)
from kbroker.workers.listeners import Listener, TcpAddress, open_listeners, twin_name


def config_with(**values: str) -> Config:
    return make_config({"workers": "2"} | {name.replace("_", "."): text for name, text in values.items()})


def test_each_node_has_a_port_from_9092_on() -> None:
    assert kafka_listeners(config_with()) == [
        Listener("coordinator", "kafka-0", TcpAddress("localhost", 9092, "listeners"), has_twin=True),
        Listener("worker-0", "kafka-1", TcpAddress("localhost", 9093, "listeners"), has_twin=True),
        Listener("worker-1", "kafka-2", TcpAddress("localhost", 9094, "listeners"), has_twin=True),
    ]
    assert [item.has_twin for item in kafka_listeners(config_with(listeners="127.0.0.1:1"))] == [False] * 3


def test_none_where_they_are_switched_off() -> None:
    assert kafka_listeners(config_with(listeners="")) == []
    assert bootstrap_servers(config_with(listeners=""), {}) == ""


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("PLAINTEXT://localhost:9092", "localhost", 9092),
        ("localhost:9092", "localhost", 9092),
        ("PLAINTEXT://:9092", "", 9092),
        ("PLAINTEXT://[::1]:0", "::1", 0),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert parse_kafka_address(text) == TcpAddress(host, port, "listeners")


@pytest.mark.parametrize("text", ["SSL://x:1", "PLAINTEXT://a:1,PLAINTEXT://b:2", "PLAINTEXT://a", "a:99999"])
def test_addresses_that_are_wrong(text: str) -> None:
    with pytest.raises(ConfigError, match="listeners"):
        parse_kafka_address(text)


def test_the_last_worker_needs_a_port_too() -> None:
    with pytest.raises(ConfigError, match="2 workers need a port each above it"):
        kafka_listeners(config_with(listeners="localhost:65534"))


def has_ipv6() -> bool:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


def test_localhost_is_both_loopback_addresses_at_one_port() -> None:
    opened = open_listeners(kafka_listeners(config_with(listeners="localhost:0")), {})
    try:
        for node, process in enumerate(("coordinator", "worker-0", "worker-1")):
            sockets = kafka_sockets(opened.by_process[process], node)
            names = [sock.getsockname()[:2] for sock in sockets]
            port = names[0][1]
            assert names == [("127.0.0.1", port), *([("::1", port)] if has_ipv6() else [])]
    finally:
        opened.close()


@pytest.mark.skipif(not has_ipv6(), reason="this host has no IPv6")
def test_a_port_that_is_taken_at_one_of_them_is_taken() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as other:
        port = other.getsockname()[1]
        with pytest.raises(StartError, match=rf"port {port} is taken .*listeners=\[::1\]:{port}.*--listen HOST:PORT"):
            open_listeners(kafka_listeners(config_with(listeners=f"localhost:{port}")), {})


def test_sockets_from_systemd_are_taken_by_name() -> None:
    first, second = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    inherited = {f"kafka-{node}": sock for node, sock in enumerate((first, second))}
    inherited[twin_name("kafka-0")] = third = socket.create_server(("127.0.0.1", 0))
    config = config_with(workers="1")
    opened = open_listeners(kafka_listeners(config), inherited)
    try:
        assert kafka_sockets(opened.by_process["coordinator"], 0) == [first, third]
        assert kafka_sockets(opened.by_process["worker-0"], 1) == [second]
        ports = {node: sock.getsockname()[1] for node, sock in enumerate((first, second))}
        assert node_ports(config, opened.addresses) == ports
    finally:
        opened.close()


BOUND = {
    "kafka-0": "127.0.0.1:19092",
    "kafka-0/ipv6": "[::1]:19092",
    "kafka-1": "127.0.0.1:19093",
    "kafka-2": "127.0.0.1:19094",
    "native": "127.0.0.1:7092",
}


@pytest.mark.parametrize(
    ("settings", "ports", "bootstrap"),
    [
        ({}, [19092, 19093, 19094], "localhost:19092"),
        ({"listeners": "*:19092"}, [19092, 19093, 19094], "localhost:19092"),
        ({"listeners": "[::1]:19092"}, [19092, 19093, 19094], "[::1]:19092"),
        ({"advertised_host": "kafka.example"}, [19092, 19093, 19094], "kafka.example:19092"),
        ({"advertised_ports": "9000"}, [9000, 9001, 9002], "localhost:9000"),
        ({"advertised_ports": "9000, 80,81", "advertised_host": "h"}, [9000, 80, 81], "h:9000"),
    ],
)
def test_what_clients_are_told(settings: dict[str, str], ports: list[int], bootstrap: str) -> None:
    config = config_with(**settings)
    assert node_ports(config, BOUND) == dict(enumerate(ports))
    assert bootstrap_servers(config, BOUND) == bootstrap


@pytest.mark.parametrize("text", ["x", "1,2", "1,2,3,4", "0", "65534", "9092-9094", "1,,2"])
def test_advertised_ports_that_are_wrong(text: str) -> None:
    with pytest.raises(ConfigError, match=r"advertised\.ports='"):
        kafka_listeners(config_with(advertised_ports=text))


@pytest.mark.parametrize(
    ("environment", "sign", "settings", "level"),
    [
        ({}, "", {"listeners": "*:9092"}, None),
        ({"container": "podman"}, "", {"listeners": "*:9092"}, "WARNING"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "", {"listeners": "10.0.0.9:9092"}, "WARNING"),
        ({}, ".dockerenv", {}, "INFO"),
        ({}, ".dockerenv", {"listeners": "*:9092", "advertised_host": "h"}, None),
        ({}, ".dockerenv", {"listeners": ""}, None),
    ],
)
def test_a_container_without_an_advertised_host_is_warned_of(
    environment: dict[str, str],
    sign: str,
    settings: dict[str, str],
    level: str | None,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    if sign:
        (tmp_path / sign).touch()
    with caplog.at_level(logging.INFO):
        warn_in_container(config_with(**settings), environment, tmp_path)
    assert [record.levelname for record in caplog.records] == ([level] if level else [])
    if level:
        assert "map all 3 ports one to one" in caplog.text
