"""`meta.properties` in the data folder: whose folder it is, and the cluster's id. Written once, as Kafka does."""

from __future__ import annotations

import base64
import os
import re
import uuid
from pathlib import Path

from kbroker.errors import StartError
from kbroker.workers.locks import sync_folder, why

FILE_NAME = "meta.properties"
FORMAT = 1
"""Number of our data folder's layout: a newer one is refused."""

_CLUSTER_ID = re.compile(r"[A-Za-z0-9_-]{22}")
_NOT_DATA = {"lost+found", "run"}


def new_cluster_id() -> str:
    """A random id as Kafka writes it: 16 bytes in 22 characters of base64url."""
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


def check_ours(data_dir: Path) -> None:
    """Raises StartError for a folder that holds something but no meta.properties. Reads only."""
    try:
        names = {entry.name for entry in data_dir.iterdir()}
    except FileNotFoundError:
        return
    except OSError as error:
        raise StartError(f"cannot read the data folder {data_dir}: {why(error, data_dir)}") from None
    if FILE_NAME in names:
        return
    others = sorted(name for name in names - _NOT_DATA if not name.startswith("."))
    if others:
        raise StartError(
            f"the data folder {data_dir} has no {FILE_NAME} but holds {others[0]!r}"
            f"{f' and {len(others) - 1} more' if others[1:] else ''}: it is not kbroker's; choose an empty folder "
            f"(--data-dir), or bring {FILE_NAME} back if it was lost"
        )


def read_or_create(data_dir: Path) -> str:
    """The cluster id of this data folder; a new one is written and synced first when there is none.

    Raises StartError for a damaged file, another program's, or one of a newer format.
    """
    path = data_dir / FILE_NAME
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        cluster_id = new_cluster_id()
        _write(path, cluster_id)
        return cluster_id
    except OSError as error:
        raise StartError(f"cannot read {path}: {why(error, path.parent)}") from None
    except UnicodeDecodeError as error:
        raise StartError(f"cannot read {path}: {error}") from None
    return _cluster_id_in(path, text)


def _parse(text: str) -> dict[str, str]:
    """The `name=value` lines of a Java properties file. Raises ValueError naming the line."""
    values: dict[str, str] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if line and not line.startswith(("#", "!")):
            name, equals, value = line.partition("=")
            if not equals:
                raise ValueError(f"line {number}: expected name=value, got {line!r:.80}")
            values[name.strip()] = value.strip()
    return values


def _cluster_id_in(path: Path, text: str) -> str:

    remedy = "restore it from a backup, or write its cluster.id back"
    try:
        values = _parse(text)
    except ValueError as error:
        raise StartError(f"{path} is damaged ({error}); {remedy}") from None
    ours = values.get("kbroker.format", "")
    if not ours:
        if "version" in values and "cluster.id" in values:
            raise StartError(f"{path} was not written by kbroker (no kbroker.format in it); choose another data folder")
        raise StartError(f"{path} is damaged (no kbroker.format in it); {remedy}")
    if ours.isdigit() and int(ours) > FORMAT:
        raise StartError(
            f"the data folder {path.parent} has format {ours}, this version of kbroker knows {FORMAT} at most: "
            "start a newer kbroker"
        )
    cluster_id = values.get("cluster.id", "")
    if ours != str(FORMAT) or values.get("version") != "1" or not _CLUSTER_ID.fullmatch(cluster_id):
        raise StartError(
            f"{path} is damaged (version={values.get('version', '')!r}, cluster.id={cluster_id!r}); {remedy}"
        )
    return cluster_id


def _write(path: Path, cluster_id: str) -> None:
    text = f"#\nversion=1\ncluster.id={cluster_id}\nbroker.id=0\nnode.id=0\nkbroker.format={FORMAT}\n"
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StartError(f"cannot write {path}: {why(error, path.parent)}") from None
