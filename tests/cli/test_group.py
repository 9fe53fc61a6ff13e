"""`kbroker group` against a real broker: every command, what it prints, and what it refuses."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kbroker import Admin, Consumer, TopicPartition
from tests.cli.served import KBROKER, Served, clean_environment

pytestmark = pytest.mark.slow

PATIENCE_S = 30
COUNT = 10


@pytest.fixture
def name(served: Served, request: pytest.FixtureRequest) -> str:
    """A topic of two partitions with ten records in the first; the test's group takes the same name."""
    topic = re.sub(r"[^\w.-]", "", str(request.node.name))
    served.must("topic", "create", topic, "-p", "2")
    served.must("produce", topic, "-p", "0", given=b"".join(b"%d\n" % number for number in range(COUNT)))
    return topic


@contextmanager
def member(served: Served, name: str) -> Iterator[Consumer]:
    """The group's only member, which has everything."""
    with Consumer(name, server=served.server, group=name, client_id="the-client", enable_auto_commit=False) as consumer:
        deadline = time.monotonic() + PATIENCE_S
        while len(consumer.assignment()) < 2:
            consumer.poll(100)
            assert time.monotonic() < deadline
        yield consumer


def commit(served: Served, name: str, **offsets: int) -> None:
    """Commit as nobody's member: p0=4 for partition 0."""
    with Consumer(server=served.server, group=name) as consumer:
        consumer.commit({TopicPartition(name, int(place[1:])): offset for place, offset in offsets.items()})


def committed(served: Served, name: str) -> dict[int, int]:
    with Admin(served.server) as admin:
        return {place.partition: at.offset for place, at in admin.list_consumer_group_offsets(name).items()}


def refused(served: Served, *arguments: str, code: int = 1) -> str:
    """What it says for that: one line."""
    done = served.run("group", *arguments)
    (line,) = done.stderr.decode().splitlines()
    assert (done.returncode, line[:9], done.stdout) == (code, "kbroker: ", b""), (arguments, line)
    return line


def test_list(served: Served, name: str) -> None:
    commit(served, name, p0=1)
    assert {"group": name, "type": "classic", "state": "Empty"}.items() <= _listed(served)[name].items()
    with member(served, name):
        pass
    assert _listed(served)[name]["type"] == "consumer"
    assert name in _listed(served, "--state", "empty", "--type", "consumer")
    assert name not in _listed(served, "--state", "Stable")
    assert name not in _listed(served, "--type", "classic")
    assert [name, "consumer", "Empty"] in [line.split() for line in served.must("group", "list").decode().splitlines()]


def _listed(served: Served, *options: str) -> dict[str, dict[str, Any]]:
    return {one["group"]: one for one in json.loads(served.must("group", "list", "--json", *options))}


def test_describe_and_members(served: Served, name: str) -> None:
    commit(served, name, p0=4)
    with member(served, name) as consumer:
        (facts,) = json.loads(served.must("group", "describe", name, "--json"))
        assert (facts["group"], facts["type"], facts["state"]) == (name, "consumer", "Stable")
        assert facts["assignor"] == "uniform"
        (one,) = facts["members"]
        assert (one["member_id"], one["client_id"], one["topics"]) == (consumer.member_id, "the-client", [name])
        assert [place["partition"] for place in one["assignment"]] == [0, 1]
        rows = [(row["partition"], row["committed"], row["end"], row["lag"]) for row in facts["partitions"]]
        assert rows == [(0, 4, COUNT, COUNT - 4), (1, -1, 0, 0)]
        assert {row["member"] for row in facts["partitions"]} == {consumer.member_id}
        shown = served.must("group", "describe", name, name).decode()
        assert shown.count(f"{name}  consumer, Stable, epoch ") == 2
        assert f"{consumer.member_id}" in shown
        assert json.loads(served.must("group", "members", name, "--json")) == facts["members"]
        row = served.must("group", "members", name).decode().splitlines()[1].split()
        assert row[0] == consumer.member_id
        assert row[-2:] == [f"{name}-0", f"{name}-1"]


def test_lag(served: Served, name: str) -> None:
    commit(served, name, p0=4, p1=0)
    facts = json.loads(served.must("group", "lag", name, "--json"))
    assert (facts["group"], facts["lag"]) == (name, COUNT - 4)
    lines = served.must("group", "lag", name).decode().splitlines()
    assert lines[1].split()[:5] == [name, "0", "4", "10", "6"]
    assert lines[-1] == f"lag of {name}: 6"


