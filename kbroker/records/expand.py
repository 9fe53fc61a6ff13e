"""Decompressing a batch for a look inside: small ones at once, large ones when there is memory for it."""

from __future__ import annotations

from typing import Final

from kbroker.errors import MessageTooLarge
from kbroker.records.batch import HEADER_BYTES
from kbroker.records.codec import uncompressed
from kbroker.records.steps import MEMORY, Steps

SMALL_BYTES: Final = 4 << 20
"""What a piece of work may decompress without asking for memory."""


class Budget:
    """What one piece of work may still look into, in bytes without compression, of all its batches together."""

    __slots__ = ("has_memory", "left_bytes", "most_bytes")

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.left_bytes = most_bytes
        self.has_memory = False

    def take(self, size_bytes: int) -> None:
        """So much is looked into. Raises MessageTooLarge when that is more than is left."""
        if size_bytes > self.left_bytes:
            raise self.exceeded()
        self.left_bytes -= size_bytes

    def exceeded(self) -> MessageTooLarge:
        """What is said of a batch for which not enough is left."""
        return MessageTooLarge(
            f"records take more than record.decompressed.bytes.max={self.most_bytes} bytes without compression"
        )


def expanded(batch: memoryview, budget: Budget) -> Steps[memoryview]:
    """A compressed batch without compression, paid from `budget`; `compression.free` gives its memory back.

    Raises MessageTooLarge when more is needed than is left, CorruptMessage, UnsupportedCompressionType.
    """
    plain = None
    if not budget.has_memory and budget.left_bytes > SMALL_BYTES:
        try:
            plain = uncompressed(batch, SMALL_BYTES)
        except MessageTooLarge:
            budget.has_memory = True
            yield MEMORY
    if plain is None:
        try:
            plain = uncompressed(batch, budget.left_bytes)
        except MessageTooLarge:
            raise budget.exceeded() from None
    budget.take(len(plain) - HEADER_BYTES)
    return plain
