"""How the descriptors of a process are shared: among its doors, by the limits of each, its log, and the rest of it.

RLIMIT_NOFILE holds for each process. A worker has the most doors, and what fits into a worker is the limit everywhere.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import logging
import os
import resource
import sys
from typing import Final

from kbroker.config import SETTINGS, Config
from kbroker.errors import ConfigError

log = logging.getLogger(__name__)

OWN: Final = 96
"""What a process has open besides: listeners, channels to the others, epoll, ZeroMQ, SQLite, standard streams."""
LOG_SHARE: Final = 4
"""One in so many descriptors is for the log: three for each partition's active segment, one for each closed one that
is read, its lock and its control page."""
LOG_LEAST: Final = 128
LOG_MOST: Final = 1 << 18
KEPT_FOR_THE_LOG: Final = 64
"""The last ones: no client gets them, whatever the others are used for. So segments roll, and processes find each other
again, when all limits are wrong."""
PER_PARTITION: Final = 5
"""Its active segment with two indexes, its lock, its control page."""
LEAST: Final = 16
"""No limit shrinks below this."""
LIMITS: Final = ("max.connections", "native.clients.max", "shm.connections.max")
"""The settings that say how many connections a worker's doors take."""


def raise_descriptor_limit() -> None:
    """Raise the soft limit of this process, and of its children, to the hard one."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """How many descriptors this process may have."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return sys.maxsize if soft == resource.RLIM_INFINITY else soft


def kept_for_log(limit: int) -> int:
    """How many of a process's descriptors no door may count on."""
    return min(LOG_MOST, max(LOG_LEAST, limit // LOG_SHARE))


def require_descriptors_for_partition(others: int) -> None:
    """Raises OSError (EMFILE) where one more partition, beside `others`, would take what clients or the segments of
    others need: more than the doors' share in all, or of the last KEPT_FOR_THE_LOG. For I/O threads.
    """
    limit = descriptor_limit()
    most = (limit - OWN - kept_for_log(limit)) // PER_PARTITION
    if others >= most:
        raise OSError(errno.EMFILE, f"a process with {limit} descriptors serves {most} partitions at most")
    number = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    os.close(number)
    if number >= limit - KEPT_FOR_THE_LOG:  # the kernel gives the lowest free one
        raise OSError(errno.EMFILE, f"no descriptor is left but the last {KEPT_FOR_THE_LOG}, kept for open partitions")


def fitted(config: Config, limit: int) -> Config:
    """The settings with limits that fit together into `limit` descriptors: those that nobody has set shrink.

    Raises ConfigError where those that somebody has set do not fit.
    """
    room = limit - OWN - kept_for_log(limit)
    there = {"max.connections": bool(config.kafka.listeners), "shm.connections.max": config.shm.enabled}
    wanted = {name: _value(config, name) for name in LIMITS if there.get(name, True)}
    by_hand = {name: value for name, value in wanted.items() if name in config.set_by_hand}
    by_itself = {name: value for name, value in wanted.items() if name not in by_hand}
    left = room - sum(by_hand.values())
    if left < LEAST * len(by_itself):
        raise ConfigError(_refusal(by_hand, limit, max(0, room - LEAST * len(by_itself))))
    asked = sum(by_itself.values())
    if asked <= left:
        return config
    spare, wish = left - LEAST * len(by_itself), asked - LEAST * len(by_itself)
    shares = {name: LEAST + (value - LEAST) * spare // wish for name, value in by_itself.items()}
    for name, share in shares.items():
        known = SETTINGS[name]
        section = dataclasses.replace(getattr(config, known.section), **{known.attribute: share})
        config = dataclasses.replace(config, **{known.section: section})
    return config


def tell_fitted(given: Config, config: Config, limit: int) -> None:
    """Log which limits have shrunk."""
    shrunk = [f"{name}={_value(config, name)}" for name in LIMITS if _value(config, name) != _value(given, name)]
    if shrunk:
        log.info("%d descriptors for each process (LimitNOFILE, ulimit -n) leave room for %s", limit, ", ".join(shrunk))


def _value(config: Config, name: str) -> int:
    known = SETTINGS[name]
    value: int = getattr(getattr(config, known.section), known.attribute)
    return value


def _refusal(by_hand: dict[str, int], limit: int, room: int) -> str:
    remedy = "raise LimitNOFILE= of the unit, or `ulimit -n` of the shell"
    if not by_hand:
        return f"{limit} descriptors for each process are too few to serve clients: {remedy}"
    settings = " and ".join(f"{name}={value}" for name, value in by_hand.items())
    return (
        f"{settings} ask for {sum(by_hand.values())} descriptors in a worker, and of {limit} that a process may have "
        f"{room} are for connections (the rest is for the log and the broker itself): lower them, or {remedy}"
    )
