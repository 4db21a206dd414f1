"""A federation gives the bytes of a simulation: one experiment, one model, wherever its clients are."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from fedloom.engines.federated_run import NOT_COMPARED

QUICK = [("plain_sum", "fedavg"), ("plain_sum", "fedadam"), ("secure_sum", "scaffold")]
REST = [("plain_sum", "scaffold"), ("secure_sum", "fedavg"), ("secure_sum", "fedadam")]


@pytest.mark.parametrize(
    ("aggregator", "algorithm"), [*QUICK, *(pytest.param(*each, marks=pytest.mark.slow) for each in REST)]
)
def test_a_federation_trains_the_model_of_the_simulation(aggregator: str, algorithm: str, scene: Any) -> None:
    federation = scene(aggregator=aggregator, algorithm=algorithm)
    expected = federation.simulated()
    found = federation.run()
    assert found.model_sha256 == expected.model_sha256
    assert found.params.tobytes() == expected.params.tobytes()
    assert [(r.program, r.round, r.retry, r.status, r.included) for r in found.records] == [
        (r.program, r.round, r.retry, r.status, r.included) for r in expected.records
    ]
    assert set(federation.trained().values()) == {1}


def test_a_worker_process_trains_what_a_simulation_trains(scene: Any) -> None:
    federation = scene(sites=3, processes=["center", "east", "north"], rounds=2)
    assert federation.run().model_sha256 == federation.simulated().model_sha256


@pytest.mark.parametrize("aggregator", ["plain_sum", "secure_sum"])
@pytest.mark.parametrize("inline", [200, 1 << 16])
def test_small_contents_travel_with_their_messages(aggregator: str, inline: int, scene: Any) -> None:
    """Of 200 bytes: some do, and some are uploaded and fetched."""
    federation = scene(aggregator=aggregator, inline=inline, rounds=2)
    verbs: Counter[str] = Counter()

    def count(_site: str, verb: str, when: str, _request: Any) -> bool:
        verbs[verb] += when == "after"
        return False

    federation.on_call = count
    assert federation.run().model_sha256 == federation.simulated().model_sha256
    assert set(federation.trained().values()) == {1}
    if inline == 1 << 16:
        assert not verbs["begin_upload"] and not verbs["fetch"]
    else:
        assert 0 < verbs["begin_upload"] < verbs["submit"] and verbs["fetch"]


def test_a_comparison_with_pooled_rows_is_left_out_and_the_run_says_so(scene: Any) -> None:
    federation = scene(sites=2, rounds=1, prepare=False)
    federation.experiment = replace(federation.experiment, compare=True)
    found = federation.run()
    assert NOT_COMPARED in found.notes and found.comparison is None
    assert found.model_sha256 == federation.simulated().model_sha256


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_worker_processes_train_a_network_of_torch_to_the_same_bytes(scene: Any) -> None:
    pytest.importorskip("torch")
    learner = '"torch"\nmodel = { name = "mlp", hidden = [4] }'
    federation = scene(sites=3, processes=["center", "east", "north"], learner=learner, aggregator="secure_sum")
    assert federation.run().model_sha256 == federation.simulated().model_sha256


def test_what_a_preparation_and_the_evaluations_measured_is_that_of_the_simulation(scene: Any) -> None:
    federation = scene(aggregator="secure_sum")
    found, expected = federation.run(), federation.simulated()
    assert found.prepared == expected.prepared and len(found.prepared) == 1
    for one, other in zip(found.records, expected.records, strict=True):
        assert one.metrics.keys() == other.metrics.keys()
        for name, value in other.metrics.items():
            assert one.metrics[name] == pytest.approx(value, abs=1e-5), name
