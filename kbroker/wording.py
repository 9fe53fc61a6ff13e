"""Words for people that more than one part of kbroker needs."""

from __future__ import annotations


def counted(count: int, noun: str) -> str:
    """`1 topic`, `2 topics`: for nouns that take an s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
