"""What a value was built from: components, their specs, and canonical JSON.

A builder is a function that returns a frozen value (an algorithm, a stage, a learner). ``@component`` makes the value
carry a ``ComponentSpec``: group, name and bound arguments, defaults included. A Python object and a TOML table that
name the same component with the same arguments therefore have the same digest.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import inspect
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import PurePath
from typing import Any, Generic, Literal, ParamSpec, TypeAlias, TypeVar, cast, get_args, get_origin, get_type_hints

import msgspec
import numpy as np

from fedloom.errors import ComponentError

Json: TypeAlias = Any
"""``None``, a bool, number or string, or a list or string-keyed mapping of those."""

Group = Literal[
    "fedloom.algorithms",
    "fedloom.learners",
    "fedloom.models",
    "fedloom.optimizers",
    "fedloom.ramps",
    "fedloom.stages",
    "fedloom.pipelines",
    "fedloom.aggregators",
    "fedloom.cohorts",
    "fedloom.stops",
    "fedloom.datasets",
    "fedloom.partitions",
    "fedloom.queries",
    "fedloom.preparations",
    "fedloom.engines",
]
GROUPS: tuple[Group, ...] = get_args(Group)

UNNAMED = "local:unnamed"
"""Stands in a spec for a value that no name can rebuild: resumable by passing the object again, never by file."""

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """Group, name and arguments of a component.

    Example:
        >>> ComponentSpec("fedloom.stops", "max_rounds", {"rounds": 3}).digest[:12]
        '39e68f615abb'
    """

    group: str
    name: str
    arguments: Mapping[str, Json]
    made: Mapping[str, Any] | None = field(default=None, repr=False, compare=False)
    """Fields of the value that its builder made; None where the spec was written by hand, and is taken by its word."""

    def tells_of(self, value: object) -> bool:
        """Return whether a value is still what the builder made: no ``dataclasses.replace`` has changed a field."""
        return self.made is None or all(_same(getattr(value, name, None), was) for name, was in self.made.items())

    def as_json(self) -> dict[str, Json]:
        """Return the spec as the plain mapping that digests and files hold."""
        return {"group": self.group, "name": self.name, "arguments": dict(self.arguments)}

    @property
    def digest(self) -> str:
        """SHA-256 of the canonical JSON, in hexadecimal."""
        return digest_of(self.as_json())


@dataclass(frozen=True, slots=True)
class Recipe(Generic[R]):
    """A builder with its arguments: what is mutable (a model) is never held but built afresh."""

    build: Callable[..., R]
    """Builds with the arguments of the spec; takes a value for each that is open, by name."""
    spec: ComponentSpec
    open: tuple[str, ...] = ()
    """Arguments that were left None: whoever builds may know them, as the number of inputs."""


def component(group: Group, name: str | None = None) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Mark a builder: the frozen value it returns carries the spec of what built it.

    Args:
        group: The entry-point group that the builder belongs to.
        name: Its name in files; the function's own name by default.

    Returns:
        A decorator. The builder's signature stays the schema of its table in an experiment file. A builder of group
        ``fedloom.models`` returns a ``Recipe`` in place of its value.

    Raises:
        ComponentError: When the group is unknown (at decoration), or the value has no field ``spec`` (at the call).
    """
    if group not in GROUPS:
        raise ComponentError(f"component(group={group!r}): no such group; use one of {', '.join(GROUPS)}")

    def decorate(builder: Callable[P, R]) -> Callable[P, R]:
        called = name or builder.__name__
        signature = inspect.signature(builder)

        @functools.wraps(builder)
        def build(*args: P.args, **kwargs: P.kwargs) -> R:
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            _check_words(called, builder, bound.arguments)
            spec = ComponentSpec(group, called, {key: to_json(value) for key, value in bound.arguments.items()})
            if group == "fedloom.models":
                return cast("R", _recipe(builder, bound, spec))
            value = builder(*args, **kwargs)
            if not is_dataclass(value) or "spec" not in {field.name for field in dataclasses.fields(value)}:
                raise ComponentError(
                    f"{called}() returned {type(value).__name__}; a component of {group} is a frozen dataclass "
                    "with a field `spec: ComponentSpec | None = None`"
                )
            made: Any = dataclasses.replace(cast("Any", value), spec=spec)
            fields = [each.name for each in dataclasses.fields(made) if each.name != "spec"]
            # The spec lies in the value that it tells of, so one of the two must be completed after the other.
            object.__setattr__(spec, "made", {name: getattr(made, name) for name in fields})
            return cast("R", made)

        build.__component__ = (group, called)  # type: ignore[attr-defined]
        return build

    return decorate


