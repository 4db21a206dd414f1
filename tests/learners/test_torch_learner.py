"""The torch learner: the battery, the linear learner as its measure, whole runs, and what it refuses."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the torch learner needs the extra `torch`")
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

from fedloom.algorithms import fedadam, fedavg, fedprox, scaffold  # noqa: E402
from fedloom.core.component import component, spec_of  # noqa: E402
from fedloom.core.data import FEATURES, LABEL, ClientDataset, Schema  # noqa: E402
from fedloom.core.keys import NO_SECRET, Key, Keys  # noqa: E402
from fedloom.core.learner import Job  # noqa: E402
from fedloom.core.schedule import Schedule  # noqa: E402
from fedloom.core.work import LocalWork  # noqa: E402
from fedloom.errors import ComponentError, DataError  # noqa: E402
from fedloom.learners import logistic, models, ridge  # noqa: E402
from fedloom.learners.torch_learner import TorchLearner  # noqa: E402
from fedloom.learners.torch_module import ModuleLoss, torch_module  # noqa: E402
from fedloom.optim import adam, momentum  # noqa: E402
from fedloom.runtime.stopping import max_rounds  # noqa: E402
from fedloom.testing import check_learner, federation, plan_for, rows, schema_of, simulate  # noqa: E402
from fedloom.testing.fakes import Task  # noqa: E402

IMAGES = Schema(tuple(f"p{number}" for number in range(64)), label="y", classes=("a", "b", "c"))
LOCAL = Schedule(epochs=2, batch_size=4, learning_rate=0.1)


class Normalised(nn.Module):
    """A hidden layer with batch normalisation."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, 6)
        self.norm = nn.BatchNorm1d(6)
        self.head = nn.Linear(6, outputs)

    def forward(self, x: Any) -> Any:
        return self.head(torch.tanh(self.norm(self.hidden(x))))


