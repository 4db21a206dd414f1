"""A coordinator without rows and sites with their own make the same plans, and a round between them is a round."""

from __future__ import annotations

import csv as csv_module
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from fedloom.core import codec
from fedloom.core.component import ComponentSpec
from fedloom.core.data import ClientDataset, Schema, Transform
from fedloom.core.ids import ClientId
from fedloom.core.messages import AggregatorMessage
from fedloom.engines.secrets import client_secret, server_secret
from fedloom.errors import CodecError, ConfigError, DataError, PlanError
from fedloom.experiment import Experiment
from fedloom.experiment.config import read, read_without_rows
from fedloom.experiment.handshake import SiteFacts, agree, compare_versions, read_site_facts
from fedloom.experiment.plan import AnyPlan, build_learner, prepare_plan, resolve_experiment, train_plan
from fedloom.experiment.remote import (
    RemotePopulation,
    RunFacts,
    coordinator_plan,
    over_rows,
    plan_digest,
    public_answer,
    read_facts,
    site_plan,
    with_public_answers,
    without_rows,
)
from fedloom.experiment.site_data import SiteData, site_dataset
from fedloom.runtime.client import ClientNode
from fedloom.runtime.coordinator import Coordinator, Stopped, initial_state
from fedloom.runtime.plan import digest_of
from fedloom.runtime.ports import MemoryStates
from fedloom.runtime.sessions import MemorySessions

SITES = ("east", "north", "south", "west")
A, B = ClientId("a"), ClientId("b")


