"""Which builder a name stands for: entry points of the installed packages, nothing else.

A name in a file or a message is looked up here and never imported as a path; what can be found is what the operator of
this machine has installed.
"""

from __future__ import annotations

import difflib
import functools
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from fedloom.errors import ComponentError, Error

Builder = Callable[..., Any]


@dataclass(frozen=True, slots=True)
class Provider:
    """The installed package that provides a name."""

    distribution: str
    version: str

    def __str__(self) -> str:
        """Return name and version, as pip prints them."""
        return f"{self.distribution} {self.version}"


def names(group: str) -> tuple[str, ...]:
    """Return the names that installed packages provide in a group, sorted.

    Example:
        >>> "fedavg" in names("fedloom.algorithms")
        True
    """
    return tuple(sorted({point.name for point in _installed(group, tuple(sys.path))}))


def provider(group: str, name: str) -> Provider | None:
    """Return the package that provides a name, None where nothing does."""
    point = _find(group, name)
    return None if point is None else _provider(point)


def module(group: str, name: str) -> str | None:
    """Return the module that a name is found in, without importing it; None where nothing provides the name."""
    point = _find(group, name)
    return None if point is None else point.module


def builder(group: str, name: str) -> Builder:
    """Return the builder that a name stands for.

    Raises:
        ComponentError: When nothing provides the name, two packages do, or its package cannot be imported.
        MissingExtra: When its package says that an optional package is absent.

    Example:
        >>> builder("fedloom.cohorts", "all").__name__
        'everyone'
    """
    point = _find(group, name)
    if point is None:
        raise ComponentError(no_such(group, name))
    try:
        found = point.load()
    except Error:
        raise
    except Exception as error:  # whatever a plug-in's import may do
        what = f"{type(error).__name__}: {error}"
        raise ComponentError(f'{group} "{name}" ({_place(point)}) cannot be imported: {what}') from error
    if not callable(found):
        raise ComponentError(f'{group} "{name}" ({_place(point)}) is not a function')
    made: Builder = found
    return made


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the end of a message that offers the nearest spelling, empty where none is near.

    Example:
        >>> suggestion("fedprx", ["fedavg", "fedprox"])
        '; did you mean "fedprox"?'
    """
    near = nearest(name, known)
    return "" if near is None else f'; did you mean "{near}"?'


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the known name that is spelt most like ``name``, None where none is near."""
    lowered = {item.lower(): item for item in sorted(known, reverse=True)}
    close = difflib.get_close_matches(name.lower(), lowered, n=1)
    return lowered[close[0]] if close else None


def no_such(group: str, name: str) -> str:
    """Return what to say of a name that nothing provides."""
    known = names(group)
    offer = f"{suggestion(name, known)}; it has {', '.join(known)}" if known else ", and no package provides any"
    return f'{group} has no "{name}"{offer}'


def _find(group: str, name: str) -> EntryPoint | None:
    points = [point for point in _installed(group, tuple(sys.path)) if point.name == name]
    if len(points) > 1:
        providers = " and ".join(sorted(_place(point) for point in points))
        raise ComponentError(f'{group} "{name}" is provided twice: by {providers}. Uninstall one of them')
    return points[0] if points else None


def _provider(point: EntryPoint) -> Provider:
    return Provider("unknown", "0") if point.dist is None else Provider(point.dist.name, point.dist.version)


def _place(point: EntryPoint) -> str:
    return f"{point.value} of {_provider(point)}"


@functools.lru_cache(maxsize=32)  # more than there are groups
def _installed(group: str, _path: tuple[str, ...]) -> tuple[EntryPoint, ...]:
    """Read the metadata of every installed package once a group, and again when the search path changes."""
    return tuple(entry_points(group=group))