class Dropped(nn.Module):
    """A hidden layer half of which is dropped."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(inputs, 16)
        self.head = nn.Linear(16, outputs)

    def forward(self, x: Any) -> Any:
        return self.head(functional.dropout(torch.tanh(self.hidden(x)), 0.5, self.training))


@component("fedloom.models")
def normalised(inputs: int | None = None, outputs: int | None = None) -> Any:
    return Normalised(inputs or 0, outputs or 0)


@component("fedloom.models")
def dropped(inputs: int | None = None, outputs: int | None = None) -> Any:
    return Dropped(inputs or 0, outputs or 0)


@component("fedloom.models")
def zero_linear(inputs: int | None = None, outputs: int | None = None) -> Any:
    layer = nn.Linear(inputs or 0, outputs or 0)
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def made(model: Any, schema: Schema, **arguments: Any) -> TorchLearner:
    learner = torch_module(model, **arguments).build(schema)
    assert isinstance(learner, TorchLearner)
    return learner


def fit(learner: TorchLearner, data: ClientDataset, schedule: Schedule, *, key: Key | None = None, **work: Any) -> Any:
    start = learner.init(Key.from_seed(1))
    keys = Keys(Key.from_seed(9) if key is None else key, NO_SECRET)
    return learner.fit([Job(LocalWork(start=start, schedule=schedule, **work), data.split("train"), keys)])[0]


# ---- the battery ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "loss"),
    [("binary", "bce"), ("binary", "cross_entropy"), ("classes", "cross_entropy"), ("regression", "mse")],
)
def test_a_perceptron_passes_the_battery(task: Task, loss: Any) -> None:
    check_learner(
        lambda dtype: made(models.mlp([6], activation="tanh"), schema_of(task), loss=loss, dtype=dtype, l2=0.01),
        lambda key, count: rows(key, count, task=task),
    )


def test_batch_normalisation_passes_the_battery() -> None:
    check_learner(
        lambda dtype: made(normalised(), schema_of("classes"), dtype=dtype, l2=0.01),
        lambda key, count: rows(key, count, task="classes"),
    )


@pytest.mark.slow
@pytest.mark.parametrize("model", [models.cnn(), models.resnet(width=8)], ids=["cnn", "resnet"])
def test_a_network_for_images_passes_the_battery(model: Any) -> None:
    check_learner(
        lambda dtype: made(model, IMAGES, shape=[1, 8, 8], dtype=dtype),
        lambda key, count: rows(key, count, task="classes", columns=64),
        dtypes=("float32",),
    )


# ---- the linear learner is the measure ------------------------------------------------------------------------------

ALGORITHMS: dict[str, Callable[[], Any]] = {
    "fedavg": lambda: fedavg(LOCAL),
    "fedavg full batch": lambda: fedavg(Schedule(steps=3, batch_size="full", learning_rate=0.3)),
    "fedprox": lambda: fedprox(LOCAL, mu=0.3),
    "scaffold": lambda: scaffold(LOCAL),
    "fedadam": lambda: fedadam(LOCAL),
    "momentum": lambda: fedavg(replace(LOCAL, optimizer=momentum(0.9))),
    "nesterov": lambda: fedavg(replace(LOCAL, optimizer=momentum(0.9, variant="nesterov"))),
    "local adam": lambda: fedavg(replace(LOCAL, optimizer=adam(), learning_rate=0.01)),
    "clip and decay": lambda: fedavg(replace(LOCAL, clip_norm=0.2, weight_decay=0.1)),
}


@pytest.mark.parametrize("task", ["binary", "classes"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_linear_module_trains_as_the_linear_learner(algorithm: str, task: Task) -> None:
    """Same orders, batches and steps: five rounds agree to rounding."""
    weights = {"no": 0.5, "yes": 3.0} if task == "binary" else None
    loss: Any = "bce" if task == "binary" else "cross_entropy"
    ours = made(zero_linear(), schema_of(task), loss=loss, l2=0.01, class_weight=weights, dtype="float64")
    linear: Any = logistic(l2=0.01, class_weight=weights).build(schema_of(task))
    assert_same_run(
        federation((9, 4, 17, 1), task=task), (ours, ALGORITHMS[algorithm]()), (linear, ALGORITHMS[algorithm]())
    )


def test_a_linear_module_trains_as_ridge() -> None:
    """Its loss is the whole square and ridge has half of it, so half the rate and twice the penalty is the same."""
    ours = made(zero_linear(), schema_of("regression"), loss="mse", l2=0.02, dtype="float64")
    linear: Any = ridge(l2=0.01).build(schema_of("regression"))
    data = federation((9, 4, 17, 1), task="regression")
    assert_same_run(data, (ours, fedavg(replace(LOCAL, learning_rate=0.05))), (linear, fedavg(LOCAL)))


def assert_same_run(data: Any, ours: tuple[Any, Any], linear: tuple[Any, Any]) -> None:
    mine, theirs = (
        simulate(plan_for(data, algorithm, learner, stop=max_rounds(5)), data) for learner, algorithm in (ours, linear)
    )
    assert np.abs(theirs.params).max() > 0.01
    np.testing.assert_allclose(mine.params, theirs.params, rtol=0, atol=1e-9)


@pytest.mark.parametrize("task", ["binary", "classes"])
def test_a_linear_module_evaluates_as_the_linear_learner(task: Task) -> None:
    weights = {"no": 0.5, "yes": 3.0} if task == "binary" else None
    loss: Any = "bce" if task == "binary" else "cross_entropy"
    ours = made(zero_linear(), schema_of(task), loss=loss, l2=0.1, class_weight=weights, dtype="float64")
    linear: Any = logistic(l2=0.1, class_weight=weights).build(schema_of(task))
    params = Key.from_seed(3).generator().standard_normal(ours.layout.size)
    clients = [rows(Key.from_seed(20 + n), size, task=task).split("train") for n, size in enumerate((40, 1, 700))]
    for mine, theirs in zip(ours.evaluate(params, clients), linear.evaluate(params, clients), strict=True):
        assert set(mine.metrics) == set(theirs.metrics) == set(ours.evaluation_metrics.kinds)
        for name, score in theirs.scores.items():
            assert mine.scores[name] == pytest.approx(score, abs=1e-12), name
    features = clients[0].arrays[FEATURES]
    np.testing.assert_allclose(ours.predict(params, features), linear.predict(params, features), atol=1e-12)
    assert ours.predict(params, features[:0]).shape == (0, ours.task.objective.classes)


def test_two_logits_say_what_one_says() -> None:
    """With a weight of zero to the first class, a logit a class is the one logit: figures agree, ranks included."""
    one = made(zero_linear(), schema_of("binary"), loss="bce", dtype="float64")
    two = made(zero_linear(), schema_of("binary"), loss="cross_entropy", dtype="float64")
    params = np.array([0.7, -0.4, 0.2, 0.1])
    doubled = np.array([0, 0, 0, 0.7, -0.4, 0.2, 0, 0.1])
    data = [rows(Key.from_seed(1), 50).split("train")]
    mine, theirs = one.evaluate(params, data)[0], two.evaluate(doubled, data)[0]
    assert dict(mine.scores) == pytest.approx(dict(theirs.scores), abs=1e-12)
    assert one.figures(mine.metrics)["auroc"] == two.figures(theirs.metrics)["auroc"]


# ---- what is in the vector ------------------------------------------------------------------------------------------


def test_statistics_are_leaves_and_follow_the_rows() -> None:
    learner = made(normalised(), schema_of("classes"))
    kinds = {leaf.name: leaf.kind for leaf in learner.layout.leaves}
    assert kinds["norm.running_mean"] == kinds["norm.running_var"] == "statistic"
    assert kinds["norm.weight"] == "parameter"
    assert "norm.num_batches_tracked" not in kinds, "a counter stays at the client"
    before = learner.layout.unflatten(learner.init(Key.from_seed(1)))
    assert before["norm.running_var"].tolist() == [1.0] * 6
    data = rows(Key.from_seed(1), 20, task="classes")
    after = learner.layout.unflatten(fit(learner, data, Schedule(steps=1, batch_size="full", learning_rate=0.0)).params)
    features = data.arrays[FEATURES].astype(np.float32)
    hidden = features @ before["hidden.weight"].T + before["hidden.bias"]
    np.testing.assert_allclose(after["norm.running_mean"], 0.1 * hidden.mean(axis=0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(after["norm.running_var"], 0.9 + 0.1 * hidden.var(axis=0, ddof=1), rtol=1e-4)


def test_a_batch_of_one_row_is_normalised_by_the_moving_statistics() -> None:
    learner = made(normalised(), schema_of("classes"))
    result = fit(learner, rows(Key.from_seed(1), 9, task="classes"), Schedule(epochs=1, batch_size=4))
    assert result.steps == 3, "two batches of four rows, and one of one"
    alone = fit(learner, rows(Key.from_seed(1), 1, task="classes"), Schedule(steps=2, batch_size="full"))
    leaves = learner.layout.unflatten(alone.params)
    assert leaves["norm.running_var"].tolist() == [1.0] * 6, "a single row moves no statistic"
    assert np.isfinite(alone.params).all() and np.abs(leaves["head.bias"]).max() > 0


def test_a_gradient_moves_no_statistic_and_has_none() -> None:
    learner = made(normalised(), schema_of("classes"), dtype="float64")
    answer = learner.gradient(learner.init(Key.from_seed(1)), rows(Key.from_seed(1), 20, task="classes"))
    assert not learner.layout.unflatten(answer.gradient)["norm.running_mean"].any()


def test_frozen_layers_are_in_no_vector_and_stay() -> None:
    @component("fedloom.models")
    def half_frozen(inputs: int | None = None, outputs: int | None = None) -> Any:
        module = nn.Sequential(nn.Linear(inputs or 0, 5), nn.Tanh(), nn.Linear(5, outputs or 0))
        module[0].requires_grad_(False)
        return module

    learner = made(half_frozen(), schema_of("binary"))
    assert [leaf.name for leaf in learner.layout.leaves] == ["2.weight", "2.bias"]
    with learner.spaces.taken() as space:
        before = space.module[0].weight.clone()
    fit(learner, rows(Key.from_seed(1), 20), LOCAL)
    with learner.spaces.taken() as space:
        assert torch.equal(space.module[0].weight, before)
    other = made(half_frozen(), schema_of("binary"))
    with other.spaces.taken() as space:
        assert torch.equal(space.module[0].weight, before), "every party has the same frozen numbers"


def test_tied_weights_are_one_leaf() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(3, 3)
            self.b = nn.Linear(3, 3)
            self.b.weight = self.a.weight

        def forward(self, x: Any) -> Any:
            return self.b(torch.tanh(self.a(x)))

    learner = made(Tied(), schema_of("classes"))
    assert [leaf.name for leaf in learner.layout.leaves] == ["a.weight", "a.bias", "b.bias"]
    fit(learner, rows(Key.from_seed(1), 20, task="classes"), LOCAL)
    with learner.spaces.taken() as space:
        assert space.module.a.weight.data_ptr() == space.module.b.weight.data_ptr() == space.flat.data_ptr()


def test_local_buffers_begin_afresh_and_replaced_statistics_count() -> None:
    class Counting(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)
            self.register_buffer("calls", torch.zeros((), dtype=torch.int64))
            self.register_buffer("level", torch.zeros(2))
            self.register_buffer("scratch", torch.zeros(2), persistent=False)

        def forward(self, x: Any) -> Any:
            if self.training:
                self.calls += 1
                self.level = self.level + 1.0  # another tensor, as much code does it
                self.scratch += 1.0
            return self.layer(x) * (1.0 + self.scratch.sum().detach() * 0)

    learner = made(Counting(), schema_of("classes"))
    assert [leaf.name for leaf in learner.layout.leaves if leaf.kind == "statistic"] == ["level"]
    for _ in range(2):
        result = fit(learner, rows(Key.from_seed(1), 8, task="classes"), Schedule(epochs=1, batch_size=4))
        assert learner.layout.unflatten(result.params)["level"].tolist() == [2.0, 2.0]
        with learner.spaces.taken() as space:
            assert int(space.module.calls) == 2 and space.module.scratch.tolist() == [2.0, 2.0]


def test_channels_last_weights_train_to_the_same_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    from fedloom.learners import torch_networks

    arranged = made(models.cnn(), IMAGES, shape=[1, 8, 8], dtype="float64")
    monkeypatch.setattr(torch_networks, "_channels_last", lambda network: network)
    plain = made(models.cnn(), IMAGES, shape=[1, 8, 8], dtype="float64")
    with arranged.spaces.taken() as one, plain.spaces.taken() as other:
        assert (one.in_order, other.in_order) == (False, True)
    linear = 0.01 * Key.from_seed(2).generator().standard_normal(plain.layout.size)
    data = rows(Key.from_seed(1), 12, task="classes", columns=64)
    work: Any
    for work in ({}, {"prox": 0.3, "linear": linear}):
        found, expected = (
            fit(learner, data, Schedule(epochs=1, batch_size=8), **work) for learner in (arranged, plain)
        )
        np.testing.assert_allclose(found.params, expected.params, rtol=0, atol=1e-12)
    at = plain.init(Key.from_seed(1))
    np.testing.assert_allclose(arranged.gradient(at, data).gradient, plain.gradient(at, data).gradient, atol=1e-12)


# ---- randomness -----------------------------------------------------------------------------------------------------


def test_init_is_drawn_from_the_key_alone() -> None:
    learner = made(models.mlp([4]), schema_of("binary"))
    torch.manual_seed(5)
    first = learner.init(Key.from_seed(1))
    torch.manual_seed(6)
    again, other = learner.init(Key.from_seed(1)), learner.init(Key.from_seed(2))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    built = made(models.mlp([4]), schema_of("binary"), dtype="float64").init(Key.from_seed(1))
    assert np.array_equal(built, first.astype(np.float64)), "the type changes no draw"


def test_dropout_follows_client_and_wave_and_leaves_the_global_generator() -> None:
    learner = made(dropped(), schema_of("binary"))
    data = rows(Key.from_seed(1), 20)
    full = Schedule(steps=3, batch_size="full")
    torch.manual_seed(5)
    before = torch.default_generator.get_state()
    first = fit(learner, data, full, key=Key.from_seed(1))
    assert torch.equal(torch.default_generator.get_state(), before)
    torch.manual_seed(6)
    assert fit(learner, data, full, key=Key.from_seed(1)).params.tobytes() == first.params.tobytes()
    assert fit(learner, data, full, key=Key.from_seed(2)).params.tobytes() != first.params.tobytes()
    params = learner.init(Key.from_seed(1))
    assert learner.evaluate(params, [data])[0].scores == learner.evaluate(params, [data])[0].scores


def test_threads_that_draw_have_the_bytes_of_one() -> None:
    """Four threads train clients with dropout at once; each has the bytes it has alone."""
    from concurrent.futures import ThreadPoolExecutor

    learner = made(dropped(), schema_of("binary"))
    data = rows(Key.from_seed(1), 30)
    keys = [Key.from_seed(seed) for seed in range(16)]
    alone = [fit(learner, data, LOCAL, key=key).params.tobytes() for key in keys]
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda key: fit(learner, data, LOCAL, key=key).params.tobytes(), keys))
    assert together == alone
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize(
    ("model", "draws"),
    [
        (nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 3)), False),
        (nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.1), nn.Linear(4, 3)), True),
        (Normalised(3, 3), True),
    ],
    ids=["known", "dropout", "unknown"],
)
def test_what_may_draw_has_the_generator_to_itself(model: Any, draws: bool) -> None:
    assert made(model, schema_of("classes")).draws is draws


# ---- losses, optimizers, inputs -------------------------------------------------------------------------------------


def test_a_loss_of_ones_own_is_what_its_name_would_be() -> None:
    data = rows(Key.from_seed(1), 20, task="classes")
    named = made(zero_linear(), schema_of("classes"), dtype="float64")

    def by_module(module: Any, batch: Any) -> Any:
        return functional.cross_entropy(module(batch[FEATURES]), batch[LABEL], reduction="none")

    for loss in (functional.cross_entropy, ModuleLoss(by_module)):
        own = made(zero_linear(), schema_of("classes"), loss=loss, dtype="float64")
        np.testing.assert_allclose(fit(own, data, LOCAL).params, fit(named, data, LOCAL).params, atol=1e-14)
        params = 0.3 * np.ones(own.layout.size)
        found, expected = (each.evaluate(params, [data])[0].scores for each in (own, named))
        assert found["loss"] == pytest.approx(expected["loss"]) and found["accuracy"] == expected["accuracy"]


def test_torch_optimizers_take_local_steps() -> None:
    """AdamW without decay is Adam, and torch's SGD is plain descent; each round begins with fresh moments."""
    data = rows(Key.from_seed(1), 20)
    arguments: dict[str, Any] = {"loss": "bce", "dtype": "float64", "l2": 0.01}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.optim imports torch._dynamo, which has warnings of its own
        by_torch = made(
            zero_linear(),
            schema_of("binary"),
            optimizer="AdamW",
            optimizer_arguments={"weight_decay": 0.0},
            **arguments,
        )
        plain = made(zero_linear(), schema_of("binary"), optimizer=torch.optim.SGD, **arguments)
    ours = made(zero_linear(), schema_of("binary"), **arguments)
    work: Any
    for work in ({}, {"prox": 0.5, "linear": np.full(4, 0.2)}):
        found = fit(by_torch, data, replace(LOCAL, learning_rate=0.01), **work)
        expected = fit(ours, data, replace(LOCAL, learning_rate=0.01, optimizer=adam()), **work)
        np.testing.assert_allclose(found.params, expected.params, atol=1e-12)
        np.testing.assert_allclose(
            fit(plain, data, LOCAL, **work).params, fit(ours, data, LOCAL, **work).params, atol=1e-14
        )
    with pytest.raises(ComponentError, match="give one"):
        fit(by_torch, data, replace(LOCAL, optimizer=momentum()))


