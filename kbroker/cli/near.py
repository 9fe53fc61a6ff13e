"""Names that are not there, and the one that was perhaps meant."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from kbroker.errors import GroupIdNotFound, UnknownTopicOrPartition
from kbroker.wording import did_you_mean

if TYPE_CHECKING:
    from kbroker.clients.admin import Admin


def unknown_topic(name: str, known: Iterable[str]) -> UnknownTopicOrPartition:
    """The error for a topic that is none of `known`."""
    hint = did_you_mean(name, known) or "; see `kbroker topic list`"
    return UnknownTopicOrPartition(f"there is no topic {name!r}{hint}")


@contextlib.contextmanager
def near_topics(admin: Admin, names: Sequence[str]) -> Iterator[None]:
    """What the block raises for one of these topics that is not there says which one was perhaps meant."""
    try:
        yield
    except UnknownTopicOrPartition:
        known = set(admin.list_topics())
        for name in names:
            if name not in known:
                raise unknown_topic(name, known) from None
        raise


@contextlib.contextmanager
def near_groups(admin: Admin, names: Sequence[str]) -> Iterator[None]:
    """What the block raises for one of these groups that is not there says which one was perhaps meant."""
    try:
        yield
    except GroupIdNotFound:
        known = {one.group for one in admin.list_consumer_groups()}
        for name in names:
            if name not in known:
                hint = did_you_mean(name, known) or "; see `kbroker group list`"
                raise GroupIdNotFound(f"group {name:.249}: there is no such group{hint}") from None
        raise
