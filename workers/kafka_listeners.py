"""Where Kafka clients come in: one port for each node, and the addresses that clients are told.

The coordinator listens at the port of `listeners`, worker i at PORT+1+i. A client is told the address at which it has
reached us, with these ports, unless `advertised.host` and `advertised.ports` say what it must dial instead.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from kbroker.config import Config
from kbroker.errors import ConfigError
from kbroker.types import COORDINATOR_NODE
from kbroker.workers.listeners import Listener, TcpAddress, host_port, parse_address, twin_name

log = logging.getLogger(__name__)

_PREFIX = "kafka-"
_PORT_MAX = 65_535
_EVERY_ADDRESS = ("", "0.0.0.0", "::")
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_CONTAINER_SIGNS = ("run/.containerenv", ".dockerenv")


def kafka_listener(node: int) -> str:
    """Name of the listener on which that node serves Kafka clients."""
    return f"{_PREFIX}{node}"


def kafka_sockets(listeners: Mapping[str, socket.socket], node: int) -> list[socket.socket]:
    """A node's sockets for Kafka clients, of all that its process has inherited."""
    names = (kafka_listener(node), twin_name(kafka_listener(node)))
    return [listeners[name] for name in names if name in listeners]


def kafka_listeners(config: Config) -> list[Listener]:
    """One for each node: the coordinator's, then the workers' in order. None where `listeners` is empty."""
    if not config.kafka.listeners:
        return []
    address = parse_kafka_address(config.kafka.listeners)
    if address.port + config.worker_count > _PORT_MAX:
        raise ConfigError(
            f"listeners={config.kafka.listeners}: {config.worker_count} workers need a port each above it"
        )
    _advertised(config)
    processes = ["coordinator", *(f"worker-{i}" for i in range(config.worker_count))]
    return [
        Listener(
            process,
            kafka_listener(node),
            TcpAddress(address.host, address.port + node if address.port else 0, address.setting),
            has_twin=address.host == "localhost",
        )
        for node, process in enumerate(processes)
    ]


def parse_kafka_address(text: str) -> TcpAddress:
    """The address in `PLAINTEXT://HOST:PORT` or `HOST:PORT`. Raises ConfigError: one listener, no other protocol."""
    scheme, separator, rest = text.strip().rpartition("://")
    if separator and scheme.upper() != "PLAINTEXT":
        raise ConfigError(f"listeners={text!r}: only PLAINTEXT://HOST:PORT is possible, there is no {scheme[:32]} yet")
    if "," in rest:
        raise ConfigError(f"listeners={text!r}: only one listener is possible")
    host, colon, port = rest.rpartition(":")
    # Kafka's own way to say "every address": nothing before the colon.
    return parse_address(f"*:{port}" if colon and not host else rest, "listeners")


def node_ports(config: Config, addresses: Mapping[str, str]) -> dict[int, int]:
    """The port of each node as clients are told it: advertised, else as it was bound (`OpenListeners.addresses`)."""
    bound = {
        int(name.removeprefix(_PREFIX)): int(address.rpartition(":")[2])
        for name, address in addresses.items()
        if name.startswith(_PREFIX) and "/" not in name
    }
    return dict(zip(bound, _advertised(config) or bound.values(), strict=True))


def bootstrap_servers(config: Config, addresses: Mapping[str, str]) -> str:
    """What a Kafka client is given as `bootstrap.servers`; empty: none can come."""
    bound = addresses.get(kafka_listener(COORDINATOR_NODE), "")
    if not bound:
        return ""
    port = node_ports(config, addresses)[COORDINATOR_NODE]
    host = config.kafka.advertised_host or parse_kafka_address(config.kafka.listeners).host
    return host_port("localhost" if host in _EVERY_ADDRESS else host, port)


def warn_in_container(config: Config, environment: Mapping[str, str] = os.environ, root: Path = Path("/")) -> None:
    """Log that clients outside this container will not find the way, unless the configuration shows it to them.

    A warning where they are meant to come; on loopback, where that is not said, a hint.
    """
    if not config.kafka.listeners or config.kafka.advertised_host or not in_container(environment, root):
        return
    if parse_kafka_address(config.kafka.listeners).host in _LOOPBACK:
        level, where = logging.INFO, "in a container, and on its own loopback: Kafka clients outside cannot connect"
    else:
        level, where = logging.WARNING, "in a container: Kafka clients outside are told an address of its inside"
    ports = config.worker_count + 1
    log.log(
        level, "%s; give --listen '*:9092' --advertised-host NAME, its host's, and map all %d ports one to one",
        where, ports,
    )  # fmt: skip


def in_container(environment: Mapping[str, str], root: Path) -> bool:
    """Whether this process runs in one, by what Docker, Podman, Kubernetes and systemd-nspawn leave there."""
    told = any(environment.get(name) for name in ("container", "KUBERNETES_SERVICE_HOST"))
    return told or any((root / sign).exists() for sign in _CONTAINER_SIGNS)


def _advertised(config: Config) -> list[int]:
    """The ports in `advertised.ports`, one for each node; empty: not set. Raises ConfigError."""
    text, nodes = config.kafka.advertised_ports, config.worker_count + 1
    words = [word.strip() for word in text.split(",")] if text else []
    if not all(word.isascii() and word.isdigit() and 0 < int(word) <= _PORT_MAX for word in words):
        raise ConfigError(f"advertised.ports={text!r} is not valid: it must be PORT, or a list PORT,PORT,…")
    ports = [int(word) for word in words]
    if len(ports) == 1:
        ports = list(range(ports[0], ports[0] + nodes))
    if ports and (len(ports) != nodes or max(ports) > _PORT_MAX):
        raise ConfigError(
            f"advertised.ports={text!r}: {nodes} ports are needed, the coordinator's and one for each of "
            f"{config.worker_count} workers, none above {_PORT_MAX}"
        )
    return ports