def rows_of(site: str) -> list[dict[str, Any]]:
    start = 10 * SITES.index(site)
    return [
        {"age": 30 + start + n, "bp": (n * 7 + start) % 11, "outcome": "ill" if (n + start // 10) % 3 else "well"}
        for n in range(24)
    ]


def write(path: Path, sites: tuple[str, ...], *, ward: bool) -> None:
    names = ["age", "bp", "outcome", *(["ward"] if ward else [])]
    with path.open("w", newline="") as file:
        writer = csv_module.DictWriter(file, names, extrasaction="ignore")
        writer.writeheader()
        for site in sites:
            writer.writerows({**row, "ward": site} for row in rows_of(site))


def experiment(**changes: Any) -> Experiment:
    return Experiment(
        **{
            "data": ComponentSpec("fedloom.datasets", "csv", {"path": "all.csv", "label": "outcome", "client": "ward"}),
            "learner": ComponentSpec("fedloom.learners", "logistic", {}),
            "algorithm": ComponentSpec(
                "fedloom.algorithms", "fedavg", {"local": {"epochs": 1, "batch_size": 8}, "weighting": "uniform"}
            ),
            "prepare": (
                ComponentSpec("fedloom.preparations", "label_set", {}),
                ComponentSpec("fedloom.preparations", "min_max", {"ranges": {"age": [0, 120], "bp": [0, 20]}}),
            ),
            "stop": ComponentSpec("fedloom.stops", "max_rounds", {"rounds": 2}),
            "seed": 5,
            **changes,
        }
    )


def sites_of(asked: Experiment, folder: Path) -> dict[ClientId, SiteData]:
    write(folder / "all.csv", SITES, ward=True)
    found: dict[ClientId, SiteData] = {}
    for name in SITES:
        write(folder / f"{name}.csv", (name,), ward=False)
        own = ComponentSpec("fedloom.datasets", "csv", {"path": f"{name}.csv"})
        found[ClientId(name)] = site_dataset(asked, own, client=ClientId(name), base=folder)
    return found


def facts_of(asked: Experiment, sites: Mapping[ClientId, SiteData]) -> RunFacts:
    held = {name: SiteFacts(schema=site.schema(), splits=site.splits, versions={}) for name, site in sites.items()}
    agreed = agree(held, asked.data)  # type: ignore[arg-type]
    assert isinstance(agreed, RunFacts), agreed
    return agreed


def at_site(asked: Experiment, sites: Mapping[ClientId, SiteData], name: ClientId, facts: RunFacts) -> Experiment:
    data = replace(sites[name], clients=facts.population)
    return over_rows(asked, data, base=Path("/nowhere"))


def simulated_plan(asked: Experiment, base: Path, facts: RunFacts, phase: int) -> AnyPlan:
    """The plan as a simulation makes it, with everybody's rows."""
    whole = resolve_experiment(asked, base=base)
    data: Any = whole.data
    schema: Schema = data.schema()
    for number in range(phase):
        preparation: Any = whole.prepare[number]
        answer = msgspec.convert(facts.prepared[number], type=preparation.query.answer)
        schema = preparation.transform(answer).schema(schema)
    if phase < len(whole.prepare):
        return prepare_plan(whole, phase, schema, data.population())
    return train_plan(whole, build_learner(whole, schema), data.population(), facts.splits)


def transformed(data: ClientDataset, transforms: tuple[Transform, ...]) -> ClientDataset:
    for transform in transforms:
        data = transform.apply(data)
    return data


SECURE = ComponentSpec(
    "fedloom.pipelines",
    "chain",
    {
        "stages": [
            {"group": "fedloom.stages", "name": "clip", "arguments": {"norm": 1.0}},
            {"group": "fedloom.stages", "name": "mean", "arguments": {}},
            {"group": "fedloom.stages", "name": "fixed_point", "arguments": {"bits": 24, "most_metric": 1000.0}},
        ],
        "aggregator": {"group": "fedloom.aggregators", "name": "secure_sum", "arguments": {"protocol": True}},
    },
)


@pytest.mark.parametrize("changes", [{}, {"pipeline": SECURE}], ids=["plain", "secure"])
def test_a_run_between_a_coordinator_and_sites_is_the_run_of_a_simulation(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    asked = experiment(**changes)
    sites = sites_of(asked, tmp_path)
    facts = facts_of(asked, sites)
    # Its data are nowhere on the coordinator's machine.
    there = without_rows(asked, facts, base=Path("/nowhere"))
    assert there.digest == asked.digest
    for phase in range(3):
        answer = public_answer(there, facts, phase) if phase < 2 else None
        if answer is not None:
            facts = facts.answered(answer[0])
            continue
        plan = coordinator_plan(there, facts, phase)
        alike = simulated_plan(asked, tmp_path, facts, phase)
        assert plan_digest(plan, facts) == plan_digest(alike, facts)
        nodes: dict[ClientId, ClientNode[Any, Any]] = {}
        states = MemoryStates()
        for name in sites:
            here = at_site(asked, sites, name, facts)
            assert here.digest == asked.digest
            mine, transforms = site_plan(here, read_facts(facts.canonical), phase)
            assert plan_digest(mine, facts) == plan_digest(plan, facts)
            assert mine.sum_round(order_of(mine), invited=4) == plan.sum_round(order_of(plan), invited=4)
            rows = transformed(sites[name].client(name), transforms)
            nodes[name] = ClientNode(
                client=name,
                plan=mine,
                data=rows,
                states=states,
                sessions=MemorySessions(),
                secret=client_secret(mine, name),
            )
        state = rounds(plan, nodes)
        same = rounds(alike, {name: with_plan(node, alike) for name, node in nodes.items()})
        if phase < 2:
            preparation: Any = there.prepare[phase]
            facts = facts.answered(msgspec.to_builtins(preparation.query.result(state.server)))
        else:
            np.testing.assert_array_equal(plan.algorithm.params(state.server), plan.algorithm.params(same.server))
            assert state.round == 2


def order_of(plan: AnyPlan) -> Any:
    opened = Coordinator(plan, initial_state(plan), secret=server_secret(plan)).open_round()
    assert not isinstance(opened, Stopped)
    order = next(iter(opened.values()))
    assert len(digest_of(order)) == 32
    return order


def with_plan(node: ClientNode[Any, Any], plan: AnyPlan) -> ClientNode[Any, Any]:
    return msgspec.structs.replace(node, plan=plan, states=MemoryStates(), sessions=MemorySessions())


def rounds(plan: AnyPlan, nodes: Mapping[ClientId, ClientNode[Any, Any]]) -> Any:
    """Work a phase through; every order and message as the bytes that would travel."""
    from fedloom.runtime.effects import Closed, Send

    coordinator = Coordinator(plan, initial_state(plan), secret=server_secret(plan))
    for _ in range(400):
        opened = coordinator.open_round()
        if isinstance(opened, Stopped):
            return coordinator.state
        for name, order in opened.items():
            coordinator.receive(name, nodes[name].receive(codec.decode(codec.encode(order), order)))
        while effects := coordinator.advance():
            for effect in effects:
                if isinstance(effect, Send):
                    answer = nodes[effect.to].answer(effect.request)
                    assert isinstance(answer, AggregatorMessage), answer
                    coordinator.receive(effect.to, answer)
                elif isinstance(effect, Closed):
                    assert len(effect.record.included) == 4 and not effect.record.failures
    raise AssertionError("the phase did not end")


def test_public_answers_need_no_site(tmp_path: Path) -> None:
    asked = experiment(prepare=(experiment().prepare[1],))
    facts = facts_of(asked, sites_of(asked, tmp_path))
    there = without_rows(asked, facts, base=tmp_path)
    assert len(with_public_answers(there, facts).prepared) == 1
    first = experiment()
    there = without_rows(first, facts, base=tmp_path)
    assert with_public_answers(there, facts).prepared == ()


def test_other_facts_make_another_plan(tmp_path: Path) -> None:
    asked = experiment(prepare=(), data=replace_classes(experiment()))
    facts = facts_of(asked, sites_of(asked, tmp_path))
    there = without_rows(asked, facts, base=tmp_path)
    plan = coordinator_plan(there, facts, 0)
    fewer = msgspec.structs.replace(facts, splits=("train",))
    other = coordinator_plan(without_rows(asked, fewer, base=tmp_path), fewer, 0)
    assert plan_digest(plan, facts) != plan_digest(other, fewer)
    assert plan_digest(plan, facts) != plan_digest(replace(plan, start=plan.start + 1), facts)


def replace_classes(asked: Experiment) -> ComponentSpec:
    assert isinstance(asked.data, ComponentSpec)
    return ComponentSpec("fedloom.datasets", "csv", {**asked.data.arguments, "classes": ["ill", "well"]})


def test_a_coordinator_opens_no_rows_and_names_no_sizes(tmp_path: Path) -> None:
    facts = RunFacts(names=(A, B), schema=Schema(("age",), "ill"), splits=("train",))
    there = without_rows(experiment(), facts, base=tmp_path)
    data: Any = there.data
    with pytest.raises(DataError, match="at its site"):
        data.client(A)
    with pytest.raises(PlanError, match="not by size"):
        data.population().sizes()
    with pytest.raises(PlanError, match="weighting"):
        weighted = ComponentSpec("fedloom.algorithms", "scaffold", {"local": {"epochs": 1}, "weighting": "examples"})
        asked = replace(experiment(prepare=(), data=replace_classes(experiment())), algorithm=weighted)
        classed = msgspec.structs.replace(facts, schema=Schema(("age",), "outcome", ("ill", "well")))
        coordinator_plan(without_rows(asked, classed, base=tmp_path), classed, 0)


def test_facts_that_do_not_fit_are_no_plan(tmp_path: Path) -> None:
    facts = RunFacts(names=(A, B), schema=Schema(("age", "bp"), "outcome"), splits=("train",))
    there = without_rows(experiment(), facts, base=tmp_path)
    with pytest.raises(PlanError, match="0 results of preparations are there, expected 2"):
        coordinator_plan(there, facts, 2)
    with pytest.raises(PlanError, match="phase 3 of 3"):
        coordinator_plan(there, facts, 3)
    strange = facts.answered({"classes": 7})
    with pytest.raises(PlanError, match=r"prepare\.0 is none of label_set"):
        coordinator_plan(there, strange, 1)
    other = msgspec.structs.replace(facts, names=(A,))
    with pytest.raises(PlanError, match="their clients differ"):
        coordinator_plan(there, other, 0)


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        (lambda text: text.replace('"names"', ' "names"'), "canonical"),
        (lambda text: text.replace('["a","b"]', '["b","a"]'), "in order"),
        (lambda text: text.replace('["a","b"]', '["a","a"]'), "in order"),
        (lambda text: text.replace('["a","b"]', "[]"), "0 sites"),
        (lambda text: text.replace('["train","test"]', '["test","train"]'), "splits in order"),
        (lambda text: text.replace('"columns":["age","bp"]', '"columns":["age","age"]'), "each name once"),
        (lambda text: text.replace("{", '{"also":1,', 1), "also"),
        (lambda text: text[:-1], "truncated"),
        (lambda text: text.replace('"train"', '"pickle"'), "pickle"),
        (lambda text: text.replace('"prepared":[', '"prepared":[' + "[" * 100_000), "recursion"),
    ],
)
def test_facts_have_one_encoding(changed: Any, says: str) -> None:
    facts = RunFacts(names=(A, B), schema=Schema(("age", "bp"), "ill"), splits=("train", "test"))
    assert read_facts(facts.canonical) == facts
    with pytest.raises(CodecError, match=says):
        read_facts(changed(facts.canonical.decode()).encode())


def test_facts_of_a_site_have_one_encoding_too() -> None:
    facts = SiteFacts(schema=Schema(("age",), "ill"), splits=("train",), versions={"numpy": "2.4.0"})
    assert read_site_facts(facts.canonical) == facts
    for changed in (facts.canonical + b" ", facts.canonical.replace(b"2.4.0", b'2.4.0","rows":"7')):
        if changed == facts.canonical:
            continue
        try:
            read = read_site_facts(changed)
        except CodecError:
            continue
        assert read.canonical == changed


def test_names_of_clients_are_in_order() -> None:
    with pytest.raises(DataError, match="in order"):
        RemotePopulation((B, A))
    with pytest.raises(DataError, match="no site 'c'"):
        RemotePopulation((A, B)).index(ClientId("c"))


def held(**schemas: Schema) -> dict[ClientId, SiteFacts]:
    return {
        ClientId(name): SiteFacts(schema=schema, splits=("train",), versions={}) for name, schema in schemas.items()
    }


TWENTY = (*(f"x{n}" for n in range(19)), "age")


@pytest.mark.parametrize(
    ("schemas", "asked", "says"),
    [
        (
            {"a": Schema(TWENTY, "ill"), "b": Schema(TWENTY[:-1], "ill"), "c": Schema(TWENTY, "ill")},
            {},
            ["site b: expects 20 features, has 19; missing `age`"],
        ),
        (
            {
                "a": Schema(("age", "bp"), "ill"),
                "b": Schema(("age", "sex", "bp"), "ill"),
                "c": Schema(("bp", "age"), "ill"),
            },
            {},
            ["site b: expects 2 features, has 3; not expected `sex`"],
        ),
        (
            {"a": Schema(("age",), "ill"), "b": Schema(("bp",), "ill")},
            {"columns": ["bp"]},
            ["site a: expects 1 features, has 1; missing `bp`, not expected `age`"],
        ),
        (
            {"a": Schema(("age", "sex"), "ill"), "b": Schema(("age",), "ill", texts=("sex",))},
            {},
            ["site b: `sex` is text; expected numbers. `categories` of the experiment's data name the texts"],
        ),
        (
            {"a": Schema(("age",), "ill"), "b": Schema(("age",), "dead"), "c": Schema(("age",), "ill")},
            {},
            ["site b: the label is `dead`; expected `ill`"],
        ),
        (
            {"a": Schema(("age",), "ill", ("n", "y")), "b": Schema(("age",), "ill")},
            {},
            ["site b: has no names of classes, other sites have them: give `classes` in the experiment's data"],
        ),
        (
            {"a": Schema(("age",), "ill", ("n", "y", "z")), "b": Schema(("age",), "ill", ("n", "y"))},
            {"classes": ["n", "y"]},
            ["site a: has the classes `z`, which the experiment does not declare"],
        ),
        ({}, {}, ["site -: no site has said what it has"]),
    ],
)
def test_what_sites_differ_in_is_told_by_site(
    schemas: dict[str, Schema], asked: dict[str, Any], says: list[str]
) -> None:
    found = agree(held(**schemas), ComponentSpec("fedloom.datasets", "csv", asked))
    assert not isinstance(found, RunFacts)
    assert [str(each) for each in found] == says


def test_order_is_that_of_most_sites_and_classes_are_united() -> None:
    found = agree(
        held(
            a=Schema(("age", "bp"), "label", ("10", "9")),
            b=Schema(("bp", "age"), "label", ("9", "11")),
        ),
        ComponentSpec("fedloom.datasets", "npz", {}),
    )
    assert isinstance(found, RunFacts)
    assert found.schema == Schema(("age", "bp"), "label", ("9", "10", "11"))
    assert found.names == (A, B)


def test_a_number_of_classes_names_none() -> None:
    """Data that are made up have ``classes = 2``: how many there are, and not what they are called."""
    schema = Schema(("x0",), "label", ("0", "1"))
    found = agree(held(a=schema, b=schema), ComponentSpec("fedloom.datasets", "generated", {"classes": 2}))
    assert isinstance(found, RunFacts)
    assert found.schema.classes == ("0", "1")


def test_versions_are_errors_or_warnings() -> None:
    here = {"fedloom": "1.0", "models": "2.1", "python": "3.11.7", "numpy": "2.4.1", "torch": "2.13.0"}
    theirs = {"fedloom": "1.0", "models": "2.2", "python": "3.12.1", "numpy": "1.26.0", "torch": "2.13.1"}
    facts = {A: SiteFacts(schema=Schema(("x",)), splits=(), versions=theirs)}
    found = compare_versions(here, facts, exactly=("fedloom", "models"))
    assert [(each.kind, each.words) for each in found] == [
        ("error", "has models 2.2; the run is of 2.1: install that version"),
        ("error", "has numpy 1.26.0, the coordinator 2.4.1: expected the same major version"),
        ("warning", "has python 3.12.1, the coordinator 3.11.7: last bits may differ"),
    ]
    none = {A: SiteFacts(schema=Schema(("x",)), splits=(), versions={})}
    assert [each.words for each in compare_versions(here, none)] == [
        "has no fedloom; the run is of 1.0: install that version"
    ]


FILE = """\
seed = 7
[data]
name = "csv"
path = "nowhere.csv"
label = "outcome"
client = "ward"
classes = ["well", "ill"]
[learner]
name = "logistic"
[algorithm]
name = "fedavg"
local = { epochs = 1 }
[stop]
name = "max_rounds"
rounds = 3
"""


def test_an_experiment_file_is_read_where_its_rows_are_not(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(FILE)
    with pytest.raises(ConfigError, match="no such file"):
        read(tmp_path / "run.toml")
    settings = read_without_rows(tmp_path / "run.toml", ["seed=8"])
    assert isinstance(settings.experiment.data, ComponentSpec)
    assert settings.experiment.seed == 8
    (tmp_path / "nowhere.csv").write_text("age,outcome,ward\n" + "1,ill,a\n2,well,a\n3,ill,b\n4,well,b\n" * 3)
    assert read(tmp_path / "run.toml", ["seed=8"]).experiment.digest == settings.experiment.digest
    (tmp_path / "run.toml").write_text(FILE.replace("label =", "lable ="))
    with pytest.raises(ConfigError) as failed:
        read_without_rows(tmp_path / "run.toml")
    (violation,) = failed.value.violations
    assert violation.path == "data.lable" and "did you mean `label`?" in violation.message
