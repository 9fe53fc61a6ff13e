"""Children that die, hang or grow, for real."""

from __future__ import annotations

import os
import resource
import select
import signal
import time

import pytest

from .conftest import DEADLINE_S, StartBroker

pytestmark = pytest.mark.slow


def test_restart_after_ready_is_immediate(start_broker: StartBroker) -> None:
    broker = start_broker().ready()
    before = broker.child("worker-1")
    os.kill(before["pid"], signal.SIGKILL)
    broker.expect(rf"worker 1 \(pid {before['pid']}\) was killed by SIGKILL; restarting it now")
    broker.expect(r"worker 1 \(pid \d+\) serves again")
    after = broker.child("worker-1")
    assert after["incarnation"] > before["incarnation"]
    assert after["pid"] != before["pid"]
    assert after["restarts"] == 1
    assert after["last_exit"] == "was killed by SIGKILL"
    # The others hear of the death, of the new process and of its READY.
    broker.expect(rf"PEERS worker-0 .*worker-1:{after['pid']}:{after['incarnation']}:1")


def test_the_table_of_peers_loses_the_dead(start_broker: StartBroker) -> None:
    broker = start_broker(worker="dies_early", settings={"workers": "1"})
    broker.expect(r"worker 0 .*next attempt in 200 ms")
    broker.expect(r"PEERS front coordinator:\d+:\d+:1 front:\d+:\d+:1$")
    broker.ready()


def test_back_off_counts_only_deaths_before_ready(start_broker: StartBroker) -> None:
    broker = start_broker(worker="dies_early", settings={"workers": "1"})
    for what_next in ("restarting it now", "next attempt in 50 ms", "next attempt in 100 ms", "next attempt in 200 ms"):
        broker.expect(rf"worker 0 \(pid \d+\) exited with code 3 before it was ready; {what_next}")
    broker.ready()
    for _ in range(3):
        os.kill(broker.child("worker-0")["pid"], signal.SIGKILL)
        broker.expect(r"worker 0 .* was killed by SIGKILL; restarting it now")
        broker.expect(r"serves again")


def test_a_failing_main_is_one_line_with_its_traceback(start_broker: StartBroker) -> None:
    broker = start_broker(coordinator="fails")
    broker.expect(r"CRITICAL coordinator: failed")
    broker.expect(r"RuntimeError: a mistake in the code")
    broker.expect(r"coordinator \(pid \d+\) exited with code 70 before it was ready; restarting it now")
    broker.ready()


def test_a_stopped_child_is_hung(start_broker: StartBroker) -> None:
    broker = start_broker(settings={"process.heartbeat.timeout.ms": "500"}).ready()
    pid = broker.child("worker-0")["pid"]
    os.kill(pid, signal.SIGSTOP)
    broker.expect(rf"worker 0 \(pid {pid}\) is hung: no answer for \d+\.\d s \(state T\); killing it")
    broker.expect(rf"worker 0 \(pid {pid}\) was killed by SIGKILL; restarting it now")
    broker.expect(r"worker 0 .* serves again")


def test_a_child_that_waits_for_a_disk_is_not_killed(start_broker: StartBroker) -> None:
    broker = start_broker(settings={"process.heartbeat.timeout.ms": "500"}, coordinator="waits_for_disk")
    fifo = broker.expect(r"^WAITS (.*)").group(1)
    pid = int(broker.expect(r"coordinator \(pid (\d+)\): disk stalled, no answer for").group(1))
    assert broker.child("coordinator")["stalled"]
    os.close(os.open(fifo, os.O_WRONLY))
    broker.expect(rf"coordinator \(pid {pid}\) answers again")
    broker.signal(signal.SIGTERM)
    assert broker.wait() == 0
    assert sum("disk stalled" in line for line in broker.lines) == 1


def test_long_recovery_that_polls_is_not_hung(start_broker: StartBroker) -> None:
    broker = start_broker(
        settings={"process.heartbeat.timeout.ms": "500", "workers": "1"}, worker="recovers_long"
    ).ready()
    assert not [line for line in broker.lines if "hung" in line]


def test_memory_limits_name_both_figures(start_broker: StartBroker) -> None:
    limits = {"front.memory.max.bytes": str(64 << 20), "worker.memory.max.bytes": str(128 << 20), "workers": "1"}
    broker = start_broker(settings=limits, front="grows", worker="grows")
    holds = r"holds \d+ MiB of memory of its own, above"
    broker.expect_all(
        rf"front \(pid \d+\) {holds} front.memory.max.bytes=64 MiB; killing it",
        rf"worker 0 \(pid \d+\) {holds} worker.memory.max.bytes=128 MiB; killing it",
    )
    broker.expect(r"worker 0 .* serves again")
    assert broker.child("front")["restarts"] == 1


