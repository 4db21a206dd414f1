"""From the tree of a file to the values it names: every table checked against the signature of its builder.

One walk serves files, messages and digests. It reports every problem it meets, goes on beside it, and writes down each
component as its spec: with all defaults, whole numbers as float where the builder takes a float, and paths as they were
written, so that the same setting has the same digest on every machine.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedloom.core.component import UNNAMED, ComponentSpec, Json, to_json
from fedloom.errors import DataError, Error
from fedloom.experiment import catalogue
from fedloom.experiment.schema import Parameter, Shape, convert, parameters
from fedloom.experiment.tree import Trail, dotted, shown

DEFAULT_NAMES: dict[str, str] = {"fedloom.pipelines": "chain"}
"""Groups whose tables need no name."""

_NAMELESS = re.compile(rf"{UNNAMED}|local:[0-9a-f]{{64}}")
_LOCAL = "this part was made in Python and no name can rebuild it: pass the object itself"
_ARGUMENT = re.compile(r"(\w+)\s*=")


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong, and where."""

    trail: Trail
    message: str
    cause: Error | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """A value, and what is written down of it; ``broken`` where a problem was reported inside."""

    value: Any = None
    written: Json = None
    broken: bool = False


def no_check(_shape: Shape, _value: Json) -> str | None:
    """Accept any plain value: its builder is the judge."""
    return None