def _recipe(builder: Callable[..., R], bound: inspect.BoundArguments, spec: ComponentSpec) -> Recipe[R]:
    def build(**filled: Any) -> R:
        complete = inspect.BoundArguments(bound.signature, OrderedDict({**bound.arguments, **filled}))
        return builder(*complete.args, **complete.kwargs)

    return Recipe(build, spec, tuple(name for name, value in bound.arguments.items() if value is None))


def _check_words(called: str, builder: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse a word that is none of those its parameter is annotated with: a type checker is not always there."""
    for name, words in _words(builder).items():
        if arguments[name] not in words:
            allowed = ", ".join(repr(word) for word in words)
            raise ComponentError(f"{called}({name}={arguments[name]!r}): expected one of {allowed}")


@functools.lru_cache(maxsize=256)
def _words(builder: Callable[..., Any]) -> Mapping[str, tuple[Any, ...]]:
    """Return the allowed values of each parameter that is annotated with a Literal."""
    hints = get_type_hints(builder)
    return {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal and name != "return"}


def spec_of(value: object) -> ComponentSpec | None:
    """Return the spec that a value carries; None for one that no builder made, or that was changed afterwards."""
    if isinstance(value, ComponentSpec):
        return value
    spec = getattr(value, "spec", None)
    return spec if isinstance(spec, ComponentSpec) and spec.tells_of(value) else None


def _same(value: object, other: object) -> bool:
    plain = isinstance(value, str | int | float) and type(value) is type(other)
    return value is other or (plain and value == other)


def to_json(value: object) -> Json:
    """Return a value as the plain JSON that a spec holds.

    Arrays become the SHA-256 of their bytes, components their spec, frozen dataclasses their fields, and what cannot
    be named (a closure, a model) the string ``local:unnamed``.

    Example:
        >>> to_json({"alpha": 0.5, "sizes": (1, 2)})
        {'alpha': 0.5, 'sizes': [1, 2]}
    """
    match value:
        case None | bool() | str() | int():
            return value
        case float():
            if not math.isfinite(value):
                raise ComponentError(f"a component's argument is {value}; expected a finite number")
            return float(value)  # numpy's float64 is a float too, and no JSON
        case np.generic():
            return to_json(value.item())
        case np.ndarray():
            return "local:" + array_digest(value)
        case PurePath():
            return value.as_posix()
        case Mapping():
            return {str(key): to_json(item) for key, item in value.items()}
        case list() | tuple():
            return [to_json(item) for item in value]
    spec = spec_of(value)
    if spec is not None:
        return spec.as_json()
    if is_dataclass(value) and not isinstance(value, type) and not hasattr(value, "spec"):
        return {field.name: to_json(getattr(value, field.name)) for field in dataclasses.fields(value)}
    return UNNAMED


def canonical_json(value: Json) -> bytes:
    """Return the one encoding of plain JSON: keys sorted, no space, shortest round-trip floats."""
    return msgspec.json.encode(value, order="sorted")


def digest_of(value: Json) -> str:
    """Return SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def array_digest(array: np.ndarray[Any, Any]) -> str:
    """Return SHA-256 of an array's dtype, shape and little-endian C-ordered bytes."""
    state = hashlib.sha256(f"{array.dtype.newbyteorder('<').str}{array.shape}".encode())
    if array.dtype == object:
        for item in array.ravel():
            state.update(f"{type(item).__name__}:{item}\0".encode())
    else:
        little = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
        state.update(little.data.cast("B") if little.size else b"")
    return state.hexdigest()