def test_several_inputs_are_keyword_arguments_of_their_shapes() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.image = nn.Conv2d(1, 2, 2)
            self.head = nn.Linear(3, 3)

        def forward(self, *, picture: Any, age: Any) -> Any:
            assert picture.shape[1:] == (1, 2, 2) and age.shape[1:] == (1,)
            return self.head(torch.cat([self.image(picture).flatten(1), age], dim=1))

    schema = Schema(("pixel_0", "age", "pixel_1", "pixel_2", "pixel_3"), label="y", classes=("a", "b", "c"))
    module, shapes = Two(), {"picture": [1, 2, 2]}
    learner = made(module, schema, inputs={"picture": ["pixel_*"], "age": ["age"]}, shapes=shapes)
    data = rows(Key.from_seed(1), 20, task="classes", columns=5)
    result = fit(learner, data, LOCAL)
    assert np.isfinite(result.params).all()
    swapped = made(module, schema, inputs={"picture": ["age", "pixel_[123]"], "age": ["pixel_0"]}, shapes=shapes)
    turned = ClientDataset({**data.arrays, FEATURES: data.arrays[FEATURES][:, [1, 0, 2, 3, 4]]}, data.rows)
    assert fit(swapped, turned, LOCAL).params.tobytes() == result.params.tobytes()


