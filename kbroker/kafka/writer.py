"""Compiles the encoder of one message in one version: straight-line Python that appends to one bytearray.

What a field of `records` holds is not copied: it becomes a buffer of its own in the result, so that the caller can
hand the list to `socket.sendmsg`. It may be anything with a length in bytes, such as a slice of a file that is to go
by `sendfile`: the writer only asks for `len()`.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct as Packing
from struct import pack
from typing import Any, Final

from kbroker.kafka.schema import FORMATS, Field, Struct
from kbroker.kafka.source import Source

Writer = Callable[[Any, bytearray], list[Any]]
"""`(message, head) -> buffers`: appends to `head`, which is the first buffer.

The message may be any object with the fields of that version; others are ignored. A value that does not fit its field
raises what Python raises, with a note that names the field: that is the caller's bug, not the peer's.
"""

_VARINT_MAX: Final = 0xFFFFFFFF


def varint(value: int) -> bytes:
    """An unsigned number of up to 32 bits, 7 bits a byte, the low ones first."""
    assert 0 <= value <= _VARINT_MAX, value
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def compile_writer(label: str, struct: Struct) -> Writer:
    """The writer of a message. `label` names API, version and direction in notes on errors."""
    return _Compiler(label, struct).compile()


class _Compiler:
    """Writes the writer's source. In it `o` is the bytearray that grows, `out` the buffers that are finished."""

    def __init__(self, label: str, struct: Struct) -> None:
        self.label = label
        self.struct = struct
        self.source = Source(f"<writer of {label}>")
        self.source.constants.update(
            varint=varint, pack=pack, SHORT=Packing(">h").pack, INT=Packing(">i").pack, NULL=b"\xff\xff\xff\xff"
        )

    def compile(self) -> Writer:
        source, label = self.source, self.label
        with source.block("def write(m, o)"):
            source.add("out = [o]")
            self._struct(self.struct, "m", "o")
            source.add("return out")
        write = source.function("write")

        def write_message(message: Any, head: bytearray) -> list[Any]:
            try:
                made: list[Any] = write(message, head)
            except Exception as error:
                error.add_note(f"while writing {source.path_of(error.__traceback__) or 'the message'} of {label}")
                raise
            return made

        return write_message

    def _struct(self, struct: Struct, value: str, o: str) -> None:
        """Adds what appends the struct in variable `value` to the bytearray in variable `o`."""
        run: list[Field] = []
        for field in struct.untagged:
            if field.fixed:
                run.append(field)
                continue
            self._fixed(run, value, o)
            run = []
            with self.source.at(field.name):
                self._field(field, f"{value}.{field.name}", o, struct.flexible)
        self._fixed(run, value, o)
        if struct.flexible:
            self._tags(struct, value, o)

    def _fixed(self, run: list[Field], value: str, o: str) -> None:
        """Fields of fixed size that follow each other are packed at once."""
        if not run:
            return
        packed = self.source.constant(Packing(">" + "".join(FORMATS[field.kind] for field in run)).pack, "pack")
        with self.source.at(run[0].name):
            self.source.add(f"{o} += {packed}({', '.join(f'{value}.{field.name}' for field in run)})")

    def _field(self, field: Field, value: str, o: str, flexible: bool) -> None:
        source = self.source
        if field.fixed:
            packed = source.constant(Packing(">" + FORMATS[field.kind]).pack, "pack")
            source.add(f"{o} += {packed}({value})")
            return
        v = source.name()
        source.add(f"{v} = {value}")
        if not field.nullable:
            self._present(field, v, o, flexible)
            return
        with source.block(f"if {v} is None"):
            if field.struct is not None and not field.array:
                source.add(f"{o}.append(255)")
            elif flexible:
                source.add(f"{o}.append(0)")
            else:
                source.add(f"{o} += NULL[:{2 if field.kind == 'string' and not field.array else 4}]")
        with source.block("else"):
            if field.struct is not None and not field.array:
                source.add(f"{o}.append(1)")
            self._present(field, v, o, flexible)

    def _present(self, field: Field, v: str, o: str, flexible: bool) -> None:
        """Adds what appends the value in variable `v`, which is not null."""
        if field.array:
            self._array(field, v, o, flexible)
        elif field.struct is not None:
            self._struct(field.struct, v, o)
        else:
            self._text(field.kind, v, o, flexible)

    def _length(self, length: str, o: str, flexible: bool, wide: bool) -> None:
        source = self.source
        if not flexible:
            source.add(f"{o} += {'INT' if wide else 'SHORT'}({length})")
            return
        with source.block(f"if {length} < 127"):
            source.add(f"{o}.append({length} + 1)")
        with source.block("else"):
            source.add(f"{o} += varint({length} + 1)")

    def _text(self, kind: str, v: str, o: str, flexible: bool) -> None:
        source = self.source
        if kind == "string":
            source.add(f"{v} = {v}.encode()")
        source.add(f"n = len({v})")
        self._length("n", o, flexible, wide=kind != "string")
        if kind == "records":
            assert o == "o", "records are never inside a tagged field"
            with source.block("if n"):
                source.add(f"out.append({v})", "o = bytearray()", "out.append(o)")
        else:
            source.add(f"{o} += {v}")

    def _array(self, field: Field, v: str, o: str, flexible: bool) -> None:
        source = self.source
        source.add(f"n = len({v})")
        self._length("n", o, flexible, wide=True)
        if field.kind in FORMATS:
            letter = FORMATS[field.kind]
            layout = f"f'>{{n}}{letter}'" if len(letter) == 1 else f"'>' + '{letter}' * n"
            source.add(f"{o} += pack({layout}, *{v})")
            return
        item = source.name("item")
        with source.block(f"for {item} in {v}"):
            if field.struct is not None:
                self._struct(field.struct, item, o)
            else:
                self._text(field.kind, item, o, flexible)

    def _tags(self, struct: Struct, value: str, o: str) -> None:
        source = self.source
        tagged = struct.tagged
        if not tagged:
            source.add(f"{o}.append(0)")
            return
        values = [source.name() for _ in tagged]
        sent = []
        for v, field in zip(values, tagged, strict=True):
            source.add(f"{v} = {value}.{field.name}")
            sent.append(_is_sent(field, v))
        with source.block(f"if {' or '.join(sent)}"):
            count, tags, body = source.name("count"), source.name("tags"), source.name("body")
            source.add(f"{count} = 0", f"{tags} = bytearray()")
            for v, field, condition in zip(values, tagged, sent, strict=True):
                with source.at(field.name), source.block(f"if {condition}"):
                    source.add(f"{count} += 1", f"{body} = bytearray()")
                    self._field(field, v, body, struct.flexible)
                    source.add(f"{tags} += varint({field.tag}) + varint(len({body}))", f"{tags} += {body}")
            source.add(f"{o} += varint({count})", f"{o} += {tags}")
        with source.block("else"):
            source.add(f"{o}.append(0)")


def _is_sent(field: Field, v: str) -> str:
    """The condition under which a tagged field is written: when it is not its default."""
    if field.array and field.default is not None:
        return f"{v}"
    if field.default is None:
        return f"{v} is not None"
    return f"{v} != {field.default!r}"
