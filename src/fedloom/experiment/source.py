"""The text of an experiment file and its flags, as one tree in which every value knows where it was written."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field

from fedloom.core.component import Json
from fedloom.errors import Violation
from fedloom.experiment.toml_lines import key_lines, split_assignment
from fedloom.experiment.tree import Trail, dotted

FLAG = "--set"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written; ``rank`` sorts lines before flags, each in their order."""

    where: str
    rank: tuple[int, int]


@dataclass(slots=True)
class Source:
    """A tree, the origins of what is in it, and what was wrong with the text of file or flags."""

    name: str
    tree: dict[str, Json] = field(default_factory=dict)
    origins: dict[Trail, Origin] = field(default_factory=dict)
    violations: list[tuple[Origin, Violation]] = field(default_factory=list)
    unreadable: bool = False
    """The text is no TOML."""

    def origin(self, trail: Trail) -> Origin:
        """Return where a value stands, else the nearest table around it."""
        while trail and trail not in self.origins:
            trail = trail[:-1]
        return self.origins.get(trail, Origin(f"{self.name}:1", (0, 1)))

    def report(self, trail: Trail, message: str, *, origin: Origin | None = None) -> None:
        """Note what is wrong with a value."""
        at = self.origin(trail) if origin is None else origin
        self.violations.append((at, Violation(where=at.where, path=dotted(trail), message=message)))

    def ordered(self) -> list[Violation]:
        """Return all violations in the order of the file, then of the flags."""
        return [violation for _, violation in sorted(self.violations, key=lambda pair: pair[0].rank)]


def read_source(text: str, overrides: Sequence[str] = (), *, name: str) -> Source:
    """Parse a TOML text, and apply the values of ``--set`` flags to it.

    Example:
        >>> source = read_source("seed = 7", ["seed=8"], name="run.toml")
        >>> source.tree, source.origin(("seed",)).where
        ({'seed': 8}, '--set seed=8')
    """
    source = Source(name)
    try:
        source.tree = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        source.unreadable = True
        message, line = _syntax(error, text)
        source.report(("toml",), message, origin=Origin(f"{name}:{line}", (0, line)))
    else:
        source.origins = {trail: Origin(f"{name}:{line}", (0, line)) for trail, line in key_lines(text).items()}
    for index, override in enumerate(overrides):
        _override(source, override, Origin(f"{FLAG} {override}", (1, index)))
    return source


def _syntax(error: Exception, text: str) -> tuple[str, int]:
    """Return message and line of what tomllib says at the end of its message."""
    message = "nested too deeply" if isinstance(error, RecursionError) else str(error)
    found = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", message)
    if found is None:
        return message, 1
    line = int(found[1]) if found[1] else text.count("\n") + (not text.endswith("\n"))
    column = f" (column {found[2]})" if found[2] else ""
    return message[: found.start()] + column, max(line, 1)


def _override(source: Source, text: str, origin: Origin) -> None:
    try:
        keys, written = split_assignment(text)
    except ValueError as error:
        source.report((FLAG,), f"expected KEY=VALUE, as in {FLAG} algorithm.mu=0.1; {error}", origin=origin)
        return
    keys = _into_only_items(source.tree, keys)
    value = _parsed(written)
    holder: Json = source.tree
    for depth, key in enumerate(keys):
        trail, last = keys[: depth + 1], depth + 1 == len(keys)
        if isinstance(holder, list):
            if not (key.isascii() and key.isdecimal() and int(key) <= len(holder)):
                message = f"a list of {len(holder)}; expected a position from 0 to {len(holder)}, got {key}"
                source.report(keys[:depth], message, origin=origin)
                return
            if int(key) == len(holder):
                holder.append({})
            place: str | int = int(key)
        elif isinstance(holder, dict):
            holder.setdefault(key, [] if not depth and keys[1:2] == ("0",) else {})
            place = key
        else:
            source.report(keys[:depth], f"a value, not a table: nothing can be set in it ({trail[-1]})", origin=origin)
            return
        if last:
            holder[place] = value
            _note(source, keys, value, origin)
        else:
            source.origins.setdefault(trail, origin)
            holder = holder[place]


def _into_only_items(tree: Json, keys: Trail) -> Trail:
    """Return keys with the position added that a list of one table does not need: ``stop.rounds``."""
    found: list[str] = []
    for depth, key in enumerate(keys):
        if isinstance(tree, list) and len(tree) == 1 and isinstance(tree[0], dict) and not key.isdecimal():
            found.append("0")
            tree = tree[0]
        found.append(key)
        if isinstance(tree, list) and key.isdecimal() and int(key) < len(tree):
            tree = tree[int(key)]
        elif isinstance(tree, dict) and key in tree:
            tree = tree[key]
        else:
            return (*found, *keys[depth + 1 :])
    return tuple(found)


def _note(source: Source, keys: Trail, value: Json, origin: Origin) -> None:
    """Let everything at and below a place come from a flag."""
    for trail in [trail for trail in source.origins if trail[: len(keys)] == keys]:
        del source.origins[trail]
    source.origins |= dict.fromkeys(_places(value, keys), origin)


def _places(value: Json, trail: Trail) -> list[Trail]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [trail, *(place for key, item in inner for place in _places(item, (*trail, str(key))))]


def _parsed(text: str) -> Json:
    """Return a value as TOML reads it; what TOML cannot read is a string."""
    try:
        tree = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return tree["value"] if tree.keys() == {"value"} else text
