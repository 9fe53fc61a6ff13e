"""Python source under construction, with what each line is about, so that an error can name the message's field."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any


class Source:
    """Lines of a function, their indentation, and the constants that they use."""

    def __init__(self, file_name: str) -> None:
        self.file_name = file_name
        self.constants: dict[str, Any] = {}
        self._lines: list[str] = []
        self._paths: list[str] = []
        self._depth = 0
        self._names = 0
        self.path = ""
        """The field that the next lines are about."""

    def add(self, *lines: str) -> None:
        """Lines at the present depth."""
        for line in lines:
            self._lines.append("    " * self._depth + line)
            self._paths.append(self.path)

    @contextmanager
    def block(self, head: str) -> Iterator[None]:
        """`head:` and what is added inside, one step deeper."""
        self.add(f"{head}:")
        self._depth += 1
        yield
        self._depth -= 1

    @contextmanager
    def at(self, name: str) -> Iterator[None]:
        """What is added inside is about that field of the present one."""
        before = self.path
        self.path = f"{before}.{name}" if before else name
        yield
        self.path = before

    def name(self, hint: str = "v") -> str:
        """A variable that nothing else uses."""
        self._names += 1
        return f"{hint}{self._names}"

    def constant(self, value: Any, hint: str = "C") -> str:
        """The name under which the function finds a value."""
        for name, known in self.constants.items():
            if known is value:
                return name
        name = self.name(hint)
        self.constants[name] = value
        return name

    def function(self, name: str) -> Callable[..., Any]:
        """The function of that name, compiled."""
        scope: dict[str, Any] = dict(self.constants)
        exec(compile("\n".join(self._lines) + "\n", self.file_name, "exec"), scope)
        made: Callable[..., Any] = scope[name]
        return made

    def path_of(self, trace: TracebackType | None) -> str:
        """The field at work where an exception left the function; "" when unknown."""
        while trace is not None:
            if trace.tb_frame.f_code.co_filename == self.file_name and 0 < trace.tb_lineno <= len(self._paths):
                return self._paths[trace.tb_lineno - 1]
            trace = trace.tb_next
        return ""