@dataclass(slots=True, kw_only=True)
class Construction:
    """One walk over a tree: collects problems.

    Args:
        base: Folder that relative paths start from; None: as they are.
        check: Says what is wrong with a plain value, if anything.
        build: Call the builders; a digest needs what is written down only.
        unbuilt: Groups whose components stay specs: what they would open is elsewhere.
    """

    base: Path | None = None
    check: Callable[[Shape, Json], str | None] = no_check
    build: bool = True
    unbuilt: Collection[str] = ()
    problems: list[Problem] = field(default_factory=list)

    def component(self, group: str, tree: Json, trail: Trail) -> Made:
        """Make what a table with a name stands for."""
        if isinstance(tree, str) and _NAMELESS.fullmatch(tree):
            return self.fail(trail, _LOCAL, tree)
        if not isinstance(tree, Mapping):
            advice = f'; write {{ name = "{tree}" }}' if isinstance(tree, str) else ""
            return self.fail(trail, f"expected a table with a name of {group}, got {shown(tree)}{advice}", tree)
        name, given = _unpacked(group, tree)
        if name is None:
            expected = ", ".join(catalogue.names(group)) or "a package that provides one"
            return self.fail((*trail, "name"), f"missing; expected one of {expected}", tree)
        if not isinstance(name, str):
            return self.fail((*trail, "name"), f"expected string, got {shown(name)}", tree)
        try:
            builder = catalogue.builder(group, name)
            takes = parameters(builder)
        except Error as error:
            return self.fail((*trail, "name"), str(error), tree, cause=error)
        made = self._call(builder, name, given, trail=trail, takes=takes, group=group)
        written = ComponentSpec(group, name, made.written)
        if made.broken or not self.build:
            return Made(None, written.as_json(), made.broken)
        if group in self.unbuilt:
            return Made(written, written.as_json())
        try:
            return Made(dataclasses.replace(made.value, spec=written), written.as_json())
        except TypeError:
            return self.fail((*trail, "name"), f'{group} "{name}" is no builder marked @component("{group}")', tree)

    def table(self, kind: type[Any], tree: Json, trail: Trail, *, also: Sequence[str] = ()) -> Made:
        """Make a plain value from a table of its fields; keys named in ``also`` are somebody else's."""
        if not isinstance(tree, Mapping):
            return self.fail(trail, f"expected {Shape(table=kind)}, got {shown(tree)}", tree)
        given = {key: value for key, value in tree.items() if key not in also}
        name = trail[-1] if trail else "an experiment"
        return self._call(kind, name, given, trail=trail, takes=parameters(kind), also=also)

    def argument(self, shape: Shape, tree: Json, trail: Trail) -> Made:
        """Make one argument, whichever of its kinds stands there."""
        if tree is None and shape.optional:
            return Made()
        if shape.group is not None and shape.many and isinstance(tree, list):
            return _together([self.component(shape.group, item, (*trail, str(i))) for i, item in enumerate(tree)])
        if shape.group == "fedloom.stops" and isinstance(tree, list) and tree:
            return self._first_of(tree, trail)
        if isinstance(tree, Mapping) and not shape.many:
            if shape.group is not None:
                return self.component(shape.group, tree, trail)
            if shape.table is not None:
                return self.table(shape.table, tree, trail)
        if not shape.plain:
            if shape.group is not None and not shape.many:
                return self.component(shape.group, tree, trail)
            advice = f"; write [[{dotted(trail)}]]" if shape.many and isinstance(tree, Mapping) else ""
            return self.fail(trail, f"expected {shape}, got {shown(tree)}{advice}", tree)
        if isinstance(tree, str) and _NAMELESS.fullmatch(tree):
            return self.fail(trail, _LOCAL, tree)
        message = self.check(shape, tree)
        if message is not None:
            return self.fail(trail, message, tree)
        return Made(convert(shape, tree, base=self.base), to_json(convert(shape, tree)))

    def arguments(
        self,
        name: str,
        given: Mapping[str, Json],
        *,
        trail: Trail,
        takes: Mapping[str, Parameter],
        also: Sequence[str] = (),
        group: str | None = None,
    ) -> dict[str, Made]:
        """Make what is given of the arguments of a builder; a required one that is missing is there, and broken."""
        made = {
            key: self.argument(parameter.shape, given[key], (*trail, key))
            for key, parameter in takes.items()
            if key in given
        }
        meant = self._report_unknown(name, given, trail=trail, known=[*takes, *also], group=group)
        for key, parameter in takes.items():
            if parameter.required and key not in made:
                made[key] = Made(broken=True)
                if key not in meant:
                    self.fail((*trail, key), f"missing; expected {parameter.shape}")
        return made

    def written(self, made: Mapping[str, Made], takes: Mapping[str, Parameter]) -> dict[str, Json]:
        """Return all arguments as a spec holds them, defaults included, in the order of the signature."""
        return {
            key: made[key].written if key in made else to_json(convert(parameter.shape, parameter.default))
            for key, parameter in takes.items()
        }

    def _first_of(self, stops: list[Json], trail: Trail) -> Made:
        """Several stops are one: whichever holds first."""
        made = [self.component("fedloom.stops", item, (*trail, str(i))) for i, item in enumerate(stops)]
        if len(made) == 1 or any(item.broken for item in made):
            return made[0] if len(made) == 1 else _together(made)
        tree = ComponentSpec("fedloom.stops", "any_of", {"stops": [item.written for item in made]}).as_json()
        return self.component("fedloom.stops", tree, trail)

    def _call(
        self,
        builder: Callable[..., Any],
        name: str,
        given: Mapping[str, Json],
        *,
        trail: Trail,
        takes: Mapping[str, Parameter],
        also: Sequence[str] = (),
        group: str | None = None,
    ) -> Made:
        made = self.arguments(name, given, trail=trail, takes=takes, also=also, group=group)
        written = self.written(made, takes)
        if not self.build:
            return Made(None, written)
        if group in self.unbuilt:
            wrong = not given.keys() <= {*takes, *also} or any(item.broken for item in made.values())
            return Made(None, written, wrong)
        value = self._asked(builder, name, made, trail=trail, takes=takes)
        wrong = value is None or not given.keys() <= takes.keys() or any(item.broken for item in made.values())
        return Made(None if wrong else value, written, wrong)

    def _report_unknown(
        self, name: str, given: Mapping[str, Json], *, trail: Trail, known: Sequence[str], group: str | None
    ) -> set[str | None]:
        """Report keys that nothing takes; returns what was probably meant."""
        unknown = {key: catalogue.nearest(key, known) for key in given if key not in known}
        for key, near in unknown.items():
            offer = f"; did you mean `{near}`?" if near else _others_that_take(key, group)
            self.fail((*trail, key), f"unknown key{offer}; {name} takes {', '.join(known) or 'nothing'}")
        return set(unknown.values())

    def _asked(
        self,
        builder: Callable[..., Any],
        name: str,
        made: Mapping[str, Made],
        *,
        trail: Trail,
        takes: Mapping[str, Parameter],
    ) -> Any:
        """Call a builder. Where it refuses, report, put a default in place of what it names, and ask again.

        So one reading of a file tells of every number that is out of range, not of the first. What a broken argument
        leads to is not reported.
        """
        doubtful = {key for key, item in made.items() if item.broken}
        while all(_replaceable(takes[key]) for key in doubtful):
            try:
                positional, named = _arguments(made, takes, doubtful)
                value = builder(*positional, **named)
            except Exception as error:  # whatever a plug-in's builder may raise
                message = str(error) if isinstance(error, Error) else f"{name}: {type(error).__name__}: {error}"
                # What is wrong with rows is told by file and line: a word of it that is an argument too means nothing.
                blamed = set() if isinstance(error, DataError) else _blamed(message, takes)
                if not blamed & doubtful:
                    place = (*trail, *blamed) if len(blamed) == 1 and blamed <= made.keys() else trail
                    self.fail(place, message, cause=error if isinstance(error, Error) else None)
                if not (blamed & made.keys()) - doubtful:
                    return None
                doubtful |= blamed & made.keys()
            else:
                return None if doubtful else value
        return None

    def fail(self, trail: Trail, message: str, tree: Json = None, *, cause: Error | None = None) -> Made:
        """Note a problem."""
        self.problems.append(Problem(trail, message, cause))
        return Made(None, tree, broken=True)


