"""Compiles the decoder of one message in one version: straight-line Python, every length checked before it is used.

What must hold, whatever the bytes:

- a count of an array or of tagged fields is checked against the bytes that are left before anything is made of it;
- all counts together stay within `elements_max`, so that a large frame of tiny elements cannot become a heap of
  objects a hundred times its size;
- time and memory are linear in the frame; unknown tagged fields are stepped over; bytes after the message are ignored
  (librdkafka sends some);
- what is wrong raises MalformedRequest, which names the field.

`records` are views into the frame, never copied: they live as long as the frame's buffer is left alone.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct as Packing
from struct import error as StructError
from struct import unpack_from
from types import SimpleNamespace
from typing import Any, Final

from kbroker.errors import MalformedRequest
from kbroker.kafka.schema import FORMATS, Field, Struct
from kbroker.kafka.source import Source

ELEMENTS_MAX: Final = 200_000
"""Array elements and tagged fields in one message, all levels together."""

Reader = Callable[..., Any]
"""`(body: memoryview, elements_max: int = ELEMENTS_MAX) -> message`. Raises MalformedRequest."""

_UINT32_MAX: Final = 0xFFFFFFFF
_SHORT: Final = Packing(">h").unpack_from
_INT: Final = Packing(">i").unpack_from


class Refused(Exception):
    """Something in the frame is wrong; the field's name is added outside."""


