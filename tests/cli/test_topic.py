"""`kbroker topic` against a real broker."""

from __future__ import annotations

import json

from tests.cli.served import Served


def test_a_topic_from_create_to_delete(served: Served) -> None:
    name = "lifecycle"
    assert served.must("topic", "create", name, "-p", "3", "-c", "retention.ms=1000") == b"created lifecycle\n"
    assert name in served.must("topic", "list").decode().split()
    (facts,) = json.loads(served.must("topic", "describe", name, "--json"))
    assert facts["settings"] == {"retention.ms": "1000"}
    assert [p["partition"] for p in facts["partitions"]] == [0, 1, 2]
    assert {(p["leader"], p["worker"]) for p in facts["partitions"]} == {(1, "worker 0"), (2, "worker 1")}
    status = json.loads(served.must("status", "--json"))
    names = {process["node"]: process["title"] for process in status["processes"]}
    assert names == {0: "coordinator", None: "front", 1: "worker 0", 2: "worker 1"}
    assert "worker 1" in served.must("topic", "describe", name).decode()

    served.must("topic", "alter", name, "--set", "segment.bytes=2097152", "--unset", "retention.ms")
    served.must("topic", "add-partitions", name, "4")
    (facts,) = json.loads(served.must("topic", "describe", name, "--json"))
    assert facts["settings"] == {"segment.bytes": "2097152"}
    assert len(facts["partitions"]) == 4
    (facts,) = json.loads(served.must("topic", "describe", name, "--json", "--all-settings"))
    assert facts["settings"]["segment.bytes"] == "2097152"
    assert "retention.ms" in facts["settings"]
    assert "4 partitions, 0 records" in served.must("topic", "describe", name).decode()

    done = served.run("topic", "delete", name, "lifecicle", "--yes")
    assert (done.returncode, done.stdout) == (1, b"deleted lifecycle\n")
    assert b"there is no topic 'lifecicle'" in done.stderr
    assert name not in json.loads(served.must("topic", "list", "--json"))


def test_create_says_when_it_is_there_already(served: Served) -> None:
    served.must("topic", "create", "twice")
    done = served.run("topic", "create", "twice")
    assert done.returncode == 1
    assert b"twice" in done.stderr
    assert served.must("topic", "create", "twice", "--if-not-exists") == b"twice is there already\n"


def test_what_the_broker_refuses_is_one_line_and_1(served: Served) -> None:
    refused = [
        (["create", "a/b"], "a/b"),
        (["create", "x" * 250], "249"),
        (["create", "orders", "--set", "retention.m=1"], "retention.ms"),
        (["create", "orders", "--set", "retention.ms=soon"], "retention.ms"),
        (["create", "orders", "--replication-factor", "3"], "3"),
        (["describe", "nothing"], "nothing"),
        (["delete", "nothing", "--yes"], "nothing"),
        (["alter", "nothing", "--set", "retention.ms=1"], "nothing"),
        (["add-partitions", "nothing", "3"], "nothing"),
    ]
    running = [(served.start("topic", *arguments), arguments, said) for arguments, said in refused]
    for process, arguments, said in running:
        with process:
            _, err = process.communicate(timeout=60)
        (line,) = err.decode().splitlines()
        assert line.startswith("kbroker: "), arguments
        assert said in line
        assert process.returncode == 1, arguments