def test_rows_of_a_client_are_never_written_to() -> None:
    class Writing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            x -= 100.0
            return self.layer(x)

    learner = made(Writing(), schema_of("classes"), dtype="float64")
    data = rows(Key.from_seed(1), 20, task="classes").split("train")
    before = data.fingerprint
    for array in data.arrays.values():
        array.setflags(write=False)
    params = learner.init(Key.from_seed(1))
    fit(learner, data, Schedule(steps=2, batch_size="full"))
    fit(learner, data, LOCAL)
    learner.gradient(params, data)
    learner.evaluate(params, [data])
    learner.predict(params, data.arrays[FEATURES])
    assert data.fingerprint == before


def test_a_module_of_ones_own_is_copied_and_is_the_start() -> None:
    module = nn.Linear(3, 1)
    start = torch.cat([module.weight.reshape(-1), module.bias]).detach().numpy().copy()
    builder = torch_module(module, loss="bce")
    learner: Any = builder.build(schema_of("binary"))
    assert np.array_equal(learner.init(Key.from_seed(3)), start)
    fit(learner, rows(Key.from_seed(1), 20), LOCAL)
    assert np.array_equal(torch.cat([module.weight.reshape(-1), module.bias]).detach().numpy(), start)
    spec = spec_of(builder)
    assert spec is not None and spec.arguments["model"] == "local:unnamed"


