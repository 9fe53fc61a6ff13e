"""`kbroker config`: every setting explained, the settings in force, a file checked."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from kbroker.cli.options import assignments, json_option
from kbroker.cli.output import print_json, say
from kbroker.cli.sources import CONFIG_VARIABLE, Sources, variable_for
from kbroker.config import ALL_SETTINGS, SETTINGS, Known, allowed, read_settings, value_text
from kbroker.wording import counted

TITLES = {
    "server": "The broker",
    "log": "Logs",
    "native": "Native clients",
    "shm": "Shared-memory reads",
    "kafka": "Kafka clients",
    "cleaner": "Compaction",
    "inert": "Kafka's settings without effect here",
    "groups": "Consumer groups",
}


def _type(known: Known) -> str:
    return {bool: "true or false", int: "integer", float: "number", str: "text", tuple: "list"}[known.kind]


def facts(known: Known) -> dict[str, Any]:
    """What is known of a setting, for JSON."""
    setting = known.setting
    return {
        "name": setting.name,
        "type": _type(known),
        "unit": setting.unit,
        "default": known.default,
        "allowed": allowed(known),
        "topic_name": setting.topic_name,
        "reloadable": setting.reloadable,
        "variable": variable_for(setting.name) if setting.name else None,
        "section": known.section,
        "doc": setting.doc,
    }


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def markdown() -> str:
    """The reference of all settings, as docs/SETTINGS.md holds it."""
    lines = [
        "# Settings",
        "",
        "Written by `make reference` from `kbroker/config/`; do not edit.",
        "",
        "A setting comes, the later the stronger, from its default, the file that `--config` or `KBROKER_CONFIG`",
        "names, the environment (`KBROKER_LOG_SEGMENT_BYTES` is `log.segment.bytes`), and `--set NAME=VALUE`.",
        "The file is TOML with the same names: `log.segment.bytes = 1048576`, or tables that say the same.",
        "**Topic** is the name under which a topic may override the setting (`kbroker topic create NAME --set",
        "NAME=VALUE`). Settings marked **↻** follow SIGHUP.",
    ]
    for section in dict.fromkeys(known.section for known in ALL_SETTINGS):
        lines += [
            "",
            f"## {TITLES.get(section, section)}",
            "",
            "| setting | default | allowed | topic | what it does |",
        ]
        lines.append("|---|---|---|---|---|")
        for known in ALL_SETTINGS:
            if known.section != section:
                continue
            setting = known.setting
            mark = " ↻" if setting.reloadable else ""
            default = f"`{text}`" if (text := value_text(known.default)) else "empty"
            name = f"`{setting.name}`{mark}" if setting.name else "(topics only)"
            topic = f"`{setting.topic_name}`" if setting.topic_name else ""
            row = (name, default, _cell(allowed(known)), topic, _cell(setting.doc))
            lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines) + "\n"


def _print_reference(as_json: bool, as_markdown: bool) -> None:
    if as_json and as_markdown:
        raise click.UsageError("--json and --markdown exclude each other")
    if as_markdown:
        sys.stdout.write(markdown())
    elif as_json:
        print_json([facts(known) for known in ALL_SETTINGS])
    else:
        for known in ALL_SETTINGS:
            default = value_text(known.default) or "empty"
            name = known.setting.name or f"{known.setting.topic_name} (topics only)"
            say(name)
            say(f"    {known.setting.doc}")
            say(f"    default {default}; {allowed(known)}")


@click.group(invoke_without_command=True)
@json_option
@click.option("--markdown", "as_markdown", is_flag=True, help="Print the reference as Markdown.")
@click.pass_context
def command(context: click.Context, as_json: bool, as_markdown: bool) -> None:
    """Show, check and explain settings. Alone: every setting with type, unit, default, bounds and doc."""
    if context.invoked_subcommand is None:
        _print_reference(as_json, as_markdown)


@command.command()
@json_option
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
def reference(as_json: bool, as_markdown: bool) -> None:
    """Every setting with type, unit, default, bounds and doc."""
    _print_reference(as_json, as_markdown)


@command.command()
@click.argument("file", type=click.Path(path_type=Path))
def check(file: Path) -> None:
    """Check the settings in FILE; says what is wrong and the nearest right name."""
    count = len(read_settings(file))
    say(f"{file}: {counted(count, 'setting')}, all well")


@command.command()
@click.option("--config", "file", envvar=CONFIG_VARIABLE, type=click.Path(path_type=Path), help="A configuration file.")
@click.option("--set", "changes", multiple=True, metavar="NAME=VALUE", help="A setting, as for `serve`.")
@click.option("--all", "show_all", is_flag=True, help="Those at their default too.")
@json_option
def show(file: Path | None, changes: tuple[str, ...], show_all: bool, as_json: bool) -> None:
    """The settings that `serve` would run with here, and where each comes from."""
    sources = Sources(file, os.environ, assignments(changes, "--set"))
    config = sources.config()
    rows = [
        (known, value_text(getattr(getattr(config, known.section), known.attribute)), sources.origin(name))
        for name, known in SETTINGS.items()
    ]
    rows = [row for row in rows if show_all or as_json or row[2] != "default"]
    if as_json:
        print_json({known.setting.name: {"value": value, "source": source} for known, value, source in rows})
        return
    for known, value, source in rows:
        say(f"{known.setting.name}={value}  # {source}")
    if not rows:
        say("# every setting has its default; see `kbroker config reference`")
