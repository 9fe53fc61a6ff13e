"""SIGTERM, SIGINT and SIGHUP at the supervisor."""

from __future__ import annotations

import os
import signal

import pytest

from .conftest import StartBroker


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_drain_ends_cleanly_and_the_coordinator_last(start_broker: StartBroker, number: int) -> None:
    broker = start_broker().ready()
    pidfds = broker.child_pidfds()
    broker.signal(number)
    assert broker.wait() == 0
    closed = [line.split()[1] for line in broker.lines if line.startswith("CLOSED")]
    assert sorted(closed[:-1]) == ["front", "worker-0", "worker-1"]
    assert closed[-1] == "coordinator"
    assert len(pidfds) == 4
    # Nothing is left but the locks' files; their pid is taken out.
    assert sorted(entry.name for entry in broker.runtime_dir.iterdir()) == ["runtime.lock"]
    assert (broker.folder / "data" / ".lock").read_bytes().split()[0] == b"0"


def test_drain_is_bounded(start_broker: StartBroker) -> None:
    broker = start_broker(settings={"shutdown.drain.timeout.ms": "300"}, worker="stays").ready()
    pid = broker.child("worker-0")["pid"]
    broker.signal(signal.SIGTERM)
    broker.expect(rf"not drained within 300 ms: killing .*worker 0 \(pid {pid}\)")
    assert broker.wait() == 1


def test_a_second_signal_kills_at_once(start_broker: StartBroker) -> None:
    broker = start_broker(settings={"shutdown.drain.timeout.ms": "600000"}, worker="stays").ready()
    broker.signal(signal.SIGTERM)
    broker.expect("DRAINING worker-0")
    broker.signal(signal.SIGINT)
    broker.expect(r"SIGINT once more: killing .*worker 0 \(pid \d+\)")
    assert broker.wait() == 1


def test_sigterm_before_ready(start_broker: StartBroker) -> None:
    broker = start_broker(settings={"workers": "1"}, worker="dies_early")
    broker.expect("next attempt in 200 ms")
    broker.signal(signal.SIGTERM)
    assert broker.wait() == 0


def test_reload_tells_the_children_and_names_what_needs_a_restart(start_broker: StartBroker) -> None:
    broker = start_broker(settings={"workers": "1"}).ready()
    broker.write_settings(**{"log.retention.ms": "12345", "num.io.threads": "7", "workers": "3"})
    broker.signal(signal.SIGHUP)
    broker.expect_all(
        r"reloaded: log.retention.ms=12345$",
        r"needs a restart: workers, num.io.threads$",
        *(rf"^RELOADED {name} 12345 4$" for name in ("front", "coordinator", "worker-0")),
    )
    # What is running now is what the next file is compared with.
    broker.write_settings(**{"log.retention.ms": "99", "num.io.threads": "4", "workers": "1"})
    broker.signal(signal.SIGHUP)
    broker.expect_all(r"reloaded: log.retention.ms=99$", r"^RELOADED worker-0 99 4$")
    # A successor starts with it: only the change from there is told.
    os.kill(broker.child("worker-0")["pid"], signal.SIGKILL)
    broker.expect("worker 0 .* serves again")
    broker.write_settings(**{"log.retention.bytes": "7"})
    broker.signal(signal.SIGHUP)
    broker.expect_all(r"reloaded: log.retention.bytes=7$", r"^RELOADED worker-0 99 4$")


def test_a_bad_file_changes_nothing(start_broker: StartBroker) -> None:
    broker = start_broker().ready()
    broker.write_settings(**{"log.retention.ms": "soon"})
    broker.signal(signal.SIGHUP)
    broker.expect(r"ERROR supervisor: reload refused, nothing changes: .*log.retention.ms='soon' is not valid")
    broker.config_file.unlink()
    broker.signal(signal.SIGHUP)
    broker.expect(r"reload refused, nothing changes: cannot read the configuration file")
    assert broker.status()["state"] == "ready"
    assert not [line for line in broker.lines if line.startswith("RELOADED")]