def test_every_ready_made_model_has_the_size_of_its_source() -> None:
    digits = Schema(tuple(map(str, range(784))), label="y", classes=tuple(map(str, range(10))))
    # McMahan et al. 2017, section 3: 199,210 and 1,663,370 parameters.
    assert made(models.mlp([200, 200]), digits).layout.size == 199_210
    assert made(models.cnn(), digits, shape=[1, 28, 28]).layout.size == 1_663_370
    text = Schema(tuple(map(str, range(80))), label="y", classes=tuple(map(str, range(90))))
    layers = 4 * 256 * (8 + 256) + 4 * 256 * (256 + 256) + 2 * 2 * 4 * 256  # torch has two biases a gate
    assert made(models.char_lstm(90), text).layout.size == 90 * 8 + layers + 256 * 90 + 90
    depth = {d: made(models.resnet(depth=d, width=8), IMAGES, shape=[1, 8, 8]) for d in (8, 14)}
    convolutions = {
        d: sum(len(leaf.shape) == 4 and leaf.shape[2] == 3 for leaf in each.layout.leaves) for d, each in depth.items()
    }
    assert convolutions == {8: 7, 14: 13}, "with the last layer, which is linear, 8 and 14"


def test_a_character_model_learns_to_repeat() -> None:
    """A row is a constant text, its label the character: a few steps of local work must find that out."""
    codes = np.repeat(np.arange(3), 8)
    data = ClientDataset({FEATURES: np.tile(codes[:, None], 5).astype(float), LABEL: codes}, {"train": slice(0, 24)})
    schema = Schema(tuple("abcde"), label="next", classes=("x", "y", "z"))
    learner = made(models.char_lstm(3, embedding=4, hidden=8, layers=1), schema)
    result = fit(learner, data, Schedule(epochs=40, batch_size=8, learning_rate=0.5))
    assert learner.evaluate(result.params, [data])[0].scores["accuracy"] == 1.0