def test_lag_is_watched_by_programs(served: Served, name: str) -> None:
    """A line of JSON each time, until it is stopped."""
    commit(served, name, p0=4)
    with served.start("group", "lag", name, "--watch", "0.1", "--json") as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["lag"] == 6
        commit(served, name, p0=COUNT)
        lags = [6]
        while lags[-1]:
            lags.append(json.loads(process.stdout.readline())["lag"])
        assert set(lags) == {6, 0}
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, err) == (130, b"")


def test_lag_is_watched_on_a_terminal(served: Served, name: str) -> None:
    """The screen is wiped before each look."""
    commit(served, name, p0=4)
    terminal, its_end = os.openpty()
    environment = clean_environment() | {"KBROKER_SERVER": served.server, "TERM": "xterm", "COLUMNS": "200"}
    command = [*KBROKER, "group", "lag", name, "--watch", "0.1"]
    with subprocess.Popen(
        command, env=environment, stdin=its_end, stdout=its_end, stderr=its_end, start_new_session=True
    ) as process:
        os.close(its_end)
        try:
            _read_until(terminal, f"lag of {name}: 6".encode())
            commit(served, name, p0=COUNT)
            shown = _read_until(terminal, f"lag of {name}: 0".encode())
            assert b"\x1b[2J" in shown
        finally:
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_S)
            os.close(terminal)
    assert process.returncode == 130


def _read_until(terminal: int, wanted: bytes) -> bytes:
    shown = b""
    deadline = time.monotonic() + PATIENCE_S
    while wanted not in shown:
        assert select.select([terminal], (), (), max(0, deadline - time.monotonic()))[0], shown
        shown += os.read(terminal, 1 << 16)
    return shown


class TestResetOffsets:
    @pytest.mark.parametrize(
        ("ways", "expected", "said"),
        [
            (["--to-earliest"], 0, []),
            (["--to-latest"], COUNT, []),
            (["--to-offset", "7"], 7, []),
            (["--to-offset", "700"], COUNT, ["{place}: offset 700 is past the end, 10; it is the new offset"]),
            (["--to-timestamp", "2000-01-01"], 0, ["--to-timestamp 2000-01-01 names no zone: taken as local time"]),
            (["--to-timestamp", "2999-01-01T00:00:00Z"], COUNT, ["no record is that young; the end is the new offset"]),
            (["--shift-by", "2"], 6, []),
            (["--shift-by=-3"], 1, []),
            (["--shift-by=-30"], 0, ["{place}: -26 (shifted by -30) is before the first one there, 0"]),
            (["--shift-by=30"], COUNT, ["{place}: 34 (shifted by 30) is past the end, 10; it is the new offset"]),
        ],
        ids=lambda value: "".join(value)[:30].strip("-") if isinstance(value, list) else "",
    )
    def test_the_plan_comes_first(
        self, served: Served, name: str, ways: list[str], expected: int, said: list[str]
    ) -> None:
        said = [line.format(place=f"{name}-0") for line in said]
        commit(served, name, p0=4)
        done = served.run("group", "reset-offsets", name, *ways)
        *told, last = done.stderr.decode().splitlines()
        assert (done.returncode, last) == (0, "kbroker: nothing was changed yet: say --execute to do it")
        assert [line.removeprefix("kbroker: ")[: len(one)] for line, one in zip(told, said, strict=True)] == said
        assert done.stdout.decode().splitlines()[1].split() == [name, "0", "4", str(expected)]
        assert committed(served, name) == {0: 4}
        facts = json.loads(served.must("group", "reset-offsets", name, *ways, "--execute", "--json"))
        place = {"topic": name, "partition": 0, "committed": 4, "offset": expected}
        assert facts == {"group": name, "executed": True, "partitions": [place]}
        assert committed(served, name) == {0: expected}

    def test_topics_and_partitions(self, served: Served, name: str) -> None:
        """Also for a group that has committed nothing yet."""
        served.must("group", "reset-offsets", name, "-t", f"{name}:1", "--to-latest", "--execute")
        assert committed(served, name) == {1: 0}
        served.must("group", "reset-offsets", name, "-t", name, "--to-latest", "--execute")
        assert committed(served, name) == {0: COUNT, 1: 0}

    def test_of_a_group_with_members(self, served: Served, name: str) -> None:
        commit(served, name, p0=4)
        with member(served, name):
            assert "members" in refused(served, "reset-offsets", name, "--to-earliest", "--execute")
            assert committed(served, name)[0] == 4

    def test_what_is_refused(self, served: Served, name: str) -> None:
        assert "committed nothing" in refused(served, "reset-offsets", f"no-{name}", "--to-latest")
        commit(served, name, p0=4)
        wrong = [
            (["-t", "no-such-topic", "--to-latest"], "'no-such-topic'"),
            (["-t", f"{name}:7", "--to-latest"], "0 to 1"),
            (["-t", f"{name}:x", "--to-latest"], "TOPIC:PARTITION"),
            (["--to-latest", "--to-earliest"], "give one of"),
            ([], "give one of"),
            (["--to-timestamp", "yesterday"], "'yesterday'"),
            (["--to-offset", "-1"], "-1"),
        ]
        for options, said in wrong:
            assert said in refused(served, "reset-offsets", name, *options, "--execute", code=2)
        assert committed(served, name) == {0: 4}


