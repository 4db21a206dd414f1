"""Specs: Python objects and files that mean the same have the same digest."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.algorithms import fedavg, fedprox
from fedloom.core.component import (
    UNNAMED,
    ComponentSpec,
    Recipe,
    array_digest,
    canonical_json,
    component,
    digest_of,
    spec_of,
    to_json,
)
from fedloom.core.schedule import Schedule
from fedloom.errors import ComponentError
from fedloom.optim import adam, exponential
from fedloom.pipeline import chain, clip, mean
from fedloom.runtime.cohort import uniform
from fedloom.runtime.stopping import any_of, max_rounds

quick = settings(max_examples=100, derandomize=True, database=None, deadline=None)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)


def test_a_spec_holds_every_argument_with_defaults_and_nested_components() -> None:
    made = fedavg(Schedule(epochs=2, learning_rate=exponential(0.1, decay=0.5)), server=adam(beta1=0.5))
    spec = made.spec
    assert spec is not None
    assert (spec.group, spec.name) == ("fedloom.algorithms", "fedavg")
    assert spec.arguments["weighting"] == "examples"
    assert spec.arguments["server"]["name"] == "adam"
    assert spec.arguments["server"]["arguments"]["beta1"] == 0.5
    assert spec.arguments["local"]["learning_rate"]["arguments"] == {"start": 0.1, "decay": 0.5, "floor": 0.0}
    assert spec.arguments["local"]["batch_size"] == 32


def test_positional_and_keyword_arguments_have_one_digest() -> None:
    assert uniform(3).spec == uniform(size=3).spec
    assert max_rounds(3).spec != max_rounds(4).spec
    assert fedavg(Schedule()).spec == fedavg(Schedule(), prox=0.0).spec
    assert fedprox(Schedule(), mu=0.0).spec != fedavg(Schedule()).spec, "another name is another component"


def test_the_outer_builder_names_the_component() -> None:
    assert fedprox(Schedule(), mu=1.0).spec.name == "fedprox"  # type: ignore[union-attr]


def test_components_in_a_sequence_are_in_the_spec_in_order() -> None:
    stages = chain(clip(1.0), mean(max_weight=5.0)).spec.arguments["stages"]  # type: ignore[union-attr]
    assert [stage["name"] for stage in stages] == ["clip", "mean"]
    assert any_of(max_rounds(1), max_rounds(2)).spec.arguments["stops"][1]["arguments"] == {"rounds": 2}  # type: ignore[union-attr]


@quick
@given(values)
def test_canonical_json_does_not_depend_on_the_order_of_keys(value: Any) -> None:
    def reversed_keys(item: Any) -> Any:
        if isinstance(item, dict):
            return {key: reversed_keys(item[key]) for key in reversed(list(item))}
        return [reversed_keys(part) for part in item] if isinstance(item, list) else item

    assert canonical_json(reversed_keys(value)) == canonical_json(value)
    assert json.loads(canonical_json(value)) == value


@quick
@given(values, values)
def test_equal_digests_mean_equal_values(left: Any, right: Any) -> None:
    assert (digest_of(left) == digest_of(right)) == (canonical_json(left) == canonical_json(right))


def test_digests_are_those_that_were_recorded() -> None:
    spec = ComponentSpec("fedloom.cohorts", "uniform", {"size": 10})
    assert spec.digest == digest_of({"arguments": {"size": 10}, "group": "fedloom.cohorts", "name": "uniform"})
    assert canonical_json(spec.as_json()) == b'{"arguments":{"size":10},"group":"fedloom.cohorts","name":"uniform"}'
    assert spec.digest == "35a354047c5fc859bc5697ddccb76de6102fa1a1144c636ab880d5a2d646f04c"


def test_what_cannot_be_named_is_said_to_be_unnamed() -> None:
    assert to_json(lambda: None) == UNNAMED
    assert to_json({"f": [print]}) == {"f": [UNNAMED]}


def test_plain_values_are_written_down_and_arrays_by_their_digest() -> None:
    assert to_json((1, 2.5, "a", None, True)) == [1, 2.5, "a", None, True]
    assert to_json(np.float32(0.5)) == 0.5
    assert to_json(PurePosixPath("a/b")) == "a/b"
    first, second = to_json(np.arange(3)), to_json(np.arange(3) + 1)
    assert first.startswith("local:") and first != second


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_numbers_that_json_does_not_know_are_refused(number: float) -> None:
    with pytest.raises(ComponentError, match="finite"):
        max_rounds(number)  # type: ignore[arg-type]


def test_an_array_digest_tells_bytes_shape_and_type_and_not_layout_in_memory() -> None:
    table = np.arange(6.0).reshape(2, 3)
    assert array_digest(table) == array_digest(np.asfortranarray(table)) == array_digest(table.astype(">f8"))
    others = [table.reshape(3, 2), table.astype(np.float32), table + 1, np.arange(6), np.empty(0), np.empty((0, 3))]
    assert len({array_digest(array) for array in (table, *others)}) == 1 + len(others)
    objects = [
        np.array(labels, dtype=object) for labels in ([1, "1"], ["1", 1], ["1", "1"], [1, 1], ["11"], ["1\0str:1"])
    ]
    assert len({array_digest(array) for array in objects}) == len(objects)


@dataclass(frozen=True)
class Made:
    size: int
    spec: ComponentSpec | None = None


def test_a_builder_of_a_value_without_a_spec_is_refused_at_the_call() -> None:
    @component("fedloom.stops")
    def broken() -> int:
        return 3

    with pytest.raises(ComponentError, match="spec"):
        broken()


def test_an_unknown_group_is_refused_at_decoration() -> None:
    with pytest.raises(ComponentError, match="no such group"):
        component("fedloom.stop")  # type: ignore[arg-type]


def test_a_model_builder_gives_a_recipe_that_builds_afresh() -> None:
    @component("fedloom.models", "box")
    def box(size: int, *, depth: int = 2) -> list[int]:
        return [size] * depth

    recipe: Any = box(3)
    assert isinstance(recipe, Recipe)
    assert recipe.build() == [3, 3] and recipe.build() is not recipe.build()
    assert recipe.spec == ComponentSpec("fedloom.models", "box", {"size": 3, "depth": 2})


def test_spec_of_finds_a_spec_or_none() -> None:
    @component("fedloom.stops")
    def made(size: int = 3) -> Made:
        return Made(size)

    assert spec_of(made()) == ComponentSpec("fedloom.stops", "made", {"size": 3})
    assert spec_of(Made(3)) is None
    assert spec_of(replace(made(), size=3)) == spec_of(made()), "nothing has changed"
    assert spec_of(replace(made(), size=4)) is None, "the builder never made this"
    assert to_json(replace(made(), size=4)) == UNNAMED
    assert spec_of(print) is None