def test_what_is_not_finite_travels_to_the_check() -> None:
    learner = made(models.mlp([4]), schema_of("binary"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = fit(learner, rows(Key.from_seed(1), 20), replace(LOCAL, learning_rate=1e30, epochs=9))
    assert not np.isfinite(result.params).all()


# ---- what is refused ------------------------------------------------------------------------------------------------


def _raising() -> nn.Module:
    class Raising(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 3)

        def forward(self, x: Any) -> Any:
            return self.layer(x[:, :2])  # the line that is to blame

    return Raising()


@pytest.mark.parametrize(
    ("model", "arguments", "told"),
    [
        (nn.Linear(3, 2), {}, r"shape \(1, 2\) of one row .*features \(1, 3\).*expects \(1, 3\)"),
        (nn.Linear(3, 1), {"task": "classification", "loss": functional.mse_loss}, r"expects \(1, 3\)"),
        (nn.Linear(4, 3), {}, r"cannot take a row .*features \(1, 3\) torch.float32.*mat1 and mat2"),
        (_raising(), {}, r"test_torch_learner\.py:\d+"),
        (nn.Sequential(nn.Linear(3, 3), nn.Flatten(0)), {}, r"shape \(3,\)"),
        (nn.Linear(3, 3).requires_grad_(False), {}, "no parameters to train"),
        (nn.LSTM(3, 3), {}, "a tuple of one row"),
        (nn.Linear(3, 3), {"loss": lambda outputs, _targets: outputs.detach().sum()}, "depends on the model's"),
        (nn.Linear(3, 3), {"loss": lambda _outputs, _targets: 1.0}, "TypeError|AttributeError|a float"),
        (nn.Linear(3, 3), {"shape": [1, 2, 2]}, r"shape = \[1, 2, 2\] holds 4 numbers; a row has 3 columns"),
        (nn.Linear(3, 3), {"inputs": {"a": ["z*"]}}, r"inputs\.a names 'z\*'; no column"),
        (nn.Linear(3, 3), {"class_weight": {"d": 1.0}}, "class_weight names"),
    ],
)
def test_a_model_that_does_not_fit_is_told_before_round_1(model: Any, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(DataError, match=told):
        made(model, schema_of("classes"), **arguments)


class Doubled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        return self.layer(x).double()


def test_outputs_of_another_type_are_refused() -> None:
    with pytest.raises(DataError, match=r"outputs of torch\.float64; the learner computes in float32"):
        made(Doubled(), schema_of("classes"))


@pytest.mark.parametrize(
    ("task", "loss", "told"),
    [
        ("classes", "bce", "is for two classes"),
        ("classes", "mse", "predicts numbers; the labels are the classes"),
        ("regression", "cross_entropy", "needs two classes or more; the data have no agreed classes"),
    ],
)
def test_labels_that_a_loss_cannot_take_are_refused(task: Task, loss: Any, told: str) -> None:
    with pytest.raises(DataError, match=told):
        made(models.mlp([4]), schema_of(task), loss=loss)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"loss": "hinge"}, r"loss='hinge'\): expected one of"),
        ({"loss": 3}, "expected a name or a function"),
        ({"l2": -1.0}, r"l2=-1\.0"),
        ({"device": "gpu"}, r"device='gpu'"),
        ({"shapes": {"a": [1]}}, "no input is called a"),
        ({"inputs": {"a": ["b"]}, "shape": [1]}, "stand in `shapes`"),
        ({"optimizer_arguments": {"momentum": 0.9}}, "no `optimizer`"),
        ({"loss": "mse", "class_weight": {"a": 2.0}}, "weight rows by class"),
        ({"loss": "mse", "task": "classification"}, "is about regression"),
    ],
)
def test_arguments_outside_their_range_are_refused_where_they_are_written(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ComponentError, match=told):
        torch_module(models.mlp([4]), **arguments)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"optimizer": "Adamm"}, "torch.optim has no such class"),
        ({"optimizer": "SGD", "optimizer_arguments": {"speed": 1}}, "unexpected keyword argument 'speed'"),
    ],
)
def test_an_optimizer_that_cannot_be_made_is_refused(arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ComponentError, match=told):
        made(models.mlp([4]), schema_of("binary"), **arguments)


@pytest.mark.parametrize("device", ["cuda", "cuda:99"])
def test_cuda_that_is_not_there_is_refused(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ComponentError, match=r'finds no CUDA device here\. Use "cpu" or "auto"'):
        made(models.mlp([4]), schema_of("binary"), device=device)
    assert made(models.mlp([4]), schema_of("binary"), device="auto").device.type == "cpu"


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(ComponentError, match=r"received a str; expected an nn\.Module"):
        made("mlp", schema_of("binary"))


@pytest.mark.parametrize(
    ("recipe", "arguments", "told"),
    [
        (models.cnn(), {}, "give the learner their shape"),
        (models.mlp([0]), {}, r"hidden=\[0\]"),
        (models.resnet(depth=9), {"shape": [1, 8, 8]}, "6n"),
        (models.resnet(width=12), {"shape": [1, 8, 8]}, "multiple of 8"),
        (models.char_lstm(0), {}, "vocabulary=0"),
    ],
)
def test_a_ready_made_model_refuses_sizes_that_cannot_be(recipe: Any, arguments: dict[str, Any], told: str) -> None:
    with pytest.raises(ComponentError, match=told):
        made(recipe, IMAGES, **arguments)
