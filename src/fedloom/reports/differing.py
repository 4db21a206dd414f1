"""Where runs differ: settings, versions, and what that means for the bytes of their models."""

from __future__ import annotations

import string
from collections.abc import Mapping
from itertools import combinations

from fedloom.core.component import Json
from fedloom.experiment.spec import differences
from fedloom.experiment.tree import dotted, file_form, leaves
from fedloom.reports.stored import Stored

LETTERS = string.ascii_uppercase
"""What runs are called beside each other, in the order in which they were named."""


def different_settings(trees: Mapping[str, Json]) -> dict[str, dict[str, Json]]:
    """Return the settings that are not the same in all runs: dotted key, then the value of each run that has one.

    Example:
        >>> different_settings({"A": {"seed": 1, "compare": True}, "B": {"seed": 2, "compare": True}})
        {'seed': {'A': 1, 'B': 2}}
    """
    keys: set[str] = set()
    for one, other in combinations(trees.values(), 2):
        keys.update(differences(_comparable(one), _comparable(other)))
    values = {letter: _by_key(tree) for letter, tree in trees.items()}
    return {key: {letter: each[key] for letter, each in values.items() if key in each} for key in sorted(keys)}


def different_versions(versions: Mapping[str, Mapping[str, str | None]]) -> dict[str, dict[str, Json]]:
    """Return the versions that are not the same in all runs; a run whose record has none says nothing.

    Example:
        >>> different_versions({"A": {"numpy": "2.0"}, "B": {"numpy": "2.1"}, "C": {}})
        {'numpy': {'A': '2.0', 'B': '2.1'}}
    """
    names = sorted({name for each in versions.values() for name in each})
    known = {letter: each for letter, each in versions.items() if each}
    found = {name: {letter: each.get(name) for letter, each in known.items()} for name in names}
    return {name: dict(values) for name, values in found.items() if len(set(values.values())) > 1}


def by_task(runs: Mapping[str, Stored]) -> dict[str, list[str]]:
    """Return the letters of the runs by task; a run whose record names none is left out."""
    found: dict[str, list[str]] = {}
    for letter, run in runs.items():
        if run.summary.task:
            found.setdefault(run.summary.task, []).append(letter)
    return found


def without_versions(runs: Mapping[str, Stored]) -> list[str]:
    """Return the letters of the runs whose record names no version."""
    return [letter for letter, run in runs.items() if not run.summary.versions]


def verdicts(runs: Mapping[str, Stored], versions: Mapping[str, Mapping[str, Json]]) -> list[str]:
    """Return what follows for the bytes of the models, as clauses.

    Args:
        runs: By letter.
        versions: Of them those that differ, from ``different_versions``.
    """
    digests = {run.head.digest for run in runs.values()}
    models = {run.summary.model_sha256 for run in runs.values()}
    clauses = ["one digest: the same experiment" if len(digests) == 1 else f"{len(digests)} digests"]
    if None not in models:
        clauses.append("the models are the same, byte by byte" if len(models) == 1 else "the models differ")
    if len(digests) == 1 and len(models) > 1:
        rounds = {run.record.rounds for run in runs.values()}
        if len(rounds) > 1:
            clauses.append(f"they were stopped after {', '.join(map(str, sorted(rounds)))} rounds")
        elif versions:
            clauses.append(f"other versions may round differently: {', '.join(versions)}")
    return clauses


def _comparable(tree: Json) -> Json:
    return {key: value for key, value in tree.items() if key != "versions"} if isinstance(tree, dict) else tree


def _by_key(tree: Json) -> dict[str, Json]:
    return {dotted(trail): value for trail, value in leaves(file_form(_comparable(tree))).items()}
