"""Experiment files: TOML in, a checked ``Experiment`` out, or every rule that the file breaks, with its line."""

from __future__ import annotations

import datetime
import json
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import PydanticSchemaGenerationError, TypeAdapter, ValidationError

from fedloom.core.component import Json
from fedloom.data.absences import read_absences
from fedloom.errors import ConfigError, Error, Violation
from fedloom.experiment import catalogue
from fedloom.experiment.construct import Construction
from fedloom.experiment.schema import Shape, parameters, shape_of
from fedloom.experiment.source import Source, read_source
from fedloom.experiment.spec import Experiment
from fedloom.experiment.tree import Trail, dotted, file_form, leaves, shown, toml_value

RUN_TABLES = ("engine", "output")
"""Tables about one execution: no part of the experiment, nor of its digest."""
ENGINE = "local"
FOLDER = "runs"
DEFAULT = "default"
ABSENCES: Trail = ("simulate", "absences")
"""Where the path of a trace may stand in place of a table."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One value of a run: its dotted key, what it is, and where that was written."""

    path: str
    value: Json
    origin: str

    def __str__(self) -> str:
        """Return the setting as ``config show --resolved`` prints it."""
        return f"{self.path} = {toml_value(self.value)}  # {self.origin}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """A file that was read: the experiment, and how it is to be run.

    ``engine`` holds ``name`` and the arguments given for it; ``output`` is relative to the current directory, ``base``
    the folder that paths in the file are relative to. ``origins`` tells for every key, defaults included, where its
    value comes from: "run.toml:12", "--set seed=8" or "default".
    """

    experiment: Experiment
    engine: Mapping[str, Json]
    output: Path
    base: Path
    origins: Mapping[str, str]
    settings: tuple[Setting, ...]


def read(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Read an experiment file.

    Args:
        path: A TOML file; its folder is where relative paths in it start.
        overrides: Values of ``--set``: ``algorithm.mu=0.1``, ``stop.0.rounds=5``.

    Raises:
        ConfigError: With all violations, those of the file in its order.
    """
    return read_text(file_text(path), overrides, name=str(path), base=Path(path).parent)


def file_text(path: str | Path) -> str:
    """Return the text of a settings file.

    Raises:
        ConfigError: When it cannot be read, or is no UTF-8.
    """
    try:
        return Path(path).read_bytes().decode()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else f"not UTF-8: {error}"
        violation = Violation(where=str(path), path="file", message=f"cannot be read: {reason}")
        raise ConfigError([violation]) from error


def read_without_rows(path: str | Path, overrides: Sequence[str] = ()) -> Settings:
    """Read an experiment file whose rows are at sites: nothing that its ``data`` name is opened, they stay a spec.

    Args:
        path: A TOML file; its folder is where relative paths in it start.
        overrides: Values of ``--set``.

    Raises:
        ConfigError: With all violations, those of the file in its order.
    """
    return read_text(file_text(path), overrides, name=str(path), base=Path(path).parent, unbuilt=("fedloom.datasets",))


def read_text(
    text: str, overrides: Sequence[str] = (), *, name: str, base: Path, unbuilt: Collection[str] = ()
) -> Settings:
    """Read the text of an experiment file.

    Args:
        text: TOML.
        overrides: Values of ``--set``.
        name: What violations and origins call the text.
        base: Where relative paths in it start.
        unbuilt: Groups whose components stay specs.

    Raises:
        ConfigError: With all violations, those of the text in its order.
    """
    source = read_source(text, overrides, name=name)
    if source.unreadable:  # nothing else can be said of it
        raise ConfigError(source.ordered())
    walk = Construction(base=base, check=check, unbuilt=unbuilt)
    experiment = walk.table(Experiment, _with_absences(walk, source.tree, base), (), also=RUN_TABLES)
    engine = _engine(walk, source.tree.get("engine", {}))
    output = _output(walk, source.tree.get("output", {}))
    for problem in walk.problems:
        source.report(problem.trail, problem.message)
    if source.violations:
        raise ConfigError(source.ordered())
    settings = tuple(_settings(source, experiment.value, engine, output))
    return Settings(
        experiment=experiment.value,
        engine={"name": ENGINE, **source.tree.get("engine", {})},
        output=Path(output["folder"]),
        base=base,
        origins={setting.path: setting.origin for setting in settings},
        settings=settings,
    )


def resolved(settings: Settings) -> tuple[Setting, ...]:
    """Return every value of a run, the defaults of the builders among them, with its origin; ``str`` of each is a line.

    The order is that of ``Experiment``, then engine and output.
    """
    return settings.settings


