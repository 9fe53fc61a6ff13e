"""Names in the settings, and who is at the other end."""

from __future__ import annotations

import grp
import os
import pwd
import socket

import pytest

from kbroker.config import ShmConfig
from kbroker.errors import ConfigError
from kbroker.shm.access import Access, Peer, peer_of


def test_the_kernel_names_the_peer() -> None:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with here, there:
        peer = peer_of(here)
    assert (peer.pid, peer.uid) == (os.getpid(), os.geteuid())
    assert peer.gids == {os.getegid(), *os.getgroups()}


def test_root_and_the_brokers_own_user_may_always() -> None:
    access = Access(ShmConfig())
    assert access.allows(Peer(1, 0, frozenset()))
    assert access.allows(Peer(1, os.geteuid(), frozenset()))
    assert not access.allows(Peer(1, 54321, frozenset({0})))


def test_users_and_groups_by_name_and_number() -> None:
    user, group = pwd.getpwall()[-1], grp.getgrall()[-1]
    access = Access(ShmConfig(allowed_users=f" {user.pw_name}, 54321 ,", allowed_group=group.gr_name))
    assert access.allows(Peer(1, user.pw_uid, frozenset()))
    assert access.allows(Peer(1, 54321, frozenset()))
    assert access.allows(Peer(1, 54322, frozenset({group.gr_gid})))
    assert not access.allows(Peer(1, 54322, frozenset()))


def test_an_unknown_name_is_named_with_its_setting() -> None:
    with pytest.raises(ConfigError, match=r"shm\.allowed\.users names 'no-such-user'"):
        Access(ShmConfig(allowed_users="no-such-user"))
    with pytest.raises(ConfigError, match=r"shm\.allowed\.group is 'no-such-group'"):
        Access(ShmConfig(allowed_group="no-such-group"))
