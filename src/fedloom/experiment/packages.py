"""Which installed packages may run: lines of a policy, and what is installed, named by version and RECORD hash.

A RECORD is the list that an installer leaves of a package's files with the hash of each. Its own hash therefore names
the files that were installed; ``Installed.altered`` tells those that have changed since.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.metadata import Distribution, PackageNotFoundError, PackagePath, distribution
from pathlib import Path

from fedloom.core.component import Json
from fedloom.errors import ComponentError
from fedloom.experiment import catalogue
from fedloom.experiment.tree import Trail, dotted

_LINE = re.compile(
    r"(?P<name>[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?)"
    r"(?:\s*==\s*(?P<version>[A-Za-z0-9.!+_-]+?)(?P<any>\.\*)?)?"
    r"(?:\s+sha256:(?P<record>[0-9a-f]{64}))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """One line of ``allow.packages``."""

    name: str
    version: str | None = None
    """None: any."""
    prefix: bool = False
    """Whether versions that begin with it will do."""
    record: str | None = None
    """SHA-256 of the RECORD file; None: whatever is installed."""

    def covers(self, installed: Installed) -> bool:
        """Return whether an installed package is what the line names."""
        return (
            _normal(installed.distribution) == _normal(self.name)
            and self._covers_version(installed.version)
            and (self.record is None or self.record == installed.record)
        )

    def _covers_version(self, version: str) -> bool:
        if self.version is None or version == self.version:
            return True
        return self.prefix and version.startswith(f"{self.version}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Installed:
    """One part of a run, and the package that provides it on this machine."""

    field: str
    """Where it stands in the experiment."""
    group: str
    name: str
    distribution: str
    """Empty where nothing provides the name."""
    version: str
    record: str | None
    """SHA-256 of the package's RECORD file; None where it has none, as when it was installed for development."""
    altered: tuple[str, ...] = ()
    """Files of the package that are not as they were installed, the first few; or the place where Python would find
    its module instead."""

    def __str__(self) -> str:
        """Return it as a policy would name it."""
        known = "" if self.record is None else f" sha256:{self.record}"
        return f"{self.distribution}=={self.version}{known}" if self.distribution else "no installed package"


def allowed(line: str) -> Allowed:
    """Return what a line of ``allow.packages`` means.

    Raises:
        ComponentError: When it is none.

    Example:
        >>> allowed("hospital-models==2.1").version, allowed("fedloom == 1.*").prefix
        ('2.1', True)
    """
    found = _LINE.fullmatch(line.strip())
    if found is None:
        raise ComponentError(
            f'"{line}": expected "NAME", "NAME==VERSION" or "NAME==1.*", with " sha256:" and the 64 hexadecimal digits '
            "of its RECORD where only that very build will do"
        )
    return Allowed(
        name=found["name"], version=found["version"], prefix=found["any"] is not None, record=found["record"]
    )


@dataclass(frozen=True, slots=True)
class Part:
    """A named part of an experiment that was received."""

    trail: Trail
    group: str
    name: str


def parts_of(tree: Json) -> Iterator[Part]:
    """Yield every named part of an experiment's JSON; nothing is looked up, and nothing imported.

    Raises:
        ComponentError: When a name stands there in another form than ``Experiment.as_json`` writes: it could name a
            part that is not seen here.

    Example:
        >>> stop = {"group": "fedloom.stops", "name": "max_rounds", "arguments": {"rounds": 3}}
        >>> [(dotted(part.trail), part.name) for part in parts_of({"stop": stop})]
        [('stop', 'max_rounds')]
    """
    yield from _parts(tree, ())


def installed(parts: Iterable[Part]) -> tuple[Installed, ...]:
    """Return the package that provides each part on this machine, and whether it is as it was installed.

    Nothing of it is imported. The files of a package are read once a call, and again at the next one.

    Raises:
        ComponentError: When two packages provide a name.
    """
    look = functools.cache(_checked)
    return tuple(_installed(part, look) for part in parts)


def _installed(part: Part, look: Callable[[str, str], _Record]) -> Installed:
    who = catalogue.provider(part.group, part.name)
    where = dotted(part.trail)
    if who is None:
        return Installed(field=where, group=part.group, name=part.name, distribution="", version="", record=None)
    module = catalogue.module(part.group, part.name) or ""
    found = look(who.distribution, module.partition(".")[0])
    return Installed(
        field=where,
        group=part.group,
        name=part.name,
        distribution=who.distribution,
        version=who.version,
        record=found.record,
        altered=found.altered,
    )


@dataclass(frozen=True, slots=True)
class _Record:
    record: str | None
    altered: tuple[str, ...]


_SHOWN = 3
"""Altered files that are named: one is too many already."""


def _checked(name: str, top: str) -> _Record:
    try:
        package = distribution(name)
    except PackageNotFoundError:
        return _Record(None, ())
    text = package.read_text("RECORD")
    if text is None:
        return _Record(None, ())
    files = [path for path in package.files or () if path.hash is not None]
    elsewhere = _elsewhere(package, files, top)
    altered = [
        *elsewhere,
        *(str(path) for path in files if path.suffix in (".py", ".so", ".pyd") and not _intact(path)),
    ]
    return _Record(hashlib.sha256(text.encode()).hexdigest(), tuple(altered[:_SHOWN]))


def _intact(path: PackagePath) -> bool:
    """Return whether a file has the hash that the RECORD has of it."""
    assert path.hash is not None, "files without a hash are left out"
    try:
        found = hashlib.new(path.hash.mode, Path(str(path.locate())).read_bytes()).digest()
    except (OSError, ValueError):
        return False
    return base64.urlsafe_b64encode(found).rstrip(b"=").decode() == path.hash.value


def _elsewhere(package: Distribution, files: Sequence[PackagePath], top: str) -> list[str]:
    """Return where Python would find a module, where that is no file of the package: another has the same name."""
    if not any(path.parts[0] in (top, f"{top}.py") for path in files):
        return []  # installed for development: its files are not where its metadata are
    spec = PathFinder.find_spec(top, sys.path)
    places = [] if spec is None else [spec.origin or "", *(spec.submodule_search_locations or ())]
    mine = {str(Path(str(package.locate_file(name)))) for name in (top, f"{top}.py", f"{top}/__init__.py")}
    return [] if mine & set(places) else [f"{top} is found in {places[0] if places else 'no place'}"]


def _parts(tree: Json, trail: Trail) -> Iterator[Part]:
    match tree:
        case {"group": str(group), "name": str(name), "arguments": dict(arguments)} if len(tree) == 3:
            yield Part(trail, group, name)
            yield from _inner(arguments, trail)
        case {"group": _, "name": _} | {"name": str(), "arguments": _}:
            raise ComponentError(
                f"{dotted(trail)}: expected group, name and arguments of a component, and nothing else"
            )
        case {"name": str(name)}:
            raise ComponentError(f'{dotted(trail)}: the component "{name}" stands without its group')
        case dict():
            yield from _inner(tree, trail)
        case list():
            for place, item in enumerate(tree):
                yield from _parts(item, (*trail, str(place)))


def _inner(tree: Mapping[str, Json], trail: Trail) -> Iterator[Part]:
    for key, value in tree.items():
        yield from _parts(value, (*trail, key))


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
