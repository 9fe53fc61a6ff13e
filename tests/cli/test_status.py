"""`kbroker status` by every way to a broker, and what is said of a way that leads elsewhere."""

from __future__ import annotations

import json

import pytest

from tests.cli.served import Served, serve, short_folder


@pytest.mark.slow
def test_every_way_to_the_status() -> None:
    with short_folder() as folder, serve(folder, "--native-listen", "127.0.0.1:0") as broker:
        expected = json.loads(broker.must("status", "--json"))["processes"]
        native = broker.ready_line.partition("tcp://")[2].partition(")")[0]
        for server in (
            f"tcp://{native}",
            native,
            str(folder),
            f"{folder}/run",
            broker.server,
            f"{folder}/run/front.ipc",
        ):
            found = json.loads(broker.must("status", "--json", "--server", server))["processes"]
            assert [one["pid"] for one in found] == [one["pid"] for one in expected]
        kafka = broker.ready_line.partition("bootstrap.servers=")[2].partition(";")[0].rstrip()
        for command in (["status", "--server", kafka], ["topic", "list", "--server", f"tcp://{kafka}"]):
            done = broker.run(*command)
            assert done.returncode == 4
            assert b"that is a port for Kafka's clients" in done.stderr


def test_a_group_alone_prints_its_help(served: Served) -> None:
    for group in ("topic", "group", "log", "systemd"):
        done = served.run(group)
        assert done.returncode == 2
        assert done.stderr.decode().splitlines()[0] == f"Usage: kbroker {group} [OPTIONS] COMMAND [ARGS]..."
        assert done.stderr == served.must(group, "--help")


def test_the_server_option_wins_over_the_environment(served: Served) -> None:
    done = served.run("status", "--server", "/nowhere/at/all")
    assert done.returncode == 4
    assert b"/nowhere/at/all" in done.stderr