def test_delete(served: Served, name: str) -> None:
    commit(served, name, p0=4)
    assert "--yes" in refused(served, "delete", name, code=2)
    with member(served, name):
        assert "members" in refused(served, "delete", name, "--yes")
    assert served.must("group", "delete", name, "--yes") == f"deleted {name}\n".encode()
    assert name not in _listed(served)
    assert "no such group" in refused(served, "delete", name, "--yes")


class TestLagWithoutCommits:
    def test_an_assigned_partition_counts_from_its_first_record(self, served: Served, name: str) -> None:
        with member(served, name):
            facts = json.loads(served.must("group", "lag", name, "--json"))
            assert (facts["lag"], facts["committed_at_ms"]) == (COUNT, None)
            assert [(row["committed"], row["lag"]) for row in facts["partitions"]] == [(-1, COUNT), (-1, 0)]
            assert served.must("group", "lag", name).decode().splitlines()[-1] == f"lag of {name}: {COUNT}"
            (told,) = json.loads(served.must("group", "describe", name, "--json"))
            assert [row["lag"] for row in told["partitions"]] == [COUNT, 0]
            late = json.loads(served.must("group", "lag", name, "--json", "--auto-offset-reset", "latest"))
            assert late["lag"] == 0
        with Admin(served.server) as admin:
            admin.delete_records({TopicPartition(name, 0): 3})
        with member(served, name):
            assert json.loads(served.must("group", "lag", name, "--json"))["lag"] == COUNT - 3

    def test_every_partition_of_a_topic_with_a_commit_counts(self, served: Served, name: str) -> None:
        served.must("produce", name, "-p", "1", given=b"x\n" * 5)
        commit(served, name, p0=4)
        rows = json.loads(served.must("group", "lag", name, "--json"))["partitions"]
        assert [(row["partition"], row["committed"], row["lag"]) for row in rows] == [(0, 4, 6), (1, -1, 5)]

    def test_what_was_deleted_is_no_lag(self, served: Served, name: str) -> None:
        commit(served, name, p0=4)
        with Admin(served.server) as admin:
            admin.delete_records({TopicPartition(name, 0): 8})
        assert json.loads(served.must("group", "lag", name, "--json"))["lag"] == 2


def test_lag_tells_when_the_last_commit_was(served: Served, name: str) -> None:
    before_ms = int(time.time() * 1000)
    commit(served, name, p0=4)
    facts = json.loads(served.must("group", "lag", name, "--json"))
    assert before_ms <= facts["committed_at_ms"] <= time.time() * 1000
    assert [row["committed_at_ms"] for row in facts["partitions"]] == [facts["committed_at_ms"], None]
    assert re.search(r"last commit.*\n.* \d+s ago", served.must("group", "lag", name).decode())


def test_lag_of_all_groups_and_the_alarm(served: Served, name: str) -> None:
    commit(served, name, p0=4, p1=0)
    facts = {one["group"]: one for one in json.loads(served.must("group", "lag", "--all", "--json"))}
    assert (facts[name]["lag"], facts[name]["state"], facts[name]["members"]) == (6, "Empty", 0)
    rows = {row.split()[0]: row.split() for row in served.must("group", "lag", "--all").decode().splitlines()}
    assert rows[name][1:4] == ["Empty", "0", "6"]
    assert served.run("group", "lag", name, "--max-lag", "6").returncode == 0
    for which in (name, "--all"):
        done = served.run("group", "lag", which, "--max-lag", "5")
        assert done.returncode == 5
        assert f"group {name} is 6 records behind, more than --max-lag 5\n".encode() in done.stderr
    assert "--all" in refused(served, "lag", code=2)
    assert "--all" in refused(served, "lag", name, "--all", code=2)


@pytest.mark.parametrize("command", ["describe", "members", "lag"])
def test_a_group_that_is_not_there(served: Served, command: str) -> None:
    assert "nobody" in refused(served, command, "nobody")
    served.must("topic", "create", "near", "--if-not-exists")
    with Consumer(server=served.server, group="a-near-group") as consumer:
        consumer.commit({TopicPartition("near", 0): 0})
    assert "did you mean a-near-group?" in refused(served, command, "a-near-grop")
