"""Blocks of clients in torch: same bytes in any block, close to the loop, ragged sizes, and whole runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch learner needs the extra `torch`")
from torch import nn  # noqa: E402

import fedloom  # noqa: E402
from fedloom.core.component import component  # noqa: E402
from fedloom.core.data import ClientDataset, Schema  # noqa: E402
from fedloom.core.keys import NO_SECRET, Key, Keys  # noqa: E402
from fedloom.core.learner import Job  # noqa: E402
from fedloom.core.metrics import Mean  # noqa: E402
from fedloom.core.params import Dtype  # noqa: E402
from fedloom.core.schedule import Schedule  # noqa: E402
from fedloom.core.work import LocalResult, LocalWork  # noqa: E402
from fedloom.errors import ComponentError  # noqa: E402
from fedloom.experiment.listing import list_plan  # noqa: E402
from fedloom.learners import models  # noqa: E402
from fedloom.learners.torch_learner import TorchLearner  # noqa: E402
from fedloom.learners.torch_module import torch_module  # noqa: E402
from fedloom.learners.torch_planner import STACKED_ON_CPU, Facts, choose  # noqa: E402
from fedloom.optim import adam, momentum  # noqa: E402
from fedloom.testing import check_learner, rows, schema_of  # noqa: E402
from fedloom.testing.fakes import Task  # noqa: E402
from fedloom.testing.learner import check_block  # noqa: E402

LOSSES: dict[Task, Any] = {"binary": "bce", "classes": "cross_entropy", "regression": "mse"}
SIZES = (3, 20, 7, 64, 65, 1, 16, 33, 100, 10, 11)
MINIBATCH = Schedule(epochs=2, batch_size=10, learning_rate=0.05)
WIDE = Schema(tuple(f"x{number}" for number in range(70)), label="y", classes=("a", "b", "c"))


class Normed(nn.Module):
    """A hidden layer normalised by row: what only a stack by ``torch.func`` can take together."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, 5)
        self.norm = nn.LayerNorm(5)
        self.head = nn.Linear(5, outputs)

    def forward(self, x: Any) -> Any:
        return self.head(torch.tanh(self.norm(self.hidden(x))))


@component("fedloom.models")
def normed(inputs: int | None = None, outputs: int | None = None) -> Any:
    return Normed(inputs or 0, outputs or 0)


def made(model: Any, schema: Schema, **arguments: Any) -> TorchLearner:
    learner = torch_module(model, **arguments).build(schema)
    assert isinstance(learner, TorchLearner)
    return learner


def jobs_of(
    learner: TorchLearner, clients: Sequence[ClientDataset], schedule: Schedule, *, own: bool = False, **terms: Any
) -> list[Job]:
    """Return the work of clients from one start, or each from its own."""
    start = learner.init(Key.from_seed(1))
    shift = Key.from_seed(2).generator()
    jobs = []
    for number, data in enumerate(clients):
        moved = start + shift.standard_normal(len(start)).astype(start.dtype) / 20 if own else start
        drawn = {name: scale * shift.standard_normal(len(start)) for name, scale in terms.items() if name != "prox"}
        given = {name: value.astype(start.dtype) for name, value in drawn.items()}
        prox = {"prox": terms["prox"]} if "prox" in terms else {}
        keys = Keys(Key.from_seed(9).child(number), NO_SECRET)
        jobs.append(Job(LocalWork(start=moved, schedule=schedule, **given, **prox), data, keys))
    return jobs


def clients_of(task: Task, sizes: Sequence[int] = SIZES, *, columns: int = 3) -> list[ClientDataset]:
    key = Key.from_seed(5)
    return [
        rows(key.child(number), size, task=task, columns=columns).split("train") for number, size in enumerate(sizes)
    ]


def assert_close(found: Sequence[LocalResult], expected: Sequence[LocalResult], jobs: Sequence[Job]) -> None:
    """Within 1e-5 of the distance that a client moved in float32, 1e-9 in float64."""
    share = 1e-5 if jobs[0].work.start.dtype == np.float32 else 1e-9
    for ours, theirs, job in zip(found, expected, jobs, strict=True):
        moved = float(np.linalg.norm(theirs.params - job.work.start))
        apart = float(np.linalg.norm(ours.params - theirs.params))
        rounding = np.finfo(job.work.start.dtype).eps * float(np.linalg.norm(theirs.params))
        assert apart <= share * moved + 2 * rounding, (len(job.data), apart, moved)
        assert (ours.steps, ours.lr_sum, ours.examples) == (theirs.steps, theirs.lr_sum, theirs.examples)
        mean, other = (mean_of(each) for each in (ours, theirs))
        assert np.isclose(mean, other, rtol=10 * share, atol=share), (mean, other)


