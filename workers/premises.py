"""The two folders that a broker claims before it does anything else."""

from __future__ import annotations

import contextlib
import logging
import stat
from dataclasses import dataclass
from pathlib import Path

from kbroker.config import Config
from kbroker.wire.endpoints import check_runtime_path
from kbroker.workers.listeners import make_internal_folder, remove_stale_sockets
from kbroker.workers.locks import DATA_LOCK, RUNTIME_LOCK, FolderLock, ProcessesLock, make_folder
from kbroker.workers.meta_properties import check_ours, read_or_create

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Premises:
    """Data and runtime folder, made, locked and known to be ours."""

    data_lock: FolderLock
    processes_lock: ProcessesLock
    cluster_id: str
    predecessor_died: bool
    """The broker that was here before was killed, so that its processes may still be dying."""


def warn_of_open_folder(what: str, folder: Path, holds: str) -> None:
    """A line at each start while everybody on this host may enter the folder, list or change what lies in it."""
    mode = stat.S_IMODE(folder.stat().st_mode)
    rights = [word for bit, word in ((4, "list"), (2, "change"), (1, "enter")) if mode & bit]
    if rights:
        log.warning(
            "the %s folder %s is open to all: every user of this host may %s it (mode %04o), and it holds %s; "
            "run: chmod o-rwx %s",
            what, folder, " and ".join(rights), mode, holds, folder,
        )  # fmt: skip


def claim(config: Config, stack: contextlib.ExitStack) -> Premises:
    """Make both folders (mode 0750), lock them, wait for a dead predecessor's processes, remove its sockets.

    `stack` releases it all. Raises StartError naming the folder, and the holder or what is wrong with it.
    """
    check_runtime_path(config.runtime_dir)
    # Reads only, and before the lock: its file would already be a stain on somebody else's folder.
    check_ours(config.data_dir)
    make_folder(config.data_dir, "data")
    data_lock = FolderLock(config.data_dir, DATA_LOCK, "data")
    stack.callback(data_lock.close)
    # Before anything else is made in there, so that a start that dies here leaves a folder that is still ours.
    cluster_id = read_or_create(config.data_dir)
    make_folder(config.runtime_dir, "runtime")
    runtime_lock = FolderLock(config.runtime_dir, RUNTIME_LOCK, "runtime")
    stack.callback(runtime_lock.close)
    warn_of_open_folder("data", config.data_dir, "records")
    warn_of_open_folder("runtime", config.runtime_dir, "the broker's sockets")
    processes_lock = ProcessesLock(config.data_dir)
    stack.callback(processes_lock.close)
    if not processes_lock.held:
        log.warning("a process of the broker that ran on %s before has not ended; going on", config.data_dir)
    remove_stale_sockets(config.runtime_dir)
    make_internal_folder(config.runtime_dir)
    stack.callback(remove_stale_sockets, config.runtime_dir)
    return Premises(data_lock, processes_lock, cluster_id, data_lock.holder_died or runtime_lock.holder_died)
