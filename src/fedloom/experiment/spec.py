"""Experiment: everything that decides the results of a run, and the digest that names it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from fedloom.core.algorithm import AnyAlgorithm
from fedloom.core.component import ComponentSpec, Json, digest_of, spec_of, to_json
from fedloom.core.data import FederatedDataset
from fedloom.core.learner import Learner, LearnerBuilder
from fedloom.core.own_version import own_version
from fedloom.core.query import AnyPreparation
from fedloom.errors import ComponentError
from fedloom.experiment import registry
from fedloom.experiment.tree import dotted, file_form, leaves
from fedloom.pipeline import Pipeline, mean_pipeline
from fedloom.privacy.target import PrivacyTarget
from fedloom.runtime.cohort import Cohort, everyone
from fedloom.runtime.policy import RoundPolicy
from fedloom.runtime.simulation import Simulation
from fedloom.runtime.stopping import Stop

NOT_IN_DIGEST = ("stop", "evaluate_every", "compare")
"""Fields that change no byte of a round: a resumed run may change them."""

SAME_BYTES = frozenset({"logistic", "ridge", "sklearn"})
"""Learners of our own whose blocks have the bytes of one client at a time: a ``LearnerBuilder`` does not tell."""


_OPTIONAL: Mapping[str, Any] = {"simulate": Simulation, "privacy": PrivacyTarget}


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A run before it runs. Every component is the object, or the ``ComponentSpec`` of one.

    Args:
        data: The clients and their rows.
        prepare: Questions asked before round 1, in order, whose answers change the rows.
        learner: What trains on one client; a builder receives the agreed schema.
        algorithm: The federated method.
        pipeline: What an update goes through on its way into the sum.
        metrics_pipeline: What metrics go through; None: the aggregator of ``pipeline``, without its stages.
        cohort: The clients invited to a round.
        evaluate_cohort: The clients that evaluate.
        policy: When a round has enough updates.
        stop: When the run ends.
        seed: Of every public random stream.
        evaluate_every: Rounds from one evaluation of the test rows to the next; None: 1 up to 40 clients, above them
            one more for every 40, so that looking at rows costs less than training. The last round is evaluated.
        block: Clients computed together; None: the planner chooses.
        compare: Train local-only and pooled models beside the federated one; None: up to 50 clients.
        simulate: Clients that are away, lost or slow; None: a world without these.
        privacy: What the run promises about privacy; needed where a stage or the local steps add noise.

    Raises:
        ComponentError: When a number is outside its range.
    """

    data: FederatedDataset | ComponentSpec
    prepare: Sequence[AnyPreparation | ComponentSpec] = ()
    learner: Learner | LearnerBuilder | ComponentSpec
    algorithm: AnyAlgorithm | ComponentSpec
    pipeline: Pipeline | ComponentSpec = field(default_factory=mean_pipeline)
    metrics_pipeline: Pipeline | ComponentSpec | None = None
    cohort: Cohort | ComponentSpec = field(default_factory=everyone)
    evaluate_cohort: Cohort | ComponentSpec = field(default_factory=everyone)
    policy: RoundPolicy = field(default_factory=RoundPolicy)
    stop: Stop | ComponentSpec
    seed: int
    evaluate_every: int | None = None
    block: int | None = None
    compare: bool | None = None
    simulate: Simulation | None = None
    privacy: PrivacyTarget | None = None

    def __post_init__(self) -> None:
        """Check every number once, where it is written."""
        if not 0 <= self.seed < 1 << 64:
            raise ComponentError(f"seed = {self.seed}; expected an integer from 0 to 2**64 - 1")
        if self.evaluate_every is not None and self.evaluate_every < 1:
            raise ComponentError(f"evaluate_every = {self.evaluate_every}; expected 1 or more")
        if self.block is not None and self.block < 1:
            raise ComponentError(f"block = {self.block}; expected 1 or more")
        object.__setattr__(self, "prepare", tuple(self.prepare))

    @staticmethod
    def from_json(tree: Mapping[str, Json]) -> Experiment:
        """Return the experiment that ``as_json`` wrote down, every component as its spec.

        Raises:
            ComponentError: When the tree is not one, or part of it was made in Python and has no name.
        """
        known = {item.name for item in dataclasses.fields(Experiment)} - set(_OPTIONAL)
        if not known <= tree.keys():
            raise ComponentError(f"not an experiment: {', '.join(sorted(known - tree.keys()))} is missing")
        parts: dict[str, Any] = {key: _revived(key, tree[key]) for key in known}
        parts |= {name: msgspec.convert(tree[name], type=kind) for name, kind in _OPTIONAL.items() if name in tree}
        return Experiment(**{**parts, "policy": RoundPolicy(**parts["policy"])})

    def as_json(self) -> dict[str, Json]:
        """Return the experiment as plain JSON: components with all arguments, and the versions of what provides them.

        What no name can rebuild is ``local:`` and a hash of its arrays, or ``local:unnamed``.
        """
        fields = dataclasses.fields(self)
        tree = {item.name: _completed(to_json(getattr(self, item.name))) for item in fields}
        for name in _OPTIONAL:
            if getattr(self, name) is None:  # so that a run without it has the digest that it had before there was one
                del tree[name]
        return {**tree, "versions": _versions(tree)}

    @property
    def digest(self) -> str:
        """SHA-256 of all that changes the bytes of a round: the identity of the run, together with its id."""
        return digest_of(self._identity(self.as_json()))

    def differences(self, other: Mapping[str, Json]) -> tuple[str, ...]:
        """Return where another experiment's ``as_json`` differs, as dotted keys: empty where the digests are equal."""
        return differences(self._identity(self.as_json()), self._identity(other))

    def _identity(self, tree: Mapping[str, Json]) -> dict[str, Json]:
        left_out = {*NOT_IN_DIGEST, *(["block"] if _block_keeps_bytes(self.learner) else [])}
        return {key: value for key, value in tree.items() if key not in left_out}


