"""The small files of a partition: its topic id, its recovery point, its clean-shutdown and failed-flush marks."""

from __future__ import annotations

import base64
import binascii
from typing import NamedTuple

from crc32c import crc32c


class RecoveryPoint(NamedTuple):
    """Everything before it is on the disk and was valid then. The same form serves as the clean-shutdown mark, which
    says that nothing follows it.
    """

    offset: int
    segment_base: int
    position: int
    log_start_offset: int
    max_timestamp: int  # of the segment up to here, ms; -1: none
    max_timestamp_offset: int

    def encode(self) -> bytes:
        text = "version=1\n" + "".join(f"{name}={value}\n" for name, value in zip(self._fields, self, strict=True))
        return f"{text}crc={crc32c(text.encode()):08x}\n".encode()

    @classmethod
    def parse(cls, data: bytes) -> RecoveryPoint | None:
        """The recovery point in a file's bytes; None when it is damaged or of a newer version."""
        text, mark, crc = data.rpartition(b"crc=")
        try:
            if not mark or int(crc, 16) != crc32c(text):
                return None
            values = dict(line.split("=", 1) for line in text.decode("ascii").splitlines())
            if values["version"] != "1":
                return None
            point = cls(*(int(values[name]) for name in cls._fields))
        except (ValueError, KeyError):
            return None
        return point if min(point[:4]) >= 0 else None


def encode_metadata(topic_id: bytes) -> bytes:
    """Kafka's partition.metadata, version 0."""
    return f"version: 0\ntopic_id: {id_text(topic_id)}".encode()


def parse_metadata(data: bytes) -> bytes | None:
    """The topic id (16 bytes) in a partition.metadata; None when it is damaged or of a newer version."""
    try:
        values = dict(line.split(": ", 1) for line in data.decode("ascii").splitlines())
        if values["version"].strip() != "0":
            return None
        text = values["topic_id"].strip()
        topic_id = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (ValueError, KeyError, binascii.Error):
        return None
    return topic_id if len(topic_id) == 16 else None


def id_text(topic_id: bytes) -> str:
    """A topic id as Kafka prints it: base64url without padding."""
    return base64.urlsafe_b64encode(topic_id).rstrip(b"=").decode()
