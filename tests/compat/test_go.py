"""franz-go (with kadm), Sarama and kafka-go: Go's clients administer, produce, consume, and are in groups."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from kbroker.testing import Broker

from .clients import Native, Record

GO = shutil.which("go")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(400),  # the first time everything is fetched and built
    pytest.mark.skipif(GO is None, reason="go is not installed (1.26 or newer is needed)"),
]

PROGRAM = Path(__file__).parent / "go"
FETCH_S, BUILD_S, RUN_S = 90, 240, 60
LIBRARIES = ("franz-go", "sarama", "kafka-go")
GROUPS = (*LIBRARIES, "franz-go-consumer")
"""franz-go also has groups of KIP-848."""
IDEMPOTENT: Final = frozenset(GROUPS) - {"kafka-go"}
PACE: Final = {"group.initial.rebalance.delay.ms": 0, "group.consumer.heartbeat.interval.ms": 300}


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Our program, built; Go keeps what it has fetched and compiled in its own caches."""
    built = tmp_path_factory.mktemp("go") / "clients"
    try:
        fetched = _go("mod", "download", timeout_s=FETCH_S)
        if fetched.returncode:  # no network, or a Go that is too old
            pytest.skip(f"go cannot get the modules: {fetched.stderr[-300:]}")
        # It is built as often as it is run: without optimisation that costs a quarter less.
        done = _go("build", "-buildvcs=false", "-gcflags=all=-N -l", "-o", str(built), ".", timeout_s=BUILD_S)
    except subprocess.TimeoutExpired as error:
        pytest.skip(f"'{' '.join(error.cmd[:2])}' did not end within {error.timeout} s")
    assert done.returncode == 0, done.stderr
    return built


def _go(*arguments: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    assert GO is not None
    # The Go that is here, no other that it would fetch; and no C compiler.
    environment = os.environ | {"GOTOOLCHAIN": "local", "CGO_ENABLED": "0"}
    return subprocess.run(
        [GO, *arguments], cwd=PROGRAM, env=environment, capture_output=True, text=True, timeout=timeout_s, check=False
    )


@pytest.fixture(scope="module")
def broker() -> Iterator[Broker]:
    with Broker(PACE, workers=2) as running:
        yield running


def run(program: Path, library: str, what: str, broker: Broker, topic: str) -> dict[str, Any]:
    """What one of the program's runs has seen."""
    command = [str(program), library, what, broker.bootstrap_servers, topic]
    done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_S, check=False)
    return _seen(done.returncode, done.stdout, done.stderr)


def _seen(code: int, out: str, error: str) -> dict[str, Any]:
    assert code == 0, error
    seen: dict[str, Any] = json.loads(out.splitlines()[-1])
    return seen


@pytest.mark.parametrize("library", LIBRARIES)
def test_administers_produces_and_consumes(library: str, program: Path, broker: Broker, topic: str) -> None:
    assert run(program, library, "tour", broker, topic) == {
        "createdAgain": True,
        "nodes": [0, 1, 2],
        "retention": "7000000",
        "altered": "8000000",
        "written": 80 if library in IDEMPOTENT else 60,
        "differences": [],
        "sizes": [1, 1000, 900_000, 5],
        "tooLarge": True,
        "atTime": 5,
        "fromOffset": "7",
        "fromEnd": "live",
        "afterDeletion": None if library == "kafka-go" else [5, 5],
        "deletedAgain": True,
    }


@pytest.mark.parametrize("library", ["sarama-default", "sarama", "kafka-go"])
def test_large_values_come_first_on_a_connection(library: str, program: Path, broker: Broker, topic: str) -> None:
    """Sarama asks no versions by default. Also on the connections after a worker's restart."""
    command = [str(program), library, "large", broker.bootstrap_servers, topic]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            said = running.stdout.readline()
            assert said == "ready\n", running.communicate(timeout=RUN_S)
            broker.kill_and_wait("worker-0")
            out, error = running.communicate("\n", timeout=RUN_S)
        finally:
            running.kill()
    sizes = [70_000, 200_000, 900_000]
    assert _seen(running.returncode, out, error) == {"sent": sizes + sizes}
    assert [len(record.value or b"") for record in Native().read(broker, topic, 6)] == sizes + sizes


@pytest.mark.parametrize("library", LIBRARIES)
def test_copies_what_a_native_client_wrote(library: str, program: Path, broker: Broker, topic: str) -> None:
    now_ms = time.time_ns() // 1_000_000
    sent = [
        Record(b"k", b"v", (("one", b"1"), ("two", bytes(range(256)))), now_ms),
        Record(None, b"no key", (), now_ms - 5000),
        Record(b"no value", None, (), now_ms + 1),
    ]
    native = Native()
    for compression in (None, "gzip", "snappy", "lz4", "zstd"):
        native.write(broker, topic, sent, compression_type=compression)
    assert run(program, library, "copy", broker, topic) == {"copied": 15}
    assert native.read(broker, f"{topic}.copy", 15) == sent * 5


@pytest.mark.parametrize("library", GROUPS)
def test_shares_the_work_in_a_group(library: str, program: Path, broker: Broker, topic: str) -> None:
    assert run(program, library, "groups", broker, topic) == {
        "listed": True,
        "shared": True,
        "taken over": True,
        "resumed": True,
        "deletedAgain": True,
        "committed alone": [7, -1],
        "after deletion": -1,
    }


KILLED = [(library, victim) for victim in ("worker-0", "coordinator") for library in GROUPS]
KILLED.remove(("kafka-go", "coordinator"))  # it leaves it to its user to commit again


@pytest.mark.parametrize(("library", "victim"), KILLED)
def test_goes_on_while_a_process_is_killed(
    library: str, victim: str, program: Path, broker: Broker, topic: str
) -> None:
    command = [str(program), library, "steady", broker.bootstrap_servers, topic]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            assert running.stdout is not None
            said = running.stdout.readline()
            assert said == "ready\n", running.communicate(timeout=RUN_S)
            broker.kill_and_wait(victim)
            out, error = running.communicate("\n", timeout=RUN_S)
        finally:
            running.kill()
    seen = _seen(running.returncode, out, error)
    assert seen["lost"] == []
    if library in IDEMPOTENT:
        assert seen["doubled"] == []
    assert seen["written"] >= 600