def mean_of(result: LocalResult) -> float:
    loss = result.metrics["loss"]
    assert isinstance(loss, Mean)
    return loss.total / loss.weight


# ---- same bytes in any block ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "hidden", "activation"),
    [
        ("classes", [6], "relu"),
        ("binary", [5, 3], "gelu"),
        ("regression", [1], "tanh"),
        ("classes", [], "relu"),
        ("binary", [], "relu"),
    ],
)
def test_a_perceptron_by_hand_passes_the_battery(task: Task, hidden: list[int], activation: Any) -> None:
    def build(dtype: Dtype) -> TorchLearner:
        model = models.mlp(hidden, activation=activation)
        return made(model, schema_of(task), loss=LOSSES[task], dtype=dtype, l2=0.01, block="mlp")

    assert build("float32").capabilities.block == "same bytes"
    # A start with units at the kink of relu would have no slope for differences to find.
    check_learner(build, lambda key, count: rows(key, count, task=task))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("columns", "hidden"), [(1, [3]), (70, [65]), (70, [65, 2]), (33, [17, 9])])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_plain_steps_have_the_same_bytes_in_any_block(
    columns: int, hidden: list[int], activation: Any, dtype: Dtype
) -> None:
    """Without a penalty the parameters move in the products, and a wide first layer once in several steps."""
    schema = replace(WIDE, columns=WIDE.columns[:columns])
    learner = made(models.mlp(hidden, activation=activation), schema, dtype=dtype, block="mlp")
    check_block(learner, lambda key, count: rows(key, count, task="classes", columns=columns))


def test_a_stack_by_torch_func_passes_the_battery() -> None:
    check_learner(
        lambda dtype: made(normed(), schema_of("classes"), dtype=dtype, l2=0.01, block="vmap"),
        lambda key, count: rows(key, count, task="classes"),
    )


# ---- close to the loop ----------------------------------------------------------------------------------------------

