"""Errors of shared-memory reads that are raised in the reader's process only."""

from __future__ import annotations

from kbroker.errors import ClientError


class ConnectionLost(ClientError):
    """The worker hung up, died or let go of the partition: reconnect, and reopen at the same offset."""


class ShmRefused(ClientError):
    """The worker does not serve this process through shared memory: access, limits or version. Use ZeroMQ."""
