"""RunState, client slots and records come back from bytes; damaged bytes are a CodecError and nothing else."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedloom.algorithms import fedadam, scaffold
from fedloom.core.ids import ClientId, RoundNumber
from fedloom.core.messages import Failure
from fedloom.core.schedule import Schedule
from fedloom.errors import CodecError
from fedloom.learners import logistic
from fedloom.runtime.coordinator import initial_state
from fedloom.runtime.ports import MemoryStates, Slot, StoredState, decode_stored, encode_stored
from fedloom.runtime.record import FigureTable, RoundRecord, series
from fedloom.runtime.state import RunState, decode_state, encode_state, peek
from fedloom.testing import federation, plan_for, simulate

quick = settings(max_examples=60, derandomize=True, database=None, deadline=None)
DATA = federation((5, 8, 3), test=3)
PLAN = plan_for(DATA, fedadam(Schedule(batch_size=4)), logistic().build(DATA.schema()), evaluate_every=2)
SAVED = simulate(PLAN, DATA, rounds=3).state
LIKE = initial_state(PLAN)
SLOT = Slot(round=RoundNumber(1), state=np.zeros(3), memory=np.empty(0))

text = st.text(max_size=5)
figures = st.dictionaries(text, st.none() | st.floats(allow_nan=False, allow_infinity=False), max_size=3)
failures = st.builds(
    Failure, client=text.map(ClientId), phase=st.just("train"), kind=st.sampled_from(["lost", "invalid"]), detail=text,
    where=st.none() | text,
)  # fmt: skip
records = st.builds(
    RoundRecord, round=st.integers(1, 99).map(RoundNumber), retry=st.integers(0, 9), program=st.just("train"),
    status=st.sampled_from(["closed", "skipped", "retried"]), invited=st.integers(0, 9),
    included=st.lists(text.map(ClientId), max_size=3).map(tuple), failures=st.lists(failures, max_size=2).map(tuple),
    metrics=figures, clients=st.dictionaries(text.map(ClientId), figures, max_size=2).map(FigureTable.of),
    bytes_up=st.integers(0, 2**40), bytes_down=st.integers(0, 2**40), seconds=st.floats(0, 1e6),
)  # fmt: skip


@quick
@given(
    pending=st.none() | records,
    included=st.dictionaries(text.map(ClientId), st.integers(1, 99).map(RoundNumber), max_size=4),
    stopped=st.none() | text,
    retry=st.integers(0, 5),
    prepared=st.lists(st.dictionaries(text, st.integers() | text, max_size=2), max_size=2).map(tuple),
)
def test_a_state_comes_back_from_its_bytes(
    pending: Any, included: Any, stopped: Any, retry: int, prepared: Any
) -> None:
    prepared = tuple(
        {key: value for key, value in item.items() if not isinstance(value, int) or abs(value) < 2**53}
        for item in prepared
    )
    state = replace(SAVED, pending=pending, included=included, stopped=stopped, retry=retry, prepared=prepared)
    again = decode_state(encode_state(state), LIKE)
    assert encode_state(again) == encode_state(state)
    assert (again.pending, again.included, again.stopped, again.prepared) == (pending, included, stopped, prepared)
    assert again.server.params.tobytes() == SAVED.server.params.tobytes()
    assert again.server.moments.t == SAVED.server.moments.t == 3
    assert peek(encode_state(state)) == (state.digest, 0, prepared)


@quick
@given(records)
def test_a_record_comes_back_from_json(record: RoundRecord) -> None:
    assert msgspec.json.decode(msgspec.json.encode(record), type=RoundRecord) == record


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(st.data())
def test_damaged_states_are_a_codec_error_and_nothing_else(data: st.DataObject) -> None:
    whole = encode_state(SAVED)
    damaged = data.draw(damage(whole))
    for read in (lambda: decode_state(damaged, LIKE), lambda: peek(damaged)):
        with contextlib.suppress(CodecError):
            read()


@settings(max_examples=300, derandomize=True, database=None, deadline=None)
@given(st.data())
def test_damaged_slots_are_a_codec_error_and_nothing_else(data: st.DataObject) -> None:
    whole = encode_stored(StoredState(committed=SLOT, pending=replace(SLOT, round=RoundNumber(2))))
    with contextlib.suppress(CodecError):
        decode_stored(data.draw(damage(whole)), SLOT)


@st.composite
def damage(draw: st.DrawFn, whole: bytes) -> bytes:
    kind = draw(st.sampled_from(["cut", "flip", "insert", "length", "noise"]))
    place = draw(st.integers(0, len(whole) - 1))
    match kind:
        case "cut":
            return whole[:place]
        case "flip":
            return whole[:place] + bytes([whole[place] ^ draw(st.integers(1, 255))]) + whole[place + 1 :]
        case "insert":
            return whole[:place] + draw(st.binary(min_size=1, max_size=9)) + whole[place:]
        case "length":
            return draw(st.binary(min_size=8, max_size=8)) + whole[8:]
        case _:
            return draw(st.binary(max_size=200))


@pytest.mark.parametrize("change", ["dtype", "shape", "algorithm"])
def test_a_state_of_another_model_is_refused(change: str) -> None:
    learner = logistic(dtype="float32" if change == "dtype" else "float64", intercept=change != "shape")
    algorithm = scaffold(Schedule()) if change == "algorithm" else fedadam(Schedule())
    like: RunState[Any] = initial_state(plan_for(DATA, algorithm, learner.build(DATA.schema())))
    with pytest.raises(CodecError):
        decode_state(encode_state(SAVED), like)


def test_a_slot_is_committed_by_its_own_round_only() -> None:
    first, second = SLOT, replace(SLOT, round=RoundNumber(2))
    both = StoredState(committed=first, pending=second)
    assert both.settle(RoundNumber(2)) == StoredState(committed=second)
    assert both.settle(RoundNumber(1)) == StoredState(committed=first)
    assert both.settle(None) == StoredState(committed=first)
    assert StoredState(committed=first).settle(RoundNumber(9)).committed is first


def test_memory_states_name_what_changed_once() -> None:
    states = MemoryStates()
    states.save(ClientId("b"), StoredState())
    states.save(ClientId("a"), StoredState(committed=SLOT))
    assert [client for client, _ in states.take_changed()] == ["a", "b"]
    assert list(states.take_changed()) == []
    assert states.load(ClientId("nobody")) == StoredState()


def test_series_reads_closed_rounds() -> None:
    def made(number: int, status: Any, loss: float | None) -> RoundRecord:
        named = {"train/loss": loss}
        return RoundRecord(round=RoundNumber(number), retry=0, program="train", status=status, invited=1, metrics=named)

    history = [made(1, "closed", 1.0), made(2, "closed", None), made(3, "skipped", 5.0), made(4, "closed", 0.0)]
    assert series(history, "train/loss") == [(1, 1.0), (4, 0.0)]
