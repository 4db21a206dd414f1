"""Components by name: look a builder up, build a spec, and complete one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fedloom.core.component import ComponentSpec
from fedloom.errors import ComponentError
from fedloom.experiment.catalogue import Builder, Provider, builder, names, provider
from fedloom.experiment.construct import Construction, Problem
from fedloom.experiment.tree import dotted

__all__ = ["Builder", "Provider", "builder", "complete", "names", "provider", "resolve"]


def resolve(spec: ComponentSpec, *, base: Path | None = None) -> Any:
    """Build what a spec describes, its nested components with it.

    Args:
        spec: Arguments as JSON; a nested component is a spec's JSON or a table with a ``name``.
        base: Folder that relative paths start from. The value keeps them as they are written, so that its spec, and
            with it the digest, is the same on every machine.

    Raises:
        ComponentError: When a name is unknown or an argument is wrong; tells of all of them.
        Error: What a builder raised, where that is all there is to tell: DataError, PipelineError, MissingExtra.

    Example:
        >>> resolve(ComponentSpec("fedloom.stops", "max_rounds", {"rounds": 3})).rounds
        3
    """
    walk = Construction(base=base)
    made = walk.component(spec.group, spec.as_json(), ())
    if made.broken:
        if len(walk.problems) == 1 and walk.problems[0].cause is not None:
            raise walk.problems[0].cause
        raise ComponentError("\n".join(_line(spec, problem) for problem in walk.problems))
    return made.value


def complete(spec: ComponentSpec) -> ComponentSpec:
    """Return a spec with every default written down and whole numbers as float where a float is taken.

    Nothing is built. A spec that is not understood here (its package is not installed) is returned as it is.

    Example:
        >>> complete(ComponentSpec("fedloom.stages", "clip", {"norm": 1})).arguments
        {'norm': 1.0}
    """
    walk = Construction(build=False)
    made = walk.component(spec.group, spec.as_json(), ())
    return spec if walk.problems else ComponentSpec(spec.group, spec.name, made.written["arguments"])


def _line(spec: ComponentSpec, problem: Problem) -> str:
    return f"{dotted((spec.name, *problem.trail))}: {problem.message}"
