"""An experiment as a run's folder holds it, and the changes that a resume may make to it."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from fedloom.core.component import ComponentSpec, Json, spec_of
from fedloom.errors import ComponentError, ConfigError, StoreError, Violation
from fedloom.experiment.registry import builder, resolve
from fedloom.experiment.spec import Experiment
from fedloom.runtime.stopping import Stop
from fedloom.store.documents import EXPERIMENT, read_head


def experiment_of(folder: Path) -> tuple[Experiment, Path, Mapping[str, Json]]:
    """Return the experiment of a run, the folder that its relative paths start from, and its engine's table.

    Raises:
        StoreError: When the run was started from Python with objects that no name can rebuild, or is no run.
    """
    head = read_head(folder)
    engine = head.options.get("engine", {})
    try:
        experiment = Experiment.from_json(head.experiment)
        for part in _named_parts(experiment):
            builder(part.group, part.name)
    except (AttributeError, KeyError, TypeError) as error:
        raise StoreError(f"{folder / EXPERIMENT} is damaged ({error}): restore the folder from a backup") from error
    except ComponentError as error:
        raise StoreError(
            f"{folder} cannot be rebuilt by name: {error}. Install the package that has it; a run started from "
            "Python with objects is resumed there: engine.run(experiment, resume=folder)"
        ) from error
    return experiment, Path(head.base), engine if isinstance(engine, dict) else {}


def _named_parts(experiment: Experiment) -> list[ComponentSpec]:
    parts = [getattr(experiment, field.name) for field in fields(experiment)]
    return [part for part in (*parts, *experiment.prepare) if isinstance(part, ComponentSpec)]


def with_overrides(stop: Stop | ComponentSpec, overrides: Sequence[str]) -> Stop | ComponentSpec:
    """Return a stop with some of its arguments changed: ``stop.rounds=200``, of several stops ``stop.0.rounds=200``.

    Raises:
        ConfigError: When an override is of another key than the stop's, or the changed stop cannot be built.
    """
    spec = spec_of(stop)
    if not overrides or spec is None:
        return stop
    several = spec.name == "any_of"
    tables: list[dict[str, Any]] = [dict(table) for table in (spec.arguments["stops"] if several else [spec.as_json()])]
    violations = [violation for text in overrides if (violation := _override(tables, text)) is not None]
    if violations:
        raise ConfigError(violations)
    changed = [ComponentSpec(table["group"], table["name"], table["arguments"]) for table in tables]
    result = (
        ComponentSpec(spec.group, "any_of", {"stops": [one.as_json() for one in changed]}) if several else changed[0]
    )
    try:
        resolve(result)
    except ComponentError as error:
        raise ConfigError([Violation(where="--set", path="stop", message=str(error))]) from error
    return result


def _override(tables: list[dict[str, Any]], text: str) -> Violation | None:
    key, _, value = text.partition("=")
    path = key.strip().split(".")
    where = f"--set {text}"
    if len(path) == 2 and path[0] == "stop" and len(tables) == 1:
        path.insert(1, "0")
    if path[0] != "stop" or len(path) != 3 or not path[1].isdigit() or int(path[1]) >= len(tables):
        return Violation(
            where=where,
            path=key.strip(),
            message="a resume may change the stop and nothing else: "
            + ("stop.rounds=200" if len(tables) == 1 else f"stop.0.rounds=200 (stops 0 to {len(tables) - 1})"),
        )
    arguments = tables[int(path[1])]["arguments"]
    if path[2] not in arguments:
        return Violation(where=where, path=key.strip(), message=f"expected one of {', '.join(sorted(arguments))}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    tables[int(path[1])]["arguments"] = {**arguments, path[2]: parsed}
    return None
