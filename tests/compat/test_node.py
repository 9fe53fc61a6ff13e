"""kafkajs and @platformatic/kafka, from npm: they administer, produce, and consume in groups."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from kbroker.testing import Broker

from ..broker.raw_client import RawClient
from .clients import Native

NODE, NPM = shutil.which("node"), shutil.which("npm")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (NODE and NPM), reason="node is not installed (Debian: apt-get install nodejs npm)"),
]

PROGRAMS = Path(__file__).parent / "node"
PACKAGES = {"kafkajs.js": "kafkajs@2.2.4", "platformatic.mjs": "@platformatic/kafka@1.35.0"}
INSTALL_S = 90


@pytest.fixture(scope="module")
def modules(request: pytest.FixtureRequest) -> Path:
    """A folder with the packages and our programs. It is kept in pytest's cache."""
    assert request.config.cache is not None
    folder = request.config.cache.mkdir("node")
    installed = folder / "installed"
    wanted = " ".join(PACKAGES.values())
    if not installed.exists() or installed.read_text() != wanted:
        command = [str(NPM), "install", "--silent", "--no-audit", "--no-fund", "--prefix", str(folder)]
        try:
            done = subprocess.run(
                [*command, *PACKAGES.values()], capture_output=True, text=True, timeout=INSTALL_S, check=False
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"npm did not get {wanted} within {INSTALL_S} s")
        if done.returncode:
            pytest.skip(f"npm cannot get {wanted}: {done.stderr[-300:]}")
        installed.write_text(wanted)
    return folder


def run(modules: Path, program: str, *arguments: str) -> dict[str, Any]:
    """Run one of our programs where its package is found; what it printed."""
    assert NODE is not None
    shutil.copy(PROGRAMS / program, modules)
    done = subprocess.run(
        [NODE, program, *arguments], cwd=modules, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def test_kafkajs(broker: Broker, topic: str, modules: Path) -> None:
    assert run(modules, "kafkajs.js", broker.bootstrap_servers, topic) == {
        "created": True,
        "createdAgain": False,
        "listed": True,
        "retention": "7000000",
        "altered": "8000000",
        "partitions": 3,
        "nodes": [0, 1, 2],
        "consumed": ["v", None] * 7,
        "committed": "14",
        "offset": "14",
        "offsetLater": "14",
    }
    found = Native().read(broker, topic, 14)
    assert [record[:3] for record in found] == [(b"k", b"v", (("one", b"1"),)), (None, None, ())] * 7


@pytest.mark.parametrize("library", ["kafkajs", "platformatic"])
def test_large_values_come_first_on_a_connection(broker: Broker, topic: str, modules: Path, library: str) -> None:
    """They ask ApiVersions on the first connection only. Also on the connections after a worker's restart."""
    assert NODE is not None
    with RawClient(broker.server) as client:
        client.create(topic)
    shutil.copy(PROGRAMS / "large.mjs", modules)
    command = [NODE, "large.mjs", library, broker.bootstrap_servers, topic]
    with subprocess.Popen(
        command, cwd=modules, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            said = running.stdout.readline()
            assert said == "ready\n", running.communicate(timeout=60)
            broker.kill_and_wait("worker-0")
            out, error = running.communicate("\n", timeout=60)
        finally:
            running.kill()
    assert running.returncode == 0, error
    sizes = [70_000, 200_000, 900_000]
    assert json.loads(out) == {"sent": sizes + sizes}
    assert [len(record.value or b"") for record in Native().read(broker, topic, 6)] == sizes + sizes


def test_platformatic(broker: Broker, topic: str, modules: Path) -> None:
    compressions = ["none", "gzip", "snappy", "lz4"]
    assert run(modules, "platformatic.mjs", broker.bootstrap_servers, topic) == {
        "partitions": 2,
        "nodes": [0, 1, 2],
        "classic": compressions,
        "consumer": compressions,
    }
    found = Native().read(broker, topic, 4)
    assert [record[:3] for record in found] == [(b"k", name.encode(), (("one", b"1"),)) for name in compressions]