def test_who_dies_of_memory_in_its_replay_is_told_so_and_comes_back(start_broker: StartBroker) -> None:
    limits = {"worker.memory.max.bytes": str(128 << 20), "workers": "1"}
    broker = start_broker(settings=limits, coordinator="needs_much").ready()
    told = [line for line in broker.lines if line.startswith("DEATHS coordinator")]
    assert told == [f"DEATHS coordinator {deaths}" for deaths in range(3)]
    said = "\n".join(broker.lines)
    assert "of too much memory (1 in a row): its successor keeps less" in said
    assert "of too much memory (2 in a row)" in said
    assert broker.child("coordinator")["restarts"] == 2
    # A clean restart by hand is a new beginning.
    os.kill(broker.child("coordinator")["pid"], signal.SIGTERM)
    broker.expect("^DEATHS coordinator 0$")


def test_sigterm_to_a_child_restarts_it_cleanly(start_broker: StartBroker) -> None:
    broker = start_broker().ready()
    os.kill(broker.child("worker-0")["pid"], signal.SIGTERM)
    broker.expect("^CLOSED worker-0")
    broker.expect(r"worker 0 \(pid \d+\) exited with code 0; restarting it now")
    broker.expect(r"serves again")


def test_children_ignore_ctrl_c(start_broker: StartBroker) -> None:
    broker = start_broker().ready()
    pid = broker.child("front")["pid"]
    os.kill(pid, signal.SIGINT)
    os.kill(pid, signal.SIGHUP)
    broker.signal(signal.SIGTERM)
    assert broker.wait() == 0
    assert not [line for line in broker.lines if "restarting" in line]


def test_no_descriptor_leaks_over_200_restarts(start_broker: StartBroker) -> None:
    broker = start_broker().ready()
    descriptors = f"/proc/{broker.pid}/fd"
    before = len(os.listdir(descriptors))
    pid = broker.child("worker-0")["pid"]
    of_child = sorted(os.listdir(f"/proc/{pid}/fd"))
    for _ in range(200):
        os.kill(pid, signal.SIGKILL)
        pid = int(broker.expect(r"worker 0 \(pid (\d+)\) serves again").group(1))
    broker.status()
    assert len(os.listdir(descriptors)) == before
    assert len(os.listdir(f"/proc/{pid}/fd")) == len(of_child)


def test_out_of_descriptors_is_said_and_tried_again(start_broker: StartBroker) -> None:
    broker = start_broker().ready()
    before = resource.prlimit(broker.pid, resource.RLIMIT_NOFILE)
    pid = broker.child("worker-0")["pid"]
    resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    os.kill(pid, signal.SIGKILL)
    broker.expect(r"cannot fork worker 0: Too many open files; next attempt in \d+ ms")
    broker.expect(r"cannot fork worker 0: Too many open files; next attempt in \d+ ms")
    resource.prlimit(broker.pid, resource.RLIMIT_NOFILE, before)
    broker.expect(r"worker 0 .* serves again")


def test_a_supervisor_that_was_stopped_blames_nobody(start_broker: StartBroker) -> None:
    broker = start_broker(settings={"process.heartbeat.timeout.ms": "500"}).ready()
    everyone = [broker.pid, *(p["pid"] for p in broker.status()["processes"])]
    for pid in everyone:
        os.kill(pid, signal.SIGSTOP)
    # As after a suspended terminal or host: longer than any answer may take.
    time.sleep(2)  # the stillness itself is what is tested: nothing happens that could be waited for
    for pid in everyone:
        os.kill(pid, signal.SIGCONT)
    restarted = [p for p in broker.status()["processes"] if p["restarts"]]
    broker.signal(signal.SIGTERM)
    assert broker.wait() == 0
    assert not restarted
    assert not [line for line in broker.lines if "hung" in line]


def test_children_hold_no_lock_of_a_folder_and_no_socket_of_another(start_broker: StartBroker) -> None:
    broker = start_broker().ready()
    for process in broker.status()["processes"]:
        folder = f"/proc/{process['pid']}/fd"
        targets = {fd: os.readlink(f"{folder}/{fd}") for fd in os.listdir(folder)}
        assert not [t for t in targets.values() if t.endswith(("/.lock", "/runtime.lock"))]
        assert targets["0"] == "/dev/null"
        sockets = [t for t in targets.values() if t.startswith("socket:")]
        # The channel and its own listeners: door and backend, control, door and shm.
        assert len(sockets) == (2 if process["name"] == "coordinator" else 3), process["name"]


def test_supervisor_killed_takes_all_along_and_a_successor_starts(start_broker: StartBroker) -> None:
    first = start_broker(settings={"native.listen": "127.0.0.1:0"}, worker="stays").ready()
    port = first.status()["listeners"]["native"]
    cluster_id, incarnation = first.status()["cluster_id"], first.child("worker-1")["incarnation"]
    pidfds = first.child_pidfds()
    os.kill(first.child("worker-0")["pid"], signal.SIGSTOP)
    first.signal(signal.SIGKILL)
    # At once: no wait for the first one's children.
    second = start_broker(settings={"native.listen": port}).ready()
    for fd in pidfds:
        assert select.select([fd], [], [], DEADLINE_S)[0]
        os.close(fd)
    assert second.status()["cluster_id"] == cluster_id
    assert second.child("worker-0")["incarnation"] > incarnation
    second.signal(signal.SIGTERM)
    assert second.wait() == 0
