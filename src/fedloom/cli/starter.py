"""The text of a starter file: TOML lines put together from values, each quoted by one function."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from fedloom.core.component import Json
from fedloom.experiment.tree import dotted, toml_value

_WIDTH = 110


@dataclass(frozen=True, slots=True)
class Key:
    """One line of a table, with a remark above it or behind it."""

    name: str
    value: Json
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """One table of the file. ``several`` where more of its kind may follow: ``[[prepare]]``."""

    name: str
    keys: Sequence[Key]
    remark: str = ""
    several: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Starter:
    """An experiment file to be written: what stands at its top, and its tables."""

    title: str
    notes: Sequence[str] = ()
    """What was decided, one sentence each."""
    top: Sequence[Key]
    sections: Sequence[Section]
    hints: Sequence[str] = field(default=())
    """Tables that the reader may want, as comments at the end."""

    def text(self) -> str:
        """Return the file."""
        lines = list(comment(self.title))
        for note in self.notes:
            lines.extend(comment(note))
        lines.append("")
        for key in self.top:
            lines.extend(_key(key))
        for section in self.sections:
            lines.append("")
            lines.extend(comment(section.remark))
            lines.append(f"[[{dotted((section.name,))}]]" if section.several else f"[{dotted((section.name,))}]")
            for key in section.keys:
                lines.extend(_key(key))
        if self.hints:
            lines.append("")
            lines.extend(line for hint in self.hints for line in comment(hint))
        return "\n".join(lines) + "\n"


def comment(text: str) -> Iterator[str]:
    r"""Yield a text as lines of comment; what no comment may hold is shown as an escape.

    Example:
        >>> list(comment("two\nlines"))
        ['# two lines']
    """
    plain = "".join(
        letter if letter.isprintable() else " " if letter.isspace() else repr(letter)[1:-1] for letter in text
    )
    for line in textwrap.wrap(plain, _WIDTH, break_long_words=False, break_on_hyphens=False):
        yield f"# {line}"


def _key(key: Key) -> Iterator[str]:
    line = f"{dotted((key.name,))} = {_value(key.value)}"
    behind = next(iter(comment(key.remark)), "") if key.remark else ""
    if behind and len(line) + len(behind) + 2 <= _WIDTH and len(list(comment(key.remark))) == 1:
        yield f"{line}  {behind}"
        return
    yield from comment(key.remark)
    yield line


def _value(value: Json) -> str:
    """Return a value; a list that is too long for a line has one item a line."""
    short = toml_value(value)
    if not isinstance(value, list) or len(short) <= _WIDTH - 20:
        return short
    return "[\n" + "".join(f"    {toml_value(item)},\n" for item in value) + "]"


def table(name: str, **arguments: Json) -> Mapping[str, Json]:
    """Return an inline table that names a component.

    Example:
        >>> toml_value(table("iid", clients=5))
        '{ name = "iid", clients = 5 }'
    """
    return {"name": name, **arguments}
