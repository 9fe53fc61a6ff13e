"""Nothing that a user can type is undocumented."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from kbroker.cli.config import markdown
from kbroker.cli.main import COMMANDS, commands
from kbroker.config import SETTINGS

ROOT = Path(__file__).parent.parent.parent


def every_command(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None, name
        yield (*path, name), command
        if isinstance(command, click.Group):
            yield from every_command(command, (*path, name))


ALL = list(every_command(commands))


@pytest.mark.parametrize(("path", "command"), ALL, ids=lambda value: " ".join(value) if type(value) is tuple else "")
def test_every_command_says_what_it_does(path: tuple[str, ...], command: click.Command) -> None:
    assert command.help, path
    for parameter in command.params:
        if isinstance(parameter, click.Option):
            assert parameter.help, f"{path}: {parameter.name}"


@pytest.mark.parametrize(("path", "command"), ALL, ids=lambda value: " ".join(value) if type(value) is tuple else "")
def test_help_is_ascii(path: tuple[str, ...], command: click.Command) -> None:
    """Click writes it itself, whatever the locale."""
    assert command.get_help(click.Context(command)).isascii(), path


def test_commands_print_by_one_way() -> None:
    """`kbroker/cli/output.py` and `complain` keep what comes from outside off the terminal; click and print do not."""
    for file in (ROOT / "kbroker" / "cli").glob("*.py"):
        if file.name not in ("output.py", "outcome.py", "table.py"):
            assert not re.search(r"click\.echo\(|(?<![\w.])print\(|secho\(", file.read_text()), file


def test_every_command_is_in_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert [" ".join(path) for path, _ in ALL if f"kbroker {' '.join(path)}" not in readme] == []


def test_the_reference_of_settings_is_up_to_date() -> None:
    assert (ROOT / "docs" / "SETTINGS.md").read_text() == markdown(), "run `make reference`"


def test_every_setting_is_explained() -> None:
    for name, known in SETTINGS.items():
        assert len(known.setting.doc) > 20, name
        assert known.setting.doc.endswith("."), name


def test_the_list_of_commands_matches_the_files() -> None:
    for name in COMMANDS:
        assert (ROOT / "kbroker" / "cli" / f"{name}.py").exists(), name
