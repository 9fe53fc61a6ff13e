"""Who asks: what the log says of a change that somebody made."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import msgpack

from kbroker.errors import InvalidRequest

NOBODY = -1
CLIENT_ID_CHARS_MAX = 255

KAFKA = "kafka"
NATIVE = "native"


class Caller(NamedTuple):
    """A client as the process that it has dialled knows it.

    `door`: KAFKA or NATIVE. `address`: HOST:PORT, or HOST where the port is not known (tcp through the front), "" for
    a unix socket. `uid`: its unix user as the kernel told it, NOBODY where it cannot (tcp). `client_id`: what it says
    it is, "" for nothing.
    """

    door: str
    address: str = ""
    uid: int = NOBODY
    client_id: str = ""

    def __str__(self) -> str:
        where = f"at {self.address}" if self.address else "on this host" if self.uid != NOBODY else "(it has gone)"
        user = "" if self.uid == NOBODY else f", unix user {_user_named(self.uid)}"
        named = f" with client id {self.client_id!r}" if self.client_id else ""
        return f"{self.door} client {where}{named}{user}"


def pack_caller(caller: Caller) -> bytes:
    """As the front passes it on."""
    packed: bytes = msgpack.packb(tuple(caller))
    return packed


def unpack_caller(packed: bytes | memoryview) -> Caller:
    """What the front has passed on. Raises InvalidRequest."""
    try:
        door, address, uid, client_id = msgpack.unpackb(packed)
        return Caller(str(door), str(address), int(uid), str(client_id))
    except Exception as error:  # msgpack raises many kinds; all mean the same
        raise InvalidRequest(f"not a caller: {error!r:.200}") from None


@lru_cache(maxsize=256)
def _user_named(uid: int) -> str:
    """`alice (uid 1000)`. From the file alone: a look-up by name service may ask a server and block."""
    try:
        with open("/etc/passwd", encoding="utf-8", errors="replace") as users:
            for line in users:
                fields = line.split(":")
                if len(fields) > 2 and fields[2] == str(uid):
                    return f"{fields[0]} (uid {uid})"
    except OSError:
        pass
    return f"uid {uid}"
