"""What a builder takes: its signature, read as the schema of a table in an experiment file.

The annotated type of a parameter decides what stands in the file: a component (a table with a ``name``, looked up in
the group of its type), a plain value with fields (a table without one), a list of components, or a number, string or
the like.
"""

from __future__ import annotations

import collections.abc
import dataclasses
import inspect
import os
import types
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NewType, Union, get_args, get_origin, get_type_hints

from fedloom.core.aggregator import Aggregator
from fedloom.core.algorithm import Algorithm
from fedloom.core.component import ComponentSpec, Group, Json, Recipe
from fedloom.core.data import FederatedDataset
from fedloom.core.learner import Learner, LearnerBuilder
from fedloom.core.optimizer import Optimizer
from fedloom.core.query import Preparation, Query
from fedloom.core.schedule import Ramp
from fedloom.core.wire import Stage
from fedloom.data.partition import Partition
from fedloom.errors import ComponentError
from fedloom.pipeline import Pipeline
from fedloom.runtime.cohort import Cohort
from fedloom.runtime.stopping import Stop

GROUP_OF: dict[Any, Group] = {
    Aggregator: "fedloom.aggregators",
    Algorithm: "fedloom.algorithms",
    Cohort: "fedloom.cohorts",
    FederatedDataset: "fedloom.datasets",
    Learner: "fedloom.learners",
    LearnerBuilder: "fedloom.learners",
    Optimizer: "fedloom.optimizers",
    Partition: "fedloom.partitions",
    Pipeline: "fedloom.pipelines",
    Preparation: "fedloom.preparations",
    Query: "fedloom.queries",
    Ramp: "fedloom.ramps",
    Recipe: "fedloom.models",
    Stage: "fedloom.stages",
    Stop: "fedloom.stops",
}
"""The group in which a parameter of a type is looked up."""

