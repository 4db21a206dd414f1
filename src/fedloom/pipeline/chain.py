"""chain: stages around one aggregator, checked when they are put together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fedloom.core.aggregator import Aggregator
from fedloom.core.component import ComponentSpec, component
from fedloom.core.events import DpEvent, NonPrivateDpEvent
from fedloom.core.keys import Keys, SecretKey
from fedloom.core.params import Vector
from fedloom.core.wire import AnyStage, SumInfo, WireType
from fedloom.errors import PipelineError
from fedloom.pipeline.mean import mean
from fedloom.pipeline.plain_sum import plain_sum

ANY_ORDER = WireType(dim=None, dtype="float64", max_weight=1.0)
"""The most lenient input: what even this refuses is a wrong order whatever the model and the weights."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """Stages, outermost first, and the aggregator inside them."""

    stages: tuple[AnyStage, ...]
    aggregator: Aggregator
    spec: ComponentSpec | None = None

    def bind(self, wire: WireType) -> BoundPipeline:
        """Return the pipeline for one type of vector.

        Raises:
            PipelineError: When a stage cannot work on what the stage before it gives.
        """
        wires = [replace(wire, honest=self.aggregator.honest(wire))]
        for stage in self.stages:
            wires.append(stage.plan(wires[-1]))
        memories = [stage.client_init(wire) for stage, wire in zip(self.stages, wires, strict=False)]
        return BoundPipeline(
            stages=self.stages,
            aggregator=self.aggregator,
            wires=tuple(wires),
            total=self.aggregator.plan(wires[-1]),
            memory_sizes=tuple(len(memory) for memory in memories),
            start_memory=np.concatenate([np.empty(0), *memories]),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class BoundPipeline:
    """A pipeline whose wire types are known: ``wires[i]`` enters stage ``i``; ``wires[-1]`` is what is summed.

    ``start_memory`` is what a client keeps for the stages before its first round: their memories, one after the other,
    of the lengths ``memory_sizes``.
    """

    stages: tuple[AnyStage, ...]
    aggregator: Aggregator
    wires: tuple[WireType, ...]
    total: WireType
    memory_sizes: tuple[int, ...]
    start_memory: Vector

    @property
    def sent(self) -> WireType:
        """What one client sends."""
        return self.wires[-1]

    @property
    def memory(self) -> int:
        """Numbers of memory that the stages keep at each client."""
        return len(self.start_memory)

    def init(self) -> tuple[Any, ...]:
        """Return the state of each stage before round 1."""
        return tuple(stage.init(wire) for stage, wire in zip(self.stages, self.wires, strict=False))

    def settings(self, states: Sequence[Any]) -> tuple[Vector, ...]:
        """Return the public numbers of a round, one array per stage."""
        return tuple(stage.setting(state) for stage, state in zip(self.stages, states, strict=True))

    def encode(
        self, values: Vector, settings: Sequence[Vector], memory: Vector, keys: Sequence[Keys]
    ) -> tuple[Vector, Vector]:
        """Encode a block at the clients.

        Args:
            values: ``(clients, d)``, of ``wires[0]``; may be overwritten.
            settings: The round's public numbers, one array per stage.
            memory: ``(clients, self.memory)``.
            keys: One per client.

        Returns:
            The encoded block, of ``wires[-1]``, and the clients' new memory.
        """
        kept = []
        start = 0
        for number, (stage, size) in enumerate(zip(self.stages, self.memory_sizes, strict=True)):
            mine = memory[:, start : start + size]
            values, renewed = stage.encode(self.wires[number], values, settings[number], mine, keys)
            kept.append(renewed)
            start += size
        for number, stage in enumerate(self.stages):
            if stage.shield is not None:
                values = stage.shield(values, self.sent, [each.secret.child("stage", number) for each in keys])
        return values, np.concatenate(kept, axis=1) if start else memory

    def release(self, total: Vector, secret: SecretKey) -> Vector:
        """Return the sum with the noise that its stages owe it: before any decode, in the domain of the sum."""
        for number, stage in enumerate(self.stages):
            if stage.release is not None:
                total = stage.release(total, self.sent, secret.child("stage", number))
        return total

    def decode(self, total: Vector, states: Sequence[Any], info: SumInfo) -> tuple[Vector, tuple[Any, ...]]:
        """Return the decoded sum and the stages' new states; the last stage is undone first."""
        renewed = list(states)
        for number in reversed(range(len(self.stages))):
            total, renewed[number] = self.stages[number].decode(self.wires[number], total, states[number], info)
        return total, tuple(renewed)

    def event(self) -> DpEvent:
        """Return the privacy event of one released sum; without a protecting stage it is not private."""
        events = [event for stage in self.stages if (event := stage.event(self.sent)) is not None]
        return events[0] if events else NonPrivateDpEvent()


@component("fedloom.pipelines")
def chain(*stages: AnyStage, aggregator: Aggregator | None = None) -> Pipeline:
    """Put stages around an aggregator: the first stage encodes first and decodes last.

    Args:
        stages: From the model's side to the wire's side.
        aggregator: ``plain_sum()`` by default.

    Raises:
        PipelineError: When the order cannot work; says what the stage received and what to do.

    Example:
        >>> [stage.name for stage in chain(mean()).stages]
        ['mean']
    """
    pipeline = Pipeline(stages=stages, aggregator=plain_sum() if aggregator is None else aggregator)
    try:
        pipeline.bind(ANY_ORDER)
    except PipelineError as error:
        try:  # what cannot carry an update may still carry a statistic, which has no weight
            pipeline.bind(replace(ANY_ORDER, weight=False, max_weight=None))
        except PipelineError:
            raise error from None
    return pipeline


def mean_pipeline() -> Pipeline:
    """Return the default pipeline of training: a weighted mean under a plain sum."""
    return chain(mean())


def total_pipeline() -> Pipeline:
    """Return the default pipeline of queries and metrics: a plain sum."""
    return chain()
