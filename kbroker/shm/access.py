"""Who may read through shared memory: root, the broker's own user, shm.allowed.users, members of shm.allowed.group.

The kernel says who connected. Names are looked up once, at start: a look-up may go to a server and block.
"""

from __future__ import annotations

import errno
import grp
import os
import pwd
import socket
from struct import Struct
from typing import Final, NamedTuple

from kbroker.config import ShmConfig
from kbroker.errors import ConfigError

_UCRED: Final = Struct("@iII")  # pid, uid, gid
_SO_PEERGROUPS: Final = 59  # asm-generic/socket.h; Linux 4.13
_GROUPS_BYTES_MAX: Final = 1024  # what Python's getsockopt takes


class Peer(NamedTuple):
    """The process at the other end, as it was when it connected. `gids` are all its groups."""

    pid: int
    uid: int
    gids: frozenset[int]


def peer_of(connection: socket.socket) -> Peer:
    """Who is at the other end of a unix socket. Raises OSError.

    Of a process in more than 256 supplementary groups only its first group counts.
    """
    pid, uid, gid = _UCRED.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))
    try:
        more = memoryview(connection.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES_MAX)).cast("I")
    except OSError as error:
        if error.errno != errno.ERANGE:
            raise
        return Peer(pid, uid, frozenset({gid}))
    return Peer(pid, uid, frozenset({gid, *more}))


class Access:
    """The rule, from the settings. Raises ConfigError naming the setting and the unknown user or group."""

    def __init__(self, config: ShmConfig) -> None:
        self._uids = {0, os.geteuid()}
        for name in filter(None, (part.strip() for part in config.allowed_users.split(","))):
            self._uids.add(_uid(name))
        group = config.allowed_group.strip()
        self._gid = _gid(group) if group else None

    def allows(self, peer: Peer) -> bool:
        return peer.uid in self._uids or (self._gid is not None and self._gid in peer.gids)

    @staticmethod
    def refusal(peer: Peer) -> str:
        """What a refused peer is told. Uses the number: looking up the name might block."""
        return (
            f"user {peer.uid} may not read through shared memory: add it to shm.allowed.users, or one of its groups "
            "as shm.allowed.group; ZeroMQ works without"
        )


def _uid(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(f"shm.allowed.users names {name!r}, and there is no such user") from None


def _gid(name: str) -> int:
    if name.isdecimal():
        return int(name)
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"shm.allowed.group is {name!r}, and there is no such group") from None