_SEQUENCES = (collections.abc.Sequence, list, tuple)
_MAPPINGS = (collections.abc.Mapping, dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """What a file may say for one annotated type."""

    plain: tuple[Any, ...] = ()
    """Members that are numbers, strings, lists of them and the like."""
    group: Group | None = None
    """Group of the component that may stand here."""
    many: bool = False
    """The component stands here as a list of them."""
    table: type[Any] | None = None
    """Frozen dataclass whose fields stand here as a table."""
    optional: bool = False
    spec: bool = False
    """A ``ComponentSpec`` may stand in for the component."""

    @property
    def annotation(self) -> Any:
        """The plain members as one type again."""
        return Union[(*self.plain, *([None] if self.optional else []))] if self.plain else None

    def __str__(self) -> str:
        """Return what is expected, as an error prints it."""
        offered = [_described(member) for member in self.plain]
        if self.table is not None:
            offered.append("a table of " + ", ".join(field.name for field in dataclasses.fields(self.table)))
        if self.group is not None:
            one = f"a table with a name of {self.group}"
            offered.append(f"a list, each {one}" if self.many else one)
        return " or ".join(offered) or "nothing"


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One argument of a builder, or one field of a plain table."""

    name: str
    shape: Shape
    required: bool
    default: object = None
    positional: bool = False
    """Passed by position: because it must be, or because a variadic one follows."""
    variadic: bool = False


def parameters(builder: Callable[..., Any]) -> dict[str, Parameter]:
    """Return what a builder (or a dataclass) takes, by name.

    Raises:
        ComponentError: When an annotation cannot be read.

    Example:
        >>> from fedloom.runtime.stopping import max_rounds
        >>> str(parameters(max_rounds)["rounds"].shape)
        'int'
    """
    try:
        hints = get_type_hints(builder)
    except NameError as error:
        raise ComponentError(f"the signature of {builder.__qualname__} cannot be read: {error}") from error
    declared = inspect.signature(builder).parameters.values()
    variadic = any(parameter.kind is parameter.VAR_POSITIONAL for parameter in declared)
    return {
        parameter.name: Parameter(
            name=parameter.name,
            shape=_shape(hints, parameter),
            required=parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL,
            default=() if parameter.kind is parameter.VAR_POSITIONAL else parameter.default,
            positional=parameter.kind is parameter.POSITIONAL_ONLY
            or (variadic and parameter.kind is parameter.POSITIONAL_OR_KEYWORD),
            variadic=parameter.kind is parameter.VAR_POSITIONAL,
        )
        for parameter in declared
        if parameter.kind is not parameter.VAR_KEYWORD
    }


def shape_of(annotation: Any) -> Shape:
    """Return what a file may say for a type.

    Example:
        >>> shape_of(float | Ramp).group, shape_of(float | Ramp).plain
        ('fedloom.ramps', (<class 'float'>,))
    """
    plain: list[Any] = []
    found = Shape()
    for member in _members(annotation):
        origin = get_origin(member) or member
        inner = get_args(member)[0] if origin in _SEQUENCES and get_args(member) else None
        group = _group_of(inner)
        if member is types.NoneType:
            found = dataclasses.replace(found, optional=True)
        elif member is ComponentSpec:
            found = dataclasses.replace(found, spec=True)
        elif _group_of(member) is not None:
            found = dataclasses.replace(found, group=_group_of(member))
        elif group is not None:
            found = dataclasses.replace(found, group=group, many=True)
        elif _is_table(origin):
            found = dataclasses.replace(found, table=origin)
        else:
            plain.append(member)
    return dataclasses.replace(found, plain=tuple(plain))


def convert(shape: Shape, value: Json, *, base: Path | None = None) -> Any:
    """Return a plain value of a file as its builder takes it: paths below ``base``, whole numbers as float.

    Example:
        >>> convert(shape_of(float), 1), convert(shape_of(Path | None), "w.npy", base=Path("exp"))
        (1.0, PosixPath('exp/w.npy'))
    """
    match value:
        case str() if any(_is_path(member) for member in shape.plain):
            return Path(value) if base is None else base / value
        case bool():
            return value
        case int() if float in shape.plain and int not in shape.plain and abs(value) < 1 << 64:
            return float(value)
        case list():
            item = _item(shape, _SEQUENCES, 0)
            return value if item is None else [convert(item, each, base=base) for each in value]
        case dict():
            item = _item(shape, _MAPPINGS, 1)
            return value if item is None else {key: convert(item, each, base=base) for key, each in value.items()}
    return value


def is_path(shape: Shape) -> bool:
    """Return whether a path, or a list of paths, may stand here.

    Example:
        >>> is_path(shape_of(Path | None)), is_path(shape_of(list[Path])), is_path(shape_of(str))
        (True, True, False)
    """
    return any(_is_path(member) or any(map(_is_path, get_args(member))) for member in shape.plain)


def _shape(hints: dict[str, Any], parameter: inspect.Parameter) -> Shape:
    annotation = hints.get(parameter.name, Any)
    return shape_of(list[annotation] if parameter.kind is parameter.VAR_POSITIONAL else annotation)  # type: ignore[valid-type]


def _members(annotation: Any) -> tuple[Any, ...]:
    if isinstance(annotation, NewType):
        return _members(annotation.__supertype__)
    if get_origin(annotation) in (Union, types.UnionType):
        return tuple(inner for member in get_args(annotation) for inner in _members(member))
    return (annotation,)


def _group_of(annotation: Any) -> Group | None:
    for member in _members(annotation):
        origin = get_origin(member) or member
        group = GROUP_OF.get(origin) if isinstance(origin, type) else None
        if group is not None:
            return group
    return None


def _is_table(origin: Any) -> bool:
    return (
        isinstance(origin, type)
        and dataclasses.is_dataclass(origin)
        and "spec" not in {field.name for field in dataclasses.fields(origin)}
    )


def _is_path(member: Any) -> bool:
    origin = get_origin(member) or member
    return isinstance(origin, type) and issubclass(origin, os.PathLike)


def _item(shape: Shape, containers: tuple[Any, ...], position: int) -> Shape | None:
    for member in shape.plain:
        arguments = get_args(member)
        if get_origin(member) in containers and len(arguments) > position:
            return shape_of(arguments[position])
    return None


def _described(member: Any) -> str:
    origin, arguments = get_origin(member) or member, get_args(member)
    if origin is Literal:
        quoted = [f'"{item}"' if isinstance(item, str) else str(item) for item in arguments]
        return quoted[0] if len(quoted) == 1 else "one of " + ", ".join(quoted)
    if _is_path(member):
        return "a path"
    if origin in _SEQUENCES and arguments:
        return f"a list of {shape_of(arguments[0])}"
    if origin in _MAPPINGS and len(arguments) == 2:
        return f"a table of {shape_of(arguments[1])}"
    words: dict[Any, str] = {str: "string", bool: "true or false", Any: "any value"}
    return words.get(origin) or str(getattr(origin, "__name__", origin))