def differences(one: Json, other: Json) -> tuple[str, ...]:
    """Return the dotted keys at which two trees of ``Experiment.as_json`` differ, sorted.

    Example:
        >>> differences({"seed": 1, "policy": {"quorum": 2}}, {"seed": 1, "policy": {"quorum": 3}})
        ('policy.quorum',)
    """
    mine, yours = leaves(file_form(one)), leaves(file_form(other))
    absent = object()
    places = (place for place in {*mine, *yours} if not _same(mine.get(place, absent), yours.get(place, absent)))
    return tuple(sorted(dotted(place) for place in places))


def _same(one: object, other: object) -> bool:
    return type(one) is type(other) and one == other  # 1 client is not the fraction 1.0


def _block_keeps_bytes(learner: Learner | LearnerBuilder | ComponentSpec) -> bool:
    if not isinstance(learner, LearnerBuilder | ComponentSpec):
        return learner.capabilities.block == "same bytes"
    spec = spec_of(learner)
    return spec is not None and spec.group == "fedloom.learners" and spec.name in SAME_BYTES


def _completed(tree: Json) -> Json:
    match tree:
        case {"group": str(group), "name": str(name), "arguments": dict(arguments)}:
            return registry.complete(ComponentSpec(group, name, arguments)).as_json()
        case list():
            return [_completed(item) for item in tree]
    return tree


def _revived(key: str, tree: Json) -> Any:
    match tree:
        case {"group": str(group), "name": str(name), "arguments": dict(arguments)}:
            return ComponentSpec(group, name, arguments)
        case list():
            return tuple(_revived(key, item) for item in tree)
        case str():
            raise ComponentError(f"{key} was made in Python and no name can rebuild it: pass the object itself")
    return tree


def _versions(tree: Json) -> dict[str, str]:
    """Return the version of each package that provides a component of the tree, and of fedloom itself."""
    found = {"fedloom": own_version()}
    for group, name in _named(tree):
        who = registry.provider(group, name)
        if who is not None:
            found[who.distribution] = who.version
    return found


def _named(tree: Json) -> Iterable[tuple[str, str]]:
    match tree:
        case {"group": str(group), "name": str(name), "arguments": dict(arguments)}:
            yield group, name
            yield from _named(list(arguments.values()))
        case dict():
            yield from _named(list(tree.values()))
        case list():
            for item in tree:
                yield from _named(item)
