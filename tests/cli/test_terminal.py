"""What comes from outside cannot steer the terminal; a pipe gets every byte as it is; no locale makes it fail."""

from __future__ import annotations

import json

import pytest

from kbroker import Admin, Consumer, Producer, TopicPartition
from tests.cli.served import Served
from tests.cli.terminal import shown, typed
from tests.test_wording import unsafe

EVIL = "\x1b]0;owned\x07\x9b2J\u202egnp.exe\u2066\u200b\x7f é漢"
ESCAPED = "\\x1b]0;owned\\x07\\x9b2J\\u202egnp.exe\\u2066\\u200b\\x7f é漢".encode()
TOPIC = "evil"


@pytest.fixture(scope="module")
def evil(served: Served) -> str:
    """A topic with a record, and a group with a member, full of what a terminal would take for commands."""
    with Producer(served.server) as producer:
        producer.send(TOPIC, key=EVIL.encode(), value=EVIL.encode() + b"\n\xff\t", headers=[(EVIL, EVIL.encode())])
    with Admin(served.server) as admin:
        admin.alter_consumer_group_offsets(EVIL, {TopicPartition(TOPIC, 0): 0})
    return EVIL


def harmless(text: bytes) -> str:
    """It is: nothing in it but text, tabs and line ends."""
    decoded = text.decode()
    assert set(unsafe(decoded)) <= {"\n", "\t"}, text
    return decoded


@pytest.mark.slow
def test_records_on_a_terminal_and_in_a_pipe(served: Served, evil: str) -> None:
    raw = evil.encode()
    all_of = ("--from-beginning", "--exit-at-end")
    fields = "%t|%k|%v|%h|\\x1b[1m\n"
    text = shown(served, "consume", TOPIC, *all_of, "-f", fields)
    assert text.startswith(b"evil|%s|%s\n\\xff\t|%s=%s|" % ((ESCAPED,) * 4))
    assert text.endswith(b"\x1b[1m\n")  # what the user's own format says is his
    assert harmless(shown(served, "consume", TOPIC, *all_of)).encode() == ESCAPED + b"\n\\xff\t\n"
    assert served.must("consume", TOPIC, *all_of) == raw + b"\n\xff\t\n"
    assert served.must("consume", TOPIC, *all_of, "-f", fields) == b"evil|%s|%s\n\xff\t|%s=%s|\x1b[1m\n" % ((raw,) * 4)


def test_json_says_the_same_on_a_terminal(served: Served, evil: str) -> None:
    command = ("consume", TOPIC, "--from-beginning", "--exit-at-end", "--json")
    on_terminal = shown(served, *command)
    harmless(on_terminal)
    assert json.loads(on_terminal) == json.loads(served.must(*command))
    assert json.loads(on_terminal)["key"] == evil
    assert "\u202e".encode() in served.must(*command)


@pytest.mark.slow
def test_groups_and_members(served: Served, evil: str) -> None:
    assert ESCAPED in shown(served, "group", "list")
    assert evil.encode() in served.must("group", "list")
    for command in (
        ["list"],
        ["list", "--json"],
        ["describe", evil],
        ["lag", evil],
        ["lag", "--all"],
        ["reset-offsets", evil, "--to-latest"],
    ):
        harmless(shown(served, "group", *command))
    served.must("topic", "create", "two", "-p", "2", "--if-not-exists")
    with Consumer("two", server=served.server, group="m" + evil, client_id=evil) as consumer:
        while not consumer.assignment():
            consumer.poll(100)
        for command in (["members", "m" + evil], ["members", "m" + evil, "--json"], ["describe", "m" + evil, "--json"]):
            assert "owned" in harmless(shown(served, "group", *command))


@pytest.mark.slow
def test_names_in_errors(served: Served, evil: str) -> None:
    """On stderr always: it is for people, and often kept in a log."""
    for command in (
        ["topic", "describe", evil],
        ["consume", evil],
        ["group", "lag", "no" + evil],
        ["log", "verify", "/no" + evil],
        ["produce", TOPIC, "/no" + evil],
        ["consume", TOPIC, "-f", "%" + evil],
        [evil],
    ):
        with typed(served, *command) as terminal:
            code, text = terminal.end()
        assert code in (1, 2)
        assert "\\x1b" in harmless(text.replace(b"\r\n", b"\n")), command
        done = served.run(*command)
        assert "\\x1b" in harmless(done.stderr), command


C = {"LC_ALL": "C"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.slow
@pytest.mark.parametrize("environment", [C, ASCII, {"PYTHONIOENCODING": "ascii:strict"}], ids=["C", "ascii", "strict"])
@pytest.mark.usefixtures("evil")
def test_no_locale_makes_a_command_fail(served: Served, environment: dict[str, str]) -> None:
    for command in (
        ["consume", TOPIC, "--from-beginning", "--exit-at-end"],
        ["consume", TOPIC, "--from-beginning", "--exit-at-end", "--json", "-n", "1"],
        ["group", "list"],
        ["group", "list", "--json"],
        ["topic", "describe", TOPIC],
        ["status"],
        ["config", "reference"],
        ["serve", "--help"],
    ):
        assert shown(served, *command, environment=environment).isascii(), command
    with typed(served, "topic", "describe", "né\udcff", environment=environment) as terminal:
        code, text = terminal.end()
    assert (code, text.isascii(), b"fault" in text) == (2, True, False), text


def test_an_argument_that_is_no_utf8(served: Served) -> None:
    for command in (["topic", "describe", "n\udcff"], ["group", "lag", "n\udcff"], ["produce", "n\udcff"]):
        done = served.run(*command, given=b"x\n")
        assert (done.returncode, done.stderr) == (2, b"kbroker: 'n\\udcff' is not valid UTF-8, which names must be\n")


class TestProduceOnATerminal:
    def test_a_typed_topic_that_is_new_is_asked_for(self, served: Served) -> None:
        served.must("topic", "create", "payments", "--if-not-exists")
        with typed(served, "produce", "paymets") as terminal:
            terminal.until(b"there is no topic 'paymets'; did you mean payments? Create paymets? [y/N] ")
            terminal.type(b"n\n")
            code, _ = terminal.end()
        assert code == 1
        assert b"paymets" not in served.must("topic", "list")

    def test_a_name_that_is_like_no_other(self, served: Served) -> None:
        with typed(served, "produce", "qqqqqqqq") as terminal:
            terminal.until(b"kbroker: there is no topic 'qqqqqqqq'. Create qqqqqqqq? [y/N] ")
            terminal.type(b"n\n")
            assert terminal.end()[0] == 1

    def test_yes_and_the_lines_behind_it(self, served: Served) -> None:
        """No progress bar is drawn over what is typed."""
        with typed(served, "produce", "brandnew", environment={"TERM": "xterm"}) as terminal:
            terminal.until(b"[y/N] ")
            terminal.type(b"y\none\ntwo\n\x04")
            code, text = terminal.end()
        assert code == 0
        assert b"\x1b" not in text
        assert b"kbroker: 2 records acknowledged" in text
        assert served.must("consume", "brandnew", "--from-beginning", "--exit-at-end") == b"one\ntwo\n"

    def test_create_asks_nothing(self, served: Served) -> None:
        with typed(served, "produce", "wanted", "--create") as terminal:
            terminal.until(b"created the topic wanted")
            terminal.type(b"one\n\x04")
            assert terminal.end()[0] == 0
