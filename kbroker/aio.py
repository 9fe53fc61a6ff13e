"""The clients for asyncio: `from kbroker.aio import Producer, Consumer, Admin`."""

from __future__ import annotations

from kbroker.clients.aio.admin import Admin as Admin
from kbroker.clients.aio.consumer import Consumer as Consumer
from kbroker.clients.aio.producer import Producer as Producer

__all__ = ["Admin", "Consumer", "Producer"]
