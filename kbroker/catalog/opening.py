"""Opening the catalog: store, copy and partition folders are compared, the one that is right is taken, the other kept
under a name that says what it is."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from kbroker.catalog.catalog import PRODUCER_IDS, TOPICS, Catalog, check_entries
from kbroker.catalog.copy import CatalogCopy
from kbroker.catalog.rebuild import folders_in, topics_on_disk
from kbroker.catalog.reconcile import State, agree, with_folders
from kbroker.catalog.sqlite import FILE_NAME, SqliteStore, open_store, read_wal, set_aside
from kbroker.catalog.store import ABSENT, Change, MetadataStore, Versioned
from kbroker.errors import StorageError
from kbroker.wording import counted

log = logging.getLogger(__name__)

FROM_CLOCK_SHIFT: Final = 20
"""A counter that may have been lost goes on from the clock's seconds shifted by 20 bits: above anything it gave."""


@dataclass(slots=True)
class OpenCatalog:
    """The store and its copy, which are the same now; the catalog that was given has what they hold."""

    store: MetadataStore
    copy: CatalogCopy
    moved: int = 0
    """Topics of which partitions were given to other workers."""
    notices: list[str] = field(default_factory=list)
    """What was not as it should be, for the log and the status."""

    def allocate(self, counter: str, count: int) -> int:
        """The first of `count` numbers that are given to nobody else, ever. Raises StorageError."""
        first = self.store.allocate(counter, count)
        self.copy.add_counter(counter, first + count)
        return first


def open_catalog(data_dir: Path, catalog: Catalog, now_ms: int, *, partitions_dir: Path | None = None) -> OpenCatalog:
    """Open what is in `data_dir` and load it into `catalog`, which is empty. May block.

    `partitions_dir`: where the partitions' folders lie, if elsewhere. Raises StorageError when the disk is at fault,
    StartError when a newer kbroker has written it.
    """
    try:
        return _open(data_dir, partitions_dir or data_dir, catalog, now_ms)
    except OSError as error:
        raise StorageError(f"the catalog in {data_dir} cannot be opened: {error}") from error


def _open(data_dir: Path, partitions_dir: Path, catalog: Catalog, now_ms: int) -> OpenCatalog:
    copied = CatalogCopy(data_dir, State)
    copy_state = _understood(copied.read())
    was_there, wal = (data_dir / FILE_NAME).exists(), read_wal(data_dir)
    store, aside = open_store(data_dir, now_ms, check_entries, copy_is_ours=copied.is_ours)
    opened = OpenCatalog(store, CatalogCopy(data_dir, store.state))
    opened.copy.is_ours = copied.is_ours
    if aside is not None:
        opened.notices.append(f"the catalog was damaged; it is kept as {aside}")
    state = store.state() if was_there and aside is None else None
    is_lost = state is None or state.is_empty
    agreed = agree(state, copy_state)
    if agreed.loser == "store":
        store.close()
        kept = set_aside(data_dir, agreed.how, now_ms, wal)
        opened.notices.append(f"{agreed.why}; the store is kept as {kept}")
        opened.store = store = SqliteStore(store.path)
        opened.copy = CatalogCopy(data_dir, store.state)
    elif agreed.loser == "copy":
        kept = opened.copy.set_aside(agreed.how, now_ms)
        told = f"{agreed.why}; the copy is kept as {kept}"
        if agreed.how == "older" and copy_state.revision == agreed.state.revision - 1:
            log.info("%s", told)  # as a crash between the two leaves them
        else:
            opened.notices.append(told)
    catalog.load({key: Versioned(1, value) for key, value in agreed.state.entries.items()})
    folders = folders_in(partitions_dir)
    strays, problems = topics_on_disk(partitions_dir, folders, catalog.node_ids[0], catalog.knows)
    changes, found = with_folders(catalog, strays, folders, is_confirmed=agreed.is_confirmed)
    catalog.apply(changes)
    problems += found
    if is_lost and (agreed.state.entries or strays):
        source = f"settings from {opened.copy.path}" if agreed.state.entries else "there is no copy"
        topics = counted(len(catalog.topics), "topic")
        problems.append(f"the catalog was lost: {topics} rebuilt from the partition folders, {source}")
    elif not is_lost and copy_state.is_empty and agreed.state.revision:
        problems.append(f"the catalog's copy {opened.copy.path} was missing or empty; it is written anew")
    opened.notices += problems
    moves = catalog.reassign()
    catalog.apply(moves)
    opened.moved = sum(change.key.startswith(TOPICS) for change in moves)
    is_doubtful = bool(opened.notices) or (is_lost and bool(catalog.topics))
    _bring_up(store, catalog, agreed.state, now_ms, is_doubtful=is_doubtful)
    opened.copy.renew()
    store.watch("", lambda seen: opened.copy.add(seen, store.revision))
    for notice in opened.notices:
        log.error("%s", notice)
    return opened


def _understood(copy: State) -> State:
    """The copy, if its entries mean something."""
    try:
        check_entries({key: Versioned(1, value) for key, value in copy.entries.items()})
    except StorageError as error:
        return State(damage=str(error))
    return copy


def _bring_up(store: SqliteStore, catalog: Catalog, agreed: State, now_ms: int, *, is_doubtful: bool) -> None:
    """Make the store what the catalog is. First the counters, then all at once: what a crash interrupts is begun anew,
    for until then the store's revision is the older one."""
    for name, number in agreed.counters.items():
        store.raise_counter(name, number)
    if is_doubtful:
        store.raise_counter(PRODUCER_IDS, (now_ms // 1000) << FROM_CLOCK_SHIFT)
    known = store.entries("")
    wanted = catalog.entries()
    changes = [
        Change(key, known[key].version if key in known else ABSENT, value)
        for key, value in wanted.items()
        if key not in known or known[key].value != value
    ]
    changes += [Change(key, entry.version, None) for key, entry in known.items() if key not in wanted]
    if changes or (wanted and not store.revision):
        store.commit(changes, least_revision=agreed.revision + 1)
    catalog.take_versions(store.entries(""))