def check(shape: Shape, value: Json) -> str | None:
    """Return what is wrong with a plain value, None where nothing is.

    Strict: a whole number is a float, but a string is no number and ``true`` is no whole number.

    Example:
        >>> check(shape_of(float), "0,1"), check(shape_of(float), 1)
        ('expected float, got "0,1"', None)
    """
    expected = Shape(plain=shape.plain)  # a component would be a table, and this is none
    odd = _odd(value)
    if odd is not None:
        return f"expected {expected}, got {odd}"
    try:
        _adapter(shape).validate_json(json.dumps(value), strict=True)
    except PydanticSchemaGenerationError:
        return f"cannot stand in a file: {expected} is passed in Python"
    except ValidationError:
        offered = [item for member in shape.plain if get_origin(member) is Literal for item in get_args(member)]
        near = catalogue.suggestion(value, filter(_is_string, offered)) if isinstance(value, str) else ""
        return f"expected {expected}, got {shown(value)}{near}"
    return None


def _adapter(shape: Shape) -> TypeAdapter[Any]:
    adapter: TypeAdapter[Any] = TypeAdapter(shape.annotation)
    return adapter


def _is_string(value: object) -> bool:
    return isinstance(value, str)


def _odd(value: Json) -> str | None:
    """Return what TOML can say and no component takes: dates, numbers that are not finite or beyond 64 bits."""
    match value:
        case datetime.date() | datetime.time():
            return f"a date or time, {value.isoformat()}"
        case bool():
            return None
        case int() if not -(1 << 63) <= value < 1 << 64:
            return "a whole number beyond 64 bits"
        case float() if not math.isfinite(value):
            return str(value)
        case list():
            return next((odd for item in value if (odd := _odd(item))), None)
        case dict():
            return next((odd for item in value.values() if (odd := _odd(item))), None)
    return None


def _with_absences(walk: Construction, tree: Mapping[str, Json], base: Path) -> Mapping[str, Json]:
    """Put what a trace of absences says in place of its path: the experiment, and its digest, hold what happens."""
    simulate = tree.get("simulate")
    if not isinstance(simulate, dict) or not isinstance(simulate.get("absences"), str):
        return tree
    absences: Json = {}
    try:
        absences = read_absences(base / simulate["absences"])
    except Error as error:
        walk.fail(ABSENCES, str(error))
    return {**tree, "simulate": {**simulate, "absences": absences}}


def _engine(walk: Construction, tree: Json) -> dict[str, Json]:
    """Check ``[engine]`` against its builder, which is not called: a run does that."""
    if not isinstance(tree, dict):
        walk.fail(("engine",), f"expected a table, got {shown(tree)}")
        return {}
    named = walk.argument(shape_of(str), tree.get("name", ENGINE), ("engine", "name"))
    if named.broken:
        return {}
    try:
        takes = parameters(catalogue.builder("fedloom.engines", named.value))
    except Error as error:
        walk.fail(("engine", "name"), str(error))
        return {}
    given = {key: value for key, value in tree.items() if key != "name"}
    made = walk.arguments(named.value, given, trail=("engine",), takes=takes)
    return {"name": named.value, **walk.written(made, takes)}


def _output(walk: Construction, tree: Json) -> dict[str, Json]:
    if not isinstance(tree, dict):
        walk.fail(("output",), f"expected a table, got {shown(tree)}")
        return {}
    made = walk.arguments("output", tree, trail=("output",), takes=parameters(_Output))
    return {"folder": made["folder"].written if "folder" in made else FOLDER}


@dataclass(frozen=True, slots=True)
class _Output:
    folder: str = FOLDER


def _settings(source: Source, experiment: Experiment, engine: Json, output: Json) -> list[Setting]:
    tree = file_form(experiment.as_json())
    del tree["versions"]
    if isinstance(source.tree["stop"], list):
        tree["stop"] = tree["stop"]["stops"] if len(source.tree["stop"]) > 1 else [tree["stop"]]
    whole = {**tree, "engine": engine, "output": output}
    return [
        Setting(path=dotted(place), value=leaf, origin=_origin(source, place)) for place, leaf in leaves(whole).items()
    ]


def _origin(source: Source, place: Trail) -> str:
    written = ABSENCES if place[: len(ABSENCES)] == ABSENCES and place not in source.origins else place
    return source.origins[written].where if written in source.origins else DEFAULT
