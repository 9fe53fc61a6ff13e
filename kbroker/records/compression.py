"""The four codecs of record batches, each with a bound on what it may write: a bomb costs at most that bound.

Snappy is written and read in the framing of Java's snappy-java (xerial); raw snappy is read as well.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from mmap import mmap
from struct import Struct
from typing import Any, Final

import cramjam

from kbroker.errors import CorruptMessage, MessageTooLarge, UnsupportedCompressionType

NONE: Final = 0
GZIP: Final = 1
SNAPPY: Final = 2
LZ4: Final = 3
ZSTD: Final = 4

CODECS: Final[dict[str, int]] = {"none": NONE, "gzip": GZIP, "snappy": SNAPPY, "lz4": LZ4, "zstd": ZSTD}
"""Names as in the setting compression.type."""
CODEC_NAMES: Final[dict[int, str]] = {number: name for name, number in CODECS.items()}

OUTPUT_BYTES_MAX: Final = 256 << 20
"""The bound on the records of one batch when the caller names none."""

_XERIAL_MAGIC: Final = b"\x82SNAPPY\x00"
_XERIAL_HEADER: Final = Struct(">8sii")  # magic, version, lowest version that can read it
_XERIAL_BLOCK: Final = 32 * 1024  # bytes of input in a block, as snappy-java has it
_BLOCK_LENGTH: Final = Struct(">i")
assert _XERIAL_HEADER.size == 16

_GZIP_LEVEL: Final = 6
_GZIP_OWN: Final = -1  # Kafka's number for the level that gzip itself chooses
_LZ4_LEVEL: Final = 1
_LZ4_FAST: Final = 9  # Kafka's number for the fast compressor
_ZSTD_LEVEL: Final = 3
_LZ4_PIECE: Final = 1 << 20  # it takes bytes only: a copy of so much at a time

Bytes = bytes | bytearray | memoryview


def codec_number(name: str) -> int:
    """The codec's number for its name. Raises UnsupportedCompressionType naming those there are."""
    number = CODECS.get(name)
    if number is None:
        raise UnsupportedCompressionType(f"unknown compression {name!r}: one of {', '.join(CODECS)} is expected")
    return number


def compress(codec: int, data: Bytes, level: int | None = None) -> bytes:
    """`data` compressed; `codec` 1 to 4. `level` as in Kafka's settings. Raises UnsupportedCompressionType."""
    if codec == LZ4:
        # Java reads frames of independent blocks only.
        lz4_level = _LZ4_LEVEL if level in (None, _LZ4_FAST) else level
        frame = cramjam.lz4.Compressor(level=lz4_level, content_checksum=False, block_linked=False)
        view = memoryview(data)
        for start in range(0, max(1, len(view)), _LZ4_PIECE):
            frame.compress(bytes(view[start : start + _LZ4_PIECE]))
        return bytes(frame.finish())
    if codec == ZSTD:
        return bytes(cramjam.zstd.compress(data, level=_ZSTD_LEVEL if level is None else level))
    if codec == SNAPPY:
        return _compress_xerial(memoryview(data))
    if codec == GZIP:
        return bytes(cramjam.gzip.compress(data, level=_GZIP_LEVEL if level in (None, _GZIP_OWN) else level))
    raise UnsupportedCompressionType(f"compression codec {codec}")


def decompress(codec: int, data: Bytes, max_bytes: int = OUTPUT_BYTES_MAX, *, head_bytes: int = 0) -> memoryview:
    """`data` decompressed behind `head_bytes` zero bytes, in one writable buffer. `free` gives a large one back early.

    Raises MessageTooLarge when the output would pass `max_bytes`, CorruptMessage when the input is not what its codec
    says, UnsupportedCompressionType for a codec that is not 1 to 4.
    """
    if codec == SNAPPY:
        return _decompress_snappy(memoryview(data), max_bytes, head_bytes)
    into = _INTO.get(codec)
    if into is None:
        raise UnsupportedCompressionType(f"compression codec {codec}")
    # The formats need not say their output size: a guess first, then all that is allowed, of which the kernel gives
    # only what is used.
    room = min(max_bytes, max(4 * len(data), 16 * 1024))
    while True:
        output = _room(head_bytes + room)
        try:
            written = into(data, output[head_bytes:])
        except cramjam.DecompressionError as error:
            free(output)
            if "whole buffer" not in str(error) or "fill" in str(error):
                raise CorruptMessage(f"{CODEC_NAMES[codec]} data does not decompress: {error}") from None
            if room >= max_bytes:
                raise _too_large(codec, max_bytes) from None
            room = max_bytes
            continue
        return output[: head_bytes + written]


_MAPPED_BYTES_MIN: Final = 256 << 10


def _room(size_bytes: int) -> memoryview:
    """So many zero bytes. Much of it is mapped: to zero it beforehand would keep all threads waiting meanwhile."""
    return memoryview(mmap(-1, size_bytes) if size_bytes >= _MAPPED_BYTES_MIN else bytearray(size_bytes))


def free(output: memoryview) -> None:
    """Give a buffer of `decompress` back now, while other threads go on; nothing may use it any longer."""
    buffer = output.obj
    output.release()
    if isinstance(buffer, mmap):
        with contextlib.suppress(BufferError):  # a view of it is left: it goes with that
            buffer.close()


_INTO: Final[dict[int, Callable[[Any, Any], int]]] = {
    GZIP: cramjam.gzip.decompress_into,
    LZ4: cramjam.lz4.decompress_into,
    ZSTD: cramjam.zstd.decompress_into,
}


def _too_large(codec: int, max_bytes: int) -> MessageTooLarge:
    return MessageTooLarge(f"{CODEC_NAMES[codec]} records decompress to more than {max_bytes} bytes")


def _compress_xerial(data: memoryview) -> bytes:
    parts = [_XERIAL_HEADER.pack(_XERIAL_MAGIC, 1, 1)]
    for start in range(0, len(data), _XERIAL_BLOCK):
        block = bytes(cramjam.snappy.compress_raw(data[start : start + _XERIAL_BLOCK]))
        parts += (_BLOCK_LENGTH.pack(len(block)), block)
    return b"".join(parts)


def _decompress_snappy(data: memoryview, max_bytes: int, head_bytes: int) -> memoryview:
    blocks = _xerial_blocks(data) if bytes(data[:8]) == _XERIAL_MAGIC else [data]
    try:
        sizes = [cramjam.snappy.decompress_raw_len(block) for block in blocks]
        total = sum(sizes)
        if total > max_bytes:
            raise _too_large(SNAPPY, max_bytes)
        view = _room(head_bytes + total)
        position = head_bytes
        for block, size in zip(blocks, sizes, strict=True):
            if size:
                cramjam.snappy.decompress_raw_into(block, view[position : position + size])
            position += size
    except cramjam.DecompressionError as error:
        raise CorruptMessage(f"snappy data does not decompress: {error}") from None
    return view


def _xerial_blocks(data: memoryview) -> list[memoryview]:
    position = _XERIAL_HEADER.size
    blocks = []
    while position < len(data):
        if len(data) - position < 4:
            raise CorruptMessage("snappy data ends in the middle of a block length")
        (length,) = _BLOCK_LENGTH.unpack_from(data, position)
        position += 4
        if not 0 < length <= len(data) - position:
            raise CorruptMessage(f"snappy block of {length} bytes where {len(data) - position} are left")
        blocks.append(data[position : position + length])
        position += length
    return blocks
