"""Where in a TOML text each key stands: the lines that ``tomllib`` does not give."""

from __future__ import annotations

import bisect
import re
import tomllib
from typing import NoReturn

from fedloom.experiment.tree import Trail

_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_SPACE = re.compile(r"[ \t]*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]*")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"{3,5}', re.DOTALL),
    re.compile(r"'''.*?'{3,5}", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


def key_lines(text: str) -> dict[Trail, int]:
    r"""Return the line of every key, table and array item of a text that ``tomllib`` accepts, from 1.

    Args:
        text: A TOML document without syntax errors.

    Example:
        >>> lines = key_lines('seed = 7\n[[stop]]\nname = "max_rounds"\n')
        >>> lines["seed",], lines["stop", "0"], lines["stop", "0", "name"]
        (1, 2, 3)
    """
    reader = _Reader(text)
    reader.document()
    return reader.lines


def split_assignment(text: str) -> tuple[Trail, str]:
    """Split ``a.b = 1`` at its first equals sign outside quotes.

    Raises:
        ValueError: When it does not begin with a key and an equals sign.

    Example:
        >>> split_assignment('algorithm.local.steps."site 1"=5')
        (('algorithm', 'local', 'steps', 'site 1'), '5')
    """
    reader = _Reader(text)
    keys = reader.keys()
    reader.expect("=")
    return keys, text[reader.at :].strip()


class _Reader:
    """Walks over a document once; strings are skipped, keys and values noted with their line."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.lines: dict[Trail, int] = {}
        self._counts: dict[Trail, int] = {}
        self._ends = [match.start() for match in re.finditer("\n", text)]

    def document(self) -> None:
        table: Trail = ()
        self._skip(_BLANK)
        while self.at < len(self.text):
            if self.text[self.at] == "[":
                table = self._header()
            else:
                self._pair(table)
            self._skip(_BLANK)

    def keys(self) -> Trail:
        found = [self._key()]
        while self._next() == ".":
            self.at += 1
            found.append(self._key())
        return tuple(found)

    def expect(self, mark: str) -> None:
        self._skip(_SPACE)
        if not self.text.startswith(mark, self.at):
            self._fail(mark)
        self.at += len(mark)

    def _header(self) -> Trail:
        line = self._line()
        mark = "[[" if self.text.startswith("[[", self.at) else "["
        self.at += len(mark)
        keys = self.keys()
        self.expect("]" * len(mark))
        place = (*self._within((), keys[:-1], line), keys[-1])
        if mark == "[[":
            self.lines.setdefault(place, line)
            count = self._counts.get(place, 0)
            self._counts[place] = count + 1
            place = (*place, str(count))
        self.lines[place] = line
        return place

    def _pair(self, table: Trail) -> None:
        line = self._line()
        keys = self.keys()
        self.expect("=")
        place = (*self._within(table, keys[:-1], line), keys[-1])
        self.lines[place] = line
        self._skip(_SPACE)
        self._value(place)

    def _within(self, table: Trail, keys: Trail, line: int) -> Trail:
        """Go down from a table; into the last item where an array of tables is on the way."""
        for key in keys:
            table = (*table, key)
            self.lines.setdefault(table, line)
            if table in self._counts:
                table = (*table, str(self._counts[table] - 1))
        return table

    def _value(self, place: Trail) -> None:
        match self._next():
            case "[":
                self._array(place)
            case "{":
                self._inline_table(place)
            case '"' | "'":
                self._string()
            case _:
                self._skip(_SCALAR)

    def _array(self, place: Trail) -> None:
        self.at += 1
        position = 0
        self._skip(_BLANK)
        while self._next() != "]":
            item = (*place, str(position))
            self.lines[item] = self._line()
            self._value(item)
            position += 1
            self._comma("]")
        self.at += 1

    def _inline_table(self, place: Trail) -> None:
        self.at += 1
        self._skip(_BLANK)
        while self._next() != "}":
            self._pair(place)
            self._comma("}")
        self.at += 1

    def _comma(self, end: str) -> None:
        self._skip(_BLANK)
        if self._next() == ",":
            self.at += 1
            self._skip(_BLANK)
        elif self._next() != end:
            self._fail(end)

    def _key(self) -> str:
        self._skip(_SPACE)
        start = self.at
        if self._next() in ('"', "'"):
            self._string()
            return str(tomllib.loads("key = " + self.text[start : self.at])["key"])
        self._skip(_BARE)
        if start == self.at:
            self._fail("a key")
        return self.text[start : self.at]

    def _string(self) -> None:
        for pattern in _STRINGS:
            match = pattern.match(self.text, self.at)
            if match is not None:
                self.at = match.end()
                return
        self._fail("the end of a string")

    def _next(self) -> str:
        self._skip(_SPACE)
        return self.text[self.at : self.at + 1]

    def _skip(self, pattern: re.Pattern[str]) -> None:
        match = pattern.match(self.text, self.at)
        self.at = self.at if match is None else match.end()

    def _line(self) -> int:
        return bisect.bisect_left(self._ends, self.at) + 1

    def _fail(self, wanted: str) -> NoReturn:
        raise ValueError(f"expected {wanted} at character {self.at + 1} of line {self._line()}")