WORK: dict[str, tuple[Schedule, dict[str, Any]]] = {
    "minibatches": (MINIBATCH, {}),
    "full batch": (Schedule(steps=4, batch_size="full", learning_rate=0.1), {}),
    "one row a batch": (Schedule(epochs=1, batch_size=1, learning_rate=0.02), {}),
    "many epochs": (Schedule(epochs=7, batch_size=4, learning_rate=0.02), {}),
    "steps": (Schedule(steps=3, batch_size=16, learning_rate=0.1), {}),
    "momentum": (replace(MINIBATCH, optimizer=momentum(0.9), learning_rate=0.01), {}),
    "adam": (replace(MINIBATCH, optimizer=adam(tau=1e-3), learning_rate=0.01), {}),
    "clip and decay": (replace(MINIBATCH, clip_norm=0.2, weight_decay=0.1), {}),
    "linear": (MINIBATCH, {"linear": 0.1}),
    "prox": (MINIBATCH, {"prox": 0.3}),
    "anchor": (MINIBATCH, {"prox": 0.3, "anchor": 0.1, "linear": 0.1}),
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("block", ["mlp", "vmap"])
def test_a_block_is_close_to_the_loop(work: str, block: str) -> None:
    schedule, terms = WORK[work]
    for dtype, task in (("float32", "classes"), ("float64", "binary")):
        weights = {"no": 0.5, "yes": 3.0} if task == "binary" else None
        common: dict[str, Any] = {"loss": LOSSES[task], "dtype": dtype, "class_weight": weights}  # type: ignore[index]
        model = models.mlp([8], activation="tanh")
        loop = made(model, schema_of(task), **common, block="loop")  # type: ignore[arg-type]
        ours = made(model, schema_of(task), **common, block=block)  # type: ignore[arg-type]
        jobs = jobs_of(loop, clients_of(task), schedule, own=work != "minibatches", **terms)  # type: ignore[arg-type]
        assert_close(ours.fit(jobs), loop.fit(jobs), jobs)


@pytest.mark.parametrize(
    ("hidden", "activation", "dtype"),
    [([65, 20], "tanh", "float32"), ([65], "gelu", "float32"), ([65, 20], "relu", "float64")],
)
def test_a_wide_first_layer_moved_once_in_several_steps_is_close_to_the_loop(
    hidden: list[int], activation: Any, dtype: Dtype
) -> None:
    """In float32 with relu, a unit at its kink may go either way: smooth units say more there."""
    model = models.mlp(hidden, activation=activation)
    ours, loop = (made(model, WIDE, dtype=dtype, block=block) for block in ("mlp", "loop"))
    jobs = jobs_of(loop, clients_of("classes", (*SIZES, 150), columns=70), MINIBATCH)
    assert_close(ours.fit(jobs), loop.fit(jobs), jobs)


def test_numbers_are_regressed_as_in_the_loop() -> None:
    ours, loop, stacked = (
        made(models.mlp([8], activation="tanh"), schema_of("regression"), loss="mse", dtype="float64", block=block)
        for block in ("mlp", "loop", "vmap")
    )
    jobs = jobs_of(loop, clients_of("regression"), MINIBATCH)
    expected = loop.fit(jobs)
    assert_close(ours.fit(jobs), expected, jobs)
    assert_close(stacked.fit(jobs), expected, jobs)


# ---- the planner ----------------------------------------------------------------------------------------------------


@component("fedloom.models")
def dropping(inputs: int | None = None, outputs: int | None = None) -> Any:
    return nn.Sequential(nn.Linear(inputs or 0, 4), nn.Dropout(0.5), nn.Linear(4, outputs or 0))


@component("fedloom.models")
def batch_normed(inputs: int | None = None, outputs: int | None = None) -> Any:
    return nn.Sequential(nn.Linear(inputs or 0, 4), nn.BatchNorm1d(4), nn.Linear(4, outputs or 0))


@component("fedloom.models")
def half_frozen(inputs: int | None = None, outputs: int | None = None) -> Any:
    module = nn.Sequential(nn.Linear(inputs or 0, 4), nn.ReLU(), nn.Linear(4, outputs or 0))
    module[0].requires_grad_(False)
    return module


class Centred(nn.Module):
    """Takes the mean of the batch from each row."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.head = nn.Linear(inputs, outputs)

    def forward(self, x: Any) -> Any:
        return self.head(x - x.mean(dim=0))


@component("fedloom.models")
def centred(inputs: int | None = None, outputs: int | None = None) -> Any:
    return Centred(inputs or 0, outputs or 0)


def branching_loss(outputs: Any, targets: Any) -> Any:
    return nn.functional.cross_entropy(outputs, targets)


NARROW = schema_of("classes", columns=16)
CHOICES: list[tuple[str, Any, dict[str, Any], str, str]] = [
    ("perceptron", models.mlp([8]), {}, "mlp", "linear layers"),
    ("perceptron of images", nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), {"shape": [1, 4, 4]}, "mlp", "linear"),
    ("torch optimizer", models.mlp([8]), {"optimizer": "NAdam"}, "loop", "an optimizer of torch.optim"),
    ("loss of one's own", models.mlp([8]), {"loss": branching_loss}, "loop", "its loss is a function"),
    ("convolutions", models.cnn(), {"shape": [1, 4, 4]}, "loop", "a CPU computes convolutions fastest"),
    ("recurrent", models.char_lstm(10, hidden=4), {}, "loop", "a CPU computes recurrent layers fastest"),
    ("dropout", dropping(), {}, "loop", "random"),
    ("batch normalisation", batch_normed(), {}, "loop", "statistics"),
    ("rows that meet", centred(), {}, "loop", "depends on the other rows"),
    ("half frozen", half_frozen(), {}, "vmap", "calls cost more than products"),
    ("small", normed(), {}, "vmap", "calls cost more than products"),
    ("asked for", models.mlp([8]), {"block": "loop"}, "loop", "asked for"),
    ("stacked by wish", models.mlp([8]), {"block": "vmap"}, "vmap", "asked for"),
]


@pytest.mark.parametrize(
    ("model", "arguments", "route", "reason"), [case[1:] for case in CHOICES], ids=[case[0] for case in CHOICES]
)
def test_the_planner_chooses_by_the_model_and_says_why(
    model: Any, arguments: dict[str, Any], route: str, reason: str
) -> None:
    learner = made(model, NARROW, **arguments)
    assert learner.choice.route == route
    assert reason in learner.choice.reason
    assert learner.notes == (f'clients are trained by block = "{route}": {learner.choice.reason}',)
    assert learner.capabilities.block == ("close" if route == "vmap" else "same bytes")


def fact(**changed: Any) -> Facts:
    values: dict[str, Any] = {"parameters": 1_000, "device": "cpu", "not_mlp": "it is something else"}
    return Facts(**{**values, **changed})


@pytest.mark.parametrize(
    ("facts", "route"),
    [
        (fact(not_mlp="", parameters=10_000_000), "mlp"),
        (fact(not_mlp="", device="cuda"), "mlp"),
        (fact(), "vmap"),
        (fact(parameters=STACKED_ON_CPU + 1), "loop"),
        (fact(parameters=10_000_000, device="cuda"), "vmap"),
        (fact(slow_stacked="convolutions"), "loop"),
        (fact(slow_stacked="convolutions", device="cuda"), "vmap"),
        (fact(not_stacked=lambda: "it has statistics"), "loop"),
        (fact(not_stacked=lambda: "it has statistics", device="cuda"), "loop"),
    ],
)
def test_the_choice_is_a_function_of_the_facts(facts: Facts, route: str) -> None:
    assert choose(facts, "auto").route == route


def test_nothing_is_tried_that_decides_nothing() -> None:
    def tried() -> str:
        raise AssertionError("the trial takes a second")

    for wanted, facts in (("loop", fact()), ("auto", fact(parameters=STACKED_ON_CPU + 1)), ("auto", fact(not_mlp=""))):
        choose(replace(facts, not_stacked=tried), wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("model", "arguments", "message"),
    [
        (models.cnn(), {"block": "mlp", "shape": [1, 4, 4]}, 'torch(block="mlp"): it takes rows of another shape'),
        (models.mlp([4]), {"block": "mlp", "optimizer": "NAdam"}, "an optimizer of torch.optim steps one client"),
        (half_frozen(), {"block": "mlp"}, "it has frozen layers"),
        (nn.Sequential(nn.Linear(16, 4), nn.SiLU(), nn.Linear(4, 3)), {"block": "mlp"}, "it has SiLU between layers"),
        (batch_normed(), {"block": "vmap"}, 'torch(block="vmap"): it has statistics'),
        (dropping(), {"block": "vmap"}, "it draws random numbers"),
        (models.mlp([4]), {"block": "vmap", "loss": branching_loss}, "its loss is a function"),
        (models.mlp([4]), {"block": "stack"}, "torch(block='stack'): expected one of 'auto', 'loop', 'mlp', 'vmap'"),
    ],
)
def test_a_block_that_cannot_work_is_refused_with_the_reason(
    model: Any, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ComponentError) as refused:
        made(model, NARROW, **arguments)
    assert message in str(refused.value)


# ---- whole runs -----------------------------------------------------------------------------------------------------


def lopsided(clients: int = 40) -> Any:
    """Return data whose clients have log-normal sizes, sigma 1."""
    draw = np.random.default_rng(4)
    sizes = np.maximum(1, draw.lognormal(3.0, 1.0, clients)).astype(int)
    names = np.repeat([f"client-{number:02d}" for number in range(clients)], sizes)
    x = draw.standard_normal((len(names), 70)).astype(np.float32)
    y = np.argmax(x @ draw.standard_normal((70, 3)), axis=1)
    return fedloom.data.arrays(x, y, clients=names, test=0.2)


LOCAL = Schedule(epochs=2, batch_size=8, learning_rate=0.05)
ALGORITHMS = {
    "fedavg": fedloom.fedavg(LOCAL),
    "fedprox": fedloom.fedprox(LOCAL, mu=0.1),
    "fedadam": fedloom.fedadam(LOCAL, server_lr=0.01),
    "scaffold": fedloom.scaffold(LOCAL),
}


def experiment(model: Any, **changed: Any) -> fedloom.Experiment:
    values: dict[str, Any] = {
        "data": lopsided(),
        "learner": fedloom.torch_module(model, block=changed.pop("how", "auto")),
        "algorithm": ALGORITHMS["fedavg"],
        "cohort": fedloom.uniform(20),
        "stop": fedloom.max_rounds(3),
        "seed": 3,
        "compare": False,
    }
    return fedloom.Experiment(**{**values, **changed})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("model", [models.mlp([65]), normed()], ids=["mlp", "vmap"])
def test_one_worker_and_two_give_the_same_bytes(model: Any, algorithm: str) -> None:
    made = experiment(model, algorithm=ALGORITHMS[algorithm])
    one, two = (fedloom.local(workers=workers, pool="threads").run(made) for workers in (1, 2))
    assert one.params.tobytes() == two.params.tobytes()
    assert one.rounds[-1].metrics == two.rounds[-1].metrics


def test_the_size_of_a_block_changes_no_byte_of_a_perceptron() -> None:
    runs = [fedloom.local().run(experiment(models.mlp([65]), block=block)) for block in (None, 1, 3, 20)]
    assert len({run.params.tobytes() for run in runs}) == 1


def test_all_routes_reach_the_same_model_but_for_rounding() -> None:
    loop, mlp, vmap = (
        fedloom.local().run(experiment(models.mlp([65], activation="tanh"), how=how)) for how in ("loop", "mlp", "vmap")
    )
    for other in (mlp, vmap):
        assert not np.array_equal(other.params, loop.params)
        assert np.allclose(other.params, loop.params, atol=1e-5)
    assert [note for note in mlp.notes if "block" in note] == ['clients are trained by block = "mlp": asked for']


def test_the_plan_of_a_run_says_how_clients_are_trained() -> None:
    listing = list_plan(experiment(models.mlp([65])), base=Path())
    (training,) = [phase for phase in listing.phases if phase.program == "train"]
    assert training.notes == ('clients are trained by block = "mlp": linear layers with activations between them',)


def test_few_clients_are_trained_one_by_one_unless_a_stack_is_asked_for() -> None:
    """Below six a stack is slower: "auto" then has the bytes of the loop."""
    auto, loop, stacked = (made(normed(), schema_of("classes"), block=block) for block in ("auto", "loop", "vmap"))
    jobs = jobs_of(loop, clients_of("classes", (20, 7, 30, 9, 12, 11)), MINIBATCH)
    few = [[each.params.tobytes() for each in learner.fit(jobs[:5])] for learner in (auto, loop)]
    many = [[each.params.tobytes() for each in learner.fit(jobs)] for learner in (auto, stacked)]
    assert few[0] == few[1]
    assert many[0] == many[1]


def test_named_inputs_are_stacked() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(2, 4), nn.Conv1d(1, 4, 3)

        def forward(self, left: Any, right: Any) -> Any:
            return (self.left(left) + self.right(right)[..., 0])[:, :3]

    given: dict[str, Any] = {"inputs": {"left": ["x0", "x2"], "right": ["x1", "x2", "x0"]}, "shapes": {"right": [1, 3]}}
    loop, stacked = (made(Two(), schema_of("classes"), block=block, **given) for block in ("loop", "vmap"))
    jobs = jobs_of(loop, clients_of("classes"), MINIBATCH)
    assert_close(stacked.fit(jobs), loop.fit(jobs), jobs)


def test_the_block_of_the_learner_is_part_of_the_digest() -> None:
    digests = {experiment(models.mlp([65]), how=how).digest for how in ("auto", "loop", "mlp", "vmap")}
    assert len(digests) == 4


class Choosy(nn.Module):
    """Fails on rows that it does not like, as a person's code may."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(70, 3)

    def forward(self, x: Any) -> Any:
        if self.layer.weight.shape != (3, 70) or len(x) == 64:
            raise ValueError("64 rows are too many")
        return self.layer(x)


def test_one_clients_exception_in_a_stack_is_its_own() -> None:
    """A stack that fails is trained one by one: who fails alone is reported with the line, the others count."""
    data = lopsided()
    full = Schedule(batch_size="full", learning_rate=0.05)
    made = experiment(
        Choosy(), data=data, how="vmap", algorithm=fedloom.fedavg(full), cohort=fedloom.everyone(),
        policy=fedloom.RoundPolicy(quorum=1), stop=fedloom.max_rounds(1),
    )  # fmt: skip
    failures = fedloom.local().run(made).rounds[0].failures
    names = [data.population().id(number) for number in range(40)]
    sizes = {name: data.client(name).count("train") for name in names}
    assert {failure.client for failure in failures} == {name for name, size in sizes.items() if size <= 64}
    for failure in failures:
        assert failure.detail == "ValueError: 64 rows are too many"
        assert failure.where is not None and failure.where.startswith(__file__)
