"""A crash, a resume, another order of work: the same bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from fedloom.algorithms import fedadam, fedavg, scaffold
from fedloom.core.ids import ClientId
from fedloom.core.keys import Key
from fedloom.core.messages import RoundOrder
from fedloom.core.params import Dtype
from fedloom.core.schedule import Schedule
from fedloom.learners import logistic
from fedloom.runtime.cohort import uniform
from fedloom.runtime.coordinator import initial_state
from fedloom.runtime.policy import RoundPolicy
from fedloom.runtime.ports import Slot, decode_stored, encode_stored
from fedloom.runtime.state import decode_state, encode_state
from fedloom.runtime.stopping import any_of, max_rounds, patience
from fedloom.testing import ListDataset, federation, plan_for, simulate
from fedloom.testing.simulation import AnyPlan, ClientMemory

LOCAL = Schedule(epochs=1, batch_size=8, learning_rate=0.3)
MADE = {
    "fedavg": fedavg(LOCAL),
    "fedadam": fedadam(LOCAL),
    "scaffold": scaffold(LOCAL),
    "scaffold I weighted": scaffold(LOCAL, option="I", weighting="examples"),
}
SMALL = federation((9, 4, 17, 11, 6, 3), test=4)


def drop(order: RoundOrder[Any], client: ClientId) -> bool:
    return order.program == "train" and (3 * order.round + order.retry + ord(client[-1])) % 5 == 0


def planned(
    name: str,
    *,
    data: ListDataset = SMALL,
    dtype: Dtype = "float64",
    rounds: int = 4,
    cohort: int = 4,
    every: int | None = 2,
) -> AnyPlan:
    return plan_for(
        data,
        MADE[name],
        logistic(dtype=dtype).build(data.schema()),
        cohort=uniform(cohort),
        policy=RoundPolicy(quorum=0.75),
        stop=max_rounds(rounds),
        evaluate_every=every,
        splits=("train", "test"),
    )


@pytest.mark.parametrize("memory", ["as saved", "as left"])
@pytest.mark.parametrize("name", MADE)
def test_a_crash_before_or_after_any_effect_changes_no_byte_of_the_end(name: str, memory: ClientMemory) -> None:
    plan = planned(name)
    whole = simulate(plan, SMALL, drop=drop)
    assert {record.status for record in whole.records} >= {"closed"}
    assert any(record.failures for record in whole.records), "losses are part of this run"
    for effects in range(whole.effects + 1):
        again = simulate(plan, SMALL, drop=drop, crash_after=effects, client_memory=memory)
        assert again.bytes == whole.bytes, f"a crash after {effects} of {whole.effects} effects"
        assert again.ledger.events == whole.ledger.events, "the ledger counts each release once, whatever happened"


def test_a_crash_before_or_after_any_effect_loses_no_record() -> None:
    """A stop condition reads the history: a lost record may end the run in another round."""
    plan = planned("fedavg")
    whole = simulate(plan, SMALL, drop=drop)
    for effects in range(whole.effects + 1):
        again = simulate(plan, SMALL, drop=drop, crash_after=effects)
        assert again.records == whole.records, f"a crash after {effects} of {whole.effects} effects"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", MADE)
def test_four_rounds_and_six_more_are_ten(name: str, dtype: Dtype) -> None:
    plan = planned(name, dtype=dtype, rounds=10, every=None)
    whole = simulate(plan, SMALL, drop=drop)
    first = simulate(plan, SMALL, drop=drop, rounds=4)
    like = initial_state(plan)
    no_memory = np.empty(0)
    slot = Slot(
        round=like.round,  # type: ignore[arg-type]
        state=plan.algorithm.client_init(plan.algorithm.broadcast(like.server)),
        memory=no_memory,
    )
    clients = {client: decode_stored(encode_stored(stored), slot) for client, stored in first.clients.items()}
    saved = replace(first, state=decode_state(encode_state(first.state), like), clients=clients)
    both = simulate(plan, SMALL, drop=drop, start=saved)
    assert len(both.records) == len(whole.records) > 4
    assert both.bytes == whole.bytes
    assert both.records == whole.records


def test_a_run_that_reached_its_stop_goes_on_when_the_stop_is_raised() -> None:
    whole = simulate(planned("scaffold", rounds=10), SMALL)
    first = simulate(planned("scaffold", rounds=4), SMALL)
    assert first.state.stopped == "4 rounds done"
    both = simulate(
        planned("scaffold", rounds=10), SMALL, start=replace(first, state=replace(first.state, stopped=None))
    )
    assert both.sha256 == whole.sha256


LARGE = federation((5, 9, 12, 3, 20) * 11)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["fedavg", "fedadam", "scaffold"])
def test_blocks_partial_sums_and_arrival_change_no_byte(name: str, dtype: Dtype) -> None:
    plan = planned(name, data=LARGE, dtype=dtype, rounds=3, cohort=40, every=3)
    whole = simulate(plan, LARGE, drop=drop)
    for block in (1, 7, 25):
        for partials in (0, 1, 2):
            other = simulate(
                plan, LARGE, drop=drop, block=block, partials=partials, order=Key.from_seed(block + partials)
            )
            assert other.bytes == whole.bytes, f"blocks of {block}, {partials} partial sums"
            assert other.records == whole.records


def test_a_lost_reply_leaves_the_control_unchanged() -> None:
    plan = planned("scaffold", every=None, cohort=6, rounds=3)
    heard = simulate(plan, SMALL, rounds=1)
    lost = simulate(plan, SMALL, rounds=1, start=heard, drop=lambda order, client: order.round == 2 and client == "b")
    again = simulate(plan, SMALL, rounds=1, start=lost)
    client = ClientId("b")
    assert client not in lost.included[1]
    first, computed, after = (
        heard.clients[client].pending,
        lost.clients[client].pending,
        again.clients[client].committed,
    )
    assert first is not None and computed is not None and after is not None
    assert computed.round == 2 and computed.state.tobytes() != first.state.tobytes(), "it did compute a new control"
    assert after.round == 1 and after.state.tobytes() == first.state.tobytes(), "and starts round 3 from the old one"


def test_the_server_control_is_the_mean_of_the_committed_controls() -> None:
    plan = planned("scaffold", every=None, rounds=8)
    run = simulate(plan, SMALL, drop=drop)
    total = 0.0
    for client, stored in run.clients.items():
        slot = stored.settle(run.state.included.get(client)).committed
        total += 0.0 if slot is None else slot.state
    assert abs(total / 6 - run.state.server.control).max() < 1e-15


def test_a_patient_run_stops_in_the_same_round_after_a_resume() -> None:
    learner = logistic().build(SMALL.schema())
    stop = any_of(patience("fit/loss", rounds=2, min_delta=0.01), max_rounds(30))
    plan = plan_for(SMALL, MADE["fedavg"], learner, stop=stop)
    whole = simulate(plan, SMALL)
    assert whole.stopped is not None and "did not improve" in whole.stopped.reason
    both = simulate(plan, SMALL, start=simulate(plan, SMALL, rounds=3))
    assert both.bytes == whole.bytes
