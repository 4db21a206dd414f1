"""Generated populations: nothing until asked for, the same whenever asked."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedloom.core.data import FederatedDataset
from fedloom.core.ids import ClientId
from fedloom.data import generated
from fedloom.errors import ComponentError, DataError


def test_a_million_clients_cost_no_memory_until_asked_for() -> None:
    generated(10).client(ClientId("client-0000003"))
    tracemalloc.start()
    data = generated(1_000_000)
    population = data.population()
    for index in (0, 42, 999_999):
        data.client(population.id(index))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert population.examples == 60_000_000


@given(st.integers(1, 10**9), st.data())
def test_ids_name_indices_in_order(clients: int, draw: st.DataObject) -> None:
    population = generated(clients, features=1).population()
    one, other = (draw.draw(st.integers(0, clients - 1)) for _ in range(2))
    assert population.index(population.id(one)) == one
    assert (population.id(one) < population.id(other)) == (one < other)


@given(st.integers(0, 99), st.integers(1, 40), st.floats(0, 0.95))
def test_sizes_are_what_clients_hold(index: int, rows: int, test: float) -> None:
    data = generated(100, rows=rows, features=2, test=test)
    client = data.client(data.population().id(index))
    assert data.population().size(index) == client.count("train") >= 1
    assert client.count("train") + client.count("test") == rows == len(client.arrays["label"])
    assert data.population().examples == 100 * client.count("train")


def test_a_client_is_the_same_at_every_call_and_in_any_population() -> None:
    name = ClientId("client-0000007")
    prints = {generated(clients, seed=3).client(name).fingerprint for clients in (8, 8, 1_000_000)}
    assert len(prints) == 1
    assert generated(8, seed=4).client(name).fingerprint not in prints
    assert generated(8, seed=3).client(ClientId("client-0000006")).fingerprint not in prints


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_features_have_the_asked_type_and_labels_are_indices(dtype: str) -> None:
    data: FederatedDataset = generated(3, classes=4, dtype=dtype)  # type: ignore[arg-type]
    arrays = data.client(ClientId("client-0000000")).arrays
    assert arrays["features"].dtype == dtype
    assert arrays["label"].dtype == np.int64
    assert set(arrays["label"]) <= set(range(4))
    assert data.schema().classes == ("0", "1", "2", "3")


def test_heterogeneity_is_the_spread_of_the_clients_centres() -> None:
    def spread(heterogeneity: float) -> float:
        data = generated(200, rows=50, features=5, heterogeneity=heterogeneity, dtype="float64")
        roll = data.population()
        means = [data.client(roll.id(index)).arrays["features"].mean(axis=0) for index in range(200)]
        return float(np.std(means))

    # Of 1,000 means, each with deviation sqrt(h^2 + 1/50); relative error 1/sqrt(2000), so five of them are 11 %.
    for heterogeneity in (0.0, 2.0):
        assert spread(heterogeneity) == pytest.approx(np.sqrt(heterogeneity**2 + 1 / 50), rel=0.12)


@pytest.mark.parametrize("name", ["client-42", "client-9999999", "client-", "x", "client-00000-1", "client-²"])
def test_an_unknown_client_is_an_error_with_the_range_of_names(name: str) -> None:
    with pytest.raises(DataError, match="'client-0000000' to 'client-0000099'"):
        generated(100).client(ClientId(name))


@pytest.mark.parametrize(
    "changed",
    [
        {"clients": 0},
        {"rows": 0},
        {"features": 0},
        {"classes": 1},
        {"heterogeneity": -1.0},
        {"test": 1.0},
        {"dtype": "int"},
    ],
)
def test_numbers_outside_their_range_are_refused(changed: dict[str, object]) -> None:
    with pytest.raises(ComponentError, match="expected"):
        generated(**{"clients": 2, **changed})  # type: ignore[arg-type]
