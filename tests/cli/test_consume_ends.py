"""How `kbroker consume` ends: by a signal, it leaves its group first; at records that nobody can read, it says so."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest

from kbroker.records.batch import read_header
from tests.cli.served import KBROKER, Served, clean_environment

PATIENCE_S = 30


def members(served: Served, group: str) -> int:
    described = json.loads(served.must("group", "describe", group, "--json"))
    return len(described[0]["members"] if isinstance(described, list) else described["members"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_leaves_the_group(served: Served, number: signal.Signals) -> None:
    topic = f"ends-{number.name}"
    served.must("topic", "create", topic)
    served.must("produce", topic, given=b"1\n2\n")
    with served.start("consume", topic, "-g", topic, "--from-beginning") as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.readline() == b"1\n"
        assert members(served, topic) == 1
        consumer.send_signal(number)
        _, err = consumer.communicate(timeout=PATIENCE_S)
    assert (consumer.returncode, err) == (128 + number, b"")
    assert members(served, topic) == 0


def test_signals_that_are_ignored_stay_so(served: Served) -> None:
    """As under nohup."""
    served.must("topic", "create", "nohup")
    command = ["sh", "-c", 'trap "" HUP; exec "$@"', "sh", *KBROKER, "consume", "nohup", "--from-beginning"]
    environment = clean_environment() | {"KBROKER_SERVER": served.server}
    served.must("produce", "nohup", given=b"1\n")
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE) as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.readline() == b"1\n"
        consumer.send_signal(signal.SIGHUP)
        served.must("produce", "nohup", given=b"2\n")
        assert consumer.stdout.readline() == b"2\n"
        consumer.send_signal(signal.SIGTERM)
        assert consumer.wait(PATIENCE_S) == 143


def test_whoever_stops_reading_ends_it_without_another_record(served: Served) -> None:
    """`kbroker consume … | head -1` on a topic that nobody writes to."""
    served.must("topic", "create", "headed")
    served.must("produce", "headed", given=b"1\n2\n")
    with served.start("consume", "headed", "--from-beginning") as consumer:
        assert consumer.stdout is not None
        assert consumer.stdout.readline() == b"1\n"
        consumer.stdout.close()
        try:
            assert consumer.wait(PATIENCE_S) == 141
        finally:
            consumer.kill()


@pytest.mark.parametrize("more", [[], ["-g", "skipper"]], ids=["alone", "in a group"])
def test_corrupt_records(served: Served, more: list[str]) -> None:
    topic = f"corrupt-{len(more)}"
    served.must("topic", "create", topic)
    for line in (b"1\n", b"2\n", b"3\n"):
        served.must("produce", topic, given=line)
    path = Path(served.data_dir) / f"{topic}-0" / f"{0:020}.log"
    with open(path, "r+b") as file:
        start = read_header(file.read()).size_bytes
        end = start + read_header(path.read_bytes(), start).size_bytes
        value = os.pread(file.fileno(), 1, end - 2)[0]
        os.pwrite(file.fileno(), bytes([value ^ 1]), end - 2)
    command = ["consume", topic, "--from-beginning", "-n", "2", *more]
    stopped = served.run(*command)
    assert (stopped.returncode, stopped.stdout) == (1, b"1\n")
    assert f"kbroker: {topic}-0: offset 1 is corrupt: " in stopped.stderr.decode()
    assert "--skip-corrupt goes on at offset 2" in stopped.stderr.decode()
    if more:
        served.must("group", "reset-offsets", "skipper", "--to-earliest", "--execute")
    skipped = served.run(*command, "--skip-corrupt")
    assert (skipped.returncode, skipped.stdout) == (0, b"1\n3\n")
    assert f"kbroker: {topic}-0: offset 1 skipped: corrupt: " in skipped.stderr.decode()