def read_varint(frame: memoryview, position: int, first: int) -> tuple[int, int]:
    """An unsigned varint whose first byte, with its top bit set, stood before `position`: the value, and its end."""
    value = first & 0x7F
    for shift in (7, 14, 21, 28):
        byte = frame[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > _UINT32_MAX:
                break
            return value, position
    raise Refused("a variable-length integer is longer than 32 bits")


def skip_tags(frame: memoryview, position: int, count: int) -> int:
    """The end of `count` tagged fields that nobody here knows."""
    end = len(frame)
    if count * 2 > end - position:
        raise Refused(f"{count} tagged fields in {end - position} bytes")
    for _ in range(count):
        byte = frame[position]
        position += 1
        if byte > 0x7F:
            _, position = read_varint(frame, position, byte)
        size = frame[position]
        position += 1
        if size > 0x7F:
            size, position = read_varint(frame, position, size)
        position += size
        if position > end:
            raise Refused(f"a tagged field of {size} bytes ends {position - end} bytes past the frame")
    return position


def compile_reader(label: str, struct: Struct, types: SimpleNamespace) -> Reader:
    """The reader of a message. `label` names API, version and direction in errors; `types` are its classes."""
    return _Compiler(label, struct, types).compile()


def least_bytes(field: Field, flexible: bool) -> int:
    """The fewest bytes that one such value takes on the wire; of an array, one element of it. At least 1."""
    if field.kind in FORMATS:
        return Packing(">" + FORMATS[field.kind]).size
    if field.struct is not None:
        return max(1, sum(_least_of_field(inner, flexible) for inner in field.struct.untagged) + flexible)
    return _length_bytes(flexible, wide=field.kind != "string")


def _least_of_field(field: Field, flexible: bool) -> int:
    if field.array:
        return _length_bytes(flexible, wide=True)
    if field.nullable and field.struct is not None:
        return 1
    return least_bytes(field, flexible)


def _length_bytes(flexible: bool, wide: bool) -> int:
    if flexible:
        return 1
    return 4 if wide else 2


class _Compiler:
    """Writes the reader's source. In it `b` is the frame, `p` the position, `end` its length, `left` the elements
    that may still come; `n` and `q` are a length and an end, used at once."""

    def __init__(self, label: str, struct: Struct, types: SimpleNamespace) -> None:
        self.label = label
        self.struct = struct
        self.types = types
        self.source = Source(f"<reader of {label}>")
        self.source.constants.update(
            Refused=Refused, varint=read_varint, skip_tags=skip_tags, SHORT=_SHORT, INT=_INT, unpack_from=unpack_from
        )

    def compile(self) -> Reader:
        source, label = self.source, self.label
        with source.block("def read(b, left)"):
            source.add("end = len(b)", "p = 0")
            source.add(f"return {self._struct(self.struct)}")
        read = source.function("read")

        def read_message(body: memoryview, elements_max: int = ELEMENTS_MAX) -> Any:
            try:
                return read(body, elements_max)
            except Refused as error:
                path, why = source.path_of(error.__traceback__), str(error)
            except UnicodeDecodeError as error:
                path, why = source.path_of(error.__traceback__), "the text is not UTF-8"
            except (IndexError, StructError) as error:
                path, why = source.path_of(error.__traceback__), f"the frame's {len(body)} bytes end here"
            raise MalformedRequest(f"{label}: {path}: {why}" if path else f"{label}: {why}")

        return read_message

    def _struct(self, struct: Struct) -> str:
        """Adds what reads a struct; returns the expression that makes it."""
        values = {field.name: self.source.name() for field in struct.fields}
        run: list[Field] = []
        for field in struct.untagged:
            if field.fixed:
                run.append(field)
                continue
            self._fixed(run, values)
            run = []
            with self.source.at(field.name):
                self._field(field, values[field.name], struct.flexible)
        self._fixed(run, values)
        if struct.flexible:
            self._tags(struct, values)
        cls = getattr(self.types, struct.name)
        known = list(cls.__dataclass_fields__)
        while known and known[-1] not in values:
            known.pop()
        arguments = [values.get(name) or self._default(cls, name) for name in known]
        return f"{self.source.constant(cls, struct.name)}({', '.join(arguments)})"

    def _default(self, cls: Any, name: str) -> str:
        return self._literal(cls.__dataclass_fields__[name].default)

    def _literal(self, value: Any) -> str:
        if value is None or isinstance(value, bool | int | str | bytes) or value == ():
            return repr(value)
        return self.source.constant(value)

    def _fixed(self, run: list[Field], values: dict[str, str]) -> None:
        """Fields of fixed size that follow each other are unpacked at once."""
        if not run:
            return
        packing = Packing(">" + "".join(FORMATS[field.kind] for field in run))
        unpack = self.source.constant(packing.unpack_from, "unpack")
        with self.source.at(run[0].name):
            self.source.add(f"{', '.join(values[field.name] for field in run)}, = {unpack}(b, p)")
            self.source.add(f"p += {packing.size}")

    def _field(self, field: Field, target: str, flexible: bool) -> None:
        if field.array:
            self._array(field, target, flexible)
        elif field.fixed:
            self._fixed([field], {field.name: target})
        elif field.struct is not None:
            self._one_struct(field, field.struct, target)
        else:
            self._text(field.kind, field.nullable, target, flexible)

    def _one_struct(self, field: Field, struct: Struct, target: str) -> None:
        source = self.source
        if not field.nullable:
            source.add(f"{target} = {self._struct(struct)}")
            return
        source.add("n = b[p]", "p += 1")
        with source.block("if n > 127"):
            source.add(f"{target} = None")
        with source.block("else"):
            source.add(f"{target} = {self._struct(struct)}")

    def _length(self, flexible: bool, wide: bool) -> None:
        """Adds what sets `n` to a length: -1 is null, and nothing below it is left."""
        source = self.source
        if flexible:
            source.add("n = b[p] - 1", "p += 1")
            with source.block("if n > 126"):
                source.add("n, p = varint(b, p, n + 1)", "n -= 1")
            return
        source.add(f"n, = {'INT' if wide else 'SHORT'}(b, p)", f"p += {4 if wide else 2}")
        with source.block("if n < -1"):
            source.add("raise Refused(f'the length {n} is negative')")

    def _text(self, kind: str, nullable: bool, target: str, flexible: bool) -> None:
        source = self.source
        value = {"string": "str(b[p:q], 'utf-8')", "bytes": "bytes(b[p:q])", "records": "b[p:q]"}[kind]
        self._length(flexible, wide=kind != "string")
        with source.block("if n < 0"):
            source.add(f"{target} = None" if nullable else "raise Refused('must not be null')")
        with source.block("else"):
            source.add("q = p + n")
            with source.block("if q > end"):
                source.add("raise Refused(f'{n} bytes are announced and {end - p} are left')")
            source.add(f"{target} = {value}", "p = q")

    def _array(self, field: Field, target: str, flexible: bool) -> None:
        source = self.source
        self._length(flexible, wide=True)
        with source.block("if n < 0"):
            source.add(f"{target} = None" if field.nullable else "raise Refused('must not be null')")
        with source.block("else"):
            least = least_bytes(field, flexible)
            with source.block(f"if n * {least} > end - p"):
                source.add("raise Refused(f'{n} elements are announced in {end - p} bytes')")
            self._count()
            if field.kind in FORMATS:
                letter = FORMATS[field.kind]
                layout = f"f'>{{n}}{letter}'" if len(letter) == 1 else f"'>' + '{letter}' * n"
                source.add(f"{target} = list(unpack_from({layout}, b, p))")
                source.add(f"p += {least} * n")
                return
            item = source.name("add")
            source.add(f"{target} = []", f"{item} = {target}.append")
            with source.block("for _ in range(n)"):
                if field.struct is not None:
                    source.add(f"{item}({self._struct(field.struct)})")
                else:
                    value = source.name()
                    self._text(field.kind, False, value, flexible)
                    source.add(f"{item}({value})")

    def _count(self) -> None:
        self.source.add("left -= n")
        with self.source.block("if left < 0"):
            self.source.add("raise Refused(f'the message has too many elements, {-left} more than are taken')")

    def _tags(self, struct: Struct, values: dict[str, str]) -> None:
        source = self.source
        for field in struct.tagged:
            source.add(f"{values[field.name]} = {self._literal(field.default)}")
        with source.at("tags"):
            source.add("n = b[p]", "p += 1")
            with source.block("if n"):
                with source.block("if n > 127"):
                    source.add("n, p = varint(b, p, n)")
                self._count()
                if not struct.tagged:
                    source.add("p = skip_tags(b, p, n)")
                    return
                tag, stop = source.name("tag"), source.name("stop")
                with source.block("if n * 2 > end - p"):
                    source.add("raise Refused(f'{n} tagged fields in {end - p} bytes')")
                with source.block("for _ in range(n)"):
                    self._tag(struct, values, tag, stop)

    def _tag(self, struct: Struct, values: dict[str, str], tag: str, stop: str) -> None:
        source = self.source
        source.add(f"{tag} = b[p]", "p += 1")
        with source.block(f"if {tag} > 127"):
            source.add(f"{tag}, p = varint(b, p, {tag})")
        source.add("n = b[p]", "p += 1")
        with source.block("if n > 127"):
            source.add("n, p = varint(b, p, n)")
        source.add(f"{stop} = p + n")
        with source.block(f"if {stop} > end"):
            source.add("raise Refused(f'a tagged field of {n} bytes, and {end - p} are left')")
        word = "if"
        for field in struct.tagged:
            with source.block(f"{word} {tag} == {field.tag}"):
                with source.at(field.name):
                    self._field(field, values[field.name], struct.flexible)
                with source.block(f"if p != {stop}"):
                    source.add("raise Refused('a tagged field does not end where its size says')")
            word = "elif"
        with source.block("else"):
            source.add(f"p = {stop}")
