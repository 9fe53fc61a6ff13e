"""The command as a process: exit codes, one line for what went wrong, nothing loaded that is not needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.served import KBROKER, clean_environment


def kbroker(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `kbroker` from this tree, with no broker of the machine in sight."""
    return subprocess.run(
        [*KBROKER, *arguments],
        env=clean_environment() | (environment or {}),
        cwd="/",
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def complaint(done: subprocess.CompletedProcess[str]) -> str:
    """The one line on stderr."""
    (line,) = done.stderr.splitlines()
    assert line.startswith("kbroker: "), done.stderr
    return line


def test_help_and_version() -> None:
    for option in ("--help", "-h"):
        done = kbroker(option)
        assert done.returncode == 0
        assert "serve" in done.stdout
    assert kbroker("--version").stdout.startswith("kbroker 0.")
    assert kbroker().returncode == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serv"], "No such command 'serv'; did you mean serve? (see"),
        (["serve", "--worker", "2"], "No such option"),
        (["serve", "--workers", "two"], "'two' is not a valid integer"),
        (["serve", "--set", "log.segment.byte=1", "--check"], "did you mean log.segment.bytes?"),
        (["serve", "--set", "log.segment.bytes=1", "--check"], "1048576 … 2147483647 bytes"),
        (["serve", "--set", "workers", "--check"], "NAME=VALUE"),
        (["serve", "--config", "/nowhere/at.all", "--check"], "/nowhere/at.all: No such file"),
        (["serve", "--runtime-dir", "/" + "x" * 100, "--check"], "too long for a unix socket"),
        (["topic", "create"], "Missing argument 'NAME'"),
        (["topic", "delete", "orders"], "--yes"),
        (["topic", "alter", "orders"], "nothing to change"),
        (["topic", "alter", "orders", "--set", "retention.ms=1", "--unset", "retention.ms"], "both name retention.ms"),
        (["topic", "create", "orders", "--set", "retention.ms=1", "--set", "retention.ms=2"], "retention.ms twice"),
        (["serve", "--workers", "2", "--set", "workers=3", "--check"], "--workers and --set"),
        (["config", "--json", "--markdown"], "exclude each other"),
        (["consume", "orders", "--json", "-f", "%v"], "--json and --format exclude each other"),
        (["group", "list", "--state", "bogus"], "'bogus' is not one of"),
        (["produce", "orders", "-z", "lzma"], "'lzma' is not one of"),
        (["produce", "orders", "/nowhere/at.all"], "/nowhere/at.all"),
        (["produce", "orders", "-k", "a", "-K", "b"], "exclude each other"),
        (["produce", "orders", "-H", "novalue"], "NAME=VALUE"),
        (["consume", "orders", "-f", "%q"], "%q is no field"),
        (["consume", "orders", "--from-timestamp", "soon"], "ISO time"),
        (["consume", "orders", "--from-timestamp", "9" * 20], "'99999999999999999999' is not a time"),
        (["group", "reset-offsets", "g", "--to-timestamp", "1969-12-31"], "'1969-12-31' is not a time"),
        (["status", "--server", "/nowhere", "--runtime-dir", "/else"], "--server and --runtime-dir exclude each other"),
        (["consume", "orders", "--from-beginning", "--offset", "1"], "exclude each other"),
        (["log", "verify", "/nowhere/at.all"], "/nowhere/at.all"),
        (["config", "check", "/nowhere/at.all"], "/nowhere/at.all"),
    ],
)
def test_wrong_usage_is_named_in_one_line(arguments: list[str], said: str) -> None:
    done = kbroker(*arguments)
    assert done.returncode in (1, 2)
    assert said in complaint(done)
    assert done.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["ipc", "tcp"])
def test_without_a_broker_the_endpoint_is_named(where: str, tmp_path: Path) -> None:
    server = f"ipc://{tmp_path}/front.ipc" if where == "ipc" else "tcp://127.0.0.1:1"
    commands = [["topic", "list"], ["topic", "describe"], ["consume", "orders"], ["produce", "orders"]]
    # All at once: each waits a moment, for a front that was killed would be back by then.
    running = [
        subprocess.Popen(
            [*KBROKER, *arguments],
            env=clean_environment() | {"KBROKER_SERVER": server},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for arguments in commands
    ]
    for process in running:
        out, err = process.communicate(timeout=60)
        assert (process.returncode, out) == (4, "")
        (line,) = err.splitlines()
        assert line.startswith("kbroker: ")
        assert (str(tmp_path) if where == "ipc" else server) in line


def test_status_without_a_broker_names_the_folder(tmp_path: Path) -> None:
    done = kbroker("status", environment={"KBROKER_SERVER": f"ipc://{tmp_path}/front.ipc"})
    assert done.returncode == 4
    assert str(tmp_path) in complaint(done)


def test_help_loads_little() -> None:
    code = "import sys, kbroker.cli.main as m; m.run(['--help']); print(sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, check=True
    )
    for heavy in ("zmq", "rich", "aiokafka", "asyncio", "sqlite3", "kbroker.workers", "kbroker.clients.producer"):
        assert f"'{heavy}'" not in done.stderr, heavy


def test_whoever_stops_reading_is_no_error() -> None:
    with subprocess.Popen(
        [sys.executable, "-m", "kbroker", "config", "--markdown"],
        env=clean_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.fixture
def a_config(tmp_path: Path) -> Path:
    file = tmp_path / "kbroker.toml"
    file.write_text("num.partitions = 3\n")
    return file


def test_settings_in_force_and_where_they_come_from(a_config: Path) -> None:
    done = kbroker("config", "show", "--config", str(a_config), "--set", "workers=2", "--json")
    facts = json.loads(done.stdout)
    assert facts["num.partitions"] == {"value": "3", "source": str(a_config)}
    assert facts["workers"] == {"value": "2", "source": "flag"}
    assert kbroker("config", "check", str(a_config)).stdout.endswith("1 setting, all well\n")


def test_the_reference_is_there_for_programs() -> None:
    facts = {fact["name"]: fact for fact in json.loads(kbroker("config", "--json").stdout)}
    assert facts["log.segment.bytes"]["unit"] == "bytes"
    assert facts["log.segment.bytes"]["topic_name"] == "segment.bytes"


def test_a_fault_of_our_own_is_one_line_too() -> None:
    code = "import kbroker.cli.outcome as o; raise SystemExit(o.outcome(lambda: 1 / 0))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in complaint(done)


def test_every_warning_of_the_clients_is_told() -> None:
    code = (
        "import logging, kbroker.cli.main as m, kbroker.cli.config as c\n"
        "log = logging.getLogger('kbroker.clients.anything')\n"
        "c.markdown = lambda: (log.warning('%s is gone\\n', 'a\\x1b[2J'), log.info('quiet'))[0] or ''\n"
        "raise SystemExit(m.run(['config', '--markdown']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=clean_environment(), capture_output=True, text=True, check=False
    )
    assert (done.returncode, complaint(done)) == (0, "kbroker: a\\x1b[2J is gone")


def test_an_interrupt_ends_with_130() -> None:
    code = "import os, signal, kbroker.cli.outcome as o; raise SystemExit(o.outcome(lambda: os.kill(0, 2)))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=False,
        start_new_session=True,
    )
    assert (done.returncode, done.stderr) == (130, "")