def _others_that_take(key: str, group: str | None) -> str:
    """Return the end of a message that names the components of a group which take a key, empty where none does."""
    found = []
    for name in catalogue.names(group) if group is not None else ():
        try:
            if group is not None and key in parameters(catalogue.builder(group, name)):
                found.append(name)
        except Error:  # what cannot be loaded here offers nothing
            continue
    return f"; it is a key of {', '.join(found)}" if found else ""


def _unpacked(group: str, tree: Mapping[str, Json]) -> tuple[Json, Mapping[str, Json]]:
    """Return name and arguments of a table, in either of its forms: of a file, or of a spec's JSON."""
    match tree:
        case {"group": str(named), "name": name, "arguments": dict(arguments)} if named == group and len(tree) == 3:
            return name, arguments
    return tree.get("name", DEFAULT_NAMES.get(group)), {key: value for key, value in tree.items() if key != "name"}


def _together(items: Sequence[Made]) -> Made:
    return Made(
        tuple(item.value for item in items), [item.written for item in items], any(item.broken for item in items)
    )


def _arguments(
    made: Mapping[str, Made], takes: Mapping[str, Parameter], doubtful: set[str]
) -> tuple[list[Any], dict[str, Any]]:
    positional: list[Any] = []
    named: dict[str, Any] = {}
    for key, parameter in takes.items():
        if key in made and key not in doubtful:
            value = made[key].value
        elif parameter.required:
            value = _stand_in(parameter)
        elif parameter.positional:
            value = parameter.default
        else:
            continue
        if parameter.variadic:
            positional.extend(value)
        elif parameter.positional:
            positional.append(value)
        else:
            named[key] = value
    return positional, named


def _replaceable(parameter: Parameter) -> bool:
    """Return whether a builder can be called without the value that was meant."""
    return not parameter.variadic and (not parameter.required or _stand_in(parameter) is not None)


def _stand_in(parameter: Parameter) -> Any:
    """Return what lets a builder check its other arguments: it is never kept."""
    shape = parameter.shape
    if shape.spec and shape.group is not None and not shape.many:
        return ComponentSpec(shape.group, "", {})
    if shape.table is not None:
        return None if any(each.required for each in parameters(shape.table).values()) else shape.table()
    return next((kind(1) for kind in (int, float) if kind in shape.plain), None)


def _blamed(message: str, takes: Mapping[str, Parameter]) -> set[str]:
    """Return the arguments that a builder's message names: ``rounds = 0`` first, else any mention."""
    assigned = set(_ARGUMENT.findall(message)) & takes.keys()
    return assigned or set(re.findall(r"\w+", message)) & takes.keys()
